// RUN: not quant-opt %s --qlm-plan-kv-cache="max-context=65" 2>&1 | FileCheck %s --check-prefix=CONTEXT
// RUN: not quant-opt %s --qlm-plan-kv-cache="max-context=-1" 2>&1 | FileCheck %s --check-prefix=NEGATIVE
// RUN: not quant-opt %s --qlm-plan-kv-cache="max-batch=0" 2>&1 | FileCheck %s --check-prefix=BATCH
// RUN: not quant-opt %s --qlm-plan-kv-cache="max-step-tokens=-3" 2>&1 | FileCheck %s --check-prefix=TOKENS
// RUN: not quant-opt %s --qlm-plan-kv-cache="max-batch=9 max-step-tokens=8" 2>&1 | FileCheck %s --check-prefix=STEP
// RUN: not quant-opt %s --qlm-plan-kv-cache="page-tokens=24" 2>&1 | FileCheck %s --check-prefix=PAGE
// RUN: not quant-opt %s --qlm-plan-kv-cache="page-tokens=0" 2>&1 | FileCheck %s --check-prefix=ZERO
// RUN: not quant-opt %s --qlm-plan-kv-cache="kv-type=i8" 2>&1 | FileCheck %s --check-prefix=TYPE

// CONTEXT: error: max-context must not exceed the model's context length, got 65 and 64
// NEGATIVE: error: max-context must be positive, or 0 for the model's context length, got -1
// BATCH: error: max-batch must be positive, got 0
// TOKENS: error: max-step-tokens must be positive, got -3
// STEP: error: max-step-tokens must be at least max-batch, one token for each sequence, got 8 and 9
// PAGE: error: page-tokens must be a multiple of 16, got 24
// ZERO: error: page-tokens must be positive, got 0
// TYPE: error: kv-type must be f32, f16, bf16, int8 or fp8, got 'i8'
module attributes {qlm.model = {context_length = 64 : i64}} {
}
