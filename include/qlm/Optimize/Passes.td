//===- Passes.td - Passes of the Optimize stage ------------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_OPTIMIZE_PASSES
#define QLM_OPTIMIZE_PASSES

include "mlir/Pass/PassBase.td"

def FuseAttention : Pass<"qlm-fuse-attention", "::mlir::ModuleOp"> {
  let summary = "Recognises attention spelled with matrix products";
  let description = [{
    ```mlir
    %qh = qlm.split_heads %q repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
    %kh = qlm.split_heads %k repeat 2 : tensor<?x32xf32> -> tensor<4x?x16xf32>
    %vh = qlm.split_heads %v repeat 2 : tensor<?x32xf32> -> tensor<4x?x16xf32>
    %s = qlm.matmul %qh, %kh transpose_rhs : tensor<4x?x16xf32>, tensor<4x?x16xf32> -> tensor<4x?x?xf32>
    %t = qlm.scale %s by 2.500000e-01 : tensor<4x?x?xf32>
    %m = qlm.causal_mask %t : tensor<4x?x?xf32>
    %p = qlm.softmax %m : tensor<4x?x?xf32>
    %o = qlm.matmul %p, %vh : tensor<4x?x?xf32>, tensor<4x?x16xf32> -> tensor<4x?x16xf32>
    %a = qlm.merge_heads %o : tensor<4x?x16xf32> -> tensor<?x64xf32>
    ```
    becomes
    ```mlir
    %a = qlm.attention %q, %k, %v heads 4 kv_heads 2 scale 2.500000e-01 causal : tensor<?x64xf32>, tensor<?x32xf32>
    ```

    The scale may stand on the scores, on the queries or on the keys, before or
    after their heads are split; several scales are multiplied. Without a mask
    the attention isn't causal. Scores or probabilities that have other users
    keep the spelling as it is.
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def MergeLinears : Pass<"qlm-merge-linears", "::mlir::ModuleOp"> {
  let summary = "Joins projections of one input into one linear";
  let description = [{
    The query, key and value of an attention (through `qlm.rope` or not) and
    the gate and up projections of a gated MLP become one long linear each, so
    that a step has fewer and longer kernels:

    ```mlir
    %q = qlm.linear %x, %wq
    %k = qlm.linear %x, %wk
    %v = qlm.linear %x, %wv
    ```
    becomes
    ```mlir
    %w = tensor.concat dim(0) %wq, %wk, %wv
    %y = qlm.linear %x, %w
    %q, %k, %v = qlm.split %y
    ```

    Biases are joined likewise. Projections are left alone unless they share
    the input, their weights (and biases) have one element type, and all or
    none have a bias. `layers.3.q`, `.k`, `.v` are labelled `layers.3.qkv`;
    `layers.3.gate`, `.up` are labelled `layers.3.gate_up`.
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect",
                           "::mlir::tensor::TensorDialect"];
}

def FuseSwiglu : Pass<"qlm-fuse-swiglu", "::mlir::ModuleOp"> {
  let summary = "Merges SiLU and product of a gated MLP";
  let description = [{
    ```mlir
    %gate, %up = qlm.split %x : tensor<?x256xf32> -> tensor<?x128xf32>, tensor<?x128xf32>
    %s = qlm.silu %gate : tensor<?x128xf32>
    %y = qlm.mul %s, %up : tensor<?x128xf32>
    ```
    becomes
    ```mlir
    %y = qlm.swiglu %x : tensor<?x256xf32> -> tensor<?x128xf32>
    ```

    in either order of the product. Runs after `qlm-merge-linears`: a gate and
    an up projection that were not merged stay as they are.
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def FuseResidual : Pass<"qlm-fuse-residual", "::mlir::ModuleOp"> {
  let summary = "Adds residuals inside of the linear before";
  let description = [{
    ```mlir
    %d = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32>
    %y = qlm.add %r, %d : tensor<?x64xf32>
    ```
    becomes
    ```mlir
    %y = qlm.linear %x, %w residual %r : tensor<?x64xf32> : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32>
    ```

    where the linear has no other user and no residual yet. The last pass of
    the stage: sets the module's `qlm.stage` to "optimize".
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

#endif // QLM_OPTIMIZE_PASSES
