// RUN: quant-opt --split-input-file --verify-diagnostics --qlm-assemble-kernels %s

// expected-error @below {{module has no gpu.module}}
module {
}

// -----

// expected-error @below {{the GPU kernels have no qlm.chip: they have not gone through Lower}}
module {
  gpu.module @kernels {
  }
}

// -----

// expected-error @below {{kernels must not call library functions, got __nv_expf}}
module {
  gpu.module @kernels attributes {qlm.chip = "sm_90a"} {
    llvm.func @__nv_expf(f32) -> f32
    llvm.func @k(%x: !llvm.ptr<1>) attributes {nvvm.kernel} {
      %v = llvm.load %x : !llvm.ptr<1> -> f32
      %e = llvm.call @__nv_expf(%v) : (f32) -> f32
      llvm.store %e, %x : f32, !llvm.ptr<1>
      llvm.return
    }
  }
}
