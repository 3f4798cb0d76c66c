//===- BlockRounder.cpp - Rounds columns of GPTQ ------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "BlockRounder.h"

using namespace qlm;
using namespace qlm::numerics;

static const RoundKernel &chooseKernel() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f"))
    return kRoundKernel512;
  if (__builtin_cpu_supports("avx2"))
    return kRoundKernel256;
#endif
  return kRoundKernel128;
}

BlockRounder::BlockRounder(int64_t rows, int64_t columns, int64_t width,
                           const Scheme &scheme, const int64_t *order,
                           const float *feedback, ColumnRounder &rounder)
    : kernel(chooseKernel()), rows(rows), columns(columns), width(width),
      scheme(scheme), order(order), feedback(feedback), rounder(rounder),
      buffers(static_cast<size_t>(5 * width * kRoundedRows)),
      packed(static_cast<size_t>(width * width)),
      roundedCodes(static_cast<size_t>(width * kRoundedRows)),
      visited(static_cast<size_t>(width)), groups(visited.size()) {}

void BlockRounder::visit(RoundedColumns &block, int64_t first) {
  for (int64_t i = 0; i < block.count; ++i) {
    visited[i] = order ? order[first + i] : first + i;
    groups[i] = visited[i] / rounder.getColumnsPerScale();
  }
}

void BlockRounder::packFeedback(RoundedColumns &block, int64_t first) {
  block.feedback = feedback + first * (columns + 1);
  block.stride = columns;
  block.packed = packed.data();
  for (int64_t i = 0; i < block.count;) {
    int64_t sub = i + kernel.sub <= block.count ? kernel.sub : 1;
    float *target = packed.data() + i * block.width;
    for (int64_t k = 0; k < sub; ++k)
      for (int64_t j = i + sub; j < block.width; ++j)
        target[j * sub + k] = block.feedback[(i + k) * columns + j];
    i += sub;
  }
}

void BlockRounder::load(RoundedColumns &block, int64_t row, int64_t first,
                        const float *weights, const float *current) {
  auto part = [&](int64_t index) {
    return buffers.data() + index * width * kRoundedRows;
  };
  float *given = part(1), *scales = part(2), *zeroPoints = part(3);
  block.values = part(0);
  block.given = given;
  block.scales = scales;
  block.zeroPoints = zeroPoints;
  block.errors = part(4);
  block.codes = roundedCodes.data();
  // Rows that there are not stay what they were.
  for (int64_t lane = 0; lane < rowsFrom(row); ++lane) {
    const float *from = current + (row + lane) * columns + first;
    const float *weight = weights + (row + lane) * columns;
    for (int64_t j = 0; j < block.width; ++j)
      block.values[j * kRoundedRows + lane] = from[j];
    for (int64_t i = 0; i < block.count; ++i) {
      int64_t at = i * kRoundedRows + lane;
      given[at] = weight[visited[i]];
      rounder.getScale(row + lane, groups[i], scales[at], zeroPoints[at]);
    }
  }
}

void BlockRounder::store(const RoundedColumns &block, int64_t row,
                         int64_t first, float *current, uint8_t *codes,
                         float *errors) const {
  for (int64_t lane = 0; lane < rowsFrom(row); ++lane) {
    int64_t begin = (row + lane) * columns;
    for (int64_t i = 0; i < block.count; ++i) {
      int64_t at = i * kRoundedRows + lane;
      codes[begin + visited[i]] = block.codes[at];
      errors[(row + lane) * width + i] = block.errors[at];
    }
    for (int64_t j = block.count; j < block.width; ++j)
      current[begin + first + j] = block.values[j * kRoundedRows + lane];
  }
}

/// What is not uniform, value by value.
void BlockRounder::roundOthers(int64_t row, int64_t i, const float *values,
                               uint8_t *codes, float *rounded) const {
  for (int64_t lane = 0; lane < rowsFrom(row); ++lane)
    codes[lane] =
        rounder.round(values[lane], row + lane, visited[i], rounded[lane]);
}

void BlockRounder::round(int64_t first, int64_t next, int64_t last,
                         const float *weights, float *current, uint8_t *codes,
                         float *errors) {
  RoundedColumns block = {};
  block.count = next - first;
  block.width = last - first;
  block.low = static_cast<float>(scheme.lo);
  block.high = static_cast<float>(scheme.hi);
  visit(block, first);
  packFeedback(block, first);
  std::pair<const BlockRounder *, int64_t> place(this, 0);
  if (scheme.codebook != Codebook::Uniform) {
    block.context = &place;
    block.round = [](const void *context, int64_t i, const float *values,
                     uint8_t *codes, float *rounded) {
      auto [self, row] = *static_cast<const decltype(place) *>(context);
      self->roundOthers(row, i, values, codes, rounded);
    };
  }
  for (int64_t row = 0; row < rows; row += kRoundedRows) {
    place.second = row;
    load(block, row, first, weights, current);
    kernel.round(block);
    store(block, row, first, current, codes, errors);
  }
}
