// Normalisation by groups of the merged (channels, positions) axis of channels_last inputs, forward and backward, on
// the CPU, without a copy into the order of that axis. No result depends on the number of threads.

#include <cmath>

#include "cpu_bands.h"
#include "cpu_export.h"
#include "cpu_operations.h"
#include "cpu_plan.h"
#include "cpu_reductions.h"

namespace {

// Call `some(number, column)` for a few whole vectors of columns at a time; `number`, of the vectors, is a constant.
// Returns the first column that is left.
template <typename T, typename Some> inline int64_t in_vectors(int64_t width, Some some) {
  constexpr int64_t L = LANES<T>;
  int64_t i = 0;
  for (; i + 4 * L <= width; i += 4 * L) some(std::integral_constant<int, 4>(), i);
  switch ((width - i) / L) {
    case 3: some(std::integral_constant<int, 3>(), i); break;
    case 2: some(std::integral_constant<int, 2>(), i); break;
    case 1: some(std::integral_constant<int, 1>(), i); break;
  }
  return width / L * L;
}

// Call `some(at, rows, stride, number, column, place, left)` for a few vectors of columns at a time: first for long rows
// of `together` rows each, then for the rows that are left. `place` is that of the columns' sums, which
// are apart for the rows that are left. A last vector may read what lies behind its row, but not behind the input, which
// ends at `end`; what it adds there to the places behind a row's own is cleared, not read.
template <typename T, typename Some>
inline void in_rows(int64_t start, int64_t rows, int64_t together, int64_t stride, int64_t width, int64_t end,
                    Some some) {
  constexpr int64_t L = LANES<T>;
  const auto all = [&](int64_t start, int64_t rows, int64_t stride, int64_t width, int64_t place) {
    const int64_t i = in_vectors<T>(width, [&](auto number, int64_t i) {
      some(start + i, rows, stride, number, i, place + i, L);
    });
    if (i == width) return;
    const bool fits = start + (rows - 1) * stride + i + L <= end;
    some(start + i, rows, stride, std::integral_constant<int, 1>(), i, place + i, fits ? L : width - i);
  };
  const int64_t done = together > 1 ? rows / together * together : 0;
  if (done) all(start, rows / together, together * stride, together * width, 0);
  if (done < rows) all(start + done * stride, rows - done, stride, width, together > 1 ? together * width : 0);
}

// Places of the sums of a task: of each row of long rows, and of a row that is left.
inline int64_t places(int64_t together, int64_t width) { return together > 1 ? (together + 1) * width : width; }

constexpr int64_t PLACES = 2 * BLOCK + MARGIN;

// Add the sums of the rows to those of the first.
template <typename S> inline void gather(S* sums, int64_t together, int64_t width) {
  for (int64_t place = width; place < places(together, width); place += width)
    for (int64_t i = 0; i < width; ++i) sums[i] += sums[place + i];
}

// Repeat numbers by column for each row of long rows.
template <typename S> inline void repeat(S* values, int64_t together, int64_t width) {
  for (int64_t row = 1; row < together; ++row) std::copy_n(values, width, values + row * width);
}

// Mean and squared distances from it of each cell of a task, as `column_moments`.
template <typename T>
void cell_moments(const Bands& plan, const Task& task, const T* x, double* means, double* squares) {
  constexpr int64_t L = LANES<T>;
  alignas(64) Scalar<T> shift[BLOCK + MARGIN], sum[PLACES], square[PLACES];
  const int64_t width = task.width, stride = plan.channels, together = rows_together<T>(plan);
  const int64_t padded = places(together, width) + L;
  int64_t done = 0, count = 0;
  std::fill_n(sum, padded, 0);
  std::fill_n(square, padded, 0);
  const auto fold = [&] {
    gather(sum, together, width);
    gather(square, together, width);
    merge_rows(shift, sum, square, width, done, count, means, squares);
    done += count;
    count = 0;
    for (int64_t i = 0; i < width; ++i) shift[i] = means[i];
    repeat(shift, together, width);
    std::fill_n(sum, padded, 0);
    std::fill_n(square, padded, 0);
  };
  in_pieces<T>(plan, task, [&](int64_t at, int64_t rows, int64_t ahead) {
    if (done + count == 0) {
      for (int64_t i = 0; i < width; i += L)
        store(shift + i, i + L <= width ? load(x + at + i) : load(x + at + i, width - i));
      repeat(shift, together, width);
    }
    for (int64_t taken; rows > 0; rows -= taken, at += taken * stride) {
      taken = std::min((done ? TILE : FIRST_ROWS) - count, rows);
      in_rows<T>(at, taken, together, stride, width, plan.values(),
                 [&](int64_t from, int64_t some, int64_t stride, auto number, int64_t i, int64_t place,
                     int64_t left) {
                   add_rows<T, number>(x + from, some, stride, 0, left, shift + i, sum + place, square + place, ahead);
                 });
      count += taken;
      if (count == (done ? TILE : FIRST_ROWS)) fold();
    }
  });
  if (count) fold();
}

// Sums of output gradients and of their products with the centred input over each cell of a task.
template <typename T>
void cell_products(const Bands& plan, const Task& task, const T* dy, const T* x, const Scalar<T>* means, double* sums,
                   double* products) {
  constexpr int64_t L = LANES<T>;
  alignas(64) Scalar<T> center[BLOCK + MARGIN] = {}, sum[PLACES], product[PLACES];
  const int64_t width = task.width, stride = plan.channels, together = rows_together<T>(plan);
  const int64_t padded = places(together, width) + L;
  const int64_t* groups = plan.cell_groups + task.band * plan.channels + task.channel;
  for (int64_t i = 0; i < width; ++i) center[i] = means[groups[i]];
  repeat(center, together, width);
  std::fill_n(sums, width, 0.0);
  std::fill_n(products, width, 0.0);
  std::fill_n(sum, padded, 0);
  std::fill_n(product, padded, 0);
  int64_t count = 0;
  const auto fold = [&] {
    gather(sum, together, width);
    gather(product, together, width);
    for (int64_t i = 0; i < width; ++i) {
      sums[i] += sum[i];
      products[i] += product[i];
    }
    std::fill_n(sum, padded, 0);
    std::fill_n(product, padded, 0);
    count = 0;
  };
  in_pieces<T>(plan, task, [&](int64_t at, int64_t rows, int64_t ahead) {
    for (int64_t taken; rows > 0; rows -= taken, at += taken * stride) {
      taken = std::min(TILE - count, rows);
      in_rows<T>(at, taken, together, stride, width, plan.values(),
                 [&](int64_t from, int64_t some, int64_t stride, auto number, int64_t i, int64_t place,
                     int64_t left) {
                   add_products<T, number>(dy + from, x + from, some, stride, 0, left, center + i, sum + place,
                                           product + place, ahead);
                 });
      count += taken;
      if (count == TILE) fold();
    }
  });
  if (count) fold();
}

// What is done to each column of a block: (center, scale, slope, shift) of `cpu_operations.h`.
template <typename T> struct Lines {
  alignas(64) Scalar<T> center[BLOCK + MARGIN], scale[BLOCK + MARGIN], slope[BLOCK + MARGIN], shift[BLOCK + MARGIN];
};

// Do an operation to the rows of a task; of the lines, those of the first row are there.
template <typename T, typename Operation>
void apply_task(const Bands& plan, const Task& task, const Operation& operation, Lines<T>& lines) {
  constexpr int64_t L = LANES<T>;
  const int64_t together = rows_together<T>(plan);
  for (Scalar<T>* values : {lines.center, lines.scale, lines.slope, lines.shift})
    if (values != lines.slope || Operation::HAS_SLOPE) repeat(values, together, task.width);
  const auto all = [&](int64_t start, int64_t rows, int64_t stride, int64_t width, int64_t ahead) {
    const auto columns = [&](int64_t at, int64_t rows, auto number, int64_t i) {
      apply_columns<T, number>(operation, at + i, rows, stride, lines.center + i, lines.scale + i, lines.slope + i,
                               lines.shift + i, ahead);
    };
    const int64_t step = width <= 4 * L ? rows : 1;  // in the order of memory
    for (int64_t row = 0; row < rows; row += step) {
      const int64_t count = std::min(step, rows - row), at = start + row * stride;
      const int64_t i = in_vectors<T>(width, [&](auto number, int64_t i) { columns(at, count, number, i); });
      if (i == width) continue;
      if (width >= L)  // the last vector, some values of which are those of the one before it
        columns(at, count, std::integral_constant<int, 1>(), width - L);
      else
        for (int64_t k = 0; k < count; ++k)
          store(operation.result() + at + k * stride,
                operation.part(at + k * stride, width, load(lines.center), load(lines.scale), load(lines.slope),
                               load(lines.shift)),
                width);
    }
  };
  in_pieces<T>(plan, task, [&](int64_t start, int64_t rows, int64_t ahead) {
    const int64_t long_rows = together > 1 ? rows / together : 0, done = long_rows * together;
    if (long_rows) all(start, long_rows, together * plan.channels, together * task.width, ahead);
    if (done < rows) all(start + done * plan.channels, rows - done, plan.channels, task.width, ahead);
  });
}

// Mean and reciprocal standard deviation of the groups of a bundle, and the running ones moved, from the moments of
// its cells.
template <typename T> struct Statistics {
  Scalar<T>*means, *inverses, *running_mean, *running_var;
  double momentum, lost, eps;

  void combine(const Bands& plan, int64_t bundle, int64_t problem, const double* cell_means,
               const double* cell_squares, double* room) const {
    const int64_t groups = plan.groups, channels = plan.channels;
    double *center = room, *sums = room + groups, *between = room + 2 * groups, *within = room + 3 * groups;
    const int64_t *listed = plan.listed_groups + plan.bundle_groups[bundle];
    const int64_t *end = plan.listed_groups + plan.bundle_groups[bundle + 1];
    for (const int64_t* g = listed; g < end; ++g) sums[*g] = between[*g] = within[*g] = 0;
    const int64_t first = plan.bundle_bands[bundle], last = plan.bundle_bands[bundle + 1];
    // A member: squared distances from it stay in proportion to the variance.
    for (int64_t cell = last * channels; cell-- > first * channels;) center[plan.cell_groups[cell]] = cell_means[cell];
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk)
      for (int64_t band = first; band < last; ++band) {
        const int64_t rows = plan.rows(band);
        const double count = rows * (chunk + 1) / plan.chunks - rows * chunk / plan.chunks;
        const double* band_means = cell_means + chunk * plan.cells() + band * channels;
        const double* band_squares = cell_squares + chunk * plan.cells() + band * channels;
        const int64_t* cell_groups = plan.cell_groups + band * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t g = cell_groups[c];
          const double distance = band_means[c] - center[g];
          sums[g] += count * distance;
          between[g] += count * distance * distance;
          within[g] += band_squares[c];
        }
      }
    for (const int64_t* listed_group = listed; listed_group < end; ++listed_group) {
      const int64_t g = *listed_group, place = problem * groups + g;
      const double values = plan.group_values[g], offset = sums[g] / values, mean = center[g] + offset;
      const double square = within[g] + (between[g] - sums[g] * offset);
      means[place] = mean;
      inverses[place] = 1 / std::sqrt(square / values + eps);
      if (!running_mean) continue;
      running_mean[g] += momentum * (mean - running_mean[g]);
      running_var[g] += momentum * (square / (values - lost) - running_var[g]);
    }
  }
};

template <typename T>
void output_lines(const Bands& plan, const Task& task, const Scalar<T>* means, const Scalar<T>* inverses,
                  const Scalar<T>* weight, const Scalar<T>* bias, Lines<T>& lines) {
  const int64_t* groups = plan.cell_groups + task.band * plan.channels + task.channel;
  for (int64_t i = 0; i < task.width; ++i) {
    const int64_t place = task.problem * plan.groups + groups[i], c = task.channel + i;
    lines.center[i] = means[place];
    lines.scale[i] = weight ? inverses[place] * weight[c] : inverses[place];
    lines.shift[i] = bias ? bias[c] : 0;
  }
}

// Normalise by the batch's statistics, which are given too, and move the running ones.
template <typename T>
void normalise(const Bands& plan, const T* x, T* y, const Scalar<T>* weight, const Scalar<T>* bias, Scalar<T>* means,
               Scalar<T>* inverses, Scalar<T>* running_mean, Scalar<T>* running_var, double momentum, bool unbiased,
               double eps, int threads) {
  const int64_t places = plan.problems * plan.chunks * plan.cells();
  const Room room(2 * places + 4 * plan.problems * plan.groups);
  double *cell_means = room + 0, *cell_squares = room + places, *group_room = room + 2 * places;
  const Statistics<T> statistics{means, inverses, running_mean, running_var, momentum, double(unbiased), eps};
  prefer_huge_pages(y, plan.values() * sizeof(T));
  walk(
      plan.problems * plan.bundles, plan.inside, useful_threads(plan.values(), threads),
      [&](int64_t bundle) { return first_task(plan, bundle); },
      [&](int64_t number) {
        const Task task(plan, number);
        cell_moments(plan, task, x, cell_means + task.place(plan), cell_squares + task.place(plan));
      },
      [&](int64_t bundle) {
        const int64_t problem = bundle / plan.bundles, offset = problem * plan.chunks * plan.cells();
        statistics.combine(plan, bundle % plan.bundles, problem, cell_means + offset, cell_squares + offset,
                           group_room + 4 * problem * plan.groups);
      },
      [&](int64_t number) {
        const Task task(plan, number);
        Lines<T> lines;
        output_lines(plan, task, means, inverses, weight, bias, lines);
        apply_task(plan, task, Normalise<T>{x, y}, lines);
      });
}

// Normalise by the running statistics; mean and reciprocal standard deviation are given too.
template <typename T>
void evaluate(const Bands& plan, const T* x, T* y, const Scalar<T>* weight, const Scalar<T>* bias, Scalar<T>* means,
              Scalar<T>* inverses, const Scalar<T>* running_mean, const Scalar<T>* running_var, double eps,
              int threads) {
#pragma omp simd
  for (int64_t g = 0; g < plan.groups; ++g) {
    means[g] = running_mean[g];
    inverses[g] = 1 / std::sqrt(double(running_var[g]) + eps);
  }
  prefer_huge_pages(y, plan.values() * sizeof(T));
  threads = useful_threads(plan.values(), threads);
  const int64_t tasks = plan.bands * plan.tasks_per_band();
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t number = 0; number < tasks; ++number) {
    const Task task(plan, number);
    Lines<T> lines;
    output_lines(plan, task, means, inverses, weight, bias, lines);
    apply_task(plan, task, Normalise<T>{x, y}, lines);
  }
}

// The derivative, as in `cpu_kernel.cpp`.
template <typename T>
void differentiate(const Bands& plan, const T* dy, const T* x, T* dx, const Scalar<T>* weight, const Scalar<T>* means,
                   const Scalar<T>* inverses, Scalar<T>* dweight, Scalar<T>* dbias, bool training, int threads) {
  const int64_t cells = plan.cells(), chunks = plan.chunks, channels = plan.channels, groups = plan.groups;
  const int64_t places = plan.problems * chunks * cells;
  const Room room(2 * places + 2 * plan.problems * groups + 2 * channels);
  double *sums = room + 0, *products = room + places, *shifts = room + 2 * places;
  double *slopes = shifts + plan.problems * groups, *channel_sums = slopes + plan.problems * groups;
  double* channel_products = channel_sums + channels;
  if (dx) prefer_huge_pages(dx, plan.values() * sizeof(T));
  walk(
      plan.problems * plan.bundles, plan.inside, useful_threads(plan.values(), threads),
      [&](int64_t bundle) { return first_task(plan, bundle); },
      [&](int64_t number) {
        const Task task(plan, number);
        cell_products(plan, task, dy, x, means + task.problem * groups, sums + task.place(plan),
                      products + task.place(plan));
      },
      [&](int64_t number) {
        const int64_t problem = number / plan.bundles, bundle = number % plan.bundles;
        double *shift = shifts + problem * groups, *slope = slopes + problem * groups;
        const int64_t* listed = plan.listed_groups + plan.bundle_groups[bundle];
        const int64_t* end = plan.listed_groups + plan.bundle_groups[bundle + 1];
        for (const int64_t* g = listed; g < end; ++g) shift[*g] = slope[*g] = 0;
        const int64_t first = plan.bundle_bands[bundle] * channels, last = plan.bundle_bands[bundle + 1] * channels;
        double *all_sums = sums + problem * chunks * cells, *all_products = products + problem * chunks * cells;
        for (int64_t chunk = 1; chunk < chunks; ++chunk)
#pragma omp simd
          for (int64_t cell = first; cell < last; ++cell) {
            all_sums[cell] += all_sums[chunk * cells + cell];
            all_products[cell] += all_products[chunk * cells + cell];
          }
        for (int64_t band = first; band < last; band += channels)
          for (int64_t c = 0; c < channels; ++c) {
            const int64_t g = plan.cell_groups[band + c];
            const double gain = weight ? weight[c] : 1;
            shift[g] += gain * all_sums[band + c];
            slope[g] += gain * all_products[band + c];
          }
        for (const int64_t* g = listed; g < end; ++g) {
          const double inverse = inverses[problem * groups + *g];
          const double per_value = -inverse / plan.group_values[*g];
          shift[*g] *= per_value;
          slope[*g] *= per_value * inverse * inverse;
        }
      },
      [&](int64_t number) {
        if (!dx) return;
        const Task task(plan, number);
        Lines<T> lines;
        const int64_t* cell_groups = plan.cell_groups + task.band * channels + task.channel;
        for (int64_t i = 0; i < task.width; ++i) {
          const int64_t place = task.problem * groups + cell_groups[i];
          lines.center[i] = means[place];
          lines.scale[i] = weight ? double(inverses[place]) * weight[task.channel + i] : inverses[place];
          lines.slope[i] = slopes[place];
          lines.shift[i] = shifts[place];
        }
        if (training)
          apply_task(plan, task, Differentiate<T>{dy, x, dx}, lines);
        else
          apply_task(plan, task, Scale<T>{dy, dx}, lines);
      });
  std::fill_n(channel_sums, 2 * channels, 0.0);
  for (int64_t problem = 0; problem < plan.problems; ++problem)
    for (int64_t band = 0; band < plan.bands; ++band) {
      const int64_t place = problem * chunks * cells + band * channels;
      const Scalar<T>* inverse = inverses + problem * groups;
      for (int64_t c = 0; c < channels; ++c) {
        channel_sums[c] += sums[place + c];
        channel_products[c] += products[place + c] * inverse[plan.cell_groups[band * channels + c]];
      }
    }
  std::copy_n(channel_products, channels, dweight);
  std::copy_n(channel_sums, channels, dbias);
}

}  // namespace

EXPORT_ALL(bands_, Bands)
