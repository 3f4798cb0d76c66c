//===- ResizeTables.cpp - Which elements a resized one is made of ---------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ResizeTables.h"

#include <algorithm>
#include <cmath>

using namespace mlir::qlm::onnx_import;

/// Where element \p i of the result lies in the data.
static double findPlace(const ResizeAxis &axis, int64_t i) {
  auto x = static_cast<double>(i), input = static_cast<double>(axis.input);
  double output = axis.scale * input;
  if (axis.coordinates == "align_corners")
    return output == 1 ? 0 : x * (input - 1) / (output - 1);
  if (axis.coordinates == "asymmetric")
    return x / axis.scale;
  if (axis.coordinates == "tf_crop_and_resize") {
    double span = (axis.end - axis.start) * (input - 1);
    return axis.start * (input - 1) +
           (output == 1 ? span / 2 : x * span / (output - 1));
  }
  if (axis.coordinates == "pytorch_half_pixel" && output == 1)
    return -0.5;
  double place = (x + 0.5) / axis.scale - 0.5;
  // The centre of the region goes to the centre of the result.
  if (axis.coordinates == "half_pixel_symmetric")
    place += input / 2 * (1 - static_cast<double>(axis.output) / output);
  return place;
}

static int64_t findNearest(const ResizeAxis &axis, double place) {
  double rounded = axis.nearest == "floor"  ? std::floor(place)
                   : axis.nearest == "ceil" ? std::ceil(place)
                   : axis.nearest == "round_prefer_ceil"
                       ? std::floor(place + 0.5)
                       : std::ceil(place - 0.5);
  return static_cast<int64_t>(rounded);
}

/// The weight of an element at a distance of \p x.
static double weigh(const ResizeAxis &axis, double x) {
  x = std::fabs(x);
  if (axis.mode == "linear")
    return std::max(0.0, 1 - x);
  double a = axis.cubic;
  if (x <= 1)
    return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

static void addWeights(const ResizeAxis &axis, double place, double shrink,
                       int64_t first, ResizeTable &table) {
  // The element to the left has a distance above 0.
  auto left = static_cast<int64_t>(std::ceil(place)) - 1;
  std::vector<double> weights;
  double sum = 0, all = 0;
  for (int64_t t = 0; t < table.taps; ++t) {
    int64_t at = left + first + t;
    double weight = weigh(axis, (static_cast<double>(at) - place) * shrink);
    all += weight;
    if (axis.excludesOutside && (at < 0 || at >= axis.input))
      weight = 0;
    weights.push_back(weight);
    sum += weight;
    table.places.push_back(std::clamp<int64_t>(at, 0, axis.input - 1));
  }
  // Without antialiasing they add up to 1 but for rounding.
  double whole = axis.excludesOutside && sum != 0 ? sum : all;
  for (double weight : weights)
    table.weights.push_back(static_cast<float>(weight / whole));
}

ResizeTable mlir::qlm::onnx_import::makeResizeTable(const ResizeAxis &axis) {
  ResizeTable table;
  double reach = axis.mode == "linear" ? 1 : 2;
  double shrink = axis.antialias ? std::min(axis.scale, 1.0) : 1;
  auto first = static_cast<int64_t>(std::floor(-reach / shrink)) + 1;
  bool isNearest = axis.mode == "nearest";
  table.taps = isNearest ? 1 : 2 - 2 * first;
  bool crops = axis.coordinates == "tf_crop_and_resize";
  if (crops)
    table.added.assign(axis.output, 0);
  for (int64_t i = 0; i < axis.output; ++i) {
    double place = findPlace(axis, i);
    bool isOutside =
        crops && (place < 0 || place > static_cast<double>(axis.input - 1));
    // Far places are those of the first or last element too.
    place = std::clamp(place, -4.0, static_cast<double>(axis.input) + 4);
    if (isNearest) {
      table.places.push_back(
          std::clamp<int64_t>(findNearest(axis, place), 0, axis.input - 1));
      table.weights.push_back(1);
    } else {
      addWeights(axis, place, shrink, first, table);
    }
    if (!isOutside)
      continue;
    table.added[i] = 1;
    std::fill(table.weights.end() - table.taps, table.weights.end(), 0.0f);
  }
  return table;
}
