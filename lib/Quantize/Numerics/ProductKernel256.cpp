//===- ProductKernel256.cpp - Vectors of 256 bits -------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#define QLM_VECTOR_BYTES 32
#include "ProductKernel.h"

using namespace qlm::numerics;

const ProductKernels qlm::numerics::kProductKernels256 = {
    6, QLM_VECTOR_BYTES, addTile<float, QLM_VECTOR_BYTES, 6>,
    addTile<double, QLM_VECTOR_BYTES, 6>};
