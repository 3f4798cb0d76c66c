//===- Passes.td - Passes of the Quantize stage ------------*- tablegen -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_PASSES
#define QLM_QUANTIZE_PASSES

include "mlir/Pass/PassBase.td"

def InsertObservers : Pass<"qlm-insert-observers", "::mlir::ModuleOp"> {
  let summary = "Observes the input of each linear";
  let description = [{
    ```mlir
    %y = qlm.linear %x, %w : tensor<?x256xf32>, tensor<64x256xbf16> -> tensor<?x64xf32> loc("layers.0.q")
    ```
    becomes
    ```mlir
    qlm.observe %x : tensor<?x256xf32> loc("layers.0.q")
    %y = qlm.linear %x, %w : tensor<?x256xf32>, tensor<64x256xbf16> -> tensor<?x64xf32> loc("layers.0.q")
    ```

    Names are those that `qlm-quantize-weights` looks statistics up by: of the
    location, with a number where two linears have one.
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def MigrateScales : Pass<"qlm-migrate-scales", "::mlir::ModuleOp"> {
  let summary = "Shares ranges between the inputs of linears and their weights";
  let description = [{
    Where the inputs of linears can be divided by scales for free, multiplies
    the columns of their weights by them:

    ```mlir
    %x = qlm.rms_norm %h, %g {epsilon = 1.0e-5 : f32} : tensor<?x256xf32>, tensor<256xbf16>
    %y = qlm.linear %x, %w : tensor<?x256xf32>, tensor<64x256xbf16> -> tensor<?x64xf32>
    ```
    becomes
    ```mlir
    %s = qlm.awq_scales %w mean %m moments %c {scheme = #int4} : (tensor<64x256xbf16>, tensor<256xf32>, tensor<256x256xf32>) -> tensor<256xf32>
    %g2 = qlm.scale_rows %g by %s from 0 : tensor<256xbf16>, tensor<256xf32> -> tensor<256xf32>
    %x = qlm.rms_norm %h, %g2 {epsilon = 1.0e-5 : f32} : tensor<?x256xf32>, tensor<256xf32>
    %w2 = qlm.scale_columns %w by %s : tensor<64x256xbf16>, tensor<256xf32> -> tensor<64x256xf32>
    %y = qlm.linear %x, %w2 : tensor<?x256xf32>, tensor<64x256xf32> -> tensor<?x64xf32>
    ```

    Scales are folded into the weight of a norm, into the up projection's rows
    before a `qlm.swiglu`, and into the value projection's rows before a
    `qlm.attention`, whose heads share them where query heads share a value
    head. All linears that read one input share its scales. Other inputs are
    left alone.

    `migration=awq` searches for scales that make rounding to the scheme lose
    least, `migration=smooth` computes them (`qlm.smooth_scales`). Statistics
    are those of the linears' inputs before any migration.
  }];
  let options = [
    Option<"migration", "migration", "std::string", /*default=*/"\"none\"",
           "How scales are found: none, awq or smooth">,
    Option<"smoothing", "smoothing", "double", /*default=*/"0.5",
           "smooth: how much of an input's range goes to the weight, 0 to 1">,
    Option<"statistics", "statistics", "std::string", /*default=*/"\"\"",
           "The file of statistics that scales are found from">,
    Option<"weights", "weights", "std::string", /*default=*/"\"f32\"",
           "As in qlm-quantize-weights">,
    Option<"groupSize", "group-size", "int64_t", /*default=*/"0",
           "As in qlm-quantize-weights">,
    Option<"granularity", "granularity", "std::string",
           /*default=*/"\"default\"", "As in qlm-quantize-weights">,
    Option<"doubleQuant", "double-quant", "bool", /*default=*/"false",
           "As in qlm-quantize-weights">,
    Option<"zeroPoints", "zero-points", "bool", /*default=*/"false",
           "As in qlm-quantize-weights">,
    Option<"keepLmHead", "keep-lm-head", "bool", /*default=*/"false",
           "As in qlm-quantize-weights">,
  ];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def QuantizeWeights : Pass<"qlm-quantize-weights", "::mlir::ModuleOp"> {
  let summary = "Gives the weight of each linear its stored type";
  let description = [{
    With `weights=int8` or `weights=fp8` (a scale for each row), or
    `weights=int4` or `weights=nf4` (a scale for each `group-size` columns of
    a row), rounds the weight of each `qlm.linear` to codes and feeds the
    linear the values that the codes stand for; `granularity` changes what
    shares a scale:

    ```mlir
    %y = qlm.linear %x, %w : tensor<?x256xf32>, tensor<64x256xbf16> -> tensor<?x64xf32>
    ```
    becomes
    ```mlir
    %codes, %scales = qlm.rtn %w {scheme = #int4} : tensor<64x256xbf16> to tensor<64x256xi4>, tensor<64x2xf16>
    %values = qlm.dequantize %codes scales %scales {scheme = #int4} : tensor<64x256xi4>, tensor<64x2xf16> -> tensor<64x256xf32>
    %y = qlm.linear %x, %values : tensor<?x256xf32>, tensor<64x256xf32> -> tensor<?x64xf32>
    ```

    With `double-quant`, the scales of `weights=nf4` go through
    `qlm.quantize_scales` and `qlm.dequantize_scales`.

    With `method=gptq`, `qlm.gptq` takes the place of `qlm.rtn`, with the
    second moments of the linear's inputs from `statistics`; they are
    parameters of the file "statistics", which the module attribute
    `qlm.statistics` names.

    With `method=awq`, `qlm.clip` clamps each group first. Where
    `qlm-migrate-scales` has multiplied the weight's columns, second moments
    are divided to match (`qlm.scale_moments`).

    With `method=keep`, `qlm.keep_codes` finds the codes that a checkpoint had,
    with its scales (LABEL.scales, LABEL.zero_points) from `statistics`.

    A weight whose parameter says `qlm.kept_scheme` — the file held codes, as
    MatMulNBits does — keeps its codes with every `weights` and `method`,
    unless scales were migrated into it. Several that are joined are kept
    when their codes have as many bits and columns a scale.

    With a float type, converts the weights that have another one
    (`qlm.convert`). Norms, biases and the embedding table keep their type;
    `table-type=f32` converts the table. Linears that share a weight share its
    codes.
  }];
  let options = [
    Option<"weights", "weights", "std::string", /*default=*/"\"f32\"",
           "What the weights of linears become: f32, bf16, f16, int8, int4, "
           "nf4, fp8 or source, which leaves them as stored">,
    Option<"groupSize", "group-size", "int64_t", /*default=*/"0",
           "Columns that share a scale, with granularity group (0: 64 of nf4, "
           "else 128)">,
    Option<"granularity", "granularity", "std::string",
           /*default=*/"\"default\"",
           "What shares a scale: tensor, channel or group (default: channel of "
           "int8 and fp8, group of int4 and nf4)">,
    Option<"doubleQuant", "double-quant", "bool", /*default=*/"false",
           "Quantizes the scales of nf4 too">,
    Option<"zeroPoints", "zero-points", "bool", /*default=*/"false",
           "Gives each scale a zero point (unsigned codes)">,
    Option<"method", "method", "std::string", /*default=*/"\"rtn\"",
           "How codes are found: rtn (round to nearest), gptq, awq (clip, "
           "then round to nearest) or keep (a checkpoint's own)">,
    Option<"statistics", "statistics", "std::string", /*default=*/"\"\"",
           "The file of statistics that gptq, awq and keep need">,
    Option<"damping", "damping", "double", /*default=*/"0.01",
           "gptq: added to the second moments' diagonal, as a part of its mean">,
    Option<"blockSize", "block-size", "int64_t", /*default=*/"128",
           "gptq: columns whose errors are handed on together">,
    Option<"actOrder", "act-order", "bool", /*default=*/"false",
           "gptq: columns with the largest second moments first">,
    Option<"staticGroups", "static-groups", "bool", /*default=*/"false",
           "gptq: scales from the weight as given">,
    Option<"searchScales", "search-scales", "bool", /*default=*/"false",
           "gptq: shrinks the range of each scale where that loses less "
           "(qlm.search_scales)">,
    Option<"refine", "refine", "int64_t", /*default=*/"0",
           "gptq: how often codes and scales are gone over once more "
           "(qlm.refine)">,
    Option<"keepLmHead", "keep-lm-head", "bool", /*default=*/"false",
           "Leaves the weight of the linear that makes the logits as it is">,
    Option<"tableType", "table-type", "std::string", /*default=*/"\"source\"",
           "Element type of the embedding table: source or f32">,
  ];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def QuantizeActivations : Pass<"qlm-quantize-activations", "::mlir::ModuleOp"> {
  let summary = "Rounds the inputs of linears to what they are multiplied as";
  let description = [{
    With `activations=int8-dynamic`, rounds the input of each `qlm.linear`
    whose weight is a `qlm.dequantize` to int8, with a scale for each token:

    ```mlir
    %y = qlm.linear %x, %values : tensor<?x256xf32>, tensor<64x256xf32> -> tensor<?x64xf32>
    ```
    becomes
    ```mlir
    %codes, %scales = qlm.dynamic_quantize %x {scheme = #int8_row} : tensor<?x256xf32> -> tensor<?x256xi8>, tensor<?xf32>
    %rounded = qlm.dequantize %codes scales %scales {scheme = #int8_row} : tensor<?x256xi8>, tensor<?xf32> -> tensor<?x256xf32>
    %y = qlm.linear %rounded, %values : tensor<?x256xf32>, tensor<64x256xf32> -> tensor<?x64xf32>
    ```

    An `outlier-threshold` above 0 (LLM.int8) keeps magnitudes that reach it as
    they are; `qlm.dynamic_quantize` lists them. Weights must be of 8 bits, with
    a scale for each channel or tensor:

    ```mlir
    %codes, %scales, %outliers = qlm.dynamic_quantize %x {scheme = #int8_row, threshold = 6.0 : f32} : tensor<?x256xf32> -> tensor<?x256xi8>, tensor<?xf32>, tensor<?x513xf32>
    %rounded = qlm.dequantize %codes scales %scales outliers %outliers : tensor<?x513xf32> {scheme = #int8_row} : tensor<?x256xi8>, tensor<?xf32> -> tensor<?x256xf32>
    ```

    With `activations=fp8-dynamic`, the input of each `qlm.linear` whose weight
    is `qlm.dequantize` of f8E4M3FN becomes f8E4M3FN, with a scale for each
    token:

    ```mlir
    %codes, %scales = qlm.dynamic_quantize %x {scheme = #fp8_row} : tensor<?x256xf32> -> tensor<?x256xf8E4M3FN>, tensor<?xf32>
    ```

    With `activations=int8-static`, `qlm.static_quantize` takes the place of
    `qlm.dynamic_quantize`, with a scale from the statistics of the input:
    `range` says what of them, `minmax` (the largest magnitude), `average` (the
    range averaged over windows), `percentile` (99.99 % of magnitudes) or
    `entropy`. Where `qlm-migrate-scales` has divided the input by scales, the
    magnitudes of its columns are divided too, which `minmax` alone can be.

    With `activations=bf16`, rounds the input of each `qlm.linear` whose weight
    is bf16, as matrix instructions take it:

    ```mlir
    %y = qlm.linear %x, %w : tensor<?x256xf32>, tensor<64x256xbf16> -> tensor<?x64xf32>
    ```
    becomes
    ```mlir
    %short = qlm.convert %x : tensor<?x256xf32> to tensor<?x256xbf16>
    %rounded = qlm.convert %short : tensor<?x256xbf16> to tensor<?x256xf32>
    %y = qlm.linear %rounded, %w : tensor<?x256xf32>, tensor<64x256xbf16> -> tensor<?x64xf32>
    ```

    Linears that share an input share its codes. It is an error when no
    linear of a function has such a weight.
  }];
  let options = [
    Option<"activations", "activations", "std::string", /*default=*/"\"none\"",
           "What the inputs of linears become: none, bf16, int8-dynamic, "
           "int8-static or fp8-dynamic">,
    Option<"statistics", "statistics", "std::string", /*default=*/"\"\"",
           "The file of statistics that int8-static needs">,
    Option<"range", "range", "std::string", /*default=*/"\"minmax\"",
           "int8-static: minmax, average, percentile or entropy">,
    Option<"outlierThreshold", "outlier-threshold", "double",
           /*default=*/"0",
           "int8-dynamic: magnitudes that reach it stay f32 (0: none)">,
  ];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def FoldScales : Pass<"qlm-fold-scales", "::mlir::ModuleOp"> {
  let summary = "Moves scales out of linears, so that they multiply codes";
  let description = [{
    ```mlir
    %values = qlm.dequantize %codes scales %scales {scheme = #int4} : tensor<64x256xi4>, tensor<64x2xf16> -> tensor<64x256xf32>
    %y = qlm.linear %x, %values : tensor<?x256xf32>, tensor<64x256xf32> -> tensor<?x64xf32>
    ```
    becomes
    ```mlir
    %y = qlm.quantized_linear %x, %codes scales %scales {scheme = #int4} : (tensor<?x256xf32>, tensor<64x256xi4>, tensor<64x2xf16>) -> tensor<?x64xf32>
    ```

    Where the input is the `qlm.dequantize` of codes with a scale for each
    token, the codes become the input and the scales `input_scales`. Bias and
    residual are carried over. A `qlm.dequantize` without users goes away.
  }];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

def PackWeights : Pass<"qlm-pack-weights", "::mlir::ModuleOp"> {
  let summary = "Orders the operands of linears as the kernels read them";
  let description = [{
    Turns each `qlm.linear` and `qlm.quantized_linear` into
    `qlm.packed_linear`, with parameters through `qlm.pack`:

    ```mlir
    %y = qlm.quantized_linear %x, %codes scales %scales {scheme = #int4} : (tensor<?x256xf32>, tensor<64x256xi4>, tensor<64x2xf16>) -> tensor<?x64xf32> loc("layers.0.q")
    ```
    becomes
    ```mlir
    %weight = qlm.pack %codes {layout = #qlm.layout<i4x16x8>, name = "layers.0.q.weight"} : tensor<64x256xi4> to tensor<4x32x64xi8>
    %packed = qlm.pack %scales {layout = #qlm.layout<scale16>, name = "layers.0.q.scales"} : tensor<64x2xf16> to tensor<4x2x16xf16>
    %y = qlm.packed_linear %x, %weight scales %packed {inFeatures = 256, outFeatures = 64, layout = #qlm.layout<i4x16x8>, scheme = #int4} : (tensor<?x256xf32>, tensor<4x32x64xi8>, tensor<4x2x16xf16>) -> tensor<?x64xf32>
    ```

    A tensor's key is the name of the linear's location and `.weight`,
    `.scales`, `.zero_points` or `.bias`; where two linears have one name, or
    one has none, a counter makes the keys distinct. Linears that share a
    parameter share the packed one. Norm weights are converted to f32 and not
    packed. Sets `qlm.stage` to "quantize".

    With `target=cuda` weights get the layouts of GPUs (`frag4` and so on).
  }];
  let options = [
    Option<"target", "target", "std::string", /*default=*/"\"cpu\"",
           "What reads the packed weights: cpu or cuda">,
  ];
  let dependentDialects = ["::mlir::qlm::QlmDialect"];
}

#endif // QLM_QUANTIZE_PASSES
