// RUN: quant-opt %s -verify-diagnostics --qlm-lower-kernels-to-llvm

// expected-error @+1 {{module has no module @kernels; run qlm-emit-cpu-kernels first}}
module {
}
