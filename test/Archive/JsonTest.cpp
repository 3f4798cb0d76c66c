//===- JsonTest.cpp - JSON of hostile shape -------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/Json.h"
#include "TemporaryFolder.h"

#include "gtest/gtest.h"

using namespace mlir::qlm;
using namespace mlir::qlm::test;

namespace {

TEST(JsonTest, ParsesWhatIsWithinTheLimits) {
  auto value = parseBoundedJson(
      R"( {"a": [1, -2.5e3, true, null, "\u00e9"], "b": {}, "c": []} )");
  ASSERT_TRUE(bool(value)) << llvm::toString(value.takeError());
  EXPECT_EQ(value->getAsObject()->getArray("a")->size(), 5u);
}

TEST(JsonTest, RefusesDepth) {
  std::string deep(1 << 19, '[');
  EXPECT_EQ(getMessage(parseBoundedJson(deep)), "nested too deeply at byte 33");
  std::string objects;
  for (int i = 0; i < 40; ++i)
    objects += "{\"a\":";
  EXPECT_EQ(getMessage(parseBoundedJson(objects)),
            "nested too deeply at byte 161");
}

TEST(JsonTest, RefusesNumbersOfObjects) {
  std::string many = "[";
  for (int i = 0; i < 20000; ++i)
    many += "{},";
  EXPECT_EQ(getMessage(parseBoundedJson(many)),
            "too many objects and arrays at byte 29999");
}

TEST(JsonTest, RefusesRepeatedKeys) {
  EXPECT_EQ(getMessage(parseBoundedJson(R"({"a":1,"b":{"c":1,"\u0063":2}})")),
            "key 'c' is repeated at byte 26");
}

TEST(JsonTest, RefusesMalformedText) {
  EXPECT_EQ(getMessage(parseBoundedJson("")), "expected a value at byte 0");
  EXPECT_EQ(getMessage(parseBoundedJson("[1,]")), "expected a value at byte 3");
  EXPECT_EQ(getMessage(parseBoundedJson("[1 2]")), "expected ']' at byte 3");
  EXPECT_EQ(getMessage(parseBoundedJson("{\"a\" 1}")),
            "expected ':' at byte 5");
  EXPECT_EQ(getMessage(parseBoundedJson("NaN")), "malformed value at byte 0");
  EXPECT_EQ(getMessage(parseBoundedJson("{} x")),
            "expected the end of the text at byte 3");
  EXPECT_EQ(getMessage(parseBoundedJson(std::string(100, '1'))),
            "expected a value at byte 0");
}

TEST(JsonTest, NamesFilesInErrors) {
  TemporaryFolder folder;
  EXPECT_EQ(getMessage(readBoundedJson(folder.join("c.json"))),
            folder.join("c.json") + ": No such file or directory");
  EXPECT_EQ(getMessage(readBoundedJson(folder.path)),
            folder.path + ": not a regular file");
  EXPECT_EQ(getMessage(readBoundedJson(folder.write("c.json", "{"))),
            folder.join("c.json") +
                ": malformed JSON: expected '\"', got the end of the text at "
                "byte 1");
  JsonLimits limits;
  limits.bytes = 3;
  EXPECT_EQ(
      getMessage(readBoundedJson(folder.write("c.json", "[1,2]"), limits)),
      folder.join("c.json") + ": 5 bytes are over the limit of 3");
  EXPECT_EQ(getMessage(parseBoundedJson("[1,2]", limits)),
            "text of 5 bytes is over the limit of 3");
}

TEST(JsonTest, QuotesNames) {
  EXPECT_EQ(quoteName("a.b"), "'a.b'");
  EXPECT_EQ(quoteName("a\n\x1b"), "'a\\0A\\1B'");
  EXPECT_EQ(quoteName(std::string(200, 'x')),
            "'" + std::string(120, 'x') + "...'");
}

} // namespace
