// How a channels_last input is walked over.

#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "cpu_reductions.h"

// The input is (problems, samples, positions, channels); each problem has statistics of its own. A band is some
// consecutive positions in which every channel belongs to one group, a cell one channel of a band. A bundle is some
// consecutive bands that hold all values of their groups. `bands.py` says how they are chosen.
struct Bands {
  int64_t problems, samples, positions, channels, groups, bands, bundles;
  int64_t chunks;                // parts of a band's rows that are summed apart
  int64_t inside;                // whether threads share a bundle, instead of taking one each
  const int64_t* band_starts;    // first position, and the end
  const int64_t* cell_groups;    // by band and channel
  const int64_t* bundle_bands;   // first band of each bundle, and the end
  const int64_t* bundle_groups;  // first of each bundle in `listed_groups`, and the end
  const int64_t* listed_groups;  // the groups of the bundles, each once
  const double* group_values;    // values of each group

  int64_t blocks() const { return (channels + BLOCK - 1) / BLOCK; }
  int64_t tasks_per_band() const { return chunks * blocks(); }
  int64_t cells() const { return bands * channels; }
  int64_t values() const { return problems * samples * positions * channels; }
  int64_t rows(int64_t band) const { return samples * (band_starts[band + 1] - band_starts[band]); }
};

// Rows that are worked on as one long row: as many as make whole vectors, and a few of them, where C is small.
template <typename T> int64_t rows_together(const Bands& plan) {
  constexpr int64_t L = LANES<T>;
  int64_t together = L / std::gcd(plan.channels, L);
  if (together * plan.channels > BLOCK) return 1;
  while (2 * together * plan.channels <= 4 * L) together *= 2;
  return together;
}

// A task: some rows of a band of a problem, and a block of channels. A row is a position of a sample.
struct Task {
  int64_t problem, band, chunk, first_row, end_row, channel, width, start;

  Task(const Bands& plan, int64_t task) {
    const int64_t per_band = plan.tasks_per_band(), band_of_all = task / per_band;
    problem = band_of_all / plan.bands;
    band = band_of_all % plan.bands;
    chunk = task % per_band / plan.blocks();
    first_row = plan.rows(band) * chunk / plan.chunks;
    end_row = plan.rows(band) * (chunk + 1) / plan.chunks;
    channel = task % plan.blocks() * BLOCK;
    width = std::min(BLOCK, plan.channels - channel);
    start = (problem * plan.samples * plan.positions + plan.band_starts[band]) * plan.channels + channel;
  }
  // First cell of the task in numbers by chunk, band and channel.
  int64_t place(const Bands& plan) const {
    return (problem * plan.chunks + chunk) * plan.cells() + band * plan.channels + channel;
  }
};

// Call `some(at, rows, ahead)` for the rows of a task that lie in one piece of memory, from `at` on. What lies `ahead`
// values further on is worth fetching into the cache meanwhile: of short pieces those of the next samples, whose places
// no processor guesses, of long ones what comes next.
template <typename T, typename Some> inline void in_pieces(const Bands& plan, const Task& task, Some some) {
  constexpr int64_t LONG = 64 << 10, NEAR = 4 << 10, ALONG = 8 << 10;  // bytes
  const int64_t length = plan.band_starts[task.band + 1] - plan.band_starts[task.band];
  const int64_t sample_values = plan.positions * plan.channels, last = (task.end_row - 1) / length;
  const int64_t bytes = length * task.width * sizeof(T), samples_ahead = bytes > LONG ? 0 : (NEAR - 1) / bytes + 1;
  const int64_t along = bytes > LONG ? ALONG / sizeof(T) : 0;
  for (int64_t row = task.first_row, count; row < task.end_row; row += count) {
    const int64_t sample = row / length, position = row % length;
    count = std::min(length - position, task.end_row - row);
    some(task.start + sample * sample_values + position * plan.channels, count,
         std::min(samples_ahead, last - sample) * sample_values + along);
  }
}

// First task of a bundle of some problem.
inline int64_t first_task(const Bands& plan, int64_t bundle) {
  return (bundle / plan.bundles * plan.bands + plan.bundle_bands[bundle % plan.bundles]) * plan.tasks_per_band();
}
