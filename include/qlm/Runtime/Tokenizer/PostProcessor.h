//===- PostProcessor.h - Tokens around an encoded text ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_RUNTIME_TOKENIZER_POSTPROCESSOR_H
#define QLM_RUNTIME_TOKENIZER_POSTPROCESSOR_H

#include "qlm/Runtime/Tokenizer/JsonNode.h"

namespace qlm::tokenizer {

/// The file's `post_processor`: templates such as `<s> $A`, one after another.
class PostProcessor {
public:
  /// Reads TemplateProcessing, ByteLevel (which changes offsets only) and
  /// Sequence. Errors: Unsupported (another type, named), Corrupt.
  static Result<PostProcessor> read(const JsonNode &node);

  /// Puts \p ids into the templates; their special tokens are left out unless
  /// \p addSpecialTokens.
  void apply(bool addSpecialTokens, std::vector<int32_t> &ids) const;

private:
  /// An element of a template: the encoded text, or ids of a special token.
  struct Item {
    bool isText = false;
    std::vector<int32_t> ids;
  };
  using Template = std::vector<Item>;

  Status readInto(const JsonNode &node);
  Status readTemplate(const JsonNode &node);

  std::vector<Template> templates;
};

} // namespace qlm::tokenizer

#endif // QLM_RUNTIME_TOKENIZER_POSTPROCESSOR_H
