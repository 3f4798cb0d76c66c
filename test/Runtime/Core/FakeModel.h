//===- FakeModel.h - Shape and weights of the fake model --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_RUNTIME_CORE_FAKEMODEL_H
#define QLM_TEST_RUNTIME_CORE_FAKEMODEL_H

#include <cstdint>
#include <vector>

namespace qlm::test {

inline constexpr int fakeVocabulary = 32;
inline constexpr int fakeHidden = 32;
inline constexpr int fakePageTokens = 4;
/// Letters a to z are 0 to 25.
inline constexpr int32_t fakeSpace = 26, fakeEos = 29;
/// Its logits are NaN in whatever follows it.
inline constexpr int32_t fakePoison = 31;

/// Row-major [fakeVocabulary, fakeHidden]: the identity, and NaN for
/// fakePoison.
std::vector<float> fakeTable();
/// Row-major [fakeVocabulary, fakeHidden]: after token i, i + 1 is likeliest,
/// whatever came before; the other logits depend on all of the context.
std::vector<float> fakeOutput();

/// What the model defines, without pages or steps: [tokens, fakeVocabulary].
std::vector<float> fakeLogits(const std::vector<int32_t> &tokens);

} // namespace qlm::test

#endif // QLM_TEST_RUNTIME_CORE_FAKEMODEL_H
