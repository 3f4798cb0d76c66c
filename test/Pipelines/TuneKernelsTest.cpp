//===- TuneKernelsTest.cpp - Choices that are timed here ------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Lower/Cpu/Kernels.h"
#include "qlm/Pipelines/Pipelines.h"

#include <gtest/gtest.h>

using namespace mlir;
using namespace mlir::qlm;

namespace {
/// Two products, equal but for their operands.
constexpr llvm::StringLiteral kText = R"(
  func.func @f(%x: tensor<?x64xf32>, %p: tensor<2x64x16xf32>,
               %q: tensor<2x64x16xf32>) -> tensor<?x32xf32> {
    %y = qlm.packed_linear %x, %p {inFeatures = 64 : i64,
        layout = #qlm.layout<f32x16>, outFeatures = 32 : i64,
        qlm.tuning = {tile_blocks = 1 : i64}}
      : (tensor<?x64xf32>, tensor<2x64x16xf32>) -> tensor<?x32xf32>
    %z = qlm.packed_linear %x, %q {inFeatures = 64 : i64,
        layout = #qlm.layout<f32x16>, outFeatures = 32 : i64}
      : (tensor<?x64xf32>, tensor<2x64x16xf32>) -> tensor<?x32xf32>
    return %y : tensor<?x32xf32>
  })";

class TuneKernelsTest : public testing::Test {
protected:
  void SetUp() override {
    context.loadDialect<QlmDialect, func::FuncDialect>();
    module = parseSourceString<ModuleOp>(kText, &context);
    ASSERT_TRUE(module);
  }

  MLIRContext context;
  OwningOpRef<ModuleOp> module;
};
} // namespace

// What is chosen depends on the machine; that it is a choice of the kernels,
// and the same for equal products, doesn't.
TEST_F(TuneKernelsTest, EqualProductsGetOneChoice) {
  int reports = 0;
  llvm::Error error = tuneKernels(*module, "native", /*maxRows=*/4,
                                  /*threads=*/1, [&](llvm::StringRef product) {
                                    EXPECT_EQ(product, "64 to 32 features");
                                    ++reports;
                                  });
  ASSERT_FALSE(static_cast<bool>(error)) << llvm::toString(std::move(error));
  EXPECT_EQ(reports, 1);
  SmallVector<Attribute> chosen;
  module->walk([&](PackedLinearOp op) {
    EXPECT_TRUE(succeeded(cpu::LinearTuning::get(op)));
    chosen.push_back(op->getAttr(cpu::kTuningAttr));
  });
  ASSERT_EQ(chosen.size(), 2u);
  EXPECT_EQ(chosen[0], chosen[1]);
}

TEST_F(TuneKernelsTest, RefusesAnotherMachinesCode) {
  llvm::Expected<cpu::Target> native = cpu::Target::get("native");
  if (!native || native->amxInt8)
    GTEST_SKIP() << "this machine runs all targets, or none";
  llvm::Error error = tuneKernels(*module, "sapphirerapids", /*maxRows=*/4,
                                  /*threads=*/1, nullptr);
  std::string message = llvm::toString(std::move(error));
  EXPECT_TRUE(llvm::StringRef(message).starts_with(
      "tuning runs kernels here, and this machine lacks amx-"))
      << message;
  EXPECT_TRUE(
      llvm::StringRef(message).ends_with("of target cpu sapphirerapids"))
      << message;
}

TEST_F(TuneKernelsTest, RefusesAnUnknownTarget) {
  llvm::Error error = tuneKernels(*module, "pentium", /*maxRows=*/4,
                                  /*threads=*/1, nullptr);
  EXPECT_TRUE(llvm::StringRef(llvm::toString(std::move(error)))
                  .starts_with("unknown target cpu 'pentium'"));
}
