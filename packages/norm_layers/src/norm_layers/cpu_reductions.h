// Sums over parts of a matrix: moments of its values, and products of two matrices. Two ways each: per column over rows,
// then over the columns of a piece, where pieces are narrow; per piece over both at once where they are wide.
// Sums of many values run in the input's precision over a few thousand of them, and in double precision beyond.

#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu_vectors.h"

constexpr int64_t BLOCK = 512;       // columns of a block of narrow pieces at most; plan.py cuts at the same
constexpr int64_t TILE = 128;        // rows that are summed in the input's precision
constexpr int64_t FIRST_ROWS = 8;    // the same for the first rows of all
constexpr int64_t VALUES = 4096;     // the same for values of a wide piece

constexpr int64_t MARGIN = 16;       // of arrays by column, for what is written beyond their end

// Put a value at some places of an array; others up to MARGIN after them may get it too.
template <typename T> inline void put(Scalar<T>* to, int64_t count, Scalar<T> value) {
  const Vector<T> values = Vector<T>{} + value;
  for (int64_t i = 0; i < count; i += LANES<T>) store(to + i, values);
}

// Sum of a few values in double precision.
template <typename S> inline double sum_of(const S* values, int64_t count) {
  double sum = values[0];
  for (int64_t i = 1; i < count; ++i) sum += values[i];
  return sum;
}

// Add up, for each column, distances from a shift and their squares over ROWS rows.
template <int ROWS, typename T>
inline void add_rows(const T* x, int64_t stride, int64_t width, const Scalar<T>* shift, Scalar<T>* sums,
                     Scalar<T>* squares) {
  for (int64_t i = 0; i < width; i += LANES<T>) {
    const Vector<T> center = load(shift + i);
    Vector<T> sum = load(sums + i), square = load(squares + i);
    for (int row = 0; row < ROWS; ++row) {
      const T* from = x + row * stride + i;
      const Vector<T> distance = (i + LANES<T> <= width ? load(from) : load(from, width - i)) - center;
      sum += distance;
      square += distance * distance;
    }
    store(sums + i, sum);
    store(squares + i, square);
  }
}

// Mean and squared distances from it of each column of a block over some rows. The shift is a row of the input for a
// few rows, then the mean so far: sums of squares of distances from it are not much larger than those from the mean.
template <typename T>
void column_moments(const T* x, int64_t rows, int64_t stride, int64_t width, double* means, double* squares) {
  alignas(64) Scalar<T> shift[BLOCK], sum[BLOCK], square[BLOCK];
  const int64_t padded = (width + LANES<T> - 1) / LANES<T> * LANES<T>;
  for (int64_t i = 0; i < width; i += LANES<T>)
    store(shift + i, i + LANES<T> <= width ? load(x + i) : load(x + i, width - i));
  for (int64_t done = 0, count; done < rows; done += count) {
    count = std::min(done ? TILE : FIRST_ROWS, rows - done);
    if (done)
      for (int64_t i = 0; i < width; ++i) shift[i] = means[i];
    std::fill_n(sum, padded, 0);
    std::fill_n(square, padded, 0);
    int64_t row = done ? 0 : 1;
    for (; row + 4 <= count; row += 4) add_rows<4>(x + (done + row) * stride, stride, width, shift, sum, square);
    for (; row < count; ++row) add_rows<1>(x + (done + row) * stride, stride, width, shift, sum, square);
    const double part = 1.0 / count, share = double(count) / (done + count), spread = share * done;
    if (done == 0)
      for (int64_t i = 0; i < width; ++i) {
        means[i] = shift[i] + sum[i] * part;
        squares[i] = square[i] - double(sum[i]) * sum[i] * part;
      }
    else
      for (int64_t i = 0; i < width; ++i) {
        const double distance = shift[i] + sum[i] * part - means[i];
        means[i] += distance * share;
        squares[i] += square[i] - double(sum[i]) * sum[i] * part + distance * distance * spread;
      }
  }
}

// Mean and squared distances from it of columns of equal weight taken together.
inline void merge_columns(int64_t rows, int64_t width, const double* means, const double* squares, double& mean,
                          double& square) {
  const double center = means[0];  // a member: squared distances from it stay in proportion to the variance
  if (width == 1) {
    mean = center;
    square = squares[0];
    return;
  }
  double sum = 0, between = 0, within = 0;
#pragma omp simd reduction(+ : sum, between, within)
  for (int64_t i = 0; i < width; ++i) {
    const double distance = means[i] - center;
    sum += distance;
    between += distance * distance;
    within += squares[i];
  }
  const double offset = sum / width;
  mean = center + offset;
  square = within + rows * (between - sum * offset);
}

// The last `count` values of a piece, less than a vector, in the last lanes of one; what lies before them comes along
// in the others, unless the matrix begins there.
template <typename T> inline Vector<T> load_end(const T* matrix, const T* end, int64_t count) {
  if (end - matrix >= LANES<T>) return load(end - LANES<T>);
  T values[LANES<T>] = {};
  std::memcpy(values + LANES<T> - count, end - count, count * sizeof(T));
  return load(values);
}

// Mean and squared distances from it of a wide piece over some rows. The shift is the mean of one row.
template <typename T>
void wide_moments(const T* matrix, const T* x, int64_t rows, int64_t stride, int64_t width, double& mean, double& square) {
  constexpr int64_t L = LANES<T>;
  const int64_t whole = width / L * L, left = width - whole;
  Vector<T> lanes = {};
  for (int64_t i = 0; i < whole; i += L) lanes += load(x + i);
  const Scalar<T> shift = whole ? Scalar<T>(total(lanes)) / whole : load_end(matrix, x + 1, 1)[L - 1];
  const Bits<T> mask = last_lanes<T>(left);
  const int64_t step = rows * width <= VALUES ? rows : std::max<int64_t>(1, VALUES / width);
  double sum = 0, squares = 0;
  for (int64_t done = 0; done < rows; done += step) {
    Vector<T> sums[4] = {}, all[4] = {};
    for (int64_t row = done; row < std::min(done + step, rows); ++row) {
      const T* from = x + row * stride;
      int64_t i = 0;
      for (; i + 4 * L <= whole; i += 4 * L)
        for (int k = 0; k < 4; ++k) {
          __builtin_prefetch(from + stride + i + k * L);
          const Vector<T> distance = load(from + i + k * L) - shift;
          sums[k] += distance;
          all[k] += distance * distance;
        }
      for (; i < whole; i += L) {
        const Vector<T> distance = load(from + i) - shift;
        sums[0] += distance;
        all[0] += distance * distance;
      }
      if (left) {
        const Vector<T> distance = keep<T>(load_end(matrix, from + width, left) - shift, mask);
        sums[1] += distance;
        all[1] += distance * distance;
      }
    }
    sum += total((sums[0] + sums[1]) + (sums[2] + sums[3]));
    squares += total((all[0] + all[1]) + (all[2] + all[3]));
  }
  const double offset = sum / (double(rows) * width);
  mean = shift + offset;
  square = squares - sum * offset;
}

// Add up, for each column, output gradients and their products with the centred input over ROWS rows.
template <int ROWS, typename T>
inline void add_products(const T* dy, const T* x, int64_t stride, int64_t width, const Scalar<T>* center,
                         Scalar<T>* sums, Scalar<T>* products) {
  for (int64_t i = 0; i < width; i += LANES<T>) {
    const Vector<T> mean = load(center + i);
    Vector<T> sum = load(sums + i), product = load(products + i);
    for (int row = 0; row < ROWS; ++row) {
      const int64_t at = row * stride + i;
      const bool whole = i + LANES<T> <= width;
      const Vector<T> gradient = whole ? load(dy + at) : load(dy + at, width - i);
      sum += gradient;
      product += gradient * ((whole ? load(x + at) : load(x + at, width - i)) - mean);
    }
    store(sums + i, sum);
    store(products + i, product);
  }
}

// Sums of output gradients and of their products with the centred input over a wide piece.
template <typename T>
void wide_products(const T* dy, const T* x, int64_t begin, int64_t rows, int64_t stride, int64_t width,
                   Scalar<T> mean, double& sum, double& product) {
  constexpr int64_t L = LANES<T>;
  const int64_t whole = width / L * L, left = width - whole;
  const Bits<T> mask = last_lanes<T>(left);
  const int64_t step = rows * width <= VALUES ? rows : std::max<int64_t>(1, VALUES / width);
  sum = product = 0;
  for (int64_t done = 0; done < rows; done += step) {
    Vector<T> sums[4] = {}, products[4] = {};
    for (int64_t row = done; row < std::min(done + step, rows); ++row) {
      const T *gradients = dy + begin + row * stride, *from = x + begin + row * stride;
      int64_t i = 0;
      for (; i + 4 * L <= whole; i += 4 * L)
        for (int k = 0; k < 4; ++k) {
          __builtin_prefetch(from + stride + i + k * L);
          __builtin_prefetch(gradients + stride + i + k * L);
          const Vector<T> gradient = load(gradients + i + k * L);
          sums[k] += gradient;
          products[k] += gradient * (load(from + i + k * L) - mean);
        }
      for (; i < whole; i += L) {
        const Vector<T> gradient = load(gradients + i);
        sums[0] += gradient;
        products[0] += gradient * (load(from + i) - mean);
      }
      if (left) {
        const Vector<T> gradient = keep<T>(load_end(dy, gradients + width, left), mask);
        sums[1] += gradient;
        products[1] += keep<T>(gradient * (load_end(x, from + width, left) - mean), mask);
      }
    }
    sum += total((sums[0] + sums[1]) + (sums[2] + sums[3]));
    product += total((products[0] + products[1]) + (products[2] + products[3]));
  }
}
