//===- QlmPlannedOps.td - The planned step -----------------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Activations are f32 unless `qlm-narrow-activations` made them f16 or bf16:
// whatever their types, an operation computes in f32 and rounds each element of
// its result once, half to even, to the result's type.
//
// A step runs a ragged batch: `tokens` rows in all, of `sequences` sequences,
// each a run of consecutive rows. Its arguments are described in
// qlm/Package/Format.h (StepArgument).
//
// The cache of one layer is `[pages, 2, kvHeads, headDim * pageTokens]`:
// for K (index 0) the last dimension is `[headDim, pageTokens]`, for V
// (index 1) `[pageTokens, headDim]`.
//
// A cache with `codes` (i8 or f8E4M3FN) holds, for each page, K or V, and head,
// the codes in that order, a byte each, and after them the scales of the page's
// tokens, `[pageTokens]` f32 in little-endian bytes: it is an i8 tensor `[pages,
// 2, kvHeads, headDim * pageTokens + 4 * pageTokens]`. An element stands for
// code * scale.
//
// With `keys_by_token` (GPUs) keys stand like values: `[pageTokens, headDim]`.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMPLANNEDOPS
#define QLM_DIALECT_QLMPLANNEDOPS

def Qlm_CacheTensor : TensorOf<[F32, F16, BF16, I8]>;

def Qlm_PackedLinearOp
    : Qlm_DefinedPureOp<"packed_linear", [AttrSizedOperandSegments]> {
  let summary = "Multiplies by a packed weight, quantized or not";
  let description = [{
    `qlm.linear` or `qlm.quantized_linear` (with `scheme`) on operands that
    `qlm.pack` has ordered. The scheme's own formulas hold.

    Constraints:
    - (C1) `input` is `[tokens, inFeatures]`, floats without and i8 or f8E4M3FN
      with `inputScales`, which are `[tokens]` f32; i8 needs a uniform scheme,
      f8E4M3FN one of f8E4M3FN.
    - (C2) `weight` has the packed type of `[outFeatures, inFeatures]` in
      `layout`; `scales` and `zeroPoints` are packed too and present as the
      scheme says; without a scheme there are none. With `superScales`, `scales`
      holds codes (layout scale8) of `qlm.quantize_scales`, whose `super` they
      are; the scheme then has f32 scales by groups.
    - (C3) `bias`, if any, has the packed type of `[outFeatures]`; result and
      `residual`, if any, are `[tokens, outFeatures]`; the residual is f32, the
      result f32 or, without one, any floats.
    - (C4) `outliers` are as in `qlm.quantized_linear`.

    ```mlir
    %y = qlm.packed_linear %x, %p scales %s {inFeatures = 256, outFeatures = 64, layout = #qlm.layout<i4x16x8>, scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x256xf32>, tensor<4x32x64xi8>, tensor<4x2x16xf16>) -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32, F16, BF16, I8, F8E4M3FN]>:$input,
                       Optional<Qlm_F32Tensor>:$inputScales,
                       Optional<Qlm_F32Tensor>:$outliers,
                       Qlm_WeightTensor:$weight,
                       Optional<Qlm_PackedScaleTensor>:$scales,
                       Optional<Qlm_F32Tensor>:$superScales,
                       Optional<TensorOf<[I8]>>:$zeroPoints,
                       Optional<Qlm_F32Tensor>:$bias,
                       Optional<Qlm_F32Tensor>:$residual,
                       I64Attr:$inFeatures, I64Attr:$outFeatures,
                       Qlm_LayoutAttr:$layout,
                       OptionalAttr<Qlm_SchemeAttr>:$scheme);
  let results = (outs Qlm_FloatTensor:$result);
  let assemblyFormat = [{
    $input (`input_scales` $inputScales^)? (`outliers` $outliers^)? `,`
    $weight (`scales` $scales^)? (`super_scales` $superScales^)?
    (`zero_points` $zeroPoints^)? (`bias` $bias^)? (`residual` $residual^)?
    attr-dict `:` functional-type(operands, results)
  }];
}

def Qlm_SelectRowsOp : Qlm_DefinedPureOp<"select_rows"> {
  let summary = "Gathers the rows whose logits are wanted";
  let description = [{
    `result[r, :] = input[rows[r], :]`.

    Constraints:
    - (C1) `input` is `[tokens, features]` f32, `rows` `[logitRows]` i32, the
      result `[logitRows, features]` f32.

    ```mlir
    %y = qlm.select_rows %x, %rows : tensor<?x2048xf32>, tensor<?xi32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, Qlm_IndexTensor:$rows);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $input `,` $rows attr-dict `:` type($input) `,` type($rows) `->`
    type($result)
  }];
}

def Qlm_RmsNormQuantizeOp : Qlm_DefinedPureOp<"rms_norm_quantize"> {
  let summary = "Normalizes tokens and quantizes the result in one pass";
  let description = [{
    `qlm.dynamic_quantize` of `qlm.rms_norm` of `input`, or, with `rows`, of
    `qlm.select_rows` of `input` and `rows`. The f32 values between them are
    not kept; codes and scales have the bits that the operations one after the
    other would give.

    Constraints:
    - (C1) `input` is `[tokens, features]` f32 and `weight` `[features]`.
    - (C2) `epsilon` is positive.
    - (C3) `rows`, if any, is `[logitRows]` i32; `codes` is `[logitRows,
      features]` with it and `[tokens, features]` without.
    - (C4) `scheme`, `scales`, `threshold` and `outliers` are as in
      `qlm.dynamic_quantize`.

    Made by `qlm-fuse-quantize`.

    ```mlir
    %c, %s = qlm.rms_norm_quantize %x, %w rows %r : tensor<?xi32> {epsilon = 1.0e-5 : f32, scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>}
        : tensor<?x2048xf32>, tensor<2048xf32> -> tensor<?x2048xi8>, tensor<?xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, Qlm_FloatTensor:$weight,
                       Optional<Qlm_IndexTensor>:$rows, F32Attr:$epsilon,
                       Qlm_SchemeAttr:$scheme,
                       OptionalAttr<F32Attr>:$threshold);
  let results = (outs Qlm_CodeTensor:$codes, Qlm_F32Tensor:$scales,
                      Optional<Qlm_F32Tensor>:$outliers);
  let assemblyFormat = [{
    $input `,` $weight (`rows` $rows^ `:` type($rows))? attr-dict `:`
    type($input) `,` type($weight) `->` type($codes) `,` type($scales)
    (`,` type($outliers)^)?
  }];
}

def Qlm_SwigluQuantizeOp : Qlm_DefinedPureOp<"swiglu_quantize"> {
  let summary = "Gates the MLP and quantizes the result in one pass";
  let description = [{
    `qlm.dynamic_quantize` of `qlm.swiglu` of `input`. The f32 values between
    them are not kept; codes and scales have the bits that the operations one
    after the other would give.

    Constraints:
    - (C1) `input` is `[tokens, 2 * features]` f32 (gate, then up) and `codes`
      `[tokens, features]`.
    - (C2) `scheme`, `scales`, `threshold` and `outliers` are as in
      `qlm.dynamic_quantize`.

    Made by `qlm-fuse-quantize`.

    ```mlir
    %c, %s = qlm.swiglu_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>}
        : tensor<?x11264xf32> -> tensor<?x5632xi8>, tensor<?xf32>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$input, Qlm_SchemeAttr:$scheme,
                       OptionalAttr<F32Attr>:$threshold);
  let results = (outs Qlm_CodeTensor:$codes, Qlm_F32Tensor:$scales,
                      Optional<Qlm_F32Tensor>:$outliers);
  let assemblyFormat = [{
    $input attr-dict `:` type($input) `->` type($codes) `,` type($scales)
    (`,` type($outliers)^)?
  }];
}

def Qlm_RopeAppendOp : Qlm_DefinedPureOp<"rope_append"> {
  let summary = "Rotates queries and keys and appends keys and values to pages";
  let description = [{
    `qkv[t]` holds the token's query, key and value features in this order.
    Queries and keys are rotated as in `qlm.rope`, with the cosines and sines
    of row `positions[t]` of `table`. The rotated queries are `query`; the
    rotated key and the value are rounded to the cache's element type and
    written at slot `positions[t] % pageTokens` of page
    `blockTables[tokenSequences[t], positions[t] / pageTokens]`;
    `updatedCache` is the cache after that.

    With `codes`, the key and the value of a head are quantized as they are
    written, each with a scale of its own:

    ```
    m = max over k of |x[k]|         b = 127 (i8), 448 (f8E4M3FN)
    scale = m / b                    code[k] = round(x[k] * (b / m))
    ```

    `round` is to nearest, halves to even, of the result clamped to [-b, b]. A
    row of zeros has scale 0 and codes 0; a NaN makes the scale NaN, and the
    codes arbitrary.

    Constraints:
    - (C1) `qkv` is `[tokens, (heads + 2 * kvHeads) * headDim]` and `query`
      `[tokens, heads * headDim]`, of any floats.
    - (C2) `table` is `[contextLength, headDim / 2, 2]` f32.
    - (C3) `cache` is `[pages, 2, kvHeads, headDim * pageTokens]` floats
      without and `[pages, 2, kvHeads, (headDim + 4) * pageTokens]` i8 with
      `codes`, which are i8 or f8E4M3FN.
    - (C4) `blockTables` is `[sequences, maxPages]` i32.

    Made by `qlm-plan-kv-cache`.
  }];
  let arguments = (ins Qlm_FloatTensor:$qkv, Qlm_F32Tensor:$table,
                       Qlm_CacheTensor:$cache, Qlm_IndexTensor:$positions,
                       Qlm_IndexTensor:$tokenSequences,
                       Qlm_IndexTensor:$blockTables, I64Attr:$heads,
                       I64Attr:$kvHeads, I64Attr:$pageTokens,
                       OptionalAttr<TypeAttr>:$codes,
                       UnitAttr:$keysByToken);
  let results = (outs Qlm_FloatTensor:$query, Qlm_CacheTensor:$updatedCache);
  let assemblyFormat = [{
    $qkv `,` $table `,` $cache `at` $positions `,` $tokenSequences `,`
    $blockTables `heads` custom<Integer>($heads) `kv_heads`
    custom<Integer>($kvHeads) `page_tokens` custom<Integer>($pageTokens)
    (`codes` $codes^)? (`keys_by_token` $keysByToken^)? attr-dict `:`
    functional-type(operands, results)
  }];
  let extraClassDeclaration = [{
    int64_t getHeadDim() { return 2 * getTable().getType().getDimSize(1); }
  }];
}

def Qlm_PagedAttentionOp : Qlm_DefinedPureOp<"paged_attention"> {
  let summary = "Attends to the pages of each token's sequence";
  let description = [{
    `qlm.attention`, causal, where row `t` attends to the keys and values at
    positions `0 .. positions[t]` of sequence `tokenSequences[t]`, found
    through `blockTables`; with `window` to the last `window` of them
    (`qlm.attention`).

    Constraints:
    - (C1) `query` and result are `[tokens, heads * headDim]`, of any floats.
    - (C2) `cache` and `codes` are as in `qlm.rope_append`.
    - (C3) `kvHeads` divides `heads`.
    - (C4) `window`, if any, is positive.

    Made by `qlm-plan-kv-cache`.
  }];
  let arguments = (ins Qlm_FloatTensor:$query, Qlm_CacheTensor:$cache,
                       Qlm_IndexTensor:$positions,
                       Qlm_IndexTensor:$tokenSequences,
                       Qlm_IndexTensor:$blockTables, I64Attr:$heads,
                       I64Attr:$kvHeads, I64Attr:$pageTokens, F32Attr:$scale,
                       OptionalAttr<TypeAttr>:$codes,
                       UnitAttr:$keysByToken, OptionalAttr<I64Attr>:$window);
  let results = (outs Qlm_FloatTensor:$result);
  let assemblyFormat = [{
    $query `,` $cache `at` $positions `,` $tokenSequences `,` $blockTables
    `heads` custom<Integer>($heads) `kv_heads` custom<Integer>($kvHeads)
    `page_tokens` custom<Integer>($pageTokens)
    (`codes` $codes^)? (`keys_by_token` $keysByToken^)? `scale`
    custom<Float>($scale) (`window` $window^)?
    attr-dict `:` functional-type(operands, results)
  }];
}

def Qlm_LaunchOp : Qlm_Op<"launch"> {
  let summary = "Runs a kernel over tiles of a step";
  let description = [{
    On a processor: calls `kernel` with the buffers that `args` names, for
    tiles `0 .. tiles`; the runtime may split the tiles among threads in any
    way. On a GPU: runs the first of `variants` that fits the step; `rows`
    says which of its sizes their `maxRows` counts.

    `label` names the launch in profiles ("layers.0.qkv"); `bytes` is the
    weight bytes it reads, `flopsPerRow` the multiply-adds times two of one
    row.

    Constraints:
    - (C1) `args` are `#qlm.arg`; a weight's index is below the operands'
      number.
    - (C2) either `kernel` and `tiles` are there, or `rows` and `variants`,
      which are `#qlm.variant`, at least one.

    Made by `qlm-emit-cpu-kernels` and `qlm-emit-cuda-kernels`; Package writes
    the list into the manifest.
  }];
  let arguments = (ins OptionalAttr<SymbolRefAttr>:$kernel, StrAttr:$label,
                       OptionalAttr<Qlm_TilesAttr>:$tiles,
                       OptionalAttr<Qlm_SizeKindAttr>:$rows,
                       OptionalAttr<ArrayAttr>:$variants, ArrayAttr:$args,
                       I64Attr:$bytes, I64Attr:$flopsPerRow,
                       Variadic<AnyStaticShapeTensor>:$weights);
  let assemblyFormat = [{
    ($kernel^)? $label (`tiles` $tiles^)? (`rows` $rows^)?
    (`variants` $variants^)? `args` $args (`weights` `(` $weights^ `:`
    type($weights) `)`)? attr-dict
  }];
}

#endif // QLM_DIALECT_QLMPLANNEDOPS
