// Normalisation by groups of columns, forward and backward, on the CPU.
//
// The input is a matrix of `rows` by `columns`: a batch of merged (C, H, W) axes, or, in channels_last, one row per
// position. Every column belongs to one group, whose mean and variance run over all rows, and to one channel, which
// scales and shifts it. Columns are worked on in blocks that stay in the cache, all rows of a block at a time; no
// result depends on the number of threads.

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu_vectors.h"

namespace {

constexpr int64_t BLOCK = 512;  // columns of a block; cpu_kernel.py cuts at the same
constexpr int64_t TILE = 128;   // rows that are summed in the input's precision before they go to double precision
constexpr int64_t LONG = 64;    // average columns of a piece from which on sums run over columns too
constexpr int64_t ROWS = 8;     // the same for sums over such a piece, and for the first rows of all

struct Moments {
  double count = 0, mean = 0, squares = 0;  // squares: sum of squared distances from the mean

  void add(const Moments& other) {
    if (count == 0) {
      *this = other;
      return;
    }
    const double all = count + other.count, distance = other.mean - mean;
    mean += distance * (other.count / all);
    squares += other.squares + distance * distance * (count * other.count / all);
    count = all;
  }
};

struct Plan {
  int64_t rows, columns, groups, channels, blocks, chunks;
  const int64_t* run_starts;      // a run: columns of one group and one block
  const int64_t* run_groups;
  const int64_t* block_runs;      // first run of each block
  const int64_t* segment_starts;  // a segment: columns of one channel, one group and one block
  const int64_t* segment_groups;
  const int64_t* segment_channels;
  const int64_t* block_segments;

  int64_t width(int64_t block) const { return std::min(BLOCK, columns - block * BLOCK); }
  int64_t chunk_start(int64_t chunk) const { return rows * chunk / chunks; }
  int64_t num_runs() const { return block_runs[blocks]; }
  int64_t num_segments() const { return block_segments[blocks]; }
};

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

// Mean and squared distances of each column of a block over some rows. The shift is a row of the input for a
// few rows, then the mean so far: sums of squares of distances from it are not much larger than those from the mean.
template <typename T>
void column_moments(const T* x, int64_t rows, int64_t stride, int64_t width, double* means, double* squares) {
  alignas(64) Scalar<T> shift[BLOCK], sum[BLOCK], square[BLOCK];
  for (int64_t i = 0; i < width; i += LANES<T>)
    store(shift + i, i + LANES<T> <= width ? load(x + i) : load(x + i, width - i));
  for (int64_t done = 0, count; done < rows; done += count) {
    count = std::min(done ? TILE : ROWS, rows - done);
    if (done)
      for (int64_t i = 0; i < width; ++i) shift[i] = means[i];
    std::fill_n(sum, BLOCK, 0);
    std::fill_n(square, BLOCK, 0);
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

// Moments of one long run of columns over some rows, with sums over columns too. The shift is the mean of one row.
template <typename T>
Moments run_moments(const T* x, int64_t rows, int64_t stride, int64_t width) {
  constexpr int64_t L = LANES<T>;
  const int64_t whole = width / L * L, left = width - whole;
  Vector<T> lanes = {};
  for (int64_t i = 0; i < whole; i += L) lanes += load(x + i);
  const Scalar<T> shift = whole ? total(lanes) / whole : load(x, left)[0];
  const Vector<T> inside = first_lanes<T>(left);
  Moments result;
  for (int64_t done = 0; done < rows; done += ROWS) {
    const int64_t count = std::min(ROWS, rows - done);
    Vector<T> sum[2] = {}, square[2] = {};
    for (int64_t row = done; row < done + count; ++row) {
      const T* from = x + row * stride;
      int64_t i = 0;
      for (; i + 2 * L <= whole; i += 2 * L)
        for (int k = 0; k < 2; ++k) {
          const Vector<T> distance = load(from + i + k * L) - shift;
          sum[k] += distance;
          square[k] += distance * distance;
        }
      for (; i < width; i += L) {
        const Vector<T> distance = i < whole ? load(from + i) - shift : (load(from + i, left) - shift) * inside;
        sum[0] += distance;
        square[0] += distance * distance;
      }
    }
    const double values = double(count) * width, offset = total(sum[0] + sum[1]) / values;
    result.add({values, shift + offset, total(square[0] + square[1]) - offset * offset * values});
  }
  return result;
}

// Moments of the runs of a block over the rows of a chunk.
template <typename T>
void block_moments(const Plan& plan, const T* x, int64_t block, int64_t chunk, Moments* results) {
  alignas(64) double means[BLOCK], squares[BLOCK];
  const int64_t first_row = plan.chunk_start(chunk), rows = plan.chunk_start(chunk + 1) - first_row;
  const int64_t start = block * BLOCK, first_run = plan.block_runs[block], last_run = plan.block_runs[block + 1];
  if (plan.width(block) >= LONG * (last_run - first_run)) {
    for (int64_t run = first_run; run < last_run; ++run) {
      const int64_t begin = plan.run_starts[run], width = plan.run_starts[run + 1] - begin;
      results[run] = run_moments(x + first_row * plan.columns + begin, rows, plan.columns, width);
    }
    return;
  }
  column_moments(x + first_row * plan.columns + start, rows, plan.columns, plan.width(block), means, squares);
  for (int64_t run = first_run; run < last_run; ++run) {
    const int64_t begin = plan.run_starts[run] - start, end = plan.run_starts[run + 1] - start;
    const double center = means[begin];  // a member: squared distances from it stay in proportion to the variance
    double sum = 0, between = 0, within = 0;
#pragma omp simd reduction(+ : sum, between, within)
    for (int64_t i = begin; i < end; ++i) {
      const double distance = means[i] - center;
      sum += distance;
      between += distance * distance;
      within += squares[i];
    }
    const double mean = sum / (end - begin);
    results[run] = {double(rows * (end - begin)), center + mean, within + rows * (between - sum * mean)};
  }
}

// Moments of every run, then of every group; y = (x - mean) * (inverse * weight) + bias, with inverse the reciprocal
// standard deviation.
template <typename T>
void normalise(const Plan& plan, const T* x, T* y, const Scalar<T>* weight, const Scalar<T>* bias, Scalar<T>* means,
             Scalar<T>* inverses, Scalar<T>* running_mean, Scalar<T>* running_var, double momentum, bool unbiased,
             double eps, int threads) {
  const int64_t num_runs = plan.num_runs(), tasks = plan.blocks * plan.chunks;
  std::vector<Moments> partial(num_runs * plan.chunks), group(plan.groups);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t task = 0; task < tasks; ++task)
    block_moments(plan, x, task % plan.blocks, task / plan.blocks, partial.data() + task / plan.blocks * num_runs);
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk)
    for (int64_t run = 0; run < num_runs; ++run) group[plan.run_groups[run]].add(partial[chunk * num_runs + run]);
  for (int64_t g = 0; g < plan.groups; ++g) {
    means[g] = group[g].mean;
    inverses[g] = 1 / std::sqrt(group[g].squares / group[g].count + eps);
  }
  if (running_mean)
    for (int64_t g = 0; g < plan.groups; ++g) {
      const double var = group[g].squares / (unbiased ? group[g].count - 1 : group[g].count);
      running_mean[g] += momentum * (group[g].mean - running_mean[g]);
      running_var[g] += momentum * (var - running_var[g]);
    }
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    alignas(64) Scalar<T> center[BLOCK] = {}, scale[BLOCK] = {}, shift[BLOCK] = {};
    const int64_t block = task % plan.blocks, chunk = task / plan.blocks, start = block * BLOCK;
    const int64_t width = plan.width(block);
    for (int64_t s = plan.block_segments[block]; s < plan.block_segments[block + 1]; ++s) {
      const int64_t g = plan.segment_groups[s], c = plan.segment_channels[s];
      const Scalar<T> mean = means[g], offset = bias ? bias[c] : 0;
      const Scalar<T> gain = weight ? inverses[g] * weight[c] : inverses[g];
      for (int64_t i = plan.segment_starts[s] - start; i < plan.segment_starts[s + 1] - start; ++i) {
        center[i] = mean;
        scale[i] = gain;
        shift[i] = offset;
      }
    }
    for (int64_t row = plan.chunk_start(chunk); row < plan.chunk_start(chunk + 1); ++row) {
      const T* from = x + row * plan.columns + start;
      T* to = y + row * plan.columns + start;
      int64_t i = 0;
      for (; i + LANES<T> <= width; i += LANES<T>)
        store(to + i, (load(from + i) - load(center + i)) * load(scale + i) + load(shift + i));
      if (i < width)
        store(to + i, (load(from + i, width - i) - load(center + i)) * load(scale + i) + load(shift + i), width - i);
    }
  }
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

// Sums over one long segment of output gradients and of their products with the centred input.
template <typename T>
void segment_products(const T* dy, const T* x, int64_t rows, int64_t stride, int64_t width, Scalar<T> mean,
                      double& sum, double& product) {
  constexpr int64_t L = LANES<T>;
  const int64_t left = width % L, whole = width - left;
  for (int64_t done = 0; done < rows; done += ROWS) {
    Vector<T> sums[2] = {}, products[2] = {};
    for (int64_t row = done; row < std::min(done + ROWS, rows); ++row) {
      const T *gradients = dy + row * stride, *from = x + row * stride;
      int64_t i = 0;
      for (; i + 2 * L <= whole; i += 2 * L)
        for (int k = 0; k < 2; ++k) {
          const Vector<T> gradient = load(gradients + i + k * L);
          sums[k] += gradient;
          products[k] += gradient * (load(from + i + k * L) - mean);
        }
      for (; i < width; i += L) {
        const Vector<T> gradient = i < whole ? load(gradients + i) : load(gradients + i, left);
        sums[0] += gradient;
        products[0] += gradient * ((i < whole ? load(from + i) : load(from + i, left)) - mean);
      }
    }
    sum += total(sums[0] + sums[1]);
    product += total(products[0] + products[1]);
  }
}

// Sums of `add_products` over the segments of a block and the rows of a chunk.
template <typename T>
void block_products(const Plan& plan, const T* dy, const T* x, const Scalar<T>* means, int64_t block, int64_t chunk,
                    double* sums, double* products) {
  alignas(64) Scalar<T> center[BLOCK] = {}, sum[BLOCK], product[BLOCK];
  const int64_t start = block * BLOCK, width = plan.width(block), stride = plan.columns;
  const int64_t first = plan.block_segments[block], last = plan.block_segments[block + 1];
  if (width >= LONG * (last - first)) {
    const int64_t row = plan.chunk_start(chunk), rows = plan.chunk_start(chunk + 1) - row;
    for (int64_t s = first; s < last; ++s) {
      const int64_t begin = plan.segment_starts[s], count = plan.segment_starts[s + 1] - begin;
      const int64_t at = row * stride + begin;
      segment_products(dy + at, x + at, rows, stride, count, means[plan.segment_groups[s]], sums[s], products[s]);
    }
    return;
  }
  for (int64_t s = first; s < last; ++s) {
    std::fill(center + plan.segment_starts[s] - start, center + plan.segment_starts[s + 1] - start,
              means[plan.segment_groups[s]]);
    sums[s] = products[s] = 0;
  }
  for (int64_t done = plan.chunk_start(chunk), end = plan.chunk_start(chunk + 1); done < end; done += TILE) {
    const int64_t stop = std::min(done + TILE, end);
    std::fill_n(sum, BLOCK, 0);
    std::fill_n(product, BLOCK, 0);
    int64_t row = done;
    for (; row + 2 <= stop; row += 2)
      add_products<2>(dy + row * stride + start, x + row * stride + start, stride, width, center, sum, product);
    for (; row < stop; ++row)
      add_products<1>(dy + row * stride + start, x + row * stride + start, stride, width, center, sum, product);
    for (int64_t s = first; s < last; ++s) {
      double total = 0, total_product = 0;
#pragma omp simd reduction(+ : total, total_product)
      for (int64_t i = plan.segment_starts[s] - start; i < plan.segment_starts[s + 1] - start; ++i) {
        total += sum[i];
        total_product += product[i];
      }
      sums[s] += total;
      products[s] += total_product;
    }
  }
}

// With h = weight * dy and sums over the values of a group:
// dx = inverse * (h - mean(h) - (x - mean) * inverse^2 * mean(h * (x - mean))).
template <typename T>
void differentiate(const Plan& plan, const T* dy, const T* x, T* dx, const Scalar<T>* weight, const Scalar<T>* means,
              const Scalar<T>* inverses, Scalar<T>* dweight, Scalar<T>* dbias, int threads) {
  const int64_t num_segments = plan.num_segments(), tasks = plan.blocks * plan.chunks;
  std::vector<double> sums(num_segments * plan.chunks), products(num_segments * plan.chunks);
  std::vector<double> group_sums(plan.groups), group_products(plan.groups), sizes(plan.groups);
  std::vector<double> channel_sums(plan.channels), channel_products(plan.channels);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t chunk = task / plan.blocks;
    block_products(plan, dy, x, means, task % plan.blocks, chunk, sums.data() + chunk * num_segments,
                   products.data() + chunk * num_segments);
  }
  for (int64_t s = 0; s < num_segments; ++s) {
    const int64_t g = plan.segment_groups[s], c = plan.segment_channels[s];
    double sum = 0, product = 0;
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
      sum += sums[chunk * num_segments + s];
      product += products[chunk * num_segments + s];
    }
    const double gain = weight ? weight[c] : 1;
    group_sums[g] += gain * sum;
    group_products[g] += gain * product;
    sizes[g] += double(plan.rows) * (plan.segment_starts[s + 1] - plan.segment_starts[s]);
    channel_sums[c] += sum;
    channel_products[c] += product * inverses[g];
  }
  if (dweight) std::copy(channel_products.begin(), channel_products.end(), dweight);
  if (dbias) std::copy(channel_sums.begin(), channel_sums.end(), dbias);
  if (!dx) return;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t task = 0; task < tasks; ++task) {
    alignas(64) Scalar<T> center[BLOCK] = {}, scale[BLOCK] = {}, slope[BLOCK] = {}, shift[BLOCK] = {};
    const int64_t block = task % plan.blocks, chunk = task / plan.blocks, start = block * BLOCK;
    const int64_t width = plan.width(block);
    for (int64_t s = plan.block_segments[block]; s < plan.block_segments[block + 1]; ++s) {
      const int64_t g = plan.segment_groups[s], c = plan.segment_channels[s];
      const double inverse = inverses[g], per_value = -inverse / sizes[g];
      const Scalar<T> mean = means[g], gain = weight ? inverse * weight[c] : inverse;
      const Scalar<T> of_product = per_value * inverse * inverse * group_products[g];
      const Scalar<T> of_sum = per_value * group_sums[g];
      for (int64_t i = plan.segment_starts[s] - start; i < plan.segment_starts[s + 1] - start; ++i) {
        center[i] = mean;
        scale[i] = gain;
        slope[i] = of_product;
        shift[i] = of_sum;
      }
    }
    for (int64_t row = plan.chunk_start(chunk); row < plan.chunk_start(chunk + 1); ++row) {
      const int64_t at = row * plan.columns + start;
      int64_t i = 0;
      for (; i + LANES<T> <= width; i += LANES<T>)
        store(dx + at + i, load(dy + at + i) * load(scale + i) +
                               ((load(x + at + i) - load(center + i)) * load(slope + i) + load(shift + i)));
      if (const int64_t left = width - i; left > 0)
        store(dx + at + i,
              load(dy + at + i, left) * load(scale + i) +
                  ((load(x + at + i, left) - load(center + i)) * load(slope + i) + load(shift + i)),
              left);
    }
  }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                              \
  extern "C" void normalise_##NAME(const Plan* plan, const T* x, T* y, const Scalar<T>* weight,                      \
                                   const Scalar<T>* bias, Scalar<T>* means, Scalar<T>* inverses,                     \
                                   Scalar<T>* running_mean, Scalar<T>* running_var, double momentum, int unbiased,   \
                                   double eps, int threads) {                                                        \
    normalise<T>(*plan, x, y, weight, bias, means, inverses, running_mean, running_var, momentum, unbiased, eps,     \
                 threads);                                                                                           \
  }                                                                                                                  \
  extern "C" void differentiate_##NAME(const Plan* plan, const T* dy, const T* x, T* dx, const Scalar<T>* weight,    \
                                       const Scalar<T>* means, const Scalar<T>* inverses, Scalar<T>* dweight,        \
                                       Scalar<T>* dbias, int threads) {                                              \
    differentiate<T>(*plan, dy, x, dx, weight, means, inverses, dweight, dbias, threads);                            \
  }
EXPORT(float32, float)
EXPORT(float64, double)
EXPORT(bfloat16, bfloat16)
