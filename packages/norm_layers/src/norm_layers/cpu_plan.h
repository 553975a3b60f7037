// How a matrix is walked over, and memory for its results.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include <omp.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

// Room for numbers; not cleared.
struct Room {
  std::unique_ptr<double[]> values;
  explicit Room(int64_t count) : values(new double[count]) {}
  double* operator+(int64_t offset) const { return values.get() + offset; }
  double& operator[](int64_t i) const { return values[i]; }
};

// The input is a matrix of `rows` by `columns`: a batch of merged (C, H, W) axes. Every column belongs to one group, whose
// mean and variance run over all rows, and to one channel, which scales and shifts it. A bundle is some groups with all
// their columns, a block some columns of a bundle, and a chunk some rows. `plan.py` says how they are chosen; all of it
// by the shape alone.
struct Plan {
  int64_t rows, columns, groups, channels, bundles, chunks;
  int64_t wide_runs, wide_segments;  // whether sums over runs, or segments, go over rows and columns at once
  int64_t inside;                    // whether threads share a bundle, instead of taking one each
  const int64_t* bundle_blocks;      // first block of each bundle, and the end; likewise below
  const int64_t* bundle_groups;
  const int64_t* block_starts;       // first column
  const int64_t* group_starts;
  const int64_t* run_starts;         // a run: columns of one group and one block
  const int64_t* block_runs;
  const int64_t* group_runs;
  const int64_t* segment_starts;     // a segment: columns of one channel, one group and one block
  const int64_t* segment_groups;
  const int64_t* segment_channels;
  const int64_t* block_segments;
  const int64_t* group_segments;

  int64_t width(int64_t block) const { return block_starts[block + 1] - block_starts[block]; }
  int64_t chunk_start(int64_t chunk) const { return rows * chunk / chunks; }
  int64_t blocks() const { return bundle_blocks[bundles]; }
  int64_t runs() const { return group_runs[groups]; }
  int64_t segments() const { return group_segments[groups]; }
  double values(int64_t group) const { return double(rows) * (group_starts[group + 1] - group_starts[group]); }
};

// For each bundle: `reduce` every task, a part of the input, `combine` the groups, and `apply` to every task, the last
// ones first, since they are still in the cache. `first_task` gives a bundle's first task; `inside` says whether
// threads share a bundle, instead of taking one each.
template <typename FirstTask, typename Reduce, typename Combine, typename Apply>
void walk(int64_t bundles, bool inside, int threads, FirstTask first_task, Reduce reduce, Combine combine,
          Apply apply) {
  if (!inside || threads == 1) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t bundle = 0; bundle < bundles; ++bundle) {
      const int64_t first = first_task(bundle), last = first_task(bundle + 1);
      for (int64_t task = first; task < last; ++task) reduce(task);
      combine(bundle);
      for (int64_t task = last; task-- > first;) apply(task);
    }
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), number = omp_get_num_threads();
    for (int64_t bundle = 0; bundle < bundles; ++bundle) {
      const int64_t first = first_task(bundle), all = first_task(bundle + 1) - first;
      const int64_t begin = first + all * thread / number, end = first + all * (thread + 1) / number;
      for (int64_t task = begin; task < end; ++task) reduce(task);
#pragma omp barrier
#pragma omp single
      combine(bundle);
      for (int64_t task = end; task-- > begin;) apply(task);
    }
  }
}

// The same for a matrix, by block and chunk, and by first group and end.
template <typename Reduce, typename Combine, typename Apply>
void walk(const Plan& plan, int threads, Reduce reduce, Combine combine, Apply apply) {
  const int64_t chunks = plan.chunks;
  walk(
      plan.bundles, plan.inside, threads, [&](int64_t bundle) { return plan.bundle_blocks[bundle] * chunks; },
      [&](int64_t task) { reduce(task / chunks, task % chunks); },
      [&](int64_t bundle) { combine(plan.bundle_groups[bundle], plan.bundle_groups[bundle + 1]); },
      [&](int64_t task) { apply(task / chunks, task % chunks); });
}

// Ask for huge pages behind a large result: with small ones, the time to get them is longer than that to fill them.
inline void prefer_huge_pages(void* result, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr int64_t LARGE = 32 << 20, PAGE = 2 << 20;
  if (bytes < LARGE) return;
  const uintptr_t start = (uintptr_t(result) + PAGE - 1) / PAGE * PAGE, end = (uintptr_t(result) + bytes) / PAGE * PAGE;
  madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
}

// Threads that are worth their start for so many values, as in torch's own kernels.
inline int useful_threads(int64_t values, int threads) { return values < 32768 ? 1 : threads; }
