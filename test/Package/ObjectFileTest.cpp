//===- ObjectFileTest.cpp - Kernels to machine code -----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Package/ObjectFile.h"
#include "PackageFixture.h"

#include <dlfcn.h>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::test;

namespace {
class ObjectFileTest : public PackageTest {
protected:
  OwningOpRef<ModuleOp> parse(const std::string &body) {
    auto module = parseSourceString<ModuleOp>(
        "module @kernels attributes {qlm.target_cpu = \"x86-64-v3\", "
        "qlm.target_features = \"+avx,+avx2\"} {\n" +
            body + "\n}",
        &context);
    EXPECT_TRUE(module);
    return module;
  }
};
} // namespace

TEST_F(ObjectFileTest, linksALibraryThatRuns) {
  OwningOpRef<ModuleOp> module = parse(R"(
  llvm.func @twice(%a: i64) -> i64 {
    %b = llvm.add %a, %a : i64
    llvm.return %b : i64
  })");
  std::string path = join("m.so");
  if (llvm::Error error = emitSharedLibrary(*module, path))
    FAIL() << llvm::toString(std::move(error));
  // Nothing but the library is left.
  EXPECT_FALSE(llvm::sys::fs::exists(path + ".o"));
  EXPECT_FALSE(llvm::sys::fs::exists(path + ".log"));
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  auto twice = reinterpret_cast<int64_t (*)(int64_t)>(dlsym(library, "twice"));
  ASSERT_NE(twice, nullptr);
  EXPECT_EQ(twice(21), 42);
  dlclose(library);
}

TEST_F(ObjectFileTest, namesMissingFunctions) {
  OwningOpRef<ModuleOp> module = parse(R"(
  llvm.func @expf(f32) -> f32
  llvm.func @f(%a: f32) -> f32 {
    %b = llvm.call @expf(%a) : (f32) -> f32
    %c = llvm.intr.sin(%b) : (f32) -> f32
    llvm.return %c : f32
  })");
  auto object = emitObjectCode(*module);
  ASSERT_FALSE(static_cast<bool>(object));
  EXPECT_EQ(llvm::toString(object.takeError()),
            "kernels must not call library functions, got expf, sinf");
}

// The optimizer knows this loop as memset; a package has none to call.
TEST_F(ObjectFileTest, keepsLoopsThatLookLikeMemset) {
  OwningOpRef<ModuleOp> module = parse(R"(
  llvm.func @clear(%p: !llvm.ptr, %n: i64) {
    %zero = llvm.mlir.constant(0 : i64) : i64
    %one = llvm.mlir.constant(1 : i64) : i64
    %byte = llvm.mlir.constant(0 : i8) : i8
    llvm.br ^loop(%zero : i64)
  ^loop(%i: i64):
    %at = llvm.getelementptr %p[%i] : (!llvm.ptr, i64) -> !llvm.ptr, i8
    llvm.store %byte, %at : i8, !llvm.ptr
    %next = llvm.add %i, %one : i64
    %more = llvm.icmp "ult" %next, %n : i64
    llvm.cond_br %more, ^loop(%next : i64), ^done
  ^done:
    llvm.return
  })");
  auto object = emitObjectCode(*module);
  EXPECT_TRUE(static_cast<bool>(object)) << llvm::toString(object.takeError());
}

TEST_F(ObjectFileTest, reportsWhatIsNotInTheLLVMDialect) {
  OwningOpRef<ModuleOp> module = parse("func.func private @f()");
  auto object = emitObjectCode(*module);
  ASSERT_FALSE(static_cast<bool>(object));
  std::string message = llvm::toString(object.takeError());
  EXPECT_EQ(message.find("cannot translate the kernels to LLVM IR: "), 0u)
      << message;
}
