//===- PlanMemoryTest.cpp - No two live values share memory ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Passes.h"

#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"

#include <gtest/gtest.h>
#include <random>

using namespace mlir;
using namespace mlir::qlm;

static constexpr int64_t kTokens = 3;

/// A step of \p count additions of random earlier values, of two widths.
static std::string getRandomStep(int count, uint32_t seed) {
  std::mt19937 random(seed);
  auto type = [](int width) {
    return "tensor<?x" + std::to_string(width) + "xf32>";
  };
  const int widths[] = {16, 100};
  std::string text =
      "module attributes {qlm.plan = {max_step_tokens = 3 : i64, "
      "max_logit_rows = 3 : i64}} {\nfunc.func @step(%a0: tensor<?x16xf32>, "
      "%a1: tensor<?x100xf32>) -> tensor<?x16xf32> {\n";
  std::vector<std::string> names[] = {{"%a0"}, {"%a1"}};
  for (int i = 0; i < count; ++i) {
    // The logits are the last sum, of the first width.
    int kind = i + 1 == count ? 0 : random() % 2;
    auto pick = [&] {
      // Recent values more often: lifetimes of all lengths.
      size_t size = names[kind].size();
      size_t back = std::min<size_t>(size - 1, random() % 4 * (random() % 4));
      return names[kind][size - 1 - back];
    };
    std::string name = "%v" + std::to_string(i);
    text += name + " = qlm.add " + pick() + ", " + pick() + " : " +
            type(widths[kind]) + "\n";
    names[kind].push_back(name);
  }
  return text + "return " + names[0].back() + " : tensor<?x16xf32>\n}\n}";
}

/// Checks that values that live at the same time lie apart, and that the arena
/// holds them with their readable tails.
static void checkPlan(ModuleOp module) {
  struct Placed {
    int64_t begin, end, born, dies;
  };
  auto step = module.lookupSymbol<func::FuncOp>(kStepName);
  DenseMap<Operation *, int64_t> order;
  for (Operation &op : step.getBody().front())
    order[&op] = order.size();
  std::vector<Placed> placed;
  int64_t used = 0;
  for (auto add : step.getOps<AddOp>()) {
    auto offsets = add->getAttrOfType<ArrayAttr>(kOffsetsAttr);
    ASSERT_TRUE(offsets && offsets.size() == 1);
    int64_t offset = cast<IntegerAttr>(offsets[0]).getInt();
    Value logits = step.getBody().front().getTerminator()->getOperand(0);
    ASSERT_EQ(offset == -1, add.getResult() == logits);
    if (offset == -1)
      continue;
    EXPECT_EQ(offset % 64, 0);
    int64_t width = cast<RankedTensorType>(add.getType()).getDimSize(1);
    Placed value{offset, offset + kTokens * width * 4 + 64, order[add],
                 order[add]};
    for (Operation *user : add->getUsers())
      value.dies = std::max(value.dies, order[user]);
    for (const Placed &other : placed)
      EXPECT_TRUE(other.dies < value.born || value.dies < other.born ||
                  other.end <= value.begin || value.end <= other.begin);
    placed.push_back(value);
    used = std::max(used, value.end);
  }
  auto plan = module->getAttrOfType<DictionaryAttr>(kPlanAttr);
  int64_t arena = plan.getAs<IntegerAttr>("arena_bytes").getInt();
  EXPECT_GE(arena, used);
  EXPECT_LT(arena, used + 64);
}

TEST(PlanMemoryTest, RandomStepsKeepLiveValuesApart) {
  MLIRContext context;
  context.loadDialect<QlmDialect, func::FuncDialect>();
  for (uint32_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    OwningOpRef<ModuleOp> module =
        parseSourceString<ModuleOp>(getRandomStep(2 + seed, seed), &context);
    ASSERT_TRUE(module);
    PassManager pm(&context, ModuleOp::getOperationName());
    pm.addPass(createPlanMemory());
    ASSERT_TRUE(succeeded(pm.run(*module)));
    checkPlan(*module);
  }
}
