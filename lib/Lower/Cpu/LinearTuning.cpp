//===- LinearTuning.cpp - Reads choices that replace the cost model's -----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Cpu/Kernels.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cpu;

namespace {
struct Choice {
  llvm::StringLiteral name;
  int64_t LinearTuning::*member;
  /// The least and the largest value, and what it is a multiple of; 0 stands
  /// for a power of two.
  int64_t least, most, unit;

  bool allows(int64_t value) const {
    return value >= least && value <= most &&
           (unit ? value % unit == 0 : llvm::isPowerOf2_64(value));
  }
  std::string describe() const {
    return (unit ? "multiple of " + std::to_string(unit)
                 : std::string("power of two")) +
           " from " + std::to_string(least) + " to " + std::to_string(most);
  }
};
constexpr Choice kChoices[] = {
    {"tile_blocks", &LinearTuning::tileBlocks, 1, 64, 0},
    {"prefetch_bytes", &LinearTuning::prefetchBytes, 64, 1 << 16, 64},
    {"one_row_strips", &LinearTuning::oneRowStrips, 2, 16, 0},
    {"amx_rows", &LinearTuning::amxRows, 1, 1 << 16, 1},
    {"result_stores", &LinearTuning::resultStores, 1, 2, 1},
    {"chunk_columns", &LinearTuning::chunkColumns, 64, 1 << 20, 64},
    {"one_patch", &LinearTuning::onePatch, 1, 1, 1},
};
} // namespace

FailureOr<LinearTuning> LinearTuning::get(Operation *op) {
  LinearTuning tuning;
  Attribute attribute = op->getAttr(kTuningAttr);
  if (!attribute)
    return tuning;
  auto dictionary = dyn_cast<DictionaryAttr>(attribute);
  if (!dictionary)
    return op->emitOpError()
           << kTuningAttr << " must be a dictionary, got " << attribute;
  for (NamedAttribute entry : dictionary) {
    const Choice *choice = llvm::find_if(kChoices, [&](const Choice &known) {
      return known.name == entry.getName();
    });
    if (choice == std::end(kChoices))
      return op->emitOpError()
             << kTuningAttr << " has no choice " << entry.getName();
    auto number = dyn_cast<IntegerAttr>(entry.getValue());
    if (!number || !number.getType().isSignlessInteger(64) ||
        !choice->allows(number.getInt()))
      return op->emitOpError()
             << kTuningAttr << "'s " << choice->name << " must be an i64, a "
             << choice->describe() << ", got " << entry.getValue();
    tuning.*choice->member = number.getInt();
  }
  return tuning;
}
