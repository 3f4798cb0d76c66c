//===- QlmQuantizationOps.td - Codes, scales, zero points --*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMQUANTIZATIONOPS
#define QLM_DIALECT_QLMQUANTIZATIONOPS

def Qlm_QuantizeOp : Qlm_DefinedPureOp<"quantize"> {
  let summary = "Rounds real numbers to codes, given their scales";
  let description = [{
    `codes = clamp(round(input / scale) + zeroPoint, lo, hi)` with the scale
    and zero point of the value's row and group; half to even; where the scale
    is 0 the code is the zero point. With `nf4` and f8E4M3FN codes are found
    as `qlm.rtn` finds them.

    Constraints:
    - (C1) `input` is a matrix and `codes` has its shape and the scheme's
      storage type.
    - (C2) `scales` has the scheme's scale shape and type; `zeroPoints` is
      there exactly if the scheme has zero points.

    ```mlir
    %c = qlm.quantize %x scales %s {scheme = #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>}
        : tensor<4x8xf32>, tensor<4xf32> -> tensor<4x8xi8>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$input, Qlm_ScaleTensor:$scales,
                       Optional<Qlm_CodeTensor>:$zeroPoints,
                       Qlm_SchemeAttr:$scheme);
  let results = (outs Qlm_CodeTensor:$codes);
  let assemblyFormat = [{
    $input `scales` $scales (`zero_points` $zeroPoints^)? attr-dict `:`
    type($input) `,` type($scales) (`,` type($zeroPoints)^)? `->` type($codes)
  }];
}

def Qlm_DequantizeOp
    : Qlm_DefinedPureOp<"dequantize", [AttrSizedOperandSegments]> {
  let summary = "Turns codes back into real numbers";
  let description = [{
    `result = (codes - zeroPoint) * f32(scale)` in f32, with the scale and
    zero point of the value's row and group; `table[code] * scale` with `nf4`.
    What `outliers` lists (`qlm.dynamic_quantize`) takes the place of the result
    at its row and column.

    Constraints:
    - (C1) `codes` is a matrix of the scheme's storage type; the result has
      its shape and is f32.
    - (C2) `scales` has the scheme's scale shape and type; `zeroPoints` is
      there exactly if the scheme has zero points.
    - (C3) `outliers`, if any, are lists as `qlm.dynamic_quantize` makes them,
      and the scheme is by row.

    ```mlir
    %w = qlm.dequantize %c scales %s {scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : tensor<64x256xi4>, tensor<64x2xf16> -> tensor<64x256xf32>
    ```
  }];
  let arguments = (ins Qlm_CodeTensor:$codes, Qlm_ScaleTensor:$scales,
                       Optional<Qlm_CodeTensor>:$zeroPoints,
                       Optional<Qlm_F32Tensor>:$outliers,
                       Qlm_SchemeAttr:$scheme);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $codes `scales` $scales (`zero_points` $zeroPoints^)?
    (`outliers` $outliers^ `:` type($outliers))? attr-dict `:`
    type($codes) `,` type($scales) (`,` type($zeroPoints)^)? `->`
    type($result)
  }];
}

def Qlm_DynamicQuantizeOp : Qlm_DefinedPureOp<"dynamic_quantize"> {
  let summary = "Quantizes activations with scales found at run time";
  let description = [{
    For each token, in f32, with `b` the scheme's bound, 127 (i8) or 448
    (f8E4M3FN): `m = max_k |input[t, k]|`, `scales[t] = m / b`,
    `codes[t, k] = round(clamp(input[t, k] * (b / m), -b, b))`, all zero where
    `m` is 0. `round` is to the nearest number of the storage type, halves to
    even.

    With a `threshold` (LLM.int8, arXiv 2208.07339), the elements of a token
    with `|input[t, k]| >= threshold` are outliers: they don't count in `m`,
    their codes are 0, and they are listed, in ascending order of columns. Row
    `t` of `outliers` holds numbers, all f32:

    | index | is |
    |---|---|
    | `0` | `n`, how many outliers the token has, 0 to `features` |
    | `1 + j` | the column of the j-th one, for `j < n` |
    | `1 + features + j` | its value, for `j < n` |

    The rest of a row is 0 here; kernels leave it as it is, and nothing may read
    it. A token's list depends on that token alone. A NaN is no outlier.

    Constraints:
    - (C1) `input` is `[tokens, features]` f32 and `codes` `[tokens, features]`
      of the scheme's storage type.
    - (C2) `scales` is `[tokens]` f32.
    - (C3) the scheme is by row, symmetric, with scales in f32, and i8 of range
      [-127, 127] and bound 127 or f8E4M3FN of bound 448.
    - (C4) `threshold`, if any, is positive and finite and needs i8; `outliers`, of shape
      `[tokens, 1 + 2 * features]`, is there exactly if it is, and `features`
      is at most 2^24, so that f32 holds each column exactly.

    ```mlir
    %c, %s = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>}
        : tensor<?x2048xf32> -> tensor<?x2048xi8>, tensor<?xf32>
    %c2, %s2, %o = qlm.dynamic_quantize %x {scheme = #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>, threshold = 6.0 : f32}
        : tensor<?x2048xf32> -> tensor<?x2048xi8>, tensor<?xf32>, tensor<?x4097xf32>
    %c3, %s3 = qlm.dynamic_quantize %x {scheme = #qlm.scheme<f8E4M3FN, row, bound 448.0, scales f32>}
        : tensor<?x2048xf32> -> tensor<?x2048xf8E4M3FN>, tensor<?xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input, Qlm_SchemeAttr:$scheme,
                       OptionalAttr<F32Attr>:$threshold);
  let results = (outs Qlm_CodeTensor:$codes, Qlm_F32Tensor:$scales,
                      Optional<Qlm_F32Tensor>:$outliers);
  let assemblyFormat = [{
    $input attr-dict `:` type($input) `->` type($codes) `,` type($scales)
    (`,` type($outliers)^)?
  }];
}

def Qlm_ObserveOp : Qlm_Op<"observe"> {
  let summary = "Shows the inputs of a linear to the calibrator";
  let description = [{
    Computes nothing. When the package runs under `qlm::calibrate`
    (`qlm/Calibrate/Calibrate.h`), the rows of `input` are counted in the
    statistics of the operation's location, "layers.0.qkv"; elsewhere it is a
    launch that does nothing.

    Constraints:
    - (C1) `input` is `[tokens, features]` f32 with known features.

    Made by `qlm-insert-observers`; Lower makes it a launch with the label
    "observe:<location>:<features>".

    ```mlir
    qlm.observe %x : tensor<?x256xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$input);
  let assemblyFormat = "$input attr-dict `:` type($input)";
}

def Qlm_QuantizedLinearOp
    : Qlm_DefinedPureOp<"quantized_linear", [AttrSizedOperandSegments]> {
  let summary = "Multiplies by a quantized weight, folding its scales";
  let description = [{
    With `G` the scheme's groups of columns, summed in f32 over groups in
    ascending order:

    - float activations:
      `result[t, n] = sum_g s[n, g] * sum_{k in g} input[t, k] *
      (codes[n, k] - z[n, g])`;
    - int8 activations with `inputScales`:
      `result[t, n] = inputScales[t] * sum_g s[n, g] *
      sum_{k in g} input[t, k] * (codes[n, k] - z[n, g])`, the inner sum exact
      in i32;
    - f8E4M3FN activations with `inputScales`, of a weight of f8E4M3FN: the
      same, the inner sum in f32 of what the codes stand for, whose products
      are exact;

    plus `bias[n]`, plus `residual[t, n]`. With `nf4` and f8E4M3FN,
    `table[codes[n, k]]` and `f32(codes[n, k])` stand for the difference.

    With `outliers` (`qlm.dynamic_quantize`), to the product with
    `inputScales[t]` is added, before the bias,

    ```
    s[n] * sum_{j < n_t} value[t, j] * (codes[n, column[t, j]] - z[n])
    ```

    where the sum is in f32 over ascending `j`: both parts are scaled once, and
    a token's result depends on no other token.

    Constraints:
    - (C1) `input` is `[tokens, inFeatures]`, f32 without and i8 or f8E4M3FN
      with `inputScales`, which are `[tokens]` f32; i8 needs a uniform scheme,
      f8E4M3FN one of f8E4M3FN.
    - (C2) `codes` is `[outFeatures, inFeatures]` of the scheme's storage
      type; `scales` and `zeroPoints` fit the scheme.
    - (C3) `bias`, if any, is `[outFeatures]`; result and `residual`, if any,
      are `[tokens, outFeatures]` f32.
    - (C4) `outliers`, if any, are `[tokens, 1 + 2 * inFeatures]` f32, and need
      i8 activations and a scheme of 8 bits by tensor or channel.

    Made by `qlm-fold-scales`; `qlm-pack-weights` turns it into
    `qlm.packed_linear`.

    ```mlir
    %y = qlm.quantized_linear %x, %c scales %s {scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : (tensor<?x256xf32>, tensor<64x256xi4>, tensor<64x2xf16>) -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins TensorOf<[F32, I8, F8E4M3FN]>:$input,
                       Optional<Qlm_F32Tensor>:$inputScales,
                       Optional<Qlm_F32Tensor>:$outliers,
                       Qlm_CodeTensor:$codes, Qlm_ScaleTensor:$scales,
                       Optional<Qlm_CodeTensor>:$zeroPoints,
                       Optional<Qlm_FloatTensor>:$bias,
                       Optional<Qlm_F32Tensor>:$residual,
                       Qlm_SchemeAttr:$scheme);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $input (`input_scales` $inputScales^)? (`outliers` $outliers^)? `,`
    $codes `scales` $scales (`zero_points` $zeroPoints^)? (`bias` $bias^)?
    (`residual` $residual^)?
    attr-dict `:` functional-type(operands, results)
  }];
}

#endif // QLM_DIALECT_QLMQUANTIZATIONOPS
