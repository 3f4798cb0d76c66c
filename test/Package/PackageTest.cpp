//===- PackageTest.cpp - Folders appear whole or not at all ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackageFixture.h"
#include "qlm/Package/Format.h"
#include "llvm/Support/JSON.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::test;
namespace format = ::qlm::format;

namespace {
class FolderTest : public PackageTest {
protected:
  FolderTest() {
    // 3 rows of 5: neither size fills 64 bytes.
    addWeight("a", "F16", {3, 5}, std::string(30, '\1'));
    addWeight("b", "F32", {3}, std::string(12, '\1'));
  }

  OwningOpRef<ModuleOp> makeSmall() {
    return makeModule(R"(
  %w0 = qlm.load @a {qlm.key = "table"} : tensor<3x5xf16>
  %w1 = qlm.load @b {qlm.key = "norm"} : tensor<3xf32>)",
                      {"tensor<3x5xf16>", "tensor<3xf32>"});
  }

  llvm::json::Object readManifest() {
    auto value = llvm::json::parse(read(join("pkg/manifest.json")));
    if (!value) {
      ADD_FAILURE() << llvm::toString(value.takeError());
      return {};
    }
    return std::move(*value->getAsObject());
  }

  std::string checksum(const std::string &bytes) {
    format::Checksum sum;
    sum.update(bytes.data(), bytes.size());
    char text[17];
    std::snprintf(text, sizeof(text), "%016llx",
                  static_cast<unsigned long long>(sum.finish()));
    return text;
  }
};
} // namespace

TEST_F(FolderTest, alignsTensors) {
  OwningOpRef<ModuleOp> module = makeSmall();
  ASSERT_EQ(packageError(*module, options()), "success");
  std::string path = join("pkg/weights.safetensors");
  auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(static_cast<bool>(file)) << llvm::toString(file.takeError());
  // The first bytes are the header's size.
  std::string bytes = read(path);
  uint64_t headerSize = 0;
  std::memcpy(&headerSize, bytes.data(), 8);
  EXPECT_EQ((8 + headerSize) % format::kAlignment, 0u);
  const ArchiveTensor *table = (*file)->lookup("table");
  const ArchiveTensor *norm = (*file)->lookup("norm");
  ASSERT_TRUE(table && norm);
  EXPECT_EQ(table->getTypeString(), "F16[3, 5]");
  EXPECT_EQ(norm->data.data() - table->data.data(), 64);
  // What follows the last tensor may be read.
  EXPECT_GE((*file)->getTensors().back().data.end() - norm->data.end(), 64);
  EXPECT_EQ((*file)->getTensors().back().name, "__pad.1");
  EXPECT_EQ(bytes.size() % format::kAlignment, 0u);
}

TEST_F(FolderTest, writesTheManifest) {
  write("tokenizer.json", "{}");
  OwningOpRef<ModuleOp> module = makeSmall();
  PackageOptions given = options();
  given.modelFolder = folder;
  given.producer = "test 1";
  auto summary = writePackage(*module, given);
  ASSERT_TRUE(static_cast<bool>(summary))
      << llvm::toString(summary.takeError());
  llvm::json::Object manifest = readManifest();
  EXPECT_EQ(manifest.getString("format"), "qlm-package");
  EXPECT_EQ(manifest.getInteger("version"), 2);
  EXPECT_EQ(manifest.getString("producer"), "test 1");

  llvm::json::Object &model = *manifest.getObject("model");
  EXPECT_EQ(model.getInteger("vocabulary_size"), 4);
  EXPECT_TRUE(model.get("bos_token_id")->getAsNull().has_value());
  EXPECT_EQ(*model.get("eos_token_ids"), llvm::json::Value({1}));

  std::string weights = read(join("pkg/weights.safetensors"));
  std::string code = read(join("pkg/module.cpu.so"));
  llvm::json::Object &weightSection = *manifest.getObject("weights");
  EXPECT_EQ(weightSection.getString("checksum"), checksum(weights));
  EXPECT_EQ(weightSection.getInteger("bytes"), int64_t(weights.size()));
  llvm::json::Object &target = *manifest.getObject("target");
  EXPECT_EQ(target.getString("module_checksum"), checksum(code));
  EXPECT_EQ(target.getInteger("module_bytes"), int64_t(code.size()));
  EXPECT_EQ(*target.get("features"), llvm::json::Value({"avx2", "fma"}));
  EXPECT_EQ(manifest.getObject("files")->getString("tokenizer.json"),
            checksum("{}"));
  EXPECT_EQ(read(join("pkg/tokenizer.json")), "{}");

  llvm::json::Object &plan = *manifest.getObject("plan");
  EXPECT_EQ(plan.getInteger("logits_bytes"), 8 * 4 * 4);
  int64_t peak = weights.size() + 256 + 2 * 64 + 2048 + 128 + code.size();
  EXPECT_EQ(plan.getInteger("peak_bytes"), peak);
  EXPECT_EQ(summary->peakBytes, peak);

  const llvm::json::Value launch = llvm::json::Object{
      {"kernel", "f"},
      {"label", "f"},
      {"tiles",
       llvm::json::Object{{"count", 2}, {"size", "tokens"}, {"block", 3}}},
      {"args", llvm::json::Array{llvm::json::Array{"weight", "table"},
                                 llvm::json::Array{"weight", "norm"},
                                 llvm::json::Array{"logits", 0}}},
      {"bytes", 7},
      {"flops_per_row", 9}};
  EXPECT_EQ(*manifest.get("launches"),
            llvm::json::Value(llvm::json::Array{launch}));
}

TEST_F(FolderTest, replacesAPackage) {
  OwningOpRef<ModuleOp> module = makeSmall();
  ASSERT_EQ(packageError(*module, options()), "success");
  write("pkg/stale", "old");
  ASSERT_EQ(packageError(*module, options()), "success");
  EXPECT_FALSE(llvm::sys::fs::exists(join("pkg/stale")));
  EXPECT_EQ(packageFolders(), std::vector<std::string>{"pkg"});

  PackageOptions careful = options();
  careful.overwrite = false;
  EXPECT_EQ(packageError(*module, careful),
            "package '" + join("pkg") + "' exists");
}

TEST_F(FolderTest, keepsTheOldPackageOnFailure) {
  OwningOpRef<ModuleOp> module = makeSmall();
  ASSERT_EQ(packageError(*module, options()), "success");
  std::string before = read(join("pkg/manifest.json"));
  module.get()->removeAttr(kPlanAttr);
  EXPECT_EQ(packageError(*module, options()),
            "the module lacks the attribute 'qlm.plan': it has not gone "
            "through all stages");
  EXPECT_EQ(read(join("pkg/manifest.json")), before);
  EXPECT_EQ(packageFolders(), std::vector<std::string>{"pkg"});
}

TEST_F(FolderTest, refusesOtherFolders) {
  OwningOpRef<ModuleOp> module = makeSmall();
  std::string message = "'" + join("pkg") + "' exists and is not a package";
  write("pkg", "a file");
  EXPECT_EQ(packageError(*module, options()), message);
  EXPECT_EQ(read(join("pkg")), "a file");
  ASSERT_FALSE(llvm::sys::fs::remove(join("pkg")));

  ASSERT_FALSE(llvm::sys::fs::create_directory(join("pkg")));
  write("pkg/thesis.txt", "years");
  EXPECT_EQ(packageError(*module, options()), message);
  write("pkg/manifest.json", R"({"format": "another"})");
  EXPECT_EQ(packageError(*module, options()), message);
  EXPECT_EQ(read(join("pkg/thesis.txt")), "years");
  EXPECT_EQ(packageFolders(), std::vector<std::string>{"pkg"});
}

TEST_F(FolderTest, takesAnEmptyFolder) {
  OwningOpRef<ModuleOp> module = makeSmall();
  ASSERT_FALSE(llvm::sys::fs::create_directory(join("pkg")));
  EXPECT_EQ(packageError(*module, options()), "success");
  EXPECT_EQ(packageFolders(), std::vector<std::string>{"pkg"});
}

TEST_F(FolderTest, refusesAPathThatCannotBeWritten) {
  OwningOpRef<ModuleOp> module = makeSmall();
  PackageOptions given = options();
  given.output = join("missing/pkg");
  EXPECT_EQ(packageError(*module, given),
            "cannot write '" + given.output + "': No such file or directory");
}

TEST_F(FolderTest, canBeCancelled) {
  OwningOpRef<ModuleOp> module = makeSmall();
  PackageOptions given = options();
  given.cancelled = [] { return true; };
  EXPECT_EQ(packageError(*module, given), "interrupted");
  EXPECT_EQ(packageFolders(), std::vector<std::string>());
}

TEST_F(FolderTest, refusesTwoWeightsOfOneKey) {
  OwningOpRef<ModuleOp> module =
      makeModule(R"(
  %w0 = qlm.load @a {qlm.key = "k"} : tensor<3x5xf16>
  %w1 = qlm.load @b {qlm.key = "k"} : tensor<3xf32>)",
                 {"tensor<3x5xf16>", "tensor<3xf32>"});
  EXPECT_EQ(packageError(*module, options()),
            "two different weights have the key 'k'");
  EXPECT_EQ(packageFolders(), std::vector<std::string>());
}
