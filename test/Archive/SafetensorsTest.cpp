//===- SafetensorsTest.cpp - Reading well-formed and hostile files --------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/Safetensors.h"
#include "TemporaryFolder.h"
#include "qlm/Archive/ParameterArchive.h"

#include "llvm/ADT/StringExtras.h"
#include "gtest/gtest.h"

#include <sys/stat.h>
#include <unistd.h>

using namespace mlir::qlm;
using namespace mlir::qlm::test;

namespace {

/// What parsing says of a header with \p dataBytes bytes of data after it.
std::string parseHeader(llvm::StringRef header, size_t dataBytes) {
  std::string bytes = makeSafetensors(header, dataBytes);
  return getMessage(
      parseSafetensors(llvm::arrayRefFromStringRef(bytes), "w.safetensors"));
}

std::string parseBytes(llvm::StringRef bytes) {
  return getMessage(
      parseSafetensors(llvm::arrayRefFromStringRef(bytes), "w.safetensors"));
}

TEST(SafetensorsTest, ReadsTensorsInOrderOfData) {
  TemporaryFolder folder;
  std::string path =
      folder.write("a.safetensors", makeSafetensors(
                                        R"({"__metadata__": {"format": "pt"},
              "b": {"dtype": "F32", "shape": [2], "data_offsets": [6, 14]},
              "a\u0062": {"shape": [1, 3], "dtype": "BF16",
                          "data_offsets": [0, 6]},
              "scalar": {"dtype": "I8", "shape": [], "data_offsets": [14, 15]},
              "none": {"dtype": "F64", "shape": [0, 9], "data_offsets": [15, 15]}
             }    )",
                                        15));
  auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(bool(file)) << llvm::toString(file.takeError());
  llvm::ArrayRef<ArchiveTensor> tensors = (*file)->getTensors();
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors[0].name, "ab");
  EXPECT_EQ(tensors[0].getTypeString(), "BF16[1, 3]");
  EXPECT_EQ(tensors[0].data.size(), 6u);
  EXPECT_EQ(tensors[0].data[5], 5);
  const ArchiveTensor *b = (*file)->lookup("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->type, ArchiveType::F32);
  EXPECT_EQ(b->data.front(), 6);
  EXPECT_EQ((*file)->lookup("scalar")->data.size(), 1u);
  EXPECT_TRUE((*file)->lookup("none")->data.empty());
  EXPECT_EQ((*file)->lookup("c"), nullptr);
}

TEST(SafetensorsTest, ReadsFileWithoutTensors) {
  EXPECT_EQ(parseHeader("{}", 0), "success");
  EXPECT_EQ(parseHeader(R"({"__metadata__":{}})", 0), "success");
}

TEST(SafetensorsTest, NamesEveryType) {
  for (unsigned i = 0; i <= static_cast<unsigned>(ArchiveType::C64); ++i) {
    auto type = static_cast<ArchiveType>(i);
    EXPECT_EQ(getArchiveType(getArchiveTypeName(type)), type);
    EXPECT_GT(getArchiveTypeBytes(type), 0u);
  }
  EXPECT_EQ(getArchiveType("F4"), std::nullopt);
}

TEST(SafetensorsTest, RefusesTruncatedFiles) {
  EXPECT_EQ(parseBytes(""),
            "w.safetensors: too short for a safetensors header: 0 bytes");
  EXPECT_EQ(parseBytes("1234567"),
            "w.safetensors: too short for a safetensors header: 7 bytes");
  std::string whole = makeSafetensors("{}", 0);
  EXPECT_EQ(parseBytes(llvm::StringRef(whole).drop_back()),
            "w.safetensors: header of 2 bytes ends past the file's 9");
  EXPECT_EQ(parseHeader(
                R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7),
            "w.safetensors: tensor 'a': data ends past the file's 7 bytes of "
            "data, data_offsets are [0, 8]");
}

TEST(SafetensorsTest, RefusesHeaderSizesThatLie) {
  std::string bytes(16, '\xff');
  EXPECT_EQ(parseBytes(bytes),
            "w.safetensors: header of 18446744073709551615 bytes is over the "
            "limit of 100000000");
  // 8 + size wraps around to a small number.
  bytes = std::string("\xf8\xff\xff\xff\xff\xff\xff\xff", 8) + "{}";
  EXPECT_EQ(parseBytes(bytes),
            "w.safetensors: header of 18446744073709551608 bytes is over the "
            "limit of 100000000");
  bytes = std::string("\x00\xe1\xf5\x05\0\0\0\0", 8) + "{}";
  EXPECT_EQ(parseBytes(bytes), "w.safetensors: header of 100000000 bytes ends "
                               "past the file's 10");
}

TEST(SafetensorsTest, RefusesShapesThatOverflow) {
  EXPECT_EQ(
      parseHeader(
          R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})",
          0),
      "w.safetensors: malformed header: tensor 'a': the size of "
      "F32[4294967296, 4294967296] overflows");
  // The elements fit 63 bits, their bytes don't.
  EXPECT_EQ(
      parseHeader(
          R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})",
          0),
      "w.safetensors: malformed header: tensor 'a': the size of "
      "F64[2305843009213693952] overflows");
  EXPECT_EQ(
      parseHeader(R"({"a":{"dtype":"I8","shape":[9223372036854775808]}})", 0),
      "w.safetensors: malformed header: tensor 'a': number does not fit "
      "63 bits at byte 28");
}

TEST(SafetensorsTest, RefusesNumbersThatAreNoSizes) {
  auto shape = [](llvm::StringRef text) {
    return parseHeader((R"({"a":{"dtype":"I8","shape":[)" + text + "]}}").str(),
                       0);
  };
  llvm::StringRef prefix = "w.safetensors: malformed header: tensor 'a': ";
  EXPECT_EQ(shape("-1"),
            (prefix + "expected a number of zero or more at byte 28").str());
  EXPECT_EQ(shape("1.5"),
            (prefix + "expected a whole number at byte 28").str());
  EXPECT_EQ(shape("1e3"),
            (prefix + "expected a whole number at byte 28").str());
  EXPECT_EQ(shape("01"), (prefix + "number begins with 0 at byte 28").str());
  EXPECT_EQ(shape("\"1\""),
            (prefix + "expected a number of zero or more at byte 28").str());
  EXPECT_EQ(shape("1,1,1,1,1,1,1,1,1"),
            (prefix + "more than 8 dimensions").str());
}

TEST(SafetensorsTest, RefusesOffsetsThatDisagreeWithTheShape) {
  auto offsets = [](llvm::StringRef text) {
    return parseHeader(
        (R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[)" + text + "]}}")
            .str(),
        4);
  };
  EXPECT_EQ(offsets("0,4"), "success");
  EXPECT_EQ(offsets("0,3"), "w.safetensors: malformed header: tensor 'a': "
                            "F16[2] takes 4 bytes, data_offsets are [0, 3]");
  EXPECT_EQ(offsets("4,0"), "w.safetensors: malformed header: tensor 'a': "
                            "F16[2] takes 4 bytes, data_offsets are [4, 0]");
  EXPECT_EQ(offsets("9223372036854775803,9223372036854775807"),
            "w.safetensors: tensor 'a': data ends past the file's 4 bytes of "
            "data, data_offsets are [9223372036854775803, "
            "9223372036854775807]");
  EXPECT_NE(offsets("0"), "success");
  EXPECT_NE(offsets("0,4,8"), "success");
}

TEST(SafetensorsTest, RefusesOverlapsAndHoles) {
  auto two = [](llvm::StringRef first, llvm::StringRef second, size_t bytes) {
    return parseHeader(
        (R"({"a":{"dtype":"I8","shape":[4],"data_offsets":)" + first +
         R"(},"b":{"dtype":"I8","shape":[4],"data_offsets":)" + second + "}}")
            .str(),
        bytes);
  };
  EXPECT_EQ(two("[0,4]", "[4,8]", 8), "success");
  EXPECT_EQ(two("[0,4]", "[3,7]", 7),
            "w.safetensors: tensor 'b': data overlaps another tensor's, which "
            "ends at 4, data_offsets are [3, 7]");
  EXPECT_EQ(two("[0,4]", "[0,4]", 4),
            "w.safetensors: tensor 'b': data overlaps another tensor's, which "
            "ends at 4, data_offsets are [0, 4]");
  EXPECT_EQ(two("[5,9]", "[0,4]", 9),
            "w.safetensors: tensor 'a': data leaves a hole after byte 4, "
            "data_offsets are [5, 9]");
  EXPECT_EQ(two("[1,5]", "[5,9]", 9),
            "w.safetensors: tensor 'a': data leaves a hole after byte 0, "
            "data_offsets are [1, 5]");
  EXPECT_EQ(two("[0,4]", "[4,8]", 9),
            "w.safetensors: tensors fill 8 of the file's 9 bytes of data");
}

TEST(SafetensorsTest, RefusesRepeatedAndUnknownKeys) {
  EXPECT_EQ(
      parseHeader(
          R"({"a":{"dtype":"I8","shape":[],"data_offsets":[0,1]},"\u0061":{}})",
          1),
      "w.safetensors: malformed header: tensor 'a' is repeated");
  EXPECT_EQ(parseHeader(R"({"a":{"dtype":"I8","dtype":"I8"}})", 0),
            "w.safetensors: malformed header: tensor 'a': repeated key "
            "'dtype' at byte 27");
  EXPECT_EQ(parseHeader(R"({"a":{"type":"I8"}})", 0),
            "w.safetensors: malformed header: tensor 'a': unknown key 'type' "
            "at byte 13");
  EXPECT_EQ(parseHeader(R"({"a":{"dtype":"I8","shape":[]}})", 0),
            "w.safetensors: malformed header: tensor 'a': expected the keys "
            "dtype, shape and data_offsets");
  EXPECT_EQ(parseHeader(R"({"__metadata__":{"k":"v","k":"w"}})", 0),
            "w.safetensors: malformed header: key 'k' is repeated at byte 28");
}

TEST(SafetensorsTest, RefusesUnknownTypes) {
  EXPECT_EQ(parseHeader(R"({"a":{"dtype":"Q4_0"}})", 0),
            "w.safetensors: malformed header: tensor 'a': unknown dtype "
            "'Q4_0'");
  EXPECT_EQ(parseHeader(R"({"a":{"dtype":-1}})", 0),
            "w.safetensors: malformed header: tensor 'a': expected '\"' at "
            "byte 14");
}

TEST(SafetensorsTest, RefusesMalformedJson) {
  llvm::StringRef prefix = "w.safetensors: malformed header: ";
  EXPECT_EQ(parseHeader("", 0),
            (prefix + "expected '{', got the end of the text at byte 0").str());
  EXPECT_EQ(parseHeader("[]", 0), (prefix + "expected '{' at byte 0").str());
  EXPECT_EQ(parseHeader("{}{", 0),
            (prefix + "expected the end of the text at byte 2").str());
  EXPECT_EQ(parseHeader("{\"a", 0),
            (prefix + "string without an end at byte 3").str());
  EXPECT_EQ(parseHeader("{\"a\\", 0),
            (prefix + "string without an end at byte 4").str());
  EXPECT_EQ(parseHeader("{\"\xff\":{}}", 0),
            (prefix + "string is not UTF-8 at byte 4").str());
  EXPECT_EQ(parseHeader("{\"\\q\":{}}", 0),
            (prefix + "malformed escape in a string at byte 5").str());
  EXPECT_EQ(parseHeader("{\"a\nb\":{}}", 0),
            (prefix + "control character in a string at byte 3").str());
  // Only strings may be metadata, so nothing nests.
  std::string deep(1 << 20, '[');
  EXPECT_EQ(parseHeader("{\"__metadata__\":{\"a\":" + deep, 0),
            (prefix + "expected '\"' at byte 21").str());
}

TEST(SafetensorsTest, EscapesNamesInMessages) {
  EXPECT_EQ(parseHeader(R"({"a\n\u001b[2J":{"dtype":"?"}})", 0),
            "w.safetensors: malformed header: tensor 'a\\0A\\1B[2J': unknown "
            "dtype '?'");
}

TEST(SafetensorsTest, RefusesWhatIsNoFile) {
  TemporaryFolder folder;
  EXPECT_EQ(getMessage(SafetensorsFile::open(folder.join("none"))),
            folder.join("none") + ": No such file or directory");
  EXPECT_EQ(getMessage(SafetensorsFile::open(folder.path)),
            folder.path + ": not a regular file");
  // Opening must not wait for a writer.
  ASSERT_EQ(::mkfifo(folder.join("pipe").c_str(), 0600), 0);
  EXPECT_EQ(getMessage(SafetensorsFile::open(folder.join("pipe"))),
            folder.join("pipe") + ": not a regular file");
  EXPECT_EQ(getMessage(SafetensorsFile::open(folder.write("empty", ""))),
            folder.join("empty") +
                ": too short for a safetensors header: 0 bytes");
}

/// Bytes of this process in memory that are backed by files.
int64_t getResidentFileBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0, shared = 0;
  statm >> size >> resident >> shared;
  return shared * ::sysconf(_SC_PAGESIZE);
}

TEST(SafetensorsTest, DropsPagesThatAreDone) {
  constexpr int64_t kBytes = 64 << 20;
  TemporaryFolder folder;
  std::string header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[" +
                       std::to_string(kBytes) + "],\"data_offsets\":[0," +
                       std::to_string(kBytes) + "]}}";
  std::string path =
      folder.write("a.safetensors", makeSafetensors(header, kBytes));
  auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(bool(file));
  llvm::ArrayRef<uint8_t> data = (*file)->lookup("a")->data;
  int64_t before = getResidentFileBytes();
  int64_t peak = 0;
  uint64_t sum = 0;
  constexpr size_t kBlock = 1000003;
  for (size_t at = 0; at < data.size(); at += kBlock) {
    llvm::ArrayRef<uint8_t> block =
        data.slice(at, std::min(kBlock, data.size() - at));
    for (uint8_t byte : block)
      sum += byte;
    adviseDone(block);
    peak = std::max(peak, getResidentFileBytes() - before);
  }
  EXPECT_EQ(sum, uint64_t(kBytes) / 256 * (255 * 256 / 2));
  EXPECT_LT(peak, 16 << 20);
  // Reading again is slow but valid.
  EXPECT_EQ(data[12345], uint8_t(12345));
}

TEST(ParameterArchiveTest, FindsTensorsAndKeepsFilesMapped) {
  TemporaryFolder folder;
  folder.write(
      "w.safetensors",
      makeSafetensors(
          R"({"a":{"dtype":"I8","shape":[3],"data_offsets":[0,3]}})", 3));
  ParameterArchive archive(folder.path);
  auto first = archive.find("w.safetensors", "a");
  ASSERT_TRUE(bool(first)) << llvm::toString(first.takeError());
  EXPECT_EQ((*first)->getTypeString(), "I8[3]");
  auto second = archive.find("w.safetensors", "a");
  ASSERT_TRUE(bool(second));
  EXPECT_EQ(*first, *second);
  EXPECT_EQ(getMessage(archive.find("w.safetensors", "b")),
            folder.join("w.safetensors") + ": no tensor 'b'");
  EXPECT_EQ(getMessage(archive.find("v.safetensors", "a")),
            folder.join("v.safetensors") + ": No such file or directory");
  // A second try doesn't find the failed first one.
  EXPECT_EQ(getMessage(archive.find("v.safetensors", "a")),
            folder.join("v.safetensors") + ": No such file or directory");
}

TEST(ParameterArchiveTest, RefusesPathsThatLeaveTheFolder) {
  TemporaryFolder folder;
  ParameterArchive archive(folder.path);
  for (llvm::StringRef path :
       {"/etc/passwd", "../w", "a/../../w", "", "a//b", "a/", "..", "..\\w"})
    EXPECT_EQ(getMessage(archive.find(path, "a")),
              (folder.path + ": file name '" +
               (path == "..\\w" ? llvm::StringRef("..\\\\w") : path) +
               "' must be relative and stay in the folder")
                  .str())
        << path.str();
  EXPECT_FALSE(isContainedPath(llvm::StringRef("a\0b", 3)));
  EXPECT_TRUE(isContainedPath("a/b..c"));
}

} // namespace
