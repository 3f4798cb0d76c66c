//===- FuzzTokenizer.cpp - Any bytes as a tokenizer file ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

// The input is a tokenizer file. When it is accepted, texts made of its own
// bytes are encoded, and the ids decoded at once and as a stream, which have
// to agree.
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer.h"

#include <cstdlib>

static void check(bool holds) {
  if (!holds)
    std::abort();
}

static void roundTrip(const qlm::Tokenizer &tokenizer, std::string_view text) {
  qlm::Result<std::vector<int32_t>> ids = tokenizer.encode(text);
  if (!ids.ok()) {
    check(!ids.status().message().empty());
    return;
  }
  for (bool skipSpecialTokens : {false, true}) {
    std::string whole =
        tokenizer.decode(ids->data(), ids->size(), skipSpecialTokens);
    qlm::IncrementalDecoder decoder(tokenizer, skipSpecialTokens);
    std::string joined;
    for (int32_t id : *ids)
      joined += decoder.push(id);
    check(joined + decoder.finish() == whole);
  }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  std::string_view bytes(reinterpret_cast<const char *>(data), size);
  auto tokenizer = qlm::Tokenizer::parse(bytes, "fuzz");
  if (!tokenizer.ok()) {
    check(!tokenizer.status().message().empty());
    return 0;
  }
  // A pattern of the file may take as many steps as its limit allows, so the
  // texts are short.
  roundTrip(**tokenizer, "");
  roundTrip(**tokenizer, "Ab  1\n\u00e9\u6f22\U0001f600 </s><s> x");
  roundTrip(**tokenizer, bytes.substr(0, 64));
  roundTrip(**tokenizer, bytes.substr(size / 2, 64));
  if ((*tokenizer)->vocabularySize() == 0)
    return 0;
  std::vector<int32_t> ids;
  for (uint8_t byte : bytes.substr(0, 64))
    ids.push_back(byte % (*tokenizer)->vocabularySize());
  (void)(*tokenizer)->decode(ids.data(), ids.size());
  return 0;
}
