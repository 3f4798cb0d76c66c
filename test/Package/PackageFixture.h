//===- PackageFixture.h - Small modules and their packages ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_PACKAGE_PACKAGEFIXTURE_H
#define QLM_TEST_PACKAGE_PACKAGEFIXTURE_H

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"
#include "qlm/Archive/Safetensors.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Package/Package.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"

#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace mlir::qlm::test {

/// A folder with one weight file, and modules over it.
class PackageTest : public ::testing::Test {
protected:
  PackageTest() {
    context.loadDialect<QlmDialect, func::FuncDialect, arith::ArithDialect,
                        tensor::TensorDialect, LLVM::LLVMDialect>();
    llvm::SmallString<128> made;
    EXPECT_FALSE(llvm::sys::fs::createUniqueDirectory("qlm-package", made));
    folder = made.str().str();
  }
  ~PackageTest() override { (void)llvm::sys::fs::remove_directories(folder); }

  std::string join(llvm::StringRef name) const {
    llvm::SmallString<128> path(folder);
    llvm::sys::path::append(path, name);
    return path.str().str();
  }

  std::string read(llvm::StringRef path) const {
    auto buffer = llvm::MemoryBuffer::getFile(path);
    return buffer ? (*buffer)->getBuffer().str() : std::string();
  }

  void write(llvm::StringRef name, llvm::StringRef bytes) const {
    std::ofstream(join(name), std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  /// Adds a tensor to the weight file and declares it as @name.
  void addWeight(const std::string &name, const std::string &type,
                 std::vector<int64_t> shape, const std::string &bytes) {
    std::string sizes, dimensions;
    for (int64_t size : shape) {
      sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
      dimensions += std::to_string(size) + "x";
    }
    header += llvm::formatv(
        R"({0}"{1}":{{"dtype":"{2}","shape":[{3}],"data_offsets":[{4},{5}]})",
        header.empty() ? "" : ",", name, type, sizes, data.size(),
        data.size() + bytes.size());
    data += bytes;
    std::string element = llvm::StringRef(type).lower();
    parameters += llvm::formatv(
        "qlm.parameter @{0} : tensor<{1}{2}> from \"m.safetensors\" "
        "key \"{0}\"\n",
        name, dimensions, element);
  }

  /// A whole module after Lower: \p program computes %w0, %w1, ... of \p types
  /// that one launch reads.
  OwningOpRef<ModuleOp> makeModule(const std::string &program,
                                   const std::vector<std::string> &types) {
    std::string operands, operandTypes, args;
    for (size_t i = 0; i < types.size(); ++i) {
      std::string comma = i ? ", " : "";
      operands += comma + "%w" + std::to_string(i);
      operandTypes += comma + types[i];
      args += llvm::formatv("#qlm.arg<weight, {0}>, ", i);
    }
    std::string json = "{" + header + "}";
    std::string size(8, '\0');
    for (int i = 0; i < 8; ++i)
      size[i] = static_cast<char>(json.size() >> (8 * i));
    write("m.safetensors", size + json + data);
    std::string text = llvm::formatv(R"(
module attributes {{qlm.stage = "lower", qlm.source = "{0}", qlm.model = {{
    architecture = "llama", name = "x", vocabulary_size = 4 : i64,
    eos_token_ids = [1 : i64]}, qlm.plan = {{max_batch = 1 : i64,
    max_logit_rows = 8 : i64, arena_bytes = 256 : i64,
    scratch_bytes = 64 : i64, kv = {{type = "f32", pool_bytes = 2048 : i64}}} {{
{1}
module @kernels attributes {{qlm.target_cpu = "x86-64",
                            qlm.target_features = "+avx2,+fma"} {{
  llvm.func @f(%b: !llvm.ptr, %s: !llvm.ptr, %lo: i64, %hi: i64, %x: !llvm.ptr) {{
    llvm.return
  }
}
func.func @step() {{
{2}
  qlm.launch @kernels::@f "f" tiles <2 * tokens, block 3> args [{3}#qlm.arg<logits>]
    weights({4} : {5}) {{bytes = 7 : i64, flopsPerRow = 9 : i64}
  return
}
})",
                                     folder, parameters, program, args,
                                     operands, operandTypes);
    auto module = parseSourceString<ModuleOp>(text, &context);
    EXPECT_TRUE(module) << text;
    return module;
  }

  PackageOptions options() const {
    PackageOptions result;
    result.output = join("pkg");
    result.threads = 2;
    return result;
  }

  /// The message of what must be an error.
  std::string packageError(ModuleOp module, const PackageOptions &options) {
    auto summary = writePackage(module, options);
    return summary ? "success" : llvm::toString(summary.takeError());
  }

  /// Names in the folder that begin with "pkg".
  std::vector<std::string> packageFolders() const {
    std::vector<std::string> names;
    std::error_code code;
    for (llvm::sys::fs::directory_iterator it(folder, code), end; it != end;
         it.increment(code)) {
      std::string name = llvm::sys::path::filename(it->path()).str();
      if (llvm::StringRef(name).starts_with("pkg"))
        names.push_back(name);
    }
    return names;
  }

  MLIRContext context;
  std::string folder;
  std::string header, data, parameters;
};

} // namespace mlir::qlm::test

#endif // QLM_TEST_PACKAGE_PACKAGEFIXTURE_H
