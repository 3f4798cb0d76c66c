//===- QlmAttrs.td - Attributes of the qlm dialect ---------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_DIALECT_QLMATTRS
#define QLM_DIALECT_QLMATTRS

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "qlm/Dialect/QlmDialect.td"

class Qlm_Attr<string name, string attrMnemonic, list<Trait> traits = []>
    : AttrDef<Qlm_Dialect, name, traits> {
  let mnemonic = attrMnemonic;
}

def Qlm_Granularity : I32EnumAttr<"Granularity",
    "how many values share one scale", [
      I32EnumAttrCase<"Tensor", 0, "tensor">,
      I32EnumAttrCase<"Channel", 1, "channel">,
      I32EnumAttrCase<"Group", 2, "group">,
      I32EnumAttrCase<"Row", 3, "row">]> {
  let cppNamespace = "::mlir::qlm";
  let genSpecializedAttr = 0;
}

def Qlm_Codebook : I32EnumAttr<"Codebook", "what a code stands for", [
      I32EnumAttrCase<"Uniform", 0, "uniform">,
      I32EnumAttrCase<"NF4", 1, "nf4">,
      I32EnumAttrCase<"Float8", 2, "float8">]> {
  let cppNamespace = "::mlir::qlm";
  let genSpecializedAttr = 0;
}

def Qlm_SchemeAttr : Qlm_Attr<"Scheme", "scheme"> {
  let summary = "how real numbers are stored as small ones";
  let description = [{
    Quantization of a matrix `[rows, columns]`:

    - uniform: `real = (code - zeroPoint) * scale`;
    - `nf4`: `real = table[code] * scale`, the table NormalFloat4
      (`qlm/Package/Tables.h`);
    - of a float storage type: `real = f32(code) * scale`.

    - `storage`: element type of the codes: `i8`, `i4` (signed) or `ui8`,
      `ui4` (with zero points); `ui4` of `nf4`; `f8E4M3FN`.
    - `granularity`: `tensor` (one scale), `channel` (one per row: `[rows]`),
      `group` (`groupSize` consecutive columns of a row share a scale:
      `[rows, columns / groupSize]`), or `row` (activations: one per token,
      found at run time).
    - `zeroPoints`: whether codes are asymmetric. Zero points have the
      storage type and the shape of the scales.
    - `lo`, `hi`: the codes' range after clamping.
    - `bound`: a symmetric scale is `absmax / bound`. The convention is part
      of the scheme because it changes accuracy: `127` for int8, `7.5` for
      int4 (the full range `[-8, 7]`, as GPTQ does), 448 for f8E4M3FN. A scale
      of `nf4` is the absmax itself.
    - `scaleType`: `f32` or `f16`; scales are rounded to it before codes are
      computed.

    Rounding is half to even; a group of zeros has scale 0 and codes equal to
    its zero point, 0 (7, the table's 0, with `nf4`).

    Scales may be quantized themselves, which takes operations of their own:
    `qlm.quantize_scales` and `qlm.dequantize_scales`.

    Examples:
    ```mlir
    #qlm.scheme<i4, group, 128, range [-8, 7], bound 7.5, scales f16>
    #qlm.scheme<ui4, group, 64, zero_points, range [0, 15], scales f16>
    #qlm.scheme<i8, channel, range [-127, 127], bound 127.0, scales f32>
    #qlm.scheme<i8, row, range [-127, 127], bound 127.0, scales f32>
    #qlm.scheme<ui8, tensor, zero_points, range [0, 255], scales f32>
    #qlm.scheme<ui4, group, 64, nf4, scales f32>
    #qlm.scheme<f8E4M3FN, channel, bound 448.0, scales f32>
    #qlm.scheme<f8E4M3FN, row, bound 448.0, scales f32>
    ```
  }];
  let parameters = (ins
    "::mlir::Type":$storage,
    "::mlir::qlm::Granularity":$granularity,
    "int64_t":$groupSize,
    "bool":$zeroPoints,
    "int64_t":$lo,
    "int64_t":$hi,
    APFloatParameter<"the divisor of absmax, f64">:$bound,
    "::mlir::Type":$scaleType,
    DefaultValuedParameter<"::mlir::qlm::Codebook",
                           "::mlir::qlm::Codebook::Uniform">:$codebook
  );
  let builders = [
    /// A uniform scheme.
    AttrBuilder<(ins "::mlir::Type":$storage,
                     "::mlir::qlm::Granularity":$granularity,
                     "int64_t":$groupSize, "bool":$zeroPoints, "int64_t":$lo,
                     "int64_t":$hi, "::llvm::APFloat":$bound,
                     "::mlir::Type":$scaleType), [{
      return $_get($_ctxt, storage, granularity, groupSize, zeroPoints, lo, hi,
                   bound, scaleType, ::mlir::qlm::Codebook::Uniform);
    }]>,
  ];
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// Whether codes are integers whose products add up exactly.
    bool isUniform() const { return getCodebook() == Codebook::Uniform; }
    /// Bits of one stored code: 4 or 8.
    unsigned getBits() const { return getStorage().getIntOrFloatBitWidth(); }
    /// Columns that share a scale in rows of \p columns columns.
    int64_t getColumnsPerScale(int64_t columns) const {
      return getGranularity() == Granularity::Group ? getGroupSize() : columns;
    }
    /// The divisor of the largest magnitude in a symmetric scale.
    double getBoundValue() const { return getBound().convertToDouble(); }
    /// Shape of the scales (and zero points) of a [rows, columns] matrix.
    ::llvm::SmallVector<int64_t> getScaleShape(int64_t rows,
                                               int64_t columns) const;
    /// The scheme's name in commands and files: "int8", "int4-g128",
    /// "int4-g64-zp", "nf4-g64", "fp8".
    std::string getName() const;
  }];
}

def Qlm_LayoutKind : I32EnumAttr<"LayoutKind", "order of packed weights", [
      I32EnumAttrCase<"Float32", 0, "f32x16">,
      I32EnumAttrCase<"BFloat16", 1, "bf16x16x2">,
      I32EnumAttrCase<"Float16", 2, "f16x16">,
      I32EnumAttrCase<"Int8", 3, "i8x16x4">,
      I32EnumAttrCase<"Int4", 4, "i4x16x8">,
      I32EnumAttrCase<"Scale", 5, "scale16">,
      I32EnumAttrCase<"ZeroPoint", 6, "zero16">,
      I32EnumAttrCase<"Bias", 7, "bias">,
      I32EnumAttrCase<"Float8", 8, "f8x16x4">,
      I32EnumAttrCase<"ScaleCode", 9, "scale8">,
      I32EnumAttrCase<"Plain", 10, "plain">,
      // Of GPUs; numbers are those of qlm::numerics::Layout.
      I32EnumAttrCase<"Fragment16", 32, "frag16">,
      I32EnumAttrCase<"Fragment8", 33, "frag8">,
      I32EnumAttrCase<"Fragment8x8", 34, "frag8x8">,
      I32EnumAttrCase<"Fragment4", 35, "frag4">]> {
  let cppNamespace = "::mlir::qlm";
  let genSpecializedAttr = 0;
}

def Qlm_LayoutAttr : Qlm_Attr<"Layout", "layout"> {
  let summary = "the order of a weight's bytes in a package";
  let description = [{
    Rows (output features) are taken in blocks of 16, so that a 512-bit vector
    holds the same column of 16 rows; rows and columns are padded with zeros.
    `frag…` are for GPUs: a line of 512 bytes is what a warp's lanes hand to the
    tensor cores. One order serves GEMV and GEMM. The formulas are in
    `docs/design/packed-layouts.md` and `qlm/Package/Format.h`.
  }];
  let parameters = (ins "::mlir::qlm::LayoutKind":$kind);
  let assemblyFormat = "`<` $kind `>`";
}

def Qlm_ArgSpace : I32EnumAttr<"ArgSpace", "where a launch's buffer lives", [
      I32EnumAttrCase<"Weight", 0, "weight">,
      I32EnumAttrCase<"Arena", 1, "arena">,
      I32EnumAttrCase<"Step", 2, "step">,
      I32EnumAttrCase<"Cache", 3, "cache">,
      I32EnumAttrCase<"Logits", 4, "logits">,
      I32EnumAttrCase<"Workspace", 5, "workspace">,
      I32EnumAttrCase<"Sampling", 6, "sampling">,
      I32EnumAttrCase<"Sampled", 7, "sampled">]> {
  let cppNamespace = "::mlir::qlm";
  let genSpecializedAttr = 0;
}

def Qlm_ArgAttr : Qlm_Attr<"Arg", "arg"> {
  let summary = "one buffer of a launch";
  let description = [{
    - `weight i`: the launch's i-th operand, a parameter program's result;
    - `arena o`: byte offset `o` in the activation arena;
    - `step i`: the i-th step argument (`qlm::format::StepArgument`);
    - `cache l`: the pages of layer `l`;
    - `logits`: the step's result, float32 `[logit rows, vocabulary]`;
    - `workspace o`: byte offset `o` in a GPU's workspace, zero before the first
      step; kernels leave zeros where they count;
    - `sampling`, `sampled`: of `@sample`, how tokens are to be chosen and what
      was chosen (`qlm::format::SampleRequest`, `SampleResult`).
  }];
  let parameters = (ins
    "::mlir::qlm::ArgSpace":$space,
    DefaultValuedParameter<"int64_t", "0">:$value
  );
  let assemblyFormat = "`<` $space (`,` $value^)? `>`";
}

def Qlm_SizeKind : I32EnumAttr<"SizeKind", "a size known only at run time", [
      I32EnumAttrCase<"One", 0, "one">,
      I32EnumAttrCase<"Tokens", 1, "tokens">,
      I32EnumAttrCase<"Sequences", 2, "sequences">,
      I32EnumAttrCase<"LogitRows", 3, "logit_rows">]> {
  let cppNamespace = "::mlir::qlm";
  let genSpecializedAttr = 0;
}

def Qlm_SizeKindAttr : EnumAttr<Qlm_Dialect, Qlm_SizeKind, "size"> {
  let assemblyFormat = "$value";
}

def Qlm_TilesAttr : Qlm_Attr<"Tiles", "tiles"> {
  let summary = "how many tiles a launch has";
  let description = [{
    `count * ceil(size / block)`, where `size` is a size of the step
    (`one` is 1). `#qlm.tiles<128 * one, block 1>`, `#qlm.tiles<4 * tokens, block 1>`.
  }];
  let parameters = (ins
    "int64_t":$count,
    "::mlir::qlm::SizeKind":$size,
    "int64_t":$block
  );
  let assemblyFormat = "`<` $count `*` $size `,` `block` $block `>`";
}

def Qlm_VariantAttr : Qlm_Attr<"Variant", "variant"> {
  let summary = "one way to run a launch on a GPU";
  let description = [{
    The first variant of a launch that fits a step is run: `kernel` lies in a
    `gpu.module` for the GPU's chip, `maxRows` is at least the rows of the
    step (or of the bucket that a captured step stands for), and a
    `decodeOnly` one needs a step in which each sequence has one row.

    - `grid`, `gridY`: thread blocks along x and y (1 if absent), for the
      largest sizes of the bucket;
    - `blockThreads`: threads of a block; `sharedBytes`: its dynamic shared
      memory; `cluster`: blocks of a cluster along x;
    - `dependent`: the kernel may begin before the launch before it ends
      (programmatic dependent launch); it waits itself
      (`griddepcontrol.wait`).

    ```mlir
    #qlm.variant<kernel = @kernels_sm_90a::@rms_norm, maxRows = 512, grid = <1 * tokens, block 1>, blockThreads = 256>
    ```
  }];
  let parameters = (ins
    "::mlir::SymbolRefAttr":$kernel,
    "int64_t":$maxRows,
    "::mlir::qlm::TilesAttr":$grid,
    OptionalParameter<"::mlir::qlm::TilesAttr">:$gridY,
    "int64_t":$blockThreads,
    DefaultValuedParameter<"int64_t", "0">:$sharedBytes,
    DefaultValuedParameter<"int64_t", "1">:$cluster,
    DefaultValuedParameter<"bool", "false">:$dependent,
    DefaultValuedParameter<"bool", "false">:$decodeOnly
  );
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
}

#endif // QLM_DIALECT_QLMATTRS
