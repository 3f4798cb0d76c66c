//===- RoundKernel256.cpp - Vectors of 256 bits ---------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#define QLM_VECTOR_BYTES 32
#include "RoundKernel.h"

using namespace qlm::numerics;

const RoundKernel qlm::numerics::kRoundKernel256 = {4, roundColumns<4>};
