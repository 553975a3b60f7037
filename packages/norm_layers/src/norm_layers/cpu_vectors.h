// Vectors of 64 bytes as GCC and Clang know them on every processor: float32, float64, and bfloat16 held as float32.

#pragma once

#include <cstdint>
#include <cstring>

typedef float FloatVector __attribute__((vector_size(64)));
typedef double DoubleVector __attribute__((vector_size(64)));
typedef float HalfFloatVector __attribute__((vector_size(32)));
typedef uint16_t HalfBits __attribute__((vector_size(32)));
typedef uint32_t WordBits __attribute__((vector_size(64)));
typedef uint64_t LongBits __attribute__((vector_size(64)));

struct bfloat16 {
  uint16_t bits;
};

template <typename T> struct Precision;
template <> struct Precision<float> { using Scalar = float; using Vector = FloatVector; using Bits = WordBits; };
template <> struct Precision<double> { using Scalar = double; using Vector = DoubleVector; using Bits = LongBits; };
template <> struct Precision<bfloat16> { using Scalar = float; using Vector = FloatVector; using Bits = WordBits; };
template <typename T> using Scalar = typename Precision<T>::Scalar;
template <typename T> using Vector = typename Precision<T>::Vector;
template <typename T> using Bits = typename Precision<T>::Bits;
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

// Ask for what lies there, read or written soon, in the cache of the core; no address is wrong.
template <typename T> inline void fetch(const T* from) { __builtin_prefetch(from, 0, 2); }

struct MaskTable {
  unsigned char bytes[128] = {};
  constexpr MaskTable() {
    for (int i = 64; i < 128; ++i) bytes[i] = 0xFF;
  }
};
constexpr MaskTable MASKS;

// A mask that keeps the last `count` lanes of a vector.
template <typename T> inline Bits<T> last_lanes(int64_t count) {
  Bits<T> mask;
  std::memcpy(&mask, MASKS.bytes + count * sizeof(Scalar<T>), sizeof(mask));
  return mask;
}

// Zero, also for a NaN, in the lanes that a mask does not keep.
template <typename T> inline Vector<T> keep(Vector<T> values, Bits<T> mask) {
  Bits<T> bits;
  std::memcpy(&bits, &values, sizeof(bits));
  bits &= mask;
  std::memcpy(&values, &bits, sizeof(bits));
  return values;
}

typedef double HalfDoubleVector __attribute__((vector_size(32)));
typedef double DoublePair __attribute__((vector_size(16)));

inline double total(DoubleVector values) {
  HalfDoubleVector half[2];
  DoublePair pair[2];
  std::memcpy(half, &values, sizeof(half));
  half[0] += half[1];
  std::memcpy(pair, half, sizeof(pair));
  pair[0] += pair[1];
  return pair[0][0] + pair[0][1];
}

inline double total(FloatVector values) {
  HalfFloatVector half[2];
  std::memcpy(half, &values, sizeof(half));
  return total(__builtin_convertvector(half[0], DoubleVector) + __builtin_convertvector(half[1], DoubleVector));
}
