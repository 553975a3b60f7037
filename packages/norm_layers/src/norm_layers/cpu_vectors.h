// Vectors of 64 bytes as GCC and Clang know them on every processor: float32, float64, and bfloat16 held as float32.

#pragma once

#include <cstdint>
#include <cstring>

typedef float FloatVector __attribute__((vector_size(64)));
typedef double DoubleVector __attribute__((vector_size(64)));
typedef uint16_t HalfBits __attribute__((vector_size(32)));
typedef uint32_t WordBits __attribute__((vector_size(64)));

struct bfloat16 {
  uint16_t bits;
};

template <typename T> struct Precision;
template <> struct Precision<float> { using Scalar = float; using Vector = FloatVector; };
template <> struct Precision<double> { using Scalar = double; using Vector = DoubleVector; };
template <> struct Precision<bfloat16> { using Scalar = float; using Vector = FloatVector; };
template <typename T> using Scalar = typename Precision<T>::Scalar;
template <typename T> using Vector = typename Precision<T>::Vector;
template <typename T> constexpr int64_t LANES = sizeof(Vector<T>) / sizeof(Scalar<T>);

template <typename T> inline Vector<T> load(const T* from) {
  Vector<T> values;
  std::memcpy(&values, from, sizeof(values));
  return values;
}

template <> inline FloatVector load<bfloat16>(const bfloat16* from) {
  HalfBits half;
  std::memcpy(&half, from, sizeof(half));
  const WordBits word = __builtin_convertvector(half, WordBits) << 16;
  FloatVector values;
  std::memcpy(&values, &word, sizeof(values));
  return values;
}

template <typename T> inline void store(T* to, Vector<T> values) { std::memcpy(to, &values, sizeof(values)); }

template <> inline void store<bfloat16>(bfloat16* to, FloatVector values) {
  WordBits word;
  std::memcpy(&word, &values, sizeof(values));
  const WordBits nearest = (word + (((word >> 16) & 1u) + 0x7FFFu)) >> 16;  // ties to even
  const WordBits is_nan = (WordBits)(values != values);
  const HalfBits half = __builtin_convertvector((is_nan & 0x7FC0u) | (~is_nan & nearest), HalfBits);
  std::memcpy(to, &half, sizeof(half));
}

// The same for the last columns of a row, which do not fill a vector.
template <typename T> inline Vector<T> load(const T* from, int64_t count) {
  T values[LANES<T>] = {};
  std::memcpy(values, from, count * sizeof(T));
  return load(values);
}

template <typename T> inline void store(T* to, Vector<T> values, int64_t count) {
  T rounded[LANES<T>];
  store(rounded, values);
  std::memcpy(to, rounded, count * sizeof(T));
}

// Ones in the first lanes and zeros in the others.
template <typename T> inline Vector<T> first_lanes(int64_t count) {
  Vector<T> mask = {};
  for (int64_t i = 0; i < count; ++i) mask[i] = 1;
  return mask;
}

template <typename V> inline double total(V values) {
  constexpr int lanes = sizeof(V) / sizeof(values[0]);
  double sums[lanes];
  for (int i = 0; i < lanes; ++i) sums[i] = values[i];
  for (int half = lanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}
