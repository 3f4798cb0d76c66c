//===- RotaryTables.cpp - Frequencies behind cosines and sines ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RotaryTables.h"

#include "Matching.h"

#include <cmath>

using namespace mlir;
using namespace mlir::qlm::onnxir;

/// Angles in f32 are off by one rounding of the product.
static constexpr double kAngleError = 1e-6;
/// Of tables in f32 whose angles were rounded to f32 too, and of shorter types.
static constexpr double kTableError = 2e-3, kHalfTableError = 1e-2;

static Frequencies fail(const Twine &problem) { return {{}, problem.str()}; }

Frequencies mlir::qlm::onnxir::fitFrequencies(ArrayRef<double> cosines,
                                              ArrayRef<double> sines,
                                              int64_t count, double tolerance) {
  if (count == 0 || cosines.size() != sines.size() ||
      cosines.size() < static_cast<size_t>(2 * count))
    return fail("the tables have less than two positions");
  int64_t positions = cosines.size() / count;
  Frequencies result;
  for (int64_t i = 0; i < count; ++i) {
    double frequency = 0;
    // Each doubling of the position halves what is left of the error.
    for (int64_t p = 1; p < positions; p *= 2) {
      double angle = std::atan2(sines[p * count + i], cosines[p * count + i]);
      double off = std::remainder(angle - p * frequency, 2 * M_PI);
      if (p > 1 && std::fabs(off) > 0.1)
        return fail("the tables' angles don't grow with the position");
      frequency += off / p;
    }
    for (int64_t p = 0; p < positions; ++p)
      if (std::fabs(std::cos(p * frequency) - cosines[p * count + i]) >
              tolerance ||
          std::fabs(std::sin(p * frequency) - sines[p * count + i]) > tolerance)
        return fail("the tables are not the cosines and sines of the position "
                    "times a number, at position " +
                    Twine(p));
    result.values.push_back(static_cast<float>(frequency));
  }
  return result;
}

/// Row 1 of the angles, after a look at others.
static Frequencies readAngles(func::FuncOp graph, Value angles) {
  Frequencies result;
  SmallVector<Probe> probes = {{2, 0}, {5, 0}};
  if (hasCache(graph))
    probes.append({{3, 4}, {2, 1000}});
  else
    probes.push_back({300, 0});
  for (Probe probe : probes) {
    Evaluator evaluator(graph, probe);
    const Known *known = evaluator.getElements(angles);
    if (!known || known->rank() != 3 || known->shape[1] != probe.tokens)
      return fail("the angles are not [batch, tokens, headDim / 2]");
    int64_t count = known->shape[2];
    ArrayRef<double> values(*known->values);
    if (result.values.empty())
      for (double value : values.slice(count, count))
        result.values.push_back(static_cast<float>(value));
    for (int64_t t = 0; t < probe.tokens; ++t)
      for (int64_t i = 0; i < count; ++i) {
        double expected =
            static_cast<double>(probe.past + t) * result.values[i];
        if (std::fabs(values[t * count + i] - expected) >
            kAngleError * std::max(1.0, expected))
          return fail("the angle of position " + Twine(probe.past + t) +
                      " is " + std::to_string(values[t * count + i]) +
                      ", not " + std::to_string(expected));
      }
  }
  return result;
}

/// Whether \p positions are those of the tokens.
static bool arePositions(func::FuncOp graph, Value positions) {
  SmallVector<Probe> probes = {{1, 0}, {5, 0}};
  if (hasCache(graph))
    probes.append({{3, 4}, {1, 9}});
  for (Probe probe : probes) {
    Evaluator evaluator(graph, probe);
    const Known *known = evaluator.getElements(positions);
    if (!known || known->count() != probe.tokens)
      return false;
    for (int64_t t = 0; t < probe.tokens; ++t)
      if ((*known->values)[t] != static_cast<double>(probe.past + t))
        return false;
  }
  return true;
}

static double getTolerance(const Known &table) {
  bool isHalf =
      table.element && (table.element.isF16() || table.element.isBF16());
  return isHalf ? kHalfTableError : kTableError;
}

Frequencies mlir::qlm::onnxir::findFrequencies(func::FuncOp graph,
                                               NodeOp rotary) {
  Value cosines = rotary.input(1), sines = rotary.input(2);
  if (!cosines || !sines)
    return fail("tables are missing");
  NodeOp cos = find(cosines, "Cos"), sin = find(sines, "Sin");
  Value positions = rotary.input(3);
  if (cos && sin && !positions) {
    if (skipNoise(cos.getInputs()[0]) == skipNoise(sin.getInputs()[0]))
      return readAngles(graph, cos.getInputs()[0]);
    return fail("cosines and sines are of different angles");
  }
  if (positions && !arePositions(graph, positions))
    return fail("the positions are not those of the tokens");
  // Tables by position, or rows that were gathered from them.
  Probe probe{/*tokens=*/64};
  Evaluator evaluator(graph, probe);
  const Known *c = evaluator.getElements(cosines);
  const Known *s = evaluator.getElements(sines);
  if (!c || !s || c->rank() < 2 || c->shape != s->shape)
    return fail("the tables are not constants of one shape");
  return fitFrequencies(*c->values, *s->values, c->shape.back(),
                        getTolerance(*c));
}
