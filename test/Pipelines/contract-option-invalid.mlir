// RUN: quant-opt %s --split-input-file --verify-diagnostics --qlm-verify-contract=after=training

// expected-error@+1 {{after must be import, optimize, quantize or lower, got 'training'}}
module {
}
