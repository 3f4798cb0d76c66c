// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int5" 2>&1 | FileCheck %s --check-prefix=WEIGHTS
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int4 group-size=96" 2>&1 | FileCheck %s --check-prefix=DIVIDE
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=nf4 granularity=channel" 2>&1 | FileCheck %s --check-prefix=NF4
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int8 granularity=row" 2>&1 | FileCheck %s --check-prefix=ROW
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=fp8 zero-points" 2>&1 | FileCheck %s --check-prefix=FP8ZERO
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int4 double-quant" 2>&1 | FileCheck %s --check-prefix=DOUBLE
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=nf4 activations=int8-dynamic" 2>&1 | FileCheck %s --check-prefix=NF4INT8
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int4 group-size=-32" 2>&1 | FileCheck %s --check-prefix=NEGATIVE
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int4 method=gptq" 2>&1 | FileCheck %s --check-prefix=METHOD
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int4 method=gptq statistics=s refine=101" 2>&1 | FileCheck %s --check-prefix=REFINE
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int4 method=best" 2>&1 | FileCheck %s --check-prefix=UNKNOWN
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int4 method=keep" 2>&1 | FileCheck %s --check-prefix=KEEP
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=nf4 method=keep statistics=s" 2>&1 | FileCheck %s --check-prefix=KEEPNF4
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int8 activations=int8-static" 2>&1 | FileCheck %s --check-prefix=STATIC
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int8 activations=int8-static statistics=s range=best" 2>&1 | FileCheck %s --check-prefix=RANGE
// RUN: not quant-opt %s --qlm-quantize-pipeline="table-type=f8" 2>&1 | FileCheck %s --check-prefix=TABLE
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=bf16 zero-points" 2>&1 | FileCheck %s --check-prefix=ZERO
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int8 activations=int4" 2>&1 | FileCheck %s --check-prefix=ACTIVATIONS
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=bf16 activations=int8-dynamic" 2>&1 | FileCheck %s --check-prefix=FLOATS
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int8 keep-lm-head activations=int8-dynamic" 2>&1 | FileCheck %s --check-prefix=HEAD
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int8 activations=fp8-dynamic" 2>&1 | FileCheck %s --check-prefix=FP8INT8
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=fp8 activations=int8-dynamic" 2>&1 | FileCheck %s --check-prefix=INT8FP8
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=fp8 activations=fp8-dynamic outlier-threshold=6" 2>&1 | FileCheck %s --check-prefix=FP8WIDE
// RUN: not quant-opt %s --qlm-quantize-pipeline="weights=int8 activations=bf16" 2>&1 | FileCheck %s --check-prefix=SHORT

// WEIGHTS: error: weights must be f32, bf16, f16, int8, int4, nf4, fp8 or source, got 'int5'
// DIVIDE: error: {{.*}}group size must divide the columns, got 96 and 128 in lm_head (64x128)
// NF4: error: weights=nf4 needs granularity=group, got 'channel'
// ROW: error: granularity must be tensor, channel or group, got 'row'
// FP8ZERO: error: zero-points needs weights=int8 or weights=int4, got 'fp8'
// DOUBLE: error: double-quant needs weights=nf4, got 'int4'
// NF4INT8: error: {{.*}}activations=int8-dynamic needs weights of integer codes, got nf4-g64 in lm_head
// NEGATIVE: error: group-size must be positive, got -32
// REFINE: error: refine must be from 0 to 100, got 101
// METHOD: error: method=gptq needs statistics of a calibration
// UNKNOWN: error: method must be rtn, gptq, awq or keep, got 'best'
// KEEP: error: method=keep needs a checkpoint's scales as statistics
// KEEPNF4: error: method=keep needs weights int4, int8 or fp8, got 'nf4', whose codes rounding finds again
// STATIC: error: activations=int8-static needs statistics of a calibration
// RANGE: error: range must be minmax, average, percentile or entropy, got 'best'
// TABLE: error: table-type must be source or f32, got 'f8'
// ZERO: error: zero-points needs weights=int8 or weights=int4, got 'bf16'
// ACTIVATIONS: error: activations must be none, bf16, int8-dynamic, int8-static or fp8-dynamic, got 'int4'
// FP8INT8: error: {{.*}}activations=fp8-dynamic needs weights of f8E4M3FN, got int8 in lm_head
// FP8INT8: note: {{.*}}choose weights=fp8, or activations=none
// INT8FP8: error: {{.*}}activations=int8-dynamic needs weights of integer codes, got fp8 in lm_head
// FP8WIDE: error: outlier-threshold needs activations=int8-dynamic, got fp8-dynamic
// FLOATS: error: {{.*}}activations=int8-dynamic needs weights of integer codes, got bf16 in lm_head
// FLOATS: note: {{.*}}choose weights=int8 or weights=int4, or activations=none
// SHORT: error: {{.*}}activations=bf16 needs bf16 weights, got int8 in lm_head
// SHORT: note: {{.*}}choose weights=bf16, or activations=none
// HEAD: error: {{.*}}activations=int8-dynamic needs weights of integer codes, got bf16 in lm_head

qlm.parameter @w : tensor<64x128xbf16> from "m.safetensors" key "w"

func.func @forward(%x: tensor<?x128xf32>) -> tensor<?x64xf32> {
  %w = qlm.load @w : tensor<64x128xbf16>
  %y = qlm.linear %x, %w : tensor<?x128xf32>, tensor<64x128xbf16> -> tensor<?x64xf32> loc("lm_head")
  return %y : tensor<?x64xf32>
}
