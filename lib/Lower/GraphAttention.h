//===- GraphAttention.h - Attention of a graph's tensors --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Flash attention as PagedAttentionBlock.h has it: 64 keys at once, an online
// softmax, sums in f32. What is a page there is a block of the tensors here:
//
//   many queries   64 keys -> [4][d][16] f32, then eight (AVX2: six) queries
//                  at a time, as in a step of many tokens
//   one query      keys as they lie: a vector of d's products for each, whose
//                  lanes are summed for a register of keys together
//
// Values are read where they lie. Scores are changed in between by what ONNX
// adds: a softcap, a mask, the keys that a query sees. A query for which no key
// is left has the sum 0.
//
// Tested by test/python/test_onnx_attention.py, timed by
// benchmarks/graph/attention.py.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_GRAPHATTENTION_H
#define QLM_LIB_LOWER_GRAPHATTENTION_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "qlm/Dialect/Graph.h"
#include "qlm/Lower/Cpu/Target.h"

namespace mlir::qlm {

/// What the launch of an attention must say.
struct AttentionLaunch {
  /// The sizes that the kernel reads, a vector of i64.
  Value sizes;
  Value queries, tiles;
  SmallVector<OpFoldResult> result;
};

/// The sizes of \p op, emitted at \p b.
AttentionLaunch makeAttentionLaunch(OpBuilder &b, graph::AttentionOp op);

/// Emits the body of \p function, whose buffers are queries, keys, values,
/// mask and lengths where there are some, sizes, the result. Gives the bytes of
/// scratch.
int64_t emitGraphAttention(func::FuncOp function, graph::AttentionOp op,
                           const cpu::Target &target);

} // namespace mlir::qlm

#endif // QLM_LIB_LOWER_GRAPHATTENTION_H
