//===- RopeFrequencies.cpp - Angles of rotary embeddings ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Import/LlamaConfig.h"

#include <cmath>

namespace mlir::qlm {

/// The interpolation of Llama 3.1 between kept and divided frequencies, step
/// for step as transformers rounds it (modeling_rope_utils.py,
/// _compute_llama3_parameters): scalars are rounded to f32 where they meet a
/// tensor.
static float scaleLlama3(float frequency, const RopeScaling &rope) {
  const double context = static_cast<double>(rope.originalContextLength);
  const float longest = static_cast<float>(context / rope.lowFrequencyFactor);
  const float shortest = static_cast<float>(context / rope.highFrequencyFactor);
  const float low = static_cast<float>(rope.lowFrequencyFactor);
  const float width =
      static_cast<float>(rope.highFrequencyFactor - rope.lowFrequencyFactor);
  const float factor = static_cast<float>(rope.factor);

  float wavelength = static_cast<float>(2 * M_PI) / frequency;
  if (wavelength > longest)
    return frequency / factor;
  if (wavelength < shortest)
    return frequency;
  float kept = (static_cast<float>(context) / wavelength - low) / width;
  float divided = (1.0f - kept) * frequency / factor;
  return divided + kept * frequency;
}

std::vector<float> computeInverseFrequencies(const RopeScaling &rope,
                                             int64_t headDim) {
  std::vector<float> frequencies;
  frequencies.reserve(headDim / 2);
  for (int64_t i = 0; i < headDim / 2; ++i) {
    // transformers takes the power in f32; computed in f64 and rounded it
    // agrees but for the last bit of one value in a hundred.
    float exponent = static_cast<float>(2 * i) / static_cast<float>(headDim);
    float power = static_cast<float>(
        std::pow(static_cast<double>(static_cast<float>(rope.theta)),
                 static_cast<double>(exponent)));
    float frequency = 1.0f / power;
    switch (rope.kind) {
    case RopeScaling::Kind::Default:
      break;
    case RopeScaling::Kind::Linear:
      frequency /= static_cast<float>(rope.factor);
      break;
    case RopeScaling::Kind::Llama3:
      frequency = scaleLlama3(frequency, rope);
      break;
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

} // namespace mlir::qlm
