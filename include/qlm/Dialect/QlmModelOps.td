//===- QlmModelOps.td - What a decoder is made of ----------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMMODELOPS
#define QLM_DIALECT_QLMMODELOPS

def Qlm_EmbeddingOp : Qlm_DefinedPureOp<"embedding"> {
  let summary = "Looks up a row for each token";
  let description = [{
    `result[t, :] = f32(table[tokens[t], :])`.

    Constraints:
    - (C1) `tokens` is `[tokens]` i32.
    - (C2) `table` is `[vocabulary, features]`.
    - (C3) the result is `[tokens, features]` f32.

    Out-of-range tokens are refused by the runtime before a step.

    ```mlir
    %x = qlm.embedding %tokens, %table : tensor<?xi32>, tensor<32000x2048xbf16> -> tensor<?x2048xf32>
    ```
  }];
  let arguments = (ins Qlm_IndexTensor:$tokens, Qlm_FloatTensor:$table);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $tokens `,` $table attr-dict `:` type($tokens) `,` type($table) `->`
    type($result)
  }];
}

def Qlm_LinearOp
    : Qlm_DefinedPureOp<"linear", [AttrSizedOperandSegments]> {
  let summary = "Multiplies by a weight matrix and adds bias and residual";
  let description = [{
    `result[t, n] = sum_k input[t, k] * f32(weight[n, k]) + bias[n] +
    residual[t, n]`, summed in f32.

    Constraints:
    - (C1) `input` is `[tokens, inFeatures]` f32.
    - (C2) `weight` is `[outFeatures, inFeatures]`.
    - (C3) `bias`, if any, is `[outFeatures]`.
    - (C4) result and `residual`, if any, are `[tokens, outFeatures]` f32.

    ```mlir
    %y = qlm.linear %x, %w : tensor<?x2048xf32>, tensor<5632x2048xbf16> -> tensor<?x5632xf32>
    %z = qlm.linear %x, %w bias %b : tensor<96xbf16> residual %r : tensor<?x96xf32> : tensor<?x64xf32>, tensor<96x64xbf16> -> tensor<?x96xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, Qlm_FloatTensor:$weight,
                       Optional<Qlm_FloatTensor>:$bias,
                       Optional<Qlm_F32Tensor>:$residual);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $input `,` $weight (`bias` $bias^ `:` type($bias))?
    (`residual` $residual^ `:` type($residual))? attr-dict `:`
    type($input) `,` type($weight) `->` type($result)
  }];
}

def Qlm_RmsNormOp : Qlm_DefinedPureOp<"rms_norm"> {
  let summary = "Normalizes each token by its root mean square";
  let description = [{
    `result[t, k] = weight[k] * (input[t, k] / sqrt(mean_k(input[t, k]^2) +
    epsilon))`, in f32 (Zhang and Sennrich, 2019, equation 4).

    Constraints:
    - (C1) input and result are `[tokens, features]`; the input is f32, the
      result f32 unless `qlm-narrow-activations` made it f16 or bf16.
    - (C2) `weight` is `[features]`.
    - (C3) `epsilon` is positive.

    ```mlir
    %y = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x2048xf32>, tensor<2048xbf16>
    %z = qlm.rms_norm %x, %w {epsilon = 1.0e-5 : f32} : tensor<?x2048xf32>, tensor<2048xbf16> -> tensor<?x2048xf16>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, Qlm_FloatTensor:$weight,
                       F32Attr:$epsilon);
  let results = (outs Qlm_FloatTensor:$result);
  let assemblyFormat = [{
    $input `,` $weight attr-dict `:`
    custom<NormTypes>(type($input), type($weight), type($result))
  }];
}

def Qlm_RopeOp : Qlm_DefinedPureOp<"rope",
    [TypesMatchWith<"result has the type of the input", "input", "result",
                    "$_self">]> {
  let summary = "Rotates queries or keys by their positions";
  let description = [{
    For head `h` and `i < headDim / 2`, with
    `a = f32(positions[t]) * inverseFrequencies[i]`:
    `result[t, h, i] = x[i] cos a - x[i + headDim/2] sin a`,
    `result[t, h, i + headDim/2] = x[i + headDim/2] cos a + x[i] sin a`
    (Su et al., 2021, in the half-split order of Hugging Face's LLaMA).

    Constraints:
    - (C1) input and result are `[tokens, heads * headDim]` f32.
    - (C2) `positions` is `[tokens]` i32.
    - (C3) `inverseFrequencies` is `[headDim / 2]` f32.
    - (C4) headDim divides the features.

    ```mlir
    %y = qlm.rope %x, %positions, %f : tensor<?x2048xf32>, tensor<?xi32>, tensor<32xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, Qlm_IndexTensor:$positions,
                       Qlm_F32Tensor:$inverseFrequencies);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $input `,` $positions `,` $inverseFrequencies attr-dict `:` type($input)
    `,` type($positions) `,` type($inverseFrequencies)
  }];
  let extraClassDeclaration = [{
    /// Elements of one head.
    int64_t getHeadDim() {
      return 2 * getInverseFrequencies().getType().getDimSize(0);
    }
  }];
}

def Qlm_AttentionOp : Qlm_DefinedPureOp<"attention",
    [TypesMatchWith<"result has the type of the query", "query", "result",
                    "$_self">,
     TypesMatchWith<"value has the type of the key", "key", "value",
                    "$_self">]> {
  let summary = "Attends causally over the tokens of one sequence";
  let description = [{
    For query head `h`, with key/value head `j = h / (heads / kvHeads)`:
    `p[t, :] = softmax_u(scale * <query[t, h], key[u, j]>)` over `u <= t` (all
    `u` without `causal`), `result[t, h] = sum_u p[t, u] * value[u, j]`. With
    `window` only the last keys count, `t - window < u <= t`: the token's own
    and `window - 1` before it (Mistral 7B, arXiv 2310.06825).

    Constraints:
    - (C1) `query` and result are `[tokens, heads * headDim]` f32.
    - (C2) `key` and `value` are `[tokens, kvHeads * headDim]` f32.
    - (C3) `kvHeads` divides `heads`, which divides the query's features.
    - (C4) `window`, if any, is positive and needs `causal`.

    Made by Import or by `qlm-fuse-attention`; `qlm-plan-kv-cache` replaces
    it.

    ```mlir
    %o = qlm.attention %q, %k, %v heads 32 kv_heads 4 scale 1.250000e-01 causal : tensor<?x2048xf32>, tensor<?x256xf32>
    %p = qlm.attention %q, %k, %v heads 32 kv_heads 4 scale 1.250000e-01 causal window 4096 : tensor<?x2048xf32>, tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$query, Qlm_F32Tensor:$key,
                       Qlm_F32Tensor:$value, I64Attr:$heads, I64Attr:$kvHeads,
                       F32Attr:$scale, UnitAttr:$causal,
                       OptionalAttr<I64Attr>:$window);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $query `,` $key `,` $value `heads` custom<Integer>($heads) `kv_heads`
    custom<Integer>($kvHeads) `scale` custom<Float>($scale)
    (`causal` $causal^)? (`window` $window^)? attr-dict `:` type($query) `,`
    type($key)
  }];
}

def Qlm_SwigluOp : Qlm_DefinedPureOp<"swiglu"> {
  let summary = "Gates one half of the features by the SiLU of the other";
  let description = [{
    `result[t, i] = silu(input[t, i]) * input[t, i + features]` where
    `silu(x) = x / (1 + exp(-x))`: the gate comes first, then the up
    projection (Shazeer, 2020).

    Constraints:
    - (C1) `input` is `[tokens, 2 * features]`, the result
      `[tokens, features]`; both f32 unless `qlm-narrow-activations` made them
      f16 or bf16.

    ```mlir
    %y = qlm.swiglu %x : tensor<?x11264xf32> -> tensor<?x5632xf32>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$input);
  let results = (outs Qlm_FloatTensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
}

def Qlm_SiluOp : Qlm_DefinedPureOp<"silu", [SameOperandsAndResultType]> {
  let summary = "Applies x / (1 + exp(-x)) to each element";
  let description = [{
    Made by Import; `qlm-fuse-swiglu` merges it into `qlm.swiglu`.

    Constraints:
    - (C1) the operand is a ranked tensor.

    ```mlir
    %y = qlm.silu %x : tensor<?x5632xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($input)";
}

def Qlm_SplitOp : Qlm_DefinedPureOp<"split"> {
  let summary = "Cuts features into consecutive pieces";
  let description = [{
    Constraints:
    - (C1) `input` is `[tokens, features]`; each result is `[tokens, part]` and
      the parts add up to the features.

    Made when `qlm-merge-linears` joins projections; consumed by Lower.

    ```mlir
    %q, %k, %v = qlm.split %x : tensor<?x3072xf32> -> tensor<?x2048xf32>, tensor<?x512xf32>, tensor<?x512xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input);
  let results = (outs Variadic<Qlm_F32Tensor>:$parts);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($parts)";
}

def Qlm_SplitHeadsOp : Qlm_DefinedPureOp<"split_heads"> {
  let summary = "Moves heads to the front, repeating them for grouped queries";
  let description = [{
    `result[h, t, d] = input[t, (h / repeat) * headDim + d]`.

    Constraints:
    - (C1) `input` is `[tokens, heads * headDim]` f32; the result is
      `[heads * repeat, tokens, headDim]` f32.

    The unfused spelling of attention uses it; `qlm-fuse-attention` removes
    it.

    ```mlir
    %h = qlm.split_heads %k repeat 8 : tensor<?x256xf32> -> tensor<32x?x64xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, I64Attr:$repeat);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $input `repeat` custom<Integer>($repeat) attr-dict `:` type($input) `->`
    type($result)
  }];
}

def Qlm_MergeHeadsOp : Qlm_DefinedPureOp<"merge_heads"> {
  let summary = "Moves heads back beside their features";
  let description = [{
    `result[t, h * headDim + d] = input[h, t, d]`.

    Constraints:
    - (C1) `input` is `[heads, tokens, headDim]` f32; the result is
      `[tokens, heads * headDim]` f32.

    ```mlir
    %x = qlm.merge_heads %h : tensor<32x?x64xf32> -> tensor<?x2048xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
}

def Qlm_MatmulOp : Qlm_DefinedPureOp<"matmul"> {
  let summary = "Multiplies batches of matrices";
  let description = [{
    `result[b, m, n] = sum_k lhs[b, m, k] * rhs[b, k, n]`, or
    `rhs[b, n, k]` with `transpose_rhs`, summed in f32.

    Constraints:
    - (C1) all are rank 3 with one batch size.
    - (C2) the inner sizes agree.

    ```mlir
    %s = qlm.matmul %q, %k transpose_rhs : tensor<32x?x64xf32>, tensor<32x?x64xf32> -> tensor<32x?x?xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$lhs, Qlm_F32Tensor:$rhs,
                       UnitAttr:$transposeRhs);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $lhs `,` $rhs (`transpose_rhs` $transposeRhs^)? attr-dict `:` type($lhs)
    `,` type($rhs) `->` type($result)
  }];
}

def Qlm_ScaleOp : Qlm_DefinedPureOp<"scale", [SameOperandsAndResultType]> {
  let summary = "Multiplies each element by a constant";
  let description = [{
    `result[i] = input[i] * factor`.

    Constraints:
    - (C1) `factor` is finite.

    ```mlir
    %y = qlm.scale %x by 1.250000e-01 : tensor<32x?x?xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, F32Attr:$factor);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $input `by` custom<Float>($factor) attr-dict `:` type($input)
  }];
}

def Qlm_CausalMaskOp
    : Qlm_DefinedPureOp<"causal_mask", [SameOperandsAndResultType]> {
  let summary = "Hides later tokens from earlier ones";
  let description = [{
    `result[h, t, u] = u <= t ? input[h, t, u] : -inf`; with `window` keys with
    `u <= t - window` are hidden too.

    Constraints:
    - (C1) `input` is `[heads, tokens, tokens]` f32.
    - (C2) `window`, if any, is positive.

    ```mlir
    %y = qlm.causal_mask %x : tensor<32x?x?xf32>
    %z = qlm.causal_mask %x window 4096 : tensor<32x?x?xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, OptionalAttr<I64Attr>:$window);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $input (`window` $window^)? attr-dict `:` type($input)
  }];
}

def Qlm_SoftmaxOp
    : Qlm_DefinedPureOp<"softmax", [SameOperandsAndResultType]> {
  let summary = "Normalizes exponentials over the last dimension";
  let description = [{
    `result[.., i] = exp(x[i] - m) / sum_j exp(x[j] - m)`, `m = max_j x[j]`.

    Constraints:
    - (C1) `input` has rank 1 to 4.

    ```mlir
    %y = qlm.softmax %x : tensor<32x?x?xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($input)";
}

def Qlm_AddOp : Qlm_DefinedPureOp<"add", [SameOperandsAndResultType]> {
  let summary = "Adds two tensors of one shape";
  let description = [{
    `result[i] = lhs[i] + rhs[i]`. Residual additions; `qlm-fuse-residual`
    moves them into the linear that makes one operand.

    Constraints:
    - (C1) the operands are ranked tensors.

    ```mlir
    %z = qlm.add %x, %y : tensor<?x2048xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$lhs, Qlm_F32Tensor:$rhs);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = "$lhs `,` $rhs attr-dict `:` type($lhs)";
}

def Qlm_MulOp : Qlm_DefinedPureOp<"mul", [SameOperandsAndResultType]> {
  let summary = "Multiplies two tensors of one shape";
  let description = [{
    `result[i] = lhs[i] * rhs[i]`. The gate's product before
    `qlm-fuse-swiglu`.

    Constraints:
    - (C1) the operands are ranked tensors.

    ```mlir
    %z = qlm.mul %x, %y : tensor<?x5632xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$lhs, Qlm_F32Tensor:$rhs);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = "$lhs `,` $rhs attr-dict `:` type($lhs)";
}

#endif // QLM_DIALECT_QLMMODELOPS
