//===- QlmOps.td - Operations of the qlm dialect -----------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMOPS
#define QLM_DIALECT_QLMOPS

include "qlm/Dialect/QlmOpBase.td"
include "qlm/Dialect/QlmParameterOps.td"
include "qlm/Dialect/QlmModelOps.td"
include "qlm/Dialect/QlmQuantizationOps.td"
include "qlm/Dialect/QlmPlannedOps.td"

#endif // QLM_DIALECT_QLMOPS
