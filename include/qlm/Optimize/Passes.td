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

//===----------------------------------------------------------------------===//
// ONNX graphs to decoders
//===----------------------------------------------------------------------===//

def InferNodes : Pass<"qlm-infer-nodes", "::mlir::ModuleOp"> {
  let summary = "Gives an ONNX graph's nodes types and folds whole numbers";
  let description = [{
    Exporters compute shapes with dozens of nodes. The graph is evaluated for
    two probes that differ in every size that is open (sequences, tokens, tokens
    in the cache); sizes that agree are static, whole numbers that agree become
    constants.

    ```mlir
    %s = onnx.node "Shape"(%x) {start = 1 : i64} : (tensor<?x8xf32>) -> none
    %y = onnx.node "Sigmoid"(%x) : (tensor<?x8xf32>) -> none
    ```
    becomes
    ```mlir
    %s = onnx.constant dense<8> : tensor<1xi64>
    %y = onnx.node "Sigmoid"(%x) : (tensor<?x8xf32>) -> tensor<?x8xf32>
    ```

    The raising passes after it look at types.
  }];
  let dependentDialects = ["::mlir::qlm::onnxir::OnnxDialect"];
}

def RaiseNorm : Pass<"qlm-raise-norm", "::mlir::ModuleOp"> {
  let summary = "Recognises spelled-out normalizations of an ONNX graph";
  let description = [{
    ```mlir
    %p = onnx.node "Pow"(%x, %two)
    %m = onnx.node "ReduceMean"(%p) {axes = array<i64: -1>}
    %e = onnx.node "Add"(%m, %epsilon)
    %s = onnx.node "Sqrt"(%e)
    %d = onnx.node "Div"(%x, %s)
    %y = onnx.node "Mul"(%w, %d)
    ```
    becomes
    ```mlir
    %y = onnx.node "RMSNormalization"(%x, %w) {axis = -1 : i64, epsilon = …}
    ```

    and, where `%x` is a difference from its mean, `LayerNormalization`, with
    the bias that is added after it. The square may be a product, the division
    one by 1 or a reciprocal. `SimplifiedLayerNormalization` and
    `com.microsoft.SkipSimplifiedLayerNormalization` are taken too.
  }];
  let dependentDialects = ["::mlir::qlm::onnxir::OnnxDialect"];
}

def RaiseActivation : Pass<"qlm-raise-activation", "::mlir::ModuleOp"> {
  let summary = "Recognises spelled-out SiLU and GELU of an ONNX graph";
  let description = [{
    `x * sigmoid(x)` becomes `Swish`; `0.5 * x * (1 + erf(x / sqrt(2)))` and
    `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`, factors in any
    order, become `Gelu`.
  }];
  let dependentDialects = ["::mlir::qlm::onnxir::OnnxDialect"];
}

def RaiseRotary : Pass<"qlm-raise-rotary", "::mlir::ModuleOp"> {
  let summary = "Recognises spelled-out rotary embeddings of an ONNX graph";
  let description = [{
    Both spellings, with halves `a`, `b` of the last dimension that a Split or
    Slices make:

    - `x * cos + Concat(-b, a) * sin`, with tables of both halves,
    - `Concat(a * cos - b * sin, b * cos + a * sin)`, with tables of one,

    become `RotaryEmbedding(x, cos, sin)` with tables
    `[batch, tokens, headDim / 2]`. `com.microsoft.RotaryEmbedding` becomes the
    standard's operator.
  }];
  let dependentDialects = ["::mlir::qlm::onnxir::OnnxDialect"];
}

def RaiseAttention : Pass<"qlm-raise-attention", "::mlir::ModuleOp"> {
  let summary = "Recognises spelled-out attention of an ONNX graph";
  let description = [{
    `MatMul(Softmax(MatMul(q, transposed k) * scale + mask), v)` becomes
    `Attention(q, k, v, mask)`. The scale may stand on the scores, the queries
    or the keys; the mask may be a sum or a Where; zeros in the place of NaN
    after the softmax are passed. Keys and values that are repeated for the
    queries that share them (Unsqueeze, Expand, Reshape) are taken before that,
    and those that are appended to an input (Concat) become the operator's
    cache. `com.microsoft.GroupQueryAttention` becomes Attention and
    RotaryEmbedding.
  }];
  let dependentDialects = ["::mlir::qlm::onnxir::OnnxDialect"];
}

def RaiseCausalMask : Pass<"qlm-raise-causal-mask", "::mlir::ModuleOp"> {
  let summary = "Recognises masks that hide later tokens";
  let description = [{
    A mask of Attention is computed for several numbers of tokens, in the cache
    and new, without padding. Where it hides exactly the later tokens each time,
    it is dropped and the attention becomes causal. Numbers among the mask's
    constants that could be the size of a window are among the numbers of tokens
    that are tried. Else the node gets the attribute `qlm.mask`, which says what
    is different.
  }];
  let dependentDialects = ["::mlir::qlm::onnxir::OnnxDialect"];
}

def RaiseDecoder : Pass<"qlm-raise-decoder", "::mlir::ModuleOp"> {
  let summary = "Turns an ONNX graph of a decoder into a model";
  let description = [{
    The graph's logits, without its cache and masks, become `func @forward` on
    one sequence, with the operations that Import makes of a model's folder.
    Every stage after it is the same then.

    - Weights become `qlm.parameter`s; those of `MatMul` are transposed.
    - Reshapes and transpositions between `[tokens, heads * headDim]` and heads
      vanish.
    - Tables of rotary embeddings become frequencies: the angles are computed
      for some positions, and must be the position times a number.
    - `qlm.model` is made of the graph's sizes and of the module's `qlm.config`
      (context length and tokens of the folder beside the graph).

    Fails, naming the node, on the first operator or arrangement that a decoder
    of this kind doesn't have.
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect",
                           "::mlir::arith::ArithDialect",
                           "::mlir::func::FuncDialect",
                           "::mlir::qlm::onnxir::OnnxDialect"];
}

#endif // QLM_OPTIMIZE_PASSES
