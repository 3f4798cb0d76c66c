//===- ByteAlphabet.h - Bytes as printable characters -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_BYTEALPHABET_H
#define QLM_RUNTIME_TOKENIZER_BYTEALPHABET_H

#include <string>
#include <string_view>

namespace qlm::tokenizer {

/// Byte-level models spell each byte as one printable character: the printable
/// ones of Latin-1 as themselves, the others from U+0100 on, in their order
/// (Radford et al., "Language Models are Unsupervised Multitask Learners").
/// Appends the spelling of \p bytes to \p out.
void spellBytes(std::string_view bytes, std::string &out);

/// Appends the bytes that \p text spells; when a character of \p text spells
/// no byte, appends the bytes of \p text itself.
void unspellBytes(std::string_view text, std::string &out);

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_BYTEALPHABET_H
