// RUN: quant-opt %s -split-input-file -verify-diagnostics

// One case a constraint, in the order of QlmAttrs.cpp.

// expected-error @+1 {{storage must be i8, i4, ui8, ui4 or f8E4M3FN, got 'i16'}}
func.func @f() attributes {s = #qlm.scheme<i16, channel, range [-127, 127], bound 127.0, scales f32>} {
  return
}

// -----

// expected-error @+1 {{zero points need unsigned storage}}
func.func @f() attributes {s = #qlm.scheme<i4, channel, zero_points, range [0, 7], scales f32>} {
  return
}

// -----

// expected-error @+1 {{range must lie in [-8, 7] and hold 0, got [-9, 7]}}
func.func @f() attributes {s = #qlm.scheme<i4, channel, range [-9, 7], bound 7.5, scales f32>} {
  return
}

// -----

// expected-error @+1 {{group size must be positive, got 0}}
func.func @f() attributes {s = #qlm.scheme<i4, group, 0, range [-8, 7], bound 7.5, scales f32>} {
  return
}

// -----

// expected-error @+1 {{bound must be positive}}
func.func @f() attributes {s = #qlm.scheme<i4, channel, range [-8, 7], bound -1.0, scales f32>} {
  return
}

// -----

// expected-error @+1 {{scales must be f32 or f16, got 'bf16'}}
func.func @f() attributes {s = #qlm.scheme<i4, channel, range [-8, 7], bound 7.5, scales bf16>} {
  return
}

// -----

// expected-error @+1 {{unknown granularity 'rows', expected tensor, channel, group or row}}
func.func @f() attributes {s = #qlm.scheme<i4, rows, range [-8, 7], bound 7.5, scales f16>} {
  return
}

// -----

// expected-error @+1 {{storage must be ui4 with nf4, got 'i4'}}
func.func @f() attributes {s = #qlm.scheme<i4, group, 64, nf4, scales f32>} {
  return
}

// -----

// expected-error @+1 {{storage must be i8, i4, ui8, ui4 or f8E4M3FN, got 'bf16'}}
func.func @f() attributes {s = #qlm.scheme<bf16, channel, bound 448.0, scales f32>} {
  return
}

// -----

// expected-error @+1 {{zero points need a uniform scheme}}
func.func @f() attributes {s = #qlm.scheme<ui4, group, 64, zero_points, nf4, scales f32>} {
  return
}

// -----

// expected-error @+1 {{a scheme by row is of activations and has no table}}
func.func @f() attributes {s = #qlm.scheme<ui4, row, nf4, scales f32>} {
  return
}
