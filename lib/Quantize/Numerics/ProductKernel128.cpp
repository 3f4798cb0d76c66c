//===- ProductKernel128.cpp - Vectors of 128 bits -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#define QLM_VECTOR_BYTES 16
#include "ProductKernel.h"

using namespace qlm::numerics;

const ProductKernels qlm::numerics::kProductKernels128 = {
    4, QLM_VECTOR_BYTES, addTile<float, QLM_VECTOR_BYTES, 4>,
    addTile<double, QLM_VECTOR_BYTES, 4>};
