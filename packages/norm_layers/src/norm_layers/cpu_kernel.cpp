// Normalisation by groups of columns of a matrix, forward and backward, on the CPU. No result depends on the number of
// threads.

#include <cmath>

#include "cpu_export.h"
#include "cpu_operations.h"
#include "cpu_plan.h"
#include "cpu_reductions.h"

namespace {

// A segment's part of a walk: its columns in the block, and what is done to its values.
template <typename T> struct Line {
  int64_t begin, end;
  Scalar<T> center, scale, slope, shift;
};

// Do an operation to the rows from `first` to `last` of a block, whose segments `line_of` describes.
template <typename T, typename Operation, typename LineOf>
void apply_block(const Plan& plan, int64_t block, int64_t first, int64_t last, const Operation& operation,
                 LineOf line_of) {
  constexpr int64_t L = LANES<T>;
  const int64_t start = plan.block_starts[block], width = plan.width(block), stride = plan.columns;
  T* to = operation.result();
  if (plan.wide_segments) {
    for (int64_t s = plan.block_segments[block]; s < plan.block_segments[block + 1]; ++s) {
      const Line<T> line = line_of(s);
      const Vector<T> center = spread<T>(line.center), scale = spread<T>(line.scale);
      const Vector<T> slope = spread<T>(line.slope), shift = spread<T>(line.shift);
      const int64_t count = line.end - line.begin;
      for (int64_t row = first; row < last; ++row) {
        const int64_t at = row * stride + line.begin;
        if (count < L) {  // what is written beyond the segment is written again for those after it
          if (line.begin + L <= start + width)
            store(to + at, operation.whole(at, center, scale, slope, shift));
          else
            store(to + at, operation.part(at, count, center, scale, slope, shift), count);
          continue;
        }
        // The last vector, some values of which are those of the one before it. It is read first: reading what lies at
        // the place in a page where something was just written makes processors wait.
        const Vector<T> tail = operation.whole(at + count - L, center, scale, slope, shift);
        for (int64_t i = 0; i + L <= count; i += L)
          store(to + at + i, operation.whole(at + i, center, scale, slope, shift));
        store(to + at + count - L, tail);
      }
    }
    return;
  }
  alignas(64) Scalar<T> center[BLOCK + MARGIN], scale[BLOCK + MARGIN], slope[BLOCK + MARGIN], shift[BLOCK + MARGIN];
  for (int64_t s = plan.block_segments[block]; s < plan.block_segments[block + 1]; ++s) {
    const Line<T> line = line_of(s);
    const int64_t begin = line.begin - start, count = line.end - line.begin;
    put<T>(center + begin, count, line.center);
    put<T>(scale + begin, count, line.scale);
    if (Operation::HAS_SLOPE) put<T>(slope + begin, count, line.slope);
    put<T>(shift + begin, count, line.shift);
  }
  in_tiles<T>(first, last, width, [&](int64_t row, int64_t rows, auto number, int64_t i, int64_t left) {
    const int64_t at = row * stride + start + i;
    if (left == L)
      apply_columns<T, number>(operation, at, rows, stride, center + i, scale + i, slope + i, shift + i);
    else
      for (int64_t k = 0; k < rows; ++k)
        store(to + at + k * stride,
              operation.part(at + k * stride, left, load(center + i), load(scale + i), load(slope + i),
                             load(shift + i)),
              left);
  });
}

// What `normalise` does to a segment.
template <typename T, typename Mean, typename Inverse>
Line<T> output_line(const Plan& plan, int64_t s, const Mean* means, const Inverse* inverses, const Scalar<T>* weight,
                    const Scalar<T>* bias) {
  const int64_t g = plan.segment_groups[s], c = plan.segment_channels[s];
  const Scalar<T> inverse = inverses[g], scale = weight ? inverse * weight[c] : inverse;
  return {plan.segment_starts[s], plan.segment_starts[s + 1], Scalar<T>(means[g]), scale, 0, bias ? bias[c] : 0};
}

// Moments of the runs of a block over the rows of a chunk.
template <typename T>
void block_moments(const Plan& plan, const T* x, int64_t block, int64_t chunk, double* run_means,
                   double* run_squares) {
  const int64_t first_row = plan.chunk_start(chunk), rows = plan.chunk_start(chunk + 1) - first_row;
  const int64_t start = plan.block_starts[block], first = plan.block_runs[block], last = plan.block_runs[block + 1];
  const T* from = x + first_row * plan.columns;
  if (plan.wide_runs) {
    for (int64_t run = first; run < last; ++run) {
      const int64_t begin = plan.run_starts[run], width = plan.run_starts[run + 1] - begin;
      wide_moments(x, from + begin, rows, plan.columns, width, run_means[run], run_squares[run]);
    }
    return;
  }
  alignas(64) double means[BLOCK], squares[BLOCK];
  column_moments(from + start, rows, plan.columns, plan.width(block), means, squares);
  for (int64_t run = first; run < last; ++run) {
    const int64_t begin = plan.run_starts[run] - start, width = plan.run_starts[run + 1] - start - begin;
    merge_columns(rows, width, means + begin, squares + begin, run_means[run], run_squares[run]);
  }
}

// Mean and squared distances from it of a group, from those of its runs in every chunk.
inline void merge_runs(const Plan& plan, int64_t group, const double* run_means, const double* run_squares,
                       double& mean, double& square) {
  const int64_t first = plan.group_runs[group], last = plan.group_runs[group + 1], runs = plan.runs();
  const double center = run_means[first];
  if (last - first == 1 && plan.chunks == 1) {
    mean = center;
    square = run_squares[first];
    return;
  }
  double sum = 0, between = 0, within = 0;
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
    const double rows = plan.chunk_start(chunk + 1) - plan.chunk_start(chunk);
    for (int64_t run = first; run < last; ++run) {
      const double count = rows * (plan.run_starts[run + 1] - plan.run_starts[run]);
      const double distance = run_means[chunk * runs + run] - center;
      sum += count * distance;
      between += count * distance * distance;
      within += run_squares[chunk * runs + run];
    }
  }
  const double offset = sum / plan.values(group);
  mean = center + offset;
  square = within + (between - sum * offset);
}

// Normalise by the batch's statistics, which are given too, and move the running ones.
template <typename T>
void normalise(const Plan& plan, const T* x, T* y, const Scalar<T>* weight, const Scalar<T>* bias, Scalar<T>* means,
               Scalar<T>* inverses, Scalar<T>* running_mean, Scalar<T>* running_var, double momentum, bool unbiased,
               double eps, int threads) {
  const int64_t places = plan.runs() * plan.chunks;
  const Room room(2 * places + 2 * plan.groups);
  double *run_means = room + 0, *run_squares = room + places, *group_means = room + 2 * places;
  double* group_squares = group_means + plan.groups;
  prefer_huge_pages(y, plan.rows * plan.columns * sizeof(T));
  walk(
      plan, useful_threads(plan.rows * plan.columns, threads),
      [&](int64_t block, int64_t chunk) {
        const int64_t offset = chunk * plan.runs();
        block_moments(plan, x, block, chunk, run_means + offset, run_squares + offset);
      },
      [&](int64_t first, int64_t last) {
        for (int64_t g = first; g < last; ++g)
          merge_runs(plan, g, run_means, run_squares, group_means[g], group_squares[g]);
#pragma omp simd
        for (int64_t g = first; g < last; ++g) {
          means[g] = group_means[g];
          inverses[g] = 1 / std::sqrt(group_squares[g] / plan.values(g) + eps);
        }
        if (running_mean) {
          const double lost = unbiased;
#pragma omp simd
          for (int64_t g = first; g < last; ++g) {
            running_mean[g] += momentum * (group_means[g] - running_mean[g]);
            running_var[g] += momentum * (group_squares[g] / (plan.values(g) - lost) - running_var[g]);
          }
        }
      },
      [&](int64_t block, int64_t chunk) {
        apply_block<T>(plan, block, plan.chunk_start(chunk), plan.chunk_start(chunk + 1), Normalise<T>{x, y},
                       [&](int64_t s) { return output_line<T>(plan, s, means, inverses, weight, bias); });
      });
}

// Normalise by the running statistics; mean and reciprocal standard deviation are given too.
template <typename T>
void evaluate(const Plan& plan, const T* x, T* y, const Scalar<T>* weight, const Scalar<T>* bias, Scalar<T>* means,
              Scalar<T>* inverses, const Scalar<T>* running_mean, const Scalar<T>* running_var, double eps,
              int threads) {
#pragma omp simd
  for (int64_t g = 0; g < plan.groups; ++g) {
    means[g] = running_mean[g];
    inverses[g] = 1 / std::sqrt(double(running_var[g]) + eps);
  }
  prefer_huge_pages(y, plan.rows * plan.columns * sizeof(T));
  threads = useful_threads(plan.rows * plan.columns, threads);
  const auto line_of = [&](int64_t s) { return output_line<T>(plan, s, means, inverses, weight, bias); };
  // Nothing is read twice: wide segments in the order of memory, narrow ones in blocks whose lines serve some rows.
  const int64_t blocks = plan.blocks(), parts = plan.wide_segments ? plan.rows : (plan.rows + 255) / 256;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t task = 0; task < parts * blocks; ++task) {
    const int64_t part = task / blocks;
    apply_block<T>(plan, task % blocks, plan.rows * part / parts, plan.rows * (part + 1) / parts, Normalise<T>{x, y},
                   line_of);
  }
}

// Sums of output gradients and of their products with the centred input over the segments of a block and a chunk.
template <typename T>
void block_products(const Plan& plan, const T* dy, const T* x, const Scalar<T>* means, int64_t block, int64_t chunk,
                    double* sums, double* products) {
  const int64_t start = plan.block_starts[block], width = plan.width(block), stride = plan.columns;
  const int64_t first = plan.block_segments[block], last = plan.block_segments[block + 1];
  const int64_t first_row = plan.chunk_start(chunk), end = plan.chunk_start(chunk + 1);
  if (plan.wide_segments) {
    for (int64_t s = first; s < last; ++s) {
      const int64_t begin = plan.segment_starts[s], count = plan.segment_starts[s + 1] - begin;
      wide_products(dy, x, first_row * stride + begin, end - first_row, stride, count, means[plan.segment_groups[s]],
                    sums[s], products[s]);
    }
    return;
  }
  alignas(64) Scalar<T> center[BLOCK + MARGIN], sum[BLOCK], product[BLOCK];
  for (int64_t s = first; s < last; ++s) {
    const int64_t begin = plan.segment_starts[s];
    put<T>(center + begin - start, plan.segment_starts[s + 1] - begin, means[plan.segment_groups[s]]);
    sums[s] = products[s] = 0;
  }
  const int64_t padded = (width + LANES<T> - 1) / LANES<T> * LANES<T>;
  for (int64_t done = first_row; done < end; done += TILE) {
    const int64_t stop = std::min(done + TILE, end);
    std::fill_n(sum, padded, 0);
    std::fill_n(product, padded, 0);
    in_tiles<T>(done, stop, width, [&](int64_t row, int64_t rows, auto number, int64_t i, int64_t left) {
      const int64_t at = row * stride + start;
      add_products<T, number>(dy + at, x + at, rows, stride, i, left, center, sum, product);
    });
    for (int64_t s = first; s < last; ++s) {
      const int64_t begin = plan.segment_starts[s] - start, count = plan.segment_starts[s + 1] - start - begin;
      sums[s] += sum_of(sum + begin, count);
      products[s] += sum_of(product + begin, count);
    }
  }
}

// With h = weight * dy and sums over the values of a group:
// dx = inverse * (h - mean(h) - (x - mean) * inverse^2 * mean(h * (x - mean))), in evaluation inverse * h.
template <typename T>
void differentiate(const Plan& plan, const T* dy, const T* x, T* dx, const Scalar<T>* weight, const Scalar<T>* means,
                   const Scalar<T>* inverses, Scalar<T>* dweight, Scalar<T>* dbias, bool training, int threads) {
  const int64_t segments = plan.segments(), chunks = plan.chunks;
  const Room room(2 * segments * chunks + 2 * plan.groups + 2 * plan.channels);
  double *sums = room + 0, *products = room + segments * chunks, *shifts = room + 2 * segments * chunks;
  double *slopes = shifts + plan.groups, *channel_sums = slopes + plan.groups;
  double* channel_products = channel_sums + plan.channels;
  if (dx) prefer_huge_pages(dx, plan.rows * plan.columns * sizeof(T));
  walk(
      plan, useful_threads(plan.rows * plan.columns, threads),
      [&](int64_t block, int64_t chunk) {
        block_products(plan, dy, x, means, block, chunk, sums + chunk * segments, products + chunk * segments);
      },
      [&](int64_t first, int64_t last) {
        for (int64_t g = first; g < last; ++g) {
          double group_sum = 0, group_product = 0;
          for (int64_t s = plan.group_segments[g]; s < plan.group_segments[g + 1]; ++s) {
            for (int64_t chunk = 1; chunk < chunks; ++chunk) {
              sums[s] += sums[chunk * segments + s];
              products[s] += products[chunk * segments + s];
            }
            const double gain = weight ? weight[plan.segment_channels[s]] : 1;
            group_sum += gain * sums[s];
            group_product += gain * products[s];
          }
          shifts[g] = group_sum;
          slopes[g] = group_product;
        }
#pragma omp simd
        for (int64_t g = first; g < last; ++g) {
          const double inverse = inverses[g], per_value = -inverse / plan.values(g);
          shifts[g] *= per_value;
          slopes[g] *= per_value * inverse * inverse;
        }
      },
      [&](int64_t block, int64_t chunk) {
        if (!dx) return;
        const auto line_of = [&](int64_t s) {
          const int64_t g = plan.segment_groups[s], c = plan.segment_channels[s];
          const double gain = weight ? double(inverses[g]) * weight[c] : inverses[g];
          return Line<T>{plan.segment_starts[s], plan.segment_starts[s + 1], means[g], Scalar<T>(gain),
                         Scalar<T>(slopes[g]), Scalar<T>(shifts[g])};
        };
        const int64_t first = plan.chunk_start(chunk), last = plan.chunk_start(chunk + 1);
        if (training)
          apply_block<T>(plan, block, first, last, Differentiate<T>{dy, x, dx}, line_of);
        else
          apply_block<T>(plan, block, first, last, Scale<T>{dy, dx}, line_of);
      });
  std::fill_n(channel_sums, 2 * plan.channels, 0.0);
  for (int64_t s = 0; s < segments; ++s) {
    const int64_t c = plan.segment_channels[s];
    channel_sums[c] += sums[s];
    channel_products[c] += products[s] * inverses[plan.segment_groups[s]];
  }
  std::copy_n(channel_products, plan.channels, dweight);
  std::copy_n(channel_sums, plan.channels, dbias);
}

}  // namespace

EXPORT_ALL(, Plan)
