//===- RowReader.cpp - Rows of a parameter program ------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RowReader.h"

#include "MethodReaders.h"
#include "PackageErrors.h"
#include "qlm/Archive/PackedCodes.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Quantize/Numerics.h"

#include <algorithm>

using namespace mlir;
using namespace mlir::qlm;
namespace numerics = ::qlm::numerics;

RowReader::RowReader(RankedTensorType type)
    : rows(type.getRank() ? type.getDimSize(0) : 1), columns(1) {
  for (int64_t size : type.getShape().drop_front(type.getRank() ? 1 : 0))
    columns *= size;
}

/// The index of the first of \p count values that isn't finite, or -1.
static int64_t findNonfinite(const float *values, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000;
  // A plain maximum over bits vectorizes; the position is found on failure.
  uint32_t worst = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, 4);
    worst = std::max(worst, bits & kExponent);
  }
  if (worst != kExponent)
    return -1;
  return std::find_if(values, values + count,
                      [](float value) { return !std::isfinite(value); }) -
         values;
}

/// "inf at [19, 7]": the value \p at of rows of which the first is \p row.
static std::string describeNonfinite(const float *values, int64_t at,
                                     int64_t row, int64_t columns) {
  StringRef name = std::isnan(values[at]) ? "nan"
                   : values[at] > 0       ? "inf"
                                          : "-inf";
  return (name + " at [" + llvm::Twine(row + at / columns) + ", " +
          llvm::Twine(at % columns) + "]")
      .str();
}

/// Fails if one of \p rows rows, the first one \p row, is not finite.
static llvm::Error checkFinite(const float *values, int64_t row, int64_t rows,
                               int64_t columns, const std::string &name,
                               StringRef cause) {
  int64_t at = findNonfinite(values, rows * columns);
  if (at < 0)
    return llvm::Error::success();
  return makeError("weight '" + name + "' must be finite" + cause + ", got " +
                   describeNonfinite(values, at, row, columns));
}

namespace {

/// qlm.load: rows of a mapped tensor.
class LoadReader : public RowReader {
public:
  LoadReader(RankedTensorType type, const ArchiveTensor *tensor,
             numerics::FloatType format, StringRef name, ReaderContext &context)
      : RowReader(type), tensor(tensor), format(format), name(name),
        context(context) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    numerics::toFloat32(format, slice(row, count).data(), target,
                        count * columns);
    if (context.allowNonfinite) {
      dropNonfinite(row, count, target);
      return llvm::Error::success();
    }
    return checkFinite(target, row, count, columns, name, "");
  }
  void release(int64_t row, int64_t count) const override {
    adviseDone(slice(row, count));
  }
  std::string getName() const override { return name; }

private:
  ArrayRef<uint8_t> slice(int64_t row, int64_t count) const {
    int64_t bytes = columns * numerics::getFloatBytes(format);
    return tensor->data.slice(row * bytes, count * bytes);
  }

  void dropNonfinite(int64_t row, int64_t count, float *target) const {
    int64_t at = findNonfinite(target, count * columns);
    if (at < 0)
      return;
    std::string found = describeNonfinite(target, at, row, columns);
    for (int64_t i = at; i < count * columns; ++i)
      target[i] = std::isfinite(target[i]) ? target[i] : 0;
    std::lock_guard<std::mutex> lock(context.mutex);
    context.nonfinite.try_emplace(name, std::move(found));
  }

  const ArchiveTensor *tensor;
  numerics::FloatType format;
  std::string name;
  ReaderContext &context;
};

/// qlm.load of a record of codes: what they stand for.
class CodesReader : public RowReader {
public:
  CodesReader(RankedTensorType type, PackedCodes codes,
              const ArchiveTensor *record, StringRef name)
      : RowReader(type), codes(codes), record(record), name(name) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    codes.dequantize(record->data, row, count, target);
    return checkFinite(target, row, count, columns, name, "");
  }
  std::string getName() const override { return name; }

private:
  PackedCodes codes;
  const ArchiveTensor *record;
  std::string name;
};

/// qlm.transpose of a qlm.load: columns of a mapped tensor.
class TransposedReader : public RowReader {
public:
  TransposedReader(RankedTensorType type, const ArchiveTensor *tensor,
                   numerics::FloatType format, StringRef name)
      : RowReader(type), tensor(tensor), format(format), name(name) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    int64_t bytes = numerics::getFloatBytes(format);
    std::vector<float> piece(count);
    for (int64_t k = 0; k < columns; ++k) {
      numerics::toFloat32(
          format,
          tensor->data.slice((k * rows + row) * bytes, count * bytes).data(),
          piece.data(), count);
      for (int64_t i = 0; i < count; ++i)
        target[i * columns + k] = piece[i];
    }
    return checkFinite(target, row, count, columns, name, "");
  }
  std::string getName() const override { return name; }

private:
  const ArchiveTensor *tensor;
  numerics::FloatType format;
  std::string name;
};

/// tensor.concat dim(0): the rows of each part in turn.
class ConcatReader : public RowReader {
public:
  ConcatReader(RankedTensorType type,
               std::vector<std::unique_ptr<RowReader>> parts)
      : RowReader(type), parts(std::move(parts)) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    llvm::Error error = llvm::Error::success();
    visit(row, count, [&](const RowReader &part, int64_t first, int64_t size) {
      if (error)
        return;
      error = part.read(first, size, target);
      target += size * columns;
    });
    return error;
  }
  void release(int64_t row, int64_t count) const override {
    visit(row, count, [&](const RowReader &part, int64_t first, int64_t size) {
      part.release(first, size);
    });
  }
  std::string getName() const override {
    std::string name = parts.front()->getName();
    if (parts.size() > 1)
      name += " .. " + parts.back()->getName();
    return name;
  }

private:
  /// Calls \p visitor with each part that has some of the rows.
  void
  visit(int64_t row, int64_t count,
        function_ref<void(const RowReader &, int64_t, int64_t)> visitor) const {
    for (const std::unique_ptr<RowReader> &part : parts) {
      int64_t begin = std::max<int64_t>(row, 0);
      int64_t end = std::min(row + count, part->getRows());
      if (begin < end)
        visitor(*part, begin, end - begin);
      row -= part->getRows();
    }
  }

  std::vector<std::unique_ptr<RowReader>> parts;
};

/// qlm.convert: rounds to the result's element type.
class ConvertReader : public RowReader {
public:
  ConvertReader(RankedTensorType type, numerics::FloatType format,
                std::unique_ptr<RowReader> input)
      : RowReader(type), format(format), input(std::move(input)) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    if (llvm::Error error = input->read(row, count, target))
      return error;
    if (format == numerics::FloatType::Float32)
      return llvm::Error::success();
    // By pieces, so that the rounded bits need no allocation.
    constexpr int64_t kPiece = 1024;
    uint16_t bits[kPiece];
    for (int64_t i = 0, e = count * columns; i < e; i += kPiece) {
      int64_t size = std::min(kPiece, e - i);
      numerics::fromFloat32(format, target + i, bits, size);
      numerics::toFloat32(format, bits, target + i, size);
    }
    return checkFinite(target, row, count, columns, getName(),
                       format == numerics::FloatType::Float16
                           ? " in f16 (largest 65504)"
                           : " in bf16");
  }
  void release(int64_t row, int64_t count) const override {
    input->release(row, count);
  }
  std::string getName() const override { return input->getName(); }

private:
  numerics::FloatType format;
  std::unique_ptr<RowReader> input;
};

/// arith.constant: small tables kept in the IR.
class ConstantReader : public RowReader {
public:
  ConstantReader(RankedTensorType type, std::vector<float> values)
      : RowReader(type), values(std::move(values)) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    std::copy_n(values.data() + row * columns, count * columns, target);
    return checkFinite(target, row, count, columns, getName(), "");
  }
  std::string getName() const override { return "constant"; }

private:
  std::vector<float> values;
};

} // namespace

static std::optional<ArchiveType> getStorage(Type type) {
  if (type.isF32())
    return ArchiveType::F32;
  if (type.isF16())
    return ArchiveType::F16;
  if (type.isBF16())
    return ArchiveType::BF16;
  return std::nullopt;
}

/// The mapped tensor of a parameter, and how its elements are stored.
static llvm::Expected<std::pair<const ArchiveTensor *, std::string>>
findTensor(LoadOp load, ReaderContext &context) {
  auto parameter = SymbolTable::lookupNearestSymbolFrom<ParameterOp>(
      load, load.getParameterAttr());
  if (!parameter)
    return makeError("no qlm.parameter is called '" + load.getParameter() +
                     "'");
  auto tensor = context.archive.find(parameter.getFile(), parameter.getKey());
  if (!tensor)
    return tensor.takeError();
  auto type = cast<RankedTensorType>(load.getType());
  std::optional<ArchiveType> storage = getStorage(type.getElementType());
  if (!storage || *storage != (*tensor)->type ||
      type.getShape() != ArrayRef<int64_t>((*tensor)->shape))
    return makeError("weight '" + parameter.getSymName() + "' is " +
                     printToString(type) + " in the module but " +
                     (*tensor)->getTypeString() + " in " + parameter.getFile());
  return std::pair(*tensor, parameter.getSymName().str());
}

/// The reader of \p load where its parameter's key is that of a record of
/// codes; else null.
static llvm::Expected<std::unique_ptr<RowReader>>
createCodes(LoadOp load, ReaderContext &context) {
  auto parameter = SymbolTable::lookupNearestSymbolFrom<ParameterOp>(
      load, load.getParameterAttr());
  auto key =
      parameter ? PackedCodes::parseKey(parameter.getKey()) : std::nullopt;
  if (!key)
    return nullptr;
  auto [codes, offset] = *key;
  auto type = cast<RankedTensorType>(load.getType());
  if (type.getShape() != ArrayRef<int64_t>{codes.rows, codes.columns} ||
      !type.getElementType().isF32())
    return makeError("weight '" + parameter.getSymName() + "' is " +
                     printToString(type) + " in the module but " +
                     parameter.getKey() + " in its file");
  auto record = context.archive.find(
      parameter.getFile(), ("U8[" + llvm::Twine(codes.getRecordBytes()) +
                            "] at " + llvm::Twine(offset))
                               .str());
  if (!record)
    return record.takeError();
  return std::make_unique<CodesReader>(type, codes, *record,
                                       parameter.getSymName());
}

static llvm::Expected<std::unique_ptr<RowReader>>
createLoad(LoadOp load, ReaderContext &context) {
  auto record = createCodes(load, context);
  if (!record || *record)
    return record;
  auto found = findTensor(load, context);
  if (!found)
    return found.takeError();
  auto type = cast<RankedTensorType>(load.getType());
  return std::make_unique<LoadReader>(type, found->first,
                                      *getFloatType(type.getElementType()),
                                      found->second, context);
}

static llvm::Expected<std::unique_ptr<RowReader>>
createTransposed(TransposeOp transpose, ReaderContext &context) {
  auto load = transpose.getWeight().getDefiningOp<LoadOp>();
  if (!load)
    return makeUnsupported(transpose, "only a qlm.load can be transposed");
  auto found = findTensor(load, context);
  if (!found)
    return found.takeError();
  auto type = cast<RankedTensorType>(transpose.getType());
  return std::make_unique<TransposedReader>(
      type, found->first, *getFloatType(type.getElementType()), found->second);
}

static llvm::Expected<std::unique_ptr<RowReader>>
createConcat(tensor::ConcatOp concat, ReaderContext &context) {
  if (concat.getDim() != 0)
    return makeUnsupported(concat, "rows can only be joined along dimension 0");
  std::vector<std::unique_ptr<RowReader>> parts;
  for (Value input : concat.getInputs()) {
    auto part = RowReader::create(input, context);
    if (!part)
      return part.takeError();
    parts.push_back(std::move(*part));
  }
  return std::make_unique<ConcatReader>(concat.getResultType(),
                                        std::move(parts));
}

static llvm::Expected<std::unique_ptr<RowReader>>
createConstant(arith::ConstantOp constant) {
  auto elements = dyn_cast<DenseFPElementsAttr>(constant.getValue());
  auto type = dyn_cast<RankedTensorType>(constant.getType());
  if (!elements || !type)
    return makeUnsupported(constant, "constants must be float tensors");
  std::vector<float> values;
  values.reserve(elements.size());
  for (const APFloat &value : elements)
    values.push_back(static_cast<float>(value.convertToDouble()));
  return std::make_unique<ConstantReader>(type, std::move(values));
}

llvm::Expected<std::unique_ptr<RowReader>>
RowReader::create(Value value, ReaderContext &context) {
  Operation *op = value.getDefiningOp();
  if (!op)
    return makeError("a weight must be computed from parameters, got an "
                     "argument of the function");
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type || !type.hasStaticShape() || type.getNumElements() == 0 ||
      !getFloatType(type.getElementType()))
    return makeUnsupported(op, "expected a static tensor of f32, f16 or bf16");
  if (auto load = dyn_cast<LoadOp>(op))
    return createLoad(load, context);
  if (auto transpose = dyn_cast<TransposeOp>(op))
    return createTransposed(transpose, context);
  if (auto concat = dyn_cast<tensor::ConcatOp>(op))
    return createConcat(concat, context);
  if (auto constant = dyn_cast<arith::ConstantOp>(op))
    return createConstant(constant);
  if (auto convert = dyn_cast<ConvertOp>(op)) {
    auto input = create(convert.getInput(), context);
    if (!input)
      return input;
    return std::make_unique<ConvertReader>(
        type, *getFloatType(type.getElementType()), std::move(*input));
  }
  auto changed = createMethodReader(value, context);
  if (!changed || *changed)
    return changed;
  return makeUnsupported(
      op, "expected qlm.load, qlm.convert, tensor.concat or arith.constant");
}
