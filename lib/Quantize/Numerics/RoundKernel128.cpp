//===- RoundKernel128.cpp - Vectors of 128 bits ---------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#define QLM_VECTOR_BYTES 16
#include "RoundKernel.h"

using namespace qlm::numerics;

const RoundKernel qlm::numerics::kRoundKernel128 = {4, roundColumns<4>};
