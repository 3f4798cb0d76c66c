//===- WeightsCopy.cpp - Copies mapped weights while steps run ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "WeightsCopy.h"

#include <chrono>

using namespace qlm;

WeightsCopy::WeightsCopy(const Package &package)
    : copied(std::async(std::launch::async, [this, &package] {
        return package.copyWeights(isCancelled);
      })) {}

bool WeightsCopy::isReady() const {
  return copied.valid() &&
         copied.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void WeightsCopy::wait() const {
  if (copied.valid())
    copied.wait();
}

MappedMemory WeightsCopy::take() {
  Result<MappedMemory> result = copied.get();
  return result.ok() ? result.take() : MappedMemory();
}
