//===- PackingCuda.h - Weights as registers of the tensor cores -*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What packBlock and unpackBlock do for the GPU's layouts.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_QUANTIZE_NUMERICS_PACKINGCUDA_H
#define QLM_LIB_QUANTIZE_NUMERICS_PACKINGCUDA_H

#include "qlm/Package/Format.h"
#include "qlm/Quantize/Numerics.h"

namespace qlm::numerics {

/// Whether \p layout is one of the GPU's.
bool isFragment(Layout layout);
/// Columns of a line of 512 bytes.
int64_t fragmentLineColumns(Layout layout);
int64_t fragmentBlockBytes(Layout layout, int64_t columns);
void packFragments(Layout layout, const void *input, int64_t rows,
                   int64_t columns, int codeOffset, void *packed);
void unpackFragments(Layout layout, const void *packed, int64_t rows,
                     int64_t columns, int codeOffset, void *output);

} // namespace qlm::numerics

#endif // QLM_LIB_QUANTIZE_NUMERICS_PACKINGCUDA_H
