// Copies of matrices with rows and columns exchanged: channels_last to contiguous inputs and back.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t SIDE = 16;  // of a tile

template <typename T> inline void tile(const T* from, T* to, int64_t rows, int64_t columns, int64_t from_stride,
                                       int64_t to_stride) {
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t row = 0; row < rows; ++row) to[column * to_stride + row] = from[row * from_stride + column];
}

typedef uint32_t Words __attribute__((vector_size(64)));
#ifdef __clang__
#define DEAL(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define DEAL(a, b, ...) __builtin_shuffle(a, b, Words{__VA_ARGS__})
#endif

// Exchanging is four rounds of dealing rows i and i + 8 into one another.
inline void whole_tile(const uint32_t* from, uint32_t* to, int64_t from_stride, int64_t to_stride) {
  Words rows[SIDE], dealt[SIDE];
  for (int i = 0; i < SIDE; ++i) std::memcpy(&rows[i], from + i * from_stride, sizeof(Words));
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < SIDE / 2; ++i) {
      const Words a = rows[i], b = rows[i + SIDE / 2];
      dealt[2 * i] = DEAL(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      dealt[2 * i + 1] = DEAL(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::copy(dealt, dealt + SIDE, rows);
  }
  for (int i = 0; i < SIDE; ++i) std::memcpy(to + i * to_stride, &rows[i], sizeof(Words));
}

template <typename T> inline void whole_tile(const T* from, T* to, int64_t from_stride, int64_t to_stride) {
  tile(from, to, SIDE, SIDE, from_stride, to_stride);
}

template <typename T>
void transpose(int64_t matrices, int64_t rows, int64_t columns, const T* from, T* to, int threads) {
  const int64_t strips = (columns + SIDE - 1) / SIDE;
#pragma omp parallel for num_threads(threads) if (threads > 1 && matrices * rows * columns >= 32768)
  for (int64_t task = 0; task < matrices * strips; ++task) {
    const int64_t column = task % strips * SIDE, width = std::min(SIDE, columns - column);
    const T* source = from + task / strips * rows * columns + column;
    T* target = to + task / strips * rows * columns + column * rows;
    int64_t row = 0;
    if (width == SIDE)
      for (; row + SIDE <= rows; row += SIDE) whole_tile(source + row * columns, target + row, columns, rows);
    if (row < rows) tile(source + row * columns, target + row, rows - row, width, columns, rows);
  }
}

}  // namespace

#define EXPORT(BYTES, T)                                                                                             \
  extern "C" void transpose_##BYTES(int64_t matrices, int64_t rows, int64_t columns, const T* from, T* to,           \
                                    int threads) {                                                                   \
    transpose<T>(matrices, rows, columns, from, to, threads);                                                        \
  }
EXPORT(2, uint16_t)
EXPORT(4, uint32_t)
EXPORT(8, uint64_t)
