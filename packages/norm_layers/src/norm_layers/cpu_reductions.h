// Sums over parts of a matrix: moments of its values, and products of two matrices. Two ways each: per column over
// rows, then over the columns of a piece, where pieces are narrow; per piece over both at once where they are wide.
// Sums of many values run in the input's precision over a few thousand of them, and in double precision beyond.

#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu_vectors.h"

constexpr int64_t BLOCK = 512;       // columns of a block of narrow pieces at most; plan.py cuts at the same
constexpr int64_t TILE = 128;        // rows that are summed in the input's precision
constexpr int64_t FIRST_ROWS = 8;    // the same for the first rows of all
constexpr int64_t FEW_ROWS = 16;     // rows at a time
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

// Add up distances from a shift and their squares over rows, for NUMBER vectors of columns from column i on, of which
// `left` are in the matrix. What lies `ahead` values further on is fetched into the cache, 0: nothing.
template <typename T, int NUMBER>
inline void add_rows(const T* x, int64_t rows, int64_t stride, int64_t i, int64_t left, const Scalar<T>* shift,
                     Scalar<T>* sums, Scalar<T>* squares, int64_t ahead = 0) {
  constexpr int64_t L = LANES<T>;
  Vector<T> center[NUMBER], sum[NUMBER], square[NUMBER];
  for (int k = 0; k < NUMBER; ++k) {
    center[k] = load(shift + i + k * L);
    sum[k] = load(sums + i + k * L);
    square[k] = load(squares + i + k * L);
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int k = 0; k < NUMBER; ++k) {
      const T* from = x + row * stride + i + k * L;
      if (ahead) fetch(from + ahead);
      const Vector<T> distance = (left < L ? load(from, left) : load(from)) - center[k];
      sum[k] += distance;
      square[k] += distance * distance;
    }
  for (int k = 0; k < NUMBER; ++k) {
    store(sums + i + k * L, sum[k]);
    store(squares + i + k * L, square[k]);
  }
}

// The same of output gradients, and of their products with the centred input.
template <typename T, int NUMBER>
inline void add_products(const T* dy, const T* x, int64_t rows, int64_t stride, int64_t i, int64_t left,
                         const Scalar<T>* centers, Scalar<T>* sums, Scalar<T>* products, int64_t ahead = 0) {
  constexpr int64_t L = LANES<T>;
  Vector<T> center[NUMBER], sum[NUMBER], product[NUMBER];
  for (int k = 0; k < NUMBER; ++k) {
    center[k] = load(centers + i + k * L);
    sum[k] = load(sums + i + k * L);
    product[k] = load(products + i + k * L);
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int k = 0; k < NUMBER; ++k) {
      const int64_t at = row * stride + i + k * L;
      if (ahead) fetch(dy + at + ahead), fetch(x + at + ahead);
      const Vector<T> gradient = left < L ? load(dy + at, left) : load(dy + at);
      sum[k] += gradient;
      product[k] += gradient * ((left < L ? load(x + at, left) : load(x + at)) - center[k]);
    }
  for (int k = 0; k < NUMBER; ++k) {
    store(sums + i + k * L, sum[k]);
    store(products + i + k * L, product[k]);
  }
}

// Call `some(row, rows, number, column, left)` for the rows from `first` to `last`, a few of them and a few vectors of
// columns at a time, whose sums then stay in registers. `number`, of the vectors, is a constant; of the last vector,
// `left` columns are there.
template <typename T, typename Some> inline void in_tiles(int64_t first, int64_t last, int64_t width, Some some) {
  constexpr int64_t L = LANES<T>;
  for (int64_t row = first; row < last; row += FEW_ROWS) {
    const int64_t rows = std::min(FEW_ROWS, last - row);
    int64_t i = 0;
    for (; i + 4 * L <= width; i += 4 * L) some(row, rows, std::integral_constant<int, 4>(), i, L);
    for (; i < width; i += L) some(row, rows, std::integral_constant<int, 1>(), i, std::min(L, width - i));
  }
}

// Add `count` rows to the mean of each column, and squared distances from it, over the rows that are done: from the sums
// of their distances from a shift, and of the squares of these.
template <typename S>
inline void merge_rows(const S* shift, const S* sum, const S* square, int64_t width, int64_t done, int64_t count,
                       double* means, double* squares) {
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
    const int64_t first = done ? done : 1, last = done + count;
    in_tiles<T>(first, last, width, [&](int64_t row, int64_t some, auto number, int64_t i, int64_t left) {
      add_rows<T, number>(x + row * stride, some, stride, i, left, shift, sum, square);
    });
    merge_rows(shift, sum, square, width, done, count, means, squares);
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
void wide_moments(const T* matrix, const T* x, int64_t rows, int64_t stride, int64_t width, double& mean,
                  double& square) {
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
