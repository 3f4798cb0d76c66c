// RUN: quant-opt --qlm-fuse-attention --split-input-file %s | FileCheck %s

// CHECK-LABEL: func.func @multi_head
// CHECK-SAME: (%[[Q:.*]]: tensor<?x64xf32>, %[[K:.*]]: tensor<?x64xf32>, %[[V:.*]]: tensor<?x64xf32>)
func.func @multi_head(%q: tensor<?x64xf32>, %k: tensor<?x64xf32>, %v: tensor<?x64xf32>) -> tensor<?x64xf32> {
  // CHECK-NEXT: %[[A:.*]] = qlm.attention %[[Q]], %[[K]], %[[V]] heads 4 kv_heads 4 scale 2.500000e-01 causal : tensor<?x64xf32>, tensor<?x64xf32>
  // CHECK-NEXT: return %[[A]]
  %qh = qlm.split_heads %q repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<4x?x16xf32>, tensor<4x?x16xf32> -> tensor<4x?x?xf32>
  %t = qlm.scale %s by 2.500000e-01 : tensor<4x?x?xf32>
  %m = qlm.causal_mask %t : tensor<4x?x?xf32>
  %p = qlm.softmax %m : tensor<4x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<4x?x?xf32>, tensor<4x?x16xf32> -> tensor<4x?x16xf32>
  %a = qlm.merge_heads %o : tensor<4x?x16xf32> -> tensor<?x64xf32>
  return %a : tensor<?x64xf32>
}

// -----

// CHECK-LABEL: func.func @window
// CHECK-NEXT: qlm.attention %{{.*}}, %{{.*}}, %{{.*}} heads 4 kv_heads 4 scale 1.000000e+00 causal window 9 : tensor<?x64xf32>, tensor<?x64xf32>
// CHECK-NEXT: return
func.func @window(%q: tensor<?x64xf32>, %k: tensor<?x64xf32>, %v: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<4x?x16xf32>, tensor<4x?x16xf32> -> tensor<4x?x?xf32>
  %m = qlm.causal_mask %s window 9 : tensor<4x?x?xf32>
  %p = qlm.softmax %m : tensor<4x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<4x?x?xf32>, tensor<4x?x16xf32> -> tensor<4x?x16xf32>
  %a = qlm.merge_heads %o : tensor<4x?x16xf32> -> tensor<?x64xf32>
  return %a : tensor<?x64xf32>
}

// -----

// CHECK-LABEL: func.func @grouped_scale_after_mask
// CHECK-NEXT: qlm.attention %{{.*}}, %{{.*}}, %{{.*}} heads 4 kv_heads 2 scale 1.250000e-01 causal : tensor<?x64xf32>, tensor<?x32xf32>
// CHECK-NEXT: return
func.func @grouped_scale_after_mask(%q: tensor<?x64xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>) -> tensor<?x64xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x64xf32> -> tensor<4x?x16xf32>
  %kh = qlm.split_heads %k repeat 2 : tensor<?x32xf32> -> tensor<4x?x16xf32>
  %vh = qlm.split_heads %v repeat 2 : tensor<?x32xf32> -> tensor<4x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<4x?x16xf32>, tensor<4x?x16xf32> -> tensor<4x?x?xf32>
  %m = qlm.causal_mask %s : tensor<4x?x?xf32>
  %t = qlm.scale %m by 1.250000e-01 : tensor<4x?x?xf32>
  %p = qlm.softmax %t : tensor<4x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<4x?x?xf32>, tensor<4x?x16xf32> -> tensor<4x?x16xf32>
  %a = qlm.merge_heads %o : tensor<4x?x16xf32> -> tensor<?x64xf32>
  return %a : tensor<?x64xf32>
}

// -----

// CHECK-LABEL: func.func @scale_on_query_heads_without_mask
// CHECK-NEXT: qlm.attention %{{.*}}, %{{.*}}, %{{.*}} heads 2 kv_heads 1 scale 2.500000e-01 : tensor<?x32xf32>, tensor<?x16xf32>
// CHECK-NEXT: return
func.func @scale_on_query_heads_without_mask(%q: tensor<?x32xf32>, %k: tensor<?x16xf32>, %v: tensor<?x16xf32>) -> tensor<?x32xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %qs = qlm.scale %qh by 2.500000e-01 : tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 2 : tensor<?x16xf32> -> tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 2 : tensor<?x16xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qs, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %p = qlm.softmax %s : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a : tensor<?x32xf32>
}

// -----

// Half of the scale on each operand, before and after the heads are split.
// CHECK-LABEL: func.func @scale_on_query_and_key
// CHECK-SAME: (%[[Q:.*]]: tensor<?x32xf32>, %[[K:.*]]: tensor<?x32xf32>, %[[V:.*]]: tensor<?x32xf32>)
// CHECK-NEXT: qlm.attention %[[Q]], %[[K]], %[[V]] heads 2 kv_heads 2 scale 2.500000e-01 causal
// CHECK-NEXT: return
func.func @scale_on_query_and_key(%q: tensor<?x32xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>) -> tensor<?x32xf32> {
  %qs = qlm.scale %q by 5.000000e-01 : tensor<?x32xf32>
  %qh = qlm.split_heads %qs repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %ks = qlm.scale %kh by 5.000000e-01 : tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qh, %ks transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %m = qlm.causal_mask %s : tensor<2x?x?xf32>
  %p = qlm.softmax %m : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a : tensor<?x32xf32>
}

// -----

// A caller wants the probabilities too.
// CHECK-LABEL: func.func @negative_probabilities_used
// CHECK-NOT: qlm.attention
func.func @negative_probabilities_used(%q: tensor<?x32xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>) -> (tensor<?x32xf32>, tensor<2x?x?xf32>) {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %p = qlm.softmax %s : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a, %p : tensor<?x32xf32>, tensor<2x?x?xf32>
}

// -----

// CHECK-LABEL: func.func @negative_scores_used
// CHECK-NOT: qlm.attention
func.func @negative_scores_used(%q: tensor<?x32xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>) -> (tensor<?x32xf32>, tensor<2x?x?xf32>) {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %p = qlm.softmax %s : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a, %s : tensor<?x32xf32>, tensor<2x?x?xf32>
}

// -----

// -inf times -0.25 hides nothing.
// CHECK-LABEL: func.func @negative_mask_scaled_by_negative
// CHECK-NOT: qlm.attention
func.func @negative_mask_scaled_by_negative(%q: tensor<?x32xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>) -> tensor<?x32xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %m = qlm.causal_mask %s : tensor<2x?x?xf32>
  %t = qlm.scale %m by -2.500000e-01 : tensor<2x?x?xf32>
  %p = qlm.softmax %t : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a : tensor<?x32xf32>
}

// -----

// Keys of two heads, values of one.
// CHECK-LABEL: func.func @negative_different_repeats
// CHECK-NOT: qlm.attention
func.func @negative_different_repeats(%q: tensor<?x32xf32>, %k: tensor<?x32xf32>, %v: tensor<?x16xf32>) -> tensor<?x32xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 2 : tensor<?x16xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %p = qlm.softmax %s : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a : tensor<?x32xf32>
}

// -----

// CHECK-LABEL: func.func @negative_no_softmax
// CHECK-NOT: qlm.attention
func.func @negative_no_softmax(%q: tensor<?x32xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>) -> tensor<?x32xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %o = qlm.matmul %s, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a : tensor<?x32xf32>
}

// -----

// The scores are something else than a product.
// CHECK-LABEL: func.func @negative_scores_added
// CHECK-NOT: qlm.attention
func.func @negative_scores_added(%q: tensor<?x32xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>, %b: tensor<2x?x?xf32>) -> tensor<?x32xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %t = qlm.add %s, %b : tensor<2x?x?xf32>
  %p = qlm.softmax %t : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a : tensor<?x32xf32>
}

// -----

// Heads that don't come from split_heads.
// CHECK-LABEL: func.func @negative_heads_given
// CHECK-NOT: qlm.attention
func.func @negative_heads_given(%qh: tensor<2x?x16xf32>, %kh: tensor<2x?x16xf32>, %vh: tensor<2x?x16xf32>) -> tensor<?x32xf32> {
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %p = qlm.softmax %s : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a : tensor<?x32xf32>
}

// -----

// Keys that aren't transposed, of as many tokens as features.
// CHECK-LABEL: func.func @negative_keys_not_transposed
// CHECK-NOT: qlm.attention
func.func @negative_keys_not_transposed(%q: tensor<16x32xf32>, %k: tensor<16x32xf32>, %v: tensor<16x32xf32>) -> tensor<16x32xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<16x32xf32> -> tensor<2x16x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<16x32xf32> -> tensor<2x16x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<16x32xf32> -> tensor<2x16x16xf32>
  %s = qlm.matmul %qh, %kh : tensor<2x16x16xf32>, tensor<2x16x16xf32> -> tensor<2x16x16xf32>
  %p = qlm.softmax %s : tensor<2x16x16xf32>
  %o = qlm.matmul %p, %vh : tensor<2x16x16xf32>, tensor<2x16x16xf32> -> tensor<2x16x16xf32>
  %a = qlm.merge_heads %o : tensor<2x16x16xf32> -> tensor<16x32xf32>
  return %a : tensor<16x32xf32>
}

// -----

// CHECK-LABEL: func.func @negative_two_masks
// CHECK-NOT: qlm.attention
func.func @negative_two_masks(%q: tensor<?x32xf32>, %k: tensor<?x32xf32>, %v: tensor<?x32xf32>) -> tensor<?x32xf32> {
  %qh = qlm.split_heads %q repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %kh = qlm.split_heads %k repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %vh = qlm.split_heads %v repeat 1 : tensor<?x32xf32> -> tensor<2x?x16xf32>
  %s = qlm.matmul %qh, %kh transpose_rhs : tensor<2x?x16xf32>, tensor<2x?x16xf32> -> tensor<2x?x?xf32>
  %m = qlm.causal_mask %s : tensor<2x?x?xf32>
  %n = qlm.causal_mask %m : tensor<2x?x?xf32>
  %p = qlm.softmax %n : tensor<2x?x?xf32>
  %o = qlm.matmul %p, %vh : tensor<2x?x?xf32>, tensor<2x?x16xf32> -> tensor<2x?x16xf32>
  %a = qlm.merge_heads %o : tensor<2x?x16xf32> -> tensor<?x32xf32>
  return %a : tensor<?x32xf32>
}
