//===- GraphFormat.h - What a graph's package holds -------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// clang-format off
// A graph of any kind (quantc FILE.onnx) is a package with another manifest:
//
//   {
//     "format": "qlm-graph", "version": 2, "checksum": hex64, "producer": str,
//     "target": as in Format.h, "weights": as in Format.h,
//     "inputs": [{"name": str, "type": "float32"|..., "shape": [int|null]}],
//     "outputs": the same,
//     "weight_arguments": [{"key": str, "shape": [int]}]   // in order
//   }
//
// with null for sizes known only at run time, and its module exports
// kGraphFunction. A weight's key is its tensor's in weights.safetensors.
// Inputs and weights may be read (not written) up to 63 bytes past their ends;
// weights are 64-byte aligned.
// clang-format on
//
//===----------------------------------------------------------------------===//

#ifndef QLM_PACKAGE_GRAPHFORMAT_H
#define QLM_PACKAGE_GRAPHFORMAT_H

#include "qlm/Package/Format.h"

namespace qlm::format {

/// `format` of a package that holds one host function instead of a step.
inline constexpr const char kGraphFormatName[] = "qlm-graph";
/// The host function: `void qlm_graph(void **)`. The pointers are those of
/// the results' descriptors (all in one buffer: one pointer), of each input's,
/// then of each weight's. A descriptor of rank R is
/// `{void *allocated, *aligned; int64 offset, sizes[R], strides[R]}`; the
/// results' are written by the function, their memory comes from
/// kGraphAllocate and is the run's.
inline constexpr const char kGraphFunction[] = "qlm_graph";
/// A variable `void (*)()` of the module, which may be missing: called, and
/// must not return, where sizes of the inputs contradict each other.
inline constexpr const char kGraphTrap[] = "qlm_graph_trap";
/// A variable of the module, which may be missing, for the address of a
/// function that runs tiles 0 .. tiles - 1 of a kernel, each thread with
/// scratch of its own, and comes back when all are computed. Before, it
/// begins the launch in each thread's scratch: see beginLaunch.
inline constexpr const char kGraphLaunch[] = "qlm_graph_launch";
/// Which of a launch's sizes isn't 0 where tiles cost no more on their own: a
/// thread may take one after another. Others are cheaper in a row. `tokens` are
/// the launch's rows.
inline constexpr int kSizeTilesApart = kSizeSequences;
/// What the variable holds the address of.
using GraphLaunchFunction = void (*)(KernelFunction kernel,
                                     void *const *buffers,
                                     const StepSizes *sizes, int64_t tiles,
                                     int64_t scratchBytes);

/// Variables of the module for the addresses of `void *(int64 bytes)`, which
/// gives memory, 64-byte aligned and readable 63 bytes past its end, or doesn't
/// come back, and of `void (void *)`, which takes it again.
inline constexpr const char kGraphAllocate[] = "qlm_graph_allocate";
inline constexpr const char kGraphRelease[] = "qlm_graph_release";

} // namespace qlm::format

#endif // QLM_PACKAGE_GRAPHFORMAT_H
