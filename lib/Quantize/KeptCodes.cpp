//===- KeptCodes.cpp - Weights that the model's file holds as codes -------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KeptCodes.h"

#include "qlm/Archive/PackedCodes.h"
#include "qlm/Dialect/MethodOps.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace mlir::qlm;

namespace {
/// A parameter of codes.
struct Record {
  ParameterOp parameter;
  SchemeAttr scheme;
  PackedCodes codes;
  int64_t offset;
};
} // namespace

static std::optional<Record> getRecord(Value value) {
  auto load = value.getDefiningOp<LoadOp>();
  if (!load)
    return std::nullopt;
  auto parameter = SymbolTable::lookupNearestSymbolFrom<ParameterOp>(
      load, load.getParameterAttr());
  auto scheme = parameter->getAttrOfType<SchemeAttr>(kKeptSchemeAttr);
  auto key = PackedCodes::parseKey(parameter.getKey());
  if (!scheme || !key)
    return std::nullopt;
  return Record{parameter, scheme, key->first, key->second};
}

/// The records of a weight, or of each part that it joins; empty where one has
/// none.
static SmallVector<Record> getRecords(Value weight) {
  SmallVector<Value> parts{weight};
  if (auto concat = weight.getDefiningOp<tensor::ConcatOp>())
    parts.assign(concat.getInputs().begin(), concat.getInputs().end());
  SmallVector<Record> records;
  for (Value part : parts) {
    std::optional<Record> record = getRecord(part);
    if (!record)
      return {};
    records.push_back(*record);
  }
  return records;
}

/// The scheme that has the codes of all of \p records; null where none has.
static SchemeAttr joinSchemes(ArrayRef<Record> records) {
  SchemeAttr joined = records.front().scheme;
  for (const Record &record : records.drop_front()) {
    SchemeAttr next = record.scheme;
    if (next.getBits() != joined.getBits() ||
        next.getGroupSize() != joined.getGroupSize())
      return {};
    SchemeAttr wide = next.getZeroPoints() ? next : joined;
    Type scale = next.getScaleType().isF32() ? next.getScaleType()
                                             : joined.getScaleType();
    joined = SchemeAttr::get(next.getContext(), wide.getStorage(),
                             wide.getGranularity(), wide.getGroupSize(),
                             wide.getZeroPoints(), wide.getLo(), wide.getHi(),
                             wide.getBound(), scale);
  }
  return joined;
}

/// Scales or zero points of \p records, one below the other.
static Value loadRows(LinearOp linear, ArrayRef<Record> records, bool zeros) {
  OpBuilder b(linear);
  SmallVector<Value> parts;
  auto module = linear->getParentOfType<ModuleOp>();
  for (const Record &record : records) {
    ParameterOp parameter = record.parameter;
    std::string name =
        (parameter.getSymName() + (zeros ? ".zero_points" : ".scales")).str();
    auto type = RankedTensorType::get(
        {record.codes.rows, record.codes.getBlocks()}, b.getF32Type());
    if (!module.lookupSymbol(name)) {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointAfter(parameter);
      ParameterOp::create(b, parameter.getLoc(), name, type,
                          parameter.getFile(),
                          zeros ? record.codes.getZerosKey(record.offset)
                                : record.codes.getScalesKey(record.offset));
    }
    parts.push_back(LoadOp::create(b, linear.getLoc(), type, name));
  }
  if (parts.size() == 1)
    return parts.front();
  return tensor::ConcatOp::create(b, linear.getLoc(), /*dim=*/0, parts);
}

Value mlir::qlm::keepFileCodes(LinearOp linear) {
  SmallVector<Record> records = getRecords(linear.getWeight());
  SchemeAttr scheme = records.empty() ? SchemeAttr() : joinSchemes(records);
  if (!scheme)
    return {};
  OpBuilder b(linear);
  Location loc = linear.getLoc();
  auto type = cast<RankedTensorType>(linear.getWeight().getType());
  SmallVector<int64_t> shape =
      scheme.getScaleShape(type.getDimSize(0), type.getDimSize(1));
  bool zeros = scheme.getZeroPoints();
  Value scales = loadRows(linear, records, /*zeros=*/false);
  Value points = zeros ? loadRows(linear, records, /*zeros=*/true) : Value();
  auto kept = KeepCodesOp::create(
      b, loc, type.clone(scheme.getStorage()),
      RankedTensorType::get(shape, scheme.getScaleType()),
      zeros ? RankedTensorType::get(shape, scheme.getStorage())
            : RankedTensorType(),
      linear.getWeight(), scales, points, scheme);
  return DequantizeOp::create(b, loc, type, kept.getCodes(), kept.getScales(),
                              kept.getZeroPoints(), /*outliers=*/Value(),
                              scheme);
}

bool mlir::qlm::hasKeptCodes(LinearOp linear) {
  auto values = linear.getWeight().getDefiningOp<DequantizeOp>();
  return values && values.getCodes().getDefiningOp<KeepCodesOp>();
}
