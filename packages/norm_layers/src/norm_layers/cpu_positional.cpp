// Normalisation of each position of each sample over the channels, forward and backward, on the CPU, for contiguous
// inputs (samples, channels, positions). Positions are worked on in blocks that stay in the cache, all channels of a
// block at a time. No result depends on the number of threads.

#include <cmath>
#include <memory>

#include "cpu_plan.h"
#include "cpu_reductions.h"

namespace {

// Samples cut into blocks of positions.
struct Blocks {
  int64_t samples, channels, positions, width, per_sample;

  Blocks(int64_t samples, int64_t channels, int64_t positions, int64_t value_bytes)
      : samples(samples), channels(channels), positions(positions) {
    constexpr int64_t CACHE = 128 << 10, LEAST = 64;
    width = std::clamp(CACHE / (channels * value_bytes) / LEAST * LEAST, LEAST, BLOCK);
    per_sample = (positions + width - 1) / width;
  }
  int64_t number() const { return samples * per_sample; }
  int64_t first_position(int64_t block) const { return block % per_sample * width; }
  int64_t columns(int64_t block) const { return std::min(width, positions - first_position(block)); }
  int64_t place(int64_t block) const { return block / per_sample * positions + first_position(block); }
  int64_t start(int64_t block) const {
    return block / per_sample * channels * positions + first_position(block);
  }
};

// y = (x - mean) * inverse * weight + bias, with inverse the reciprocal standard deviation of the position.
template <typename T>
void normalise(const Blocks& blocks, const T* x, T* y, const Scalar<T>* weight, const Scalar<T>* bias,
               Scalar<T>* means, Scalar<T>* inverses, double eps, int threads) {
  prefer_huge_pages(y, blocks.samples * blocks.channels * blocks.positions * sizeof(T));
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t block = 0; block < blocks.number(); ++block) {
    alignas(64) double mean[BLOCK], square[BLOCK];
    alignas(64) Scalar<T> center[BLOCK + MARGIN] = {}, inverse[BLOCK + MARGIN] = {};
    const int64_t width = blocks.columns(block), start = blocks.start(block), stride = blocks.positions;
    column_moments(x + start, blocks.channels, stride, width, mean, square);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      center[i] = mean[i];
      inverse[i] = 1 / std::sqrt(square[i] / blocks.channels + eps);
    }
    std::copy_n(center, width, means + blocks.place(block));
    std::copy_n(inverse, width, inverses + blocks.place(block));
    in_tiles<T>(0, blocks.channels, width, [&](int64_t row, int64_t rows, auto number, int64_t i, int64_t left) {
      constexpr int64_t L = LANES<T>;
      Vector<T> middle[number], scale[number];
      for (int k = 0; k < number; ++k) {
        middle[k] = load(center + i + k * L);
        scale[k] = load(inverse + i + k * L);
      }
      for (int64_t c = row; c < row + rows; ++c) {
        const Scalar<T> gain = weight ? weight[c] : 1, shift = bias ? bias[c] : 0;
        for (int k = 0; k < number; ++k) {
          const int64_t at = start + c * stride + i + k * L;
          if (left == L)
            store(y + at, (load(x + at) - middle[k]) * scale[k] * gain + shift);
          else
            store(y + at, (load(x + at, left) - middle[k]) * scale[k] * gain + shift, left);
        }
      }
    });
  }
}

// With h = weight * dy and sums over the channels of a position:
// dx = inverse * (h - mean(h) - (x - mean) * inverse^2 * mean(h * (x - mean))).
template <typename T>
void differentiate(const Blocks& blocks, const T* dy, const T* x, T* dx, const Scalar<T>* weight,
                   const Scalar<T>* means, const Scalar<T>* inverses, Scalar<T>* dweight, Scalar<T>* dbias,
                   int threads) {
  constexpr int64_t L = LANES<T>;
  const int64_t channels = blocks.channels, stride = blocks.positions;
  const std::unique_ptr<double[]> partial(new double[2 * channels * blocks.number()]);
  if (dx) prefer_huge_pages(dx, blocks.samples * channels * stride * sizeof(T));
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t block = 0; block < blocks.number(); ++block) {
    alignas(64) Scalar<T> center[BLOCK + MARGIN] = {}, inverse[BLOCK + MARGIN] = {};
    alignas(64) Scalar<T> sum[BLOCK + MARGIN] = {}, product[BLOCK + MARGIN] = {};
    double *weight_sums = partial.get() + 2 * channels * block, *bias_sums = weight_sums + channels;
    const int64_t width = blocks.columns(block), start = blocks.start(block);
    std::copy_n(means + blocks.place(block), width, center);
    std::copy_n(inverses + blocks.place(block), width, inverse);
    Vector<T> row_sums[FEW_ROWS], row_products[FEW_ROWS];
    in_tiles<T>(0, channels, width, [&](int64_t row, int64_t rows, auto number, int64_t i, int64_t left) {
      Vector<T> middle[number], scale[number], sums[number], products[number];
      for (int k = 0; k < number; ++k) {
        middle[k] = load(center + i + k * L);
        scale[k] = load(inverse + i + k * L);
        sums[k] = load(sum + i + k * L);
        products[k] = load(product + i + k * L);
      }
      for (int64_t c = 0; c < rows; ++c) {
        const Scalar<T> gain = weight ? weight[row + c] : 1;
        Vector<T> row_sum = {}, row_product = {};
        for (int k = 0; k < number; ++k) {
          const int64_t at = start + (row + c) * stride + i + k * L;
          const Vector<T> gradient = left == L ? load(dy + at) : load(dy + at, left);
          const Vector<T> term = gradient * ((left == L ? load(x + at) : load(x + at, left)) - middle[k]);
          sums[k] += gradient * gain;
          products[k] += term * gain;
          row_sum += gradient;
          row_product += term * scale[k];
        }
        row_sums[c] = i ? row_sums[c] + row_sum : row_sum;
        row_products[c] = i ? row_products[c] + row_product : row_product;
      }
      for (int k = 0; k < number; ++k) {
        store(sum + i + k * L, sums[k]);
        store(product + i + k * L, products[k]);
      }
      if (i + number * L < width) return;
      for (int64_t c = 0; c < rows; ++c) {
        bias_sums[row + c] = total(row_sums[c]);
        weight_sums[row + c] = total(row_products[c]);
      }
    });
    if (!dx) continue;
    for (int64_t i = 0; i < width; i += L) {
      const Vector<T> scale = load(inverse + i);
      store(sum + i, load(sum + i) * scale / Scalar<T>(channels));
      store(product + i, load(product + i) * scale * scale * scale / Scalar<T>(channels));
    }
    in_tiles<T>(0, channels, width, [&](int64_t row, int64_t rows, auto number, int64_t i, int64_t left) {
      Vector<T> middle[number], scale[number], shift[number], slope[number];
      for (int k = 0; k < number; ++k) {
        middle[k] = load(center + i + k * L);
        scale[k] = load(inverse + i + k * L);
        shift[k] = load(sum + i + k * L);
        slope[k] = load(product + i + k * L);
      }
      for (int64_t c = row; c < row + rows; ++c) {
        const Scalar<T> gain = weight ? weight[c] : 1;
        for (int k = 0; k < number; ++k) {
          const int64_t at = start + c * stride + i + k * L;
          if (left == L)
            store(dx + at, load(dy + at) * gain * scale[k] - shift[k] - (load(x + at) - middle[k]) * slope[k]);
          else
            store(dx + at,
                  load(dy + at, left) * gain * scale[k] - shift[k] - (load(x + at, left) - middle[k]) * slope[k], left);
        }
      }
    });
  }
  for (int64_t c = 0; c < channels; ++c) {
    double weight_sum = 0, bias_sum = 0;
    for (int64_t block = 0; block < blocks.number(); ++block) {
      weight_sum += partial[2 * channels * block + c];
      bias_sum += partial[2 * channels * block + channels + c];
    }
    dweight[c] = weight_sum;
    dbias[c] = bias_sum;
  }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                              \
  extern "C" void positions_##NAME(int64_t samples, int64_t channels, int64_t positions, const T* x, T* y,           \
                                   const Scalar<T>* weight, const Scalar<T>* bias, Scalar<T>* means,                 \
                                   Scalar<T>* inverses, double eps, int threads) {                                   \
    normalise<T>(Blocks(samples, channels, positions, sizeof(T)), x, y, weight, bias, means, inverses, eps,          \
                 threads);                                                                                           \
  }                                                                                                                  \
  extern "C" void positions_gradient_##NAME(int64_t samples, int64_t channels, int64_t positions, const T* dy,       \
                                            const T* x, T* dx, const Scalar<T>* weight, const Scalar<T>* means,      \
                                            const Scalar<T>* inverses, Scalar<T>* dweight, Scalar<T>* dbias,         \
                                            int threads) {                                                           \
    differentiate<T>(Blocks(samples, channels, positions, sizeof(T)), dy, x, dx, weight, means, inverses, dweight,   \
                     dbias, threads);                                                                                \
  }
EXPORT(float32, float)
EXPORT(float64, double)
EXPORT(bfloat16, bfloat16)
