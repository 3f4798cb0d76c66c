//===- qlm-tokenize.cpp - The tokenizer on JSON lines, for tests ----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

// qlm-tokenize TOKENIZER.json encode|decode|stream
//
// Reads a JSON value from each line of standard input and writes one line:
//   encode  ["text", addSpecialTokens]   ->  [ids] or {"error": "message"}
//   decode  [[ids], skipSpecialTokens]   ->  "text"
//   stream  [[ids], skipSpecialTokens]   ->  ["text of each push", ..., "rest"]
// Exits with 1 and the message on standard error when the file is refused.
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer.h"

#include <iostream>
#include <nlohmann/json.hpp>

using Json = nlohmann::json;

static Json answer(const qlm::Tokenizer &tokenizer, const std::string &mode,
                   const Json &request) {
  bool flag = request.at(1).get<bool>();
  if (mode == "encode") {
    qlm::Result<std::vector<int32_t>> ids =
        tokenizer.encode(request.at(0).get<std::string>(), flag);
    if (!ids.ok())
      return {{"error", ids.status().message()}};
    return *ids;
  }
  auto ids = request.at(0).get<std::vector<int32_t>>();
  if (mode == "decode")
    return tokenizer.decode(ids.data(), ids.size(), flag);
  qlm::IncrementalDecoder decoder(tokenizer, flag);
  Json texts = Json::array();
  for (int32_t id : ids)
    texts.push_back(decoder.push(id));
  texts.push_back(decoder.finish());
  return texts;
}

int main(int argc, char **argv) {
  std::string mode = argc == 3 ? argv[2] : "";
  if (mode != "encode" && mode != "decode" && mode != "stream") {
    std::cerr << "usage: qlm-tokenize TOKENIZER.json encode|decode|stream\n";
    return 2;
  }
  auto tokenizer = qlm::Tokenizer::load(argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status().message() << "\n";
    return 1;
  }
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);)
    std::cout << answer(**tokenizer, mode, Json::parse(line)).dump() << "\n";
  return 0;
}
