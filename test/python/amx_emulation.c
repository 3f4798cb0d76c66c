// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// AMX's instructions on memory, by the pseudocode of Intel's manual (volume 2,
// TDPBSSD, TDPBSUD and TDPBF16PS). A register is an address; results are new
// ones, taken from a ring that is far longer than values live.

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { kRowBytes = 64, kRing = 4096 };
typedef struct {
  unsigned char bytes[16][kRowBytes];
} Tile;

static Tile *newTile(void) {
  static Tile ring[kRing];
  static unsigned next;
  return &ring[next++ % kRing];
}

void *emulated_tilezero(int16_t rows, int16_t columns) {
  Tile *tile = newTile();
  memset(tile, 0, sizeof(*tile));
  return tile;
}

void *emulated_tileloadd64(int16_t rows, int16_t columns, const char *from,
                           int64_t stride) {
  Tile *tile = emulated_tilezero(rows, columns);
  for (int i = 0; i < rows; ++i)
    memcpy(tile->bytes[i], from + i * stride, columns);
  return tile;
}

void emulated_tilestored64(int16_t rows, int16_t columns, char *to,
                           int64_t stride, const Tile *tile) {
  for (int i = 0; i < rows; ++i)
    memcpy(to + i * stride, tile->bytes[i], columns);
}

static Tile *multiplyBytes(int rows, int columns, int depth, const Tile *sums,
                           const Tile *a, const Tile *b, int isSigned) {
  Tile *result = newTile();
  *result = *sums;
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < columns / 4; ++n) {
      int32_t sum;
      memcpy(&sum, &result->bytes[m][4 * n], 4);
      for (int k = 0; k < depth; ++k) {
        unsigned char byte = b->bytes[k / 4][4 * n + k % 4];
        sum += (int8_t)a->bytes[m][k] * (isSigned ? (int8_t)byte : byte);
      }
      memcpy(&result->bytes[m][4 * n], &sum, 4);
    }
  return result;
}

void *emulated_tdpbssd(int16_t m, int16_t n, int16_t k, const Tile *sums,
                       const Tile *a, const Tile *b) {
  return multiplyBytes(m, n, k, sums, a, b, 1);
}

void *emulated_tdpbsud(int16_t m, int16_t n, int16_t k, const Tile *sums,
                       const Tile *a, const Tile *b) {
  return multiplyBytes(m, n, k, sums, a, b, 0);
}

static float extend(const unsigned char *bf16) {
  uint32_t bits = (uint32_t)bf16[0] << 16 | (uint32_t)bf16[1] << 24;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

void *emulated_tdpbf16ps(int16_t rows, int16_t columns, int16_t depth,
                         const Tile *sums, const Tile *a, const Tile *b) {
  Tile *result = newTile();
  *result = *sums;
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < columns / 4; ++n) {
      float even = 0, odd = 0, sum;
      for (int k = 0; k < depth / 4; ++k) {
        even = fmaf(extend(&a->bytes[m][4 * k]), extend(&b->bytes[k][4 * n]),
                    even);
        odd = fmaf(extend(&a->bytes[m][4 * k + 2]),
                   extend(&b->bytes[k][4 * n + 2]), odd);
      }
      memcpy(&sum, &result->bytes[m][4 * n], 4);
      sum += even + odd;
      memcpy(&result->bytes[m][4 * n], &sum, 4);
    }
  return result;
}

/* vscalefps: y * 2^floor(n). */
float emulated_scale(float y, float n) {
  if (isnan(n))
    return n;
  if (n > 4096)
    n = 4096;
  if (n < -4096)
    n = -4096;
  return ldexpf(y, (int)floorf(n));
}
