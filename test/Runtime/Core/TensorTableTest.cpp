//===- TensorTableTest.cpp - Safetensors headers that lie -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/TensorTable.h"

#include "FakePackage.h"
#include "gtest/gtest.h"

#include <cstring>

using namespace qlm;

/// A file with \p header and \p dataBytes of data.
static std::string makeFile(const std::string &header, size_t dataBytes) {
  std::string file(8, '\0');
  uint64_t size = header.size();
  std::memcpy(file.data(), &size, 8);
  return file + header + std::string(dataBytes, 'x');
}

static std::string messageOf(const std::string &file) {
  // A copy of the exact size lets sanitizers see a byte read too many.
  std::vector<char> copy(file.begin(), file.end());
  return parseTensorTable(copy.data(), copy.size(), "w").status().message();
}

TEST(TensorTableTest, FindsTensors) {
  std::string file = makeFile(
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"e":{"dtype":"U8","shape":[0],"data_offsets":[12,12]}})",
      12);
  Result<TensorTable> table = parseTensorTable(file.data(), file.size(), "w");
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_EQ(table->size(), 2u);
  const TensorEntry &entry = table->at("a");
  EXPECT_EQ(entry.type, "F16");
  EXPECT_EQ(entry.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(entry.bytes, 12u);
  EXPECT_EQ(entry.offset, file.size() - 12);
}

TEST(TensorTableTest, RefusesFilesWithoutAHeader) {
  EXPECT_EQ(messageOf(""), "w: file of 0 bytes has no safetensors header");
  EXPECT_EQ(messageOf(std::string(8, '\xff')),
            "w: header of 18446744073709551615 bytes does not fit in the file "
            "of 8");
  EXPECT_EQ(messageOf(makeFile("[]", 0)), "w: header is not a JSON object");
  EXPECT_EQ(messageOf(makeFile("{", 0)), "w: header is not a JSON object");
  EXPECT_EQ(messageOf(makeFile(std::string(200000, '['), 0)),
            "w: header is not a JSON object");
}

TEST(TensorTableTest, RefusesEntriesThatLie) {
  auto message = [](const std::string &entry) {
    return messageOf(makeFile("{\"a\":" + entry + "}", 12));
  };
  EXPECT_EQ(message("5"),
            "w: tensor 'a' must have dtype, shape and data_offsets");
  EXPECT_EQ(message(R"({"dtype":"F31","shape":[3],"data_offsets":[0,12]})"),
            "w: tensor 'a' has unknown dtype \"F31\"");
  EXPECT_EQ(message(R"({"dtype":"F32","shape":[-3],"data_offsets":[0,12]})"),
            "w: tensor 'a' must have a shape of at most 8 whole numbers");
  EXPECT_EQ(message(R"({"dtype":"F32","shape":[4],"data_offsets":[0,12]})"),
            "w: tensor 'a' has 12 bytes of data for a shape of 16");
  EXPECT_EQ(
      message(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})"),
      "w: tensor 'a' has data_offsets 0 to 16 outside the file's data of 12 "
      "bytes");
  EXPECT_EQ(
      message(R"({"dtype":"F32","shape":[4],"data_offsets":[8,4]})"),
      "w: tensor 'a' has data_offsets 8 to 4 outside the file's data of 12 "
      "bytes");
  EXPECT_EQ(
      message(
          R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})"),
      "w: tensor 'a' has a shape of more than 2^64 bytes");
  EXPECT_EQ(message(R"({"dtype":"F32","shape":[3],"data_offsets":[0]})"),
            "w: tensor 'a' must have data_offsets [begin, end]");
}

TEST(TensorTableTest, RefusesTensorsThatOverlapOrRepeat) {
  EXPECT_EQ(
      messageOf(makeFile(
          R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})",
          12)),
      "w: tensors 'a' and 'b' overlap");
  EXPECT_EQ(
      messageOf(makeFile(
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
          12)),
      "w: tensor 'a' occurs twice");
}
