// RUN: quant-opt %s -split-input-file -verify-diagnostics

// One case a constraint, in the order of ModelVerifiers.cpp.

func.func @f(%t: tensor<?xi32>, %x: tensor<9x4xf32>) {
  // expected-error @+1 {{result's features must be the table's columns, got 5 and 4}}
  %0 = qlm.embedding %t, %x : tensor<?xi32>, tensor<9x4xf32> -> tensor<?x5xf32>
  return
}

// -----

func.func @f(%x: tensor<?x4xf32>, %w: tensor<3x5xf32>) {
  // expected-error @+1 {{input's features must be the weight's columns, got 4 and 5}}
  %0 = qlm.linear %x, %w : tensor<?x4xf32>, tensor<3x5xf32> -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x5xf32>, %w: tensor<3x5xf32>, %b: tensor<4xf32>) {
  // expected-error @+1 {{bias size must be the weight's rows, got 4 and 3}}
  %0 = qlm.linear %x, %w bias %b : tensor<4xf32> : tensor<?x5xf32>, tensor<3x5xf32> -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x5xf32>, %w: tensor<3x5xf32>, %b: tensor<?x5xf32>) {
  // expected-error @+1 {{residual must have the result's type}}
  %0 = qlm.linear %x, %w residual %b : tensor<?x5xf32> : tensor<?x5xf32>, tensor<3x5xf32> -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x5xf32>, %w: tensor<5xf32>) {
  // expected-error @+1 {{epsilon must be positive, got 0}}
  %0 = qlm.rms_norm %x, %w {epsilon = 0.0 : f32} : tensor<?x5xf32>, tensor<5xf32>
  return
}

// -----

func.func @f(%x: tensor<?x5xf32>, %w: tensor<4xf32>) {
  // expected-error @+1 {{weight size must be the input's features, got 4 and 5}}
  %0 = qlm.rms_norm %x, %w {epsilon = 1.0 : f32} : tensor<?x5xf32>, tensor<4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %p: tensor<?xi32>, %f: tensor<3xf32>) {
  // expected-error @+1 {{head size must divide the features, got 6 and 16}}
  %0 = qlm.rope %x, %p, %f : tensor<?x16xf32>, tensor<?xi32>, tensor<3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %k: tensor<?x12xf32>) {
  // expected-error @+1 {{kv_heads must divide heads, got 3 and 4}}
  %0 = qlm.attention %x, %k, %k heads 4 kv_heads 3 scale 1.0 : tensor<?x16xf32>, tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>) {
  // expected-error @+1 {{heads must divide the query's features, got 5 and 16}}
  %0 = qlm.attention %x, %x, %x heads 5 kv_heads 5 scale 1.0 : tensor<?x16xf32>, tensor<?x16xf32>
  return
}

// -----

func.func @f(%x: tensor<?x16xf32>, %k: tensor<?x12xf32>) {
  // expected-error @+1 {{keys and values must have kv_heads * head size = 8 features, got 12}}
  %0 = qlm.attention %x, %k, %k heads 4 kv_heads 2 scale 1.0 : tensor<?x16xf32>, tensor<?x12xf32>
  return
}

// -----

func.func @f(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{input must have twice the result's features, got 8 and 3}}
  %0 = qlm.swiglu %x : tensor<?x8xf32> -> tensor<?x3xf32>
  return
}

// -----

func.func @f(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{parts must add up to the features, got 7 and 8}}
  %0, %1 = qlm.split %x : tensor<?x8xf32> -> tensor<?x3xf32>, tensor<?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<?x8xf32>) {
  // expected-error @+1 {{result must be [heads * repeat, tokens, headDim]}}
  %0 = qlm.split_heads %x repeat 2 : tensor<?x8xf32> -> tensor<3x?x4xf32>
  return
}

// -----

func.func @f(%x: tensor<2x?x4xf32>) {
  // expected-error @+1 {{result's features must be heads * head size, got 9 and 8}}
  %0 = qlm.merge_heads %x : tensor<2x?x4xf32> -> tensor<?x9xf32>
  return
}

// -----

func.func @f(%x: tensor<2x?x4xf32>, %y: tensor<2x5x?xf32>) {
  // expected-error @+1 {{right inner size must be the left inner size, got 5 and 4}}
  %0 = qlm.matmul %x, %y : tensor<2x?x4xf32>, tensor<2x5x?xf32> -> tensor<2x?x?xf32>
  return
}

// -----

func.func @f(%x: tensor<2x3x4xf32>) {
  // expected-error @+1 {{number of keys must be the number of queries, got 4 and 3}}
  %0 = qlm.causal_mask %x : tensor<2x3x4xf32>
  return
}

// -----

func.func @f(%x: tensor<*xf32>) {
  // expected-error @+1 {{input must have rank 1 to 4, got tensor<*xf32>}}
  %0 = qlm.softmax %x : tensor<*xf32>
  return
}

// -----

func.func @f(%x: tensor<*xf32>) {
  // expected-error @+1 {{operands must be ranked tensors}}
  %0 = qlm.add %x, %x : tensor<*xf32>
  return
}

// -----

func.func @f(%q: tensor<?x64xf32>) {
  // expected-error @+1 {{window must be positive, got 0}}
  %0 = qlm.attention %q, %q, %q heads 4 kv_heads 4 scale 1.0 causal window 0 : tensor<?x64xf32>, tensor<?x64xf32>
  return
}

// -----

func.func @f(%q: tensor<?x64xf32>) {
  // expected-error @+1 {{has a window and is not causal}}
  %0 = qlm.attention %q, %q, %q heads 4 kv_heads 4 scale 1.0 window 8 : tensor<?x64xf32>, tensor<?x64xf32>
  return
}

// -----

func.func @f(%x: tensor<4x?x?xf32>) {
  // expected-error @+1 {{window must be positive, got -3}}
  %0 = qlm.causal_mask %x window -3 : tensor<4x?x?xf32>
  return
}
