//===- QlmParameterOps.td - Weights outside the IR ---------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMPARAMETEROPS
#define QLM_DIALECT_QLMPARAMETEROPS

def Qlm_ParameterOp : Qlm_Op<"parameter", [Symbol]> {
  let summary = "Names a tensor of an archive";
  let description = [{
    A weight that stays in its file. `file` is relative to the model's folder,
    which the module attribute `qlm.source` holds; `key` is the tensor's name
    in that file. The symbol's name is the model's own name of the weight.

    Constraints:
    - (C1) `type` is a ranked, static tensor of f32, f16 or bf16.
    - (C2) `file` is a plain relative path: not absolute, without `..`.

    Made by Import; stays until Package.

    ```mlir
    qlm.parameter @model.norm.weight : tensor<2048xbf16> from "model.safetensors" key "model.norm.weight"
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttr:$type,
                       StrAttr:$file, StrAttr:$key);
  let assemblyFormat = [{
    $sym_name `:` $type `from` $file `key` $key attr-dict
  }];
}

def Qlm_LoadOp : Qlm_Op<"load",
    [Pure, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "The value of a parameter";
  let description = [{
    Constraints:
    - (C1) `parameter` names a `qlm.parameter`.
    - (C2) the result's type is the parameter's.

    ```mlir
    %w = qlm.load @model.norm.weight : tensor<2048xbf16>
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$parameter);
  let results = (outs AnyStaticShapeTensor:$result);
  let assemblyFormat = "$parameter attr-dict `:` type($result)";
  let hasVerifier = 0;
}

def Qlm_ConvertOp : Qlm_DefinedPureOp<"convert"> {
  let summary = "Rounds or extends floating-point values";
  let description = [{
    `result[i] = element type(operand[i])`, half to even. Of parameters, and of
    activations that a linear takes as bf16.

    Constraints:
    - (C1) operand and result have the same shape.
    - (C2) element types are f32, f16 or bf16.

    ```mlir
    %1 = qlm.convert %0 : tensor<4x8xbf16> to tensor<4x8xf32>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$input);
  let results = (outs Qlm_FloatTensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `to` type($result)";
}

def Qlm_RopeTableOp : Qlm_DefinedPureOp<"rope_table"> {
  let summary = "Tabulates the cosines and sines of rotary embedding";
  let description = [{
    `result[p, i, 0] = cos(a)`, `result[p, i, 1] = sin(a)` where
    `a = f32(p) * inverseFrequencies[i]` is rounded to f32 and the cosine and
    sine are computed in f64 and rounded to f32.

    Constraints:
    - (C1) `inverseFrequencies` is `[headDim / 2]` f32.
    - (C2) the result is `[contextLength, headDim / 2, 2]` f32.

    Made by Lower from the frequencies of `qlm.rope`, so that a step computes
    no trigonometry.

    ```mlir
    %t = qlm.rope_table %f : tensor<32xf32> to tensor<2048x32x2xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$inverseFrequencies);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $inverseFrequencies attr-dict `:` type($inverseFrequencies) `to`
    type($result)
  }];
}

def Qlm_RtnOp : Qlm_DefinedPureOp<"rtn"> {
  let summary = "Quantizes a weight, rounding each value to the nearest code";
  let description = [{
    With `g` the group of columns that share a scale (all of them for
    `channel`, all rows too for `tensor`), in f32:

    - symmetric: `scale = scaleType(max|w_g| / bound)`,
      `code = clamp(round(w / scale), lo, hi)`;
    - `nf4`: `scale = max|w_g|`, and the code is the number of bounds
      `(table[i] + table[i + 1]) / 2` below `w * (1 / max(scale, 1e-38))`;
    - f8E4M3FN: `scale = max|w_g| / bound`, and the code is `w / scale` rounded
      to f8E4M3FN, half to even, at most 448 in magnitude;
    - with zero points: `a = min(0, min w_g)`, `b = max(0, max w_g)`,
      `scale = scaleType((b - a) / hi)`,
      `zeroPoint = clamp(round(-a / scale), 0, hi)`,
      `code = clamp(round(w / scale) + zeroPoint, 0, hi)`;
    - where `scale` is 0, codes and zero point are 0 (the codes of `nf4`: 7,
      the table's 0).

    Rounding is half to even; `w / scale` divides by the rounded scale.

    Constraints:
    - (C1) the weight is a static matrix `[rows, columns]`.
    - (C2) the group size divides the columns.
    - (C3) codes have the weight's shape and the scheme's storage type; scales
      (and zero points, if the scheme has them) have the scheme's scale shape
      and types.

    Made and kept by Quantize; evaluated by Package.

    ```mlir
    %c, %s = qlm.rtn %w {scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : tensor<64x256xbf16> to tensor<64x256xi4>, tensor<64x2xf16>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$weight, Qlm_SchemeAttr:$scheme);
  let results = (outs Qlm_CodeTensor:$codes, Qlm_ScaleTensor:$scales,
                      Optional<Qlm_CodeTensor>:$zeroPoints);
  let assemblyFormat = [{
    $weight attr-dict `:` type($weight) `to` type($codes) `,` type($scales)
    (`,` type($zeroPoints)^)?
  }];
}

def Qlm_GptqOp : Qlm_Op<"gptq", [Pure]> {
  let summary = "Quantizes a weight, making up for the error of each column";
  let description = [{
    GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1). With
    `H = secondMoments + damping * mean(diag) * I` and the upper triangular `U`
    with `UᵀU = H⁻¹`, for the columns k in order:

    - where a group begins, its scale and zero point are found as `qlm.rtn`
      finds them, from the weight as it is by then;
    - `codes[:, k]` are those of `w[:, k]`, `v` what they stand for;
    - `w[:, j] -= (w[:, k] - v) / U[k, k] * U[k, j]` for the columns j after k.

    A column whose second moment is 0 becomes 0 first. With `actOrder`, columns
    with the largest second moments come first, and scales are those of the
    weight as given, as they also are with `staticGroups`; groups are columns
    side by side always. Where H is not positive definite, the damping is
    raised tenfold, up to 1.

    Constraints:
    - (C1) `weight` is a static matrix `[rows, columns]`, and `secondMoments`
      `[columns, columns]` f32.
    - (C2) results are as those of `qlm.rtn`; the scheme is by channel or by
      group.
    - (C3) `damping` is not negative, `blockSize` positive.

    Made by `qlm-quantize-weights`; evaluated by Package, with
    `qlm/Quantize/Gptq.h`.

    ```mlir
    %c, %s = qlm.gptq %w, %h {scheme = #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>}
        : tensor<64x256xbf16>, tensor<256x256xf32> to tensor<64x256xi4>, tensor<64x2xf16>
    ```
  }];
  let arguments = (ins Qlm_FloatTensor:$weight, Qlm_F32Tensor:$secondMoments,
                       Qlm_SchemeAttr:$scheme,
                       DefaultValuedAttr<F64Attr, "0.01">:$damping,
                       DefaultValuedAttr<I64Attr, "128">:$blockSize,
                       UnitAttr:$actOrder, UnitAttr:$staticGroups);
  let results = (outs Qlm_CodeTensor:$codes, Qlm_ScaleTensor:$scales,
                      Optional<Qlm_CodeTensor>:$zeroPoints);
  let assemblyFormat = [{
    $weight `,` $secondMoments attr-dict `:` type($weight) `,`
    type($secondMoments) `to` type($codes) `,` type($scales)
    (`,` type($zeroPoints)^)?
  }];
}

def Qlm_QuantizeScalesOp : Qlm_DefinedPureOp<"quantize_scales"> {
  let summary = "Quantizes the scales of a weight: double quantization";
  let description = [{
    Blocks of 256 scales, in row-major order, share a scale of their own
    (the last block may be shorter). In f32, with the dynamic map of 8 bits
    (`qlm/Package/Tables.h`):

    - `offset` is the mean of all scales, summed in f64 and rounded to f32;
    - `absmax_b = max|scale - offset|` of block b;
    - `codes = number of bounds (map[i] + map[i + 1]) / 2 below
      (scale - offset) * (1 / max(absmax_b, 1e-38))`;
    - `super` is `[offset, absmax_0, absmax_1, ...]`.

    Source: "QLoRA" (arXiv 2305.14314), section 3, as bitsandbytes does it.

    Constraints:
    - (C1) `scales` is static, `[rows, groups]`, f32; `codes` has its shape.
    - (C2) `super` is `[1 + ceil(rows * groups / 256)]` f32.

    Made by `qlm-quantize-weights`; evaluated by Package.

    ```mlir
    %c, %t = qlm.quantize_scales %s : tensor<64x4xf32> to tensor<64x4xui8>, tensor<2xf32>
    ```
  }];
  let arguments = (ins Qlm_F32Tensor:$scales);
  let results = (outs TensorOf<[UI8]>:$codes, Qlm_F32Tensor:$super);
  let assemblyFormat = [{
    $scales attr-dict `:` type($scales) `to` type($codes) `,` type($super)
  }];
}

def Qlm_DequantizeScalesOp : Qlm_DefinedPureOp<"dequantize_scales"> {
  let summary = "Turns codes of scales back into scales";
  let description = [{
    `result[i] = map[codes[i]] * absmax_b + offset` in f32, the product
    rounded before the sum, with `b` the block of 256 of element i.

    Constraints:
    - (C1) `codes` is static, `[rows, groups]`; the result has its shape.
    - (C2) `super` is `[1 + ceil(rows * groups / 256)]` f32.

    Made by `qlm-quantize-weights`; `qlm-pack-weights` hands the codes to
    `qlm.packed_linear`.

    ```mlir
    %s = qlm.dequantize_scales %c, %t : tensor<64x4xui8>, tensor<2xf32> to tensor<64x4xf32>
    ```
  }];
  let arguments = (ins TensorOf<[UI8]>:$codes, Qlm_F32Tensor:$super);
  let results = (outs Qlm_F32Tensor:$result);
  let assemblyFormat = [{
    $codes `,` $super attr-dict `:` type($codes) `,` type($super) `to`
    type($result)
  }];
}

def Qlm_PackOp : Qlm_DefinedPureOp<"pack"> {
  let summary = "Orders a weight's values as the kernels read them";
  let description = [{
    `name` is the tensor's key in the package's `weights.safetensors`.

    Constraints:
    - (C1) the input's rank and element type fit the layout: a float or code
      matrix, scales or zero points `[rows]` or `[rows, groups]`, or a bias
      `[rows]`.
    - (C2) the result's shape and type are `getPackedType(input, layout)`; one
      scale or zero point `[1]`, of a whole tensor, may be repeated for any
      number of blocks.

    Made by Quantize, last; evaluated by Package.

    ```mlir
    %p = qlm.pack %c {layout = #qlm.layout<i4x16x8>, name = "layers.0.qkv.codes"}
        : tensor<64x256xi4> to tensor<4x32x64xi8>
    ```
  }];
  let arguments = (ins AnyStaticShapeTensor:$input, Qlm_LayoutAttr:$layout,
                       StrAttr:$name);
  let results = (outs AnyStaticShapeTensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `to` type($result)";
}

#endif // QLM_DIALECT_QLMPARAMETEROPS
