// What is done to every value once its statistics are known.

#pragma once

#include <cstdint>

#include "cpu_vectors.h"

// y = (x - center) * scale + shift.
template <typename T> struct Normalise {
  static constexpr bool HAS_SLOPE = false;
  const T* x;
  T* y;

  T* result() const { return y; }
  void fetch_all(int64_t at) const { fetch(x + at), fetch(y + at); }
  Vector<T> whole(int64_t at, Vector<T> center, Vector<T> scale, Vector<T>, Vector<T> shift) const {
    return (load(x + at) - center) * scale + shift;
  }
  Vector<T> part(int64_t at, int64_t count, Vector<T> center, Vector<T> scale, Vector<T>, Vector<T> shift) const {
    return (load(x + at, count) - center) * scale + shift;
  }
};

// dx = dy * scale + (x - center) * slope + shift.
template <typename T> struct Differentiate {
  static constexpr bool HAS_SLOPE = true;
  const T *dy, *x;
  T* dx;

  T* result() const { return dx; }
  void fetch_all(int64_t at) const { fetch(dy + at), fetch(x + at), fetch(dx + at); }
  Vector<T> whole(int64_t at, Vector<T> center, Vector<T> scale, Vector<T> slope, Vector<T> shift) const {
    return load(dy + at) * scale + ((load(x + at) - center) * slope + shift);
  }
  Vector<T> part(int64_t at, int64_t count, Vector<T> center, Vector<T> scale, Vector<T> slope,
                 Vector<T> shift) const {
    return load(dy + at, count) * scale + ((load(x + at, count) - center) * slope + shift);
  }
};

// dx = dy * scale, where statistics are given and not of the batch.
template <typename T> struct Scale {
  static constexpr bool HAS_SLOPE = false;
  const T* dy;
  T* dx;

  T* result() const { return dx; }
  void fetch_all(int64_t at) const { fetch(dy + at), fetch(dx + at); }
  Vector<T> whole(int64_t at, Vector<T>, Vector<T> scale, Vector<T>, Vector<T>) const { return load(dy + at) * scale; }
  Vector<T> part(int64_t at, int64_t count, Vector<T>, Vector<T> scale, Vector<T>, Vector<T>) const {
    return load(dy + at, count) * scale;
  }
};

template <typename T> inline Vector<T> spread(Scalar<T> value) { return Vector<T>{} + value; }

// Do an operation to some rows of NUMBER vectors of columns, each with lines of its own. What lies `ahead` values
// further on is fetched into the cache, 0: nothing.
template <typename T, int NUMBER, typename Operation>
inline void apply_columns(const Operation& operation, int64_t start, int64_t rows, int64_t stride,
                          const Scalar<T>* centers, const Scalar<T>* scales, const Scalar<T>* slopes,
                          const Scalar<T>* shifts, int64_t ahead = 0) {
  constexpr int64_t L = LANES<T>;
  Vector<T> center[NUMBER], scale[NUMBER], slope[NUMBER], shift[NUMBER];
  for (int k = 0; k < NUMBER; ++k) {
    center[k] = load(centers + k * L);
    scale[k] = load(scales + k * L);
    slope[k] = load(slopes + k * L);
    shift[k] = load(shifts + k * L);
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int k = 0; k < NUMBER; ++k) {
      const int64_t at = start + row * stride + k * L;
      if (ahead) operation.fetch_all(at + ahead);
      store(operation.result() + at, operation.whole(at, center[k], scale[k], slope[k], shift[k]));
    }
}
