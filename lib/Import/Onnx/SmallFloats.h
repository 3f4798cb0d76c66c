//===- SmallFloats.h - Floats of 8 and 4 bits -------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_SMALLFLOATS_H
#define QLM_LIB_IMPORT_ONNX_SMALLFLOATS_H

#include "Node.h"

namespace mlir::qlm::onnx_import {

/// Whether \p type is float8e4m3fn, float8e4m3fnuz, float8e5m2, float8e5m2fnuz,
/// float4e2m1 or float8e8m0: bytes that can be converted and nothing else.
bool isSmallFloat(int32_t type);

/// The float32 that the code \p byte of \p type stands for, exactly.
Value decodeSmallFloat(TensorBuilder &b, Value byte, int32_t type);

/// The code of float32 \p x: the nearest, ties to even. Numbers beyond the
/// largest become it when \p saturate holds or \p type is float4e2m1, else the
/// format's infinity or, without one, NaN. NaN of float4e2m1 is -0. float8e8m0
/// takes no sign and rounds by \p round.
Value encodeSmallFloat(TensorBuilder &b, Value x, int32_t type, bool saturate,
                       ExponentRounding round);

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_SMALLFLOATS_H
