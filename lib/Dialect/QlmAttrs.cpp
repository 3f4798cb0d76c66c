//===- QlmAttrs.cpp - Schemes, layouts and launch attributes --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Dialect/Qlm.h"
#include "qlm/Package/Format.h"
#include "qlm/Package/Tables.h"

#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace mlir::qlm;
using ::qlm::format::kFragmentColumns;
using ::qlm::format::kFragmentLineBytes;

#include "qlm/Dialect/QlmEnums.cpp.inc"

#define GET_ATTRDEF_CLASSES
#include "qlm/Dialect/QlmAttrs.cpp.inc"

void QlmDialect::registerAttributes() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "qlm/Dialect/QlmAttrs.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// VariantAttr
//===----------------------------------------------------------------------===//

LogicalResult VariantAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                  SymbolRefAttr kernel, int64_t maxRows,
                                  TilesAttr grid, TilesAttr gridY,
                                  int64_t blockThreads, int64_t sharedBytes,
                                  int64_t cluster, bool dependent,
                                  bool decodeOnly) {
  constexpr int64_t kWarp = 32, kMostThreads = 1024, kMostCluster = 8;
  if (maxRows <= 0)
    return emitError() << "max rows must be positive, got " << maxRows;
  if (blockThreads <= 0 || blockThreads > kMostThreads || blockThreads % kWarp)
    return emitError() << "block threads must be a multiple of " << kWarp
                       << " up to " << kMostThreads << ", got " << blockThreads;
  if (sharedBytes < 0)
    return emitError() << "shared bytes must not be negative, got "
                       << sharedBytes;
  if (cluster <= 0 || cluster > kMostCluster)
    return emitError() << "cluster must be 1 to " << kMostCluster << ", got "
                       << cluster;
  return success();
}

//===----------------------------------------------------------------------===//
// SchemeAttr
//===----------------------------------------------------------------------===//

// #qlm.scheme<storage, granularity(, groupSize)?(, zero_points)?
//             (, nf4)?(, range [lo, hi])?(, bound b)?, scales type>
//
// A range has a uniform scheme, a bound a symmetric one and one of floats.
Attribute SchemeAttr::parse(AsmParser &parser, Type) {
  Type storage, scaleType;
  StringRef word;
  int64_t groupSize = 0, lo = 0, hi = 0;
  double bound = 0;
  bool zeroPoints = false;
  Codebook codebook = Codebook::Uniform;
  llvm::SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseType(storage) || parser.parseComma() ||
      parser.parseKeyword(&word))
    return {};
  std::optional<Granularity> granularity = symbolizeGranularity(word);
  if (!granularity) {
    parser.emitError(loc, "unknown granularity '")
        << word << "', expected tensor, channel, group or row";
    return {};
  }
  if (*granularity == Granularity::Group &&
      (parser.parseComma() || parser.parseInteger(groupSize)))
    return {};
  if (parser.parseComma())
    return {};
  if (succeeded(parser.parseOptionalKeyword("zero_points"))) {
    zeroPoints = true;
    if (parser.parseComma())
      return {};
  }
  if (succeeded(parser.parseOptionalKeyword("nf4"))) {
    codebook = Codebook::NF4;
    if (parser.parseComma())
      return {};
  } else if (isa<FloatType>(storage)) {
    codebook = Codebook::Float8;
  }
  if (codebook == Codebook::Uniform &&
      (parser.parseKeyword("range") || parser.parseLSquare() ||
       parser.parseInteger(lo) || parser.parseComma() ||
       parser.parseInteger(hi) || parser.parseRSquare() || parser.parseComma()))
    return {};
  bool hasBound = !zeroPoints && codebook != Codebook::NF4;
  if (hasBound && (parser.parseKeyword("bound") || parser.parseFloat(bound) ||
                   parser.parseComma()))
    return {};
  if (parser.parseKeyword("scales") || parser.parseType(scaleType) ||
      parser.parseGreater())
    return {};
  return parser.getChecked<SchemeAttr>(loc, parser.getContext(), storage,
                                       *granularity, groupSize, zeroPoints, lo,
                                       hi, APFloat(bound), scaleType, codebook);
}

void SchemeAttr::print(AsmPrinter &printer) const {
  printer << "<" << getStorage() << ", " << getGranularity();
  if (getGranularity() == Granularity::Group)
    printer << ", " << getGroupSize();
  if (getZeroPoints())
    printer << ", zero_points";
  if (getCodebook() == Codebook::NF4)
    printer << ", nf4";
  if (isUniform())
    printer << ", range [" << getLo() << ", " << getHi() << "]";
  if (!getZeroPoints() && getCodebook() != Codebook::NF4) {
    printer << ", bound ";
    printer.printFloat(getBound());
  }
  printer << ", scales " << getScaleType() << ">";
}

/// The rules of schemes that are not uniform.
static LogicalResult
verifyCodebook(function_ref<InFlightDiagnostic()> emitError, Type storage,
               Granularity granularity, bool zeroPoints, Codebook codebook) {
  bool isTable = codebook == Codebook::NF4;
  if (isTable ? !storage.isUnsignedInteger(4) : !isa<Float8E4M3FNType>(storage))
    return emitError() << "storage must be "
                       << (isTable ? "ui4 with nf4"
                                   : "i8, i4, ui8, ui4 or f8E4M3FN")
                       << ", got " << storage;
  if (zeroPoints)
    return emitError() << "zero points need a uniform scheme";
  if (granularity == Granularity::Row && isTable)
    return emitError() << "a scheme by row is of activations and has no table";
  return success();
}

LogicalResult SchemeAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                 Type storage, Granularity granularity,
                                 int64_t groupSize, bool zeroPoints, int64_t lo,
                                 int64_t hi, APFloat bound, Type scaleType,
                                 Codebook codebook) {
  if (granularity == Granularity::Group && groupSize <= 0)
    return emitError() << "group size must be positive, got " << groupSize;
  if (!scaleType.isF32() && !scaleType.isF16())
    return emitError() << "scales must be f32 or f16, got " << scaleType;
  bool hasBound = !zeroPoints && codebook != Codebook::NF4;
  if (hasBound && !(bound.convertToDouble() > 0))
    return emitError() << "bound must be positive, got "
                       << bound.convertToDouble();
  if (codebook != Codebook::Uniform)
    return verifyCodebook(emitError, storage, granularity, zeroPoints,
                          codebook);
  auto integer = dyn_cast<IntegerType>(storage);
  if (!integer || (integer.getWidth() != 4 && integer.getWidth() != 8) ||
      integer.isSigned())
    return emitError() << "storage must be i8, i4, ui8, ui4 or f8E4M3FN, got "
                       << storage;
  if (zeroPoints != integer.isUnsigned())
    return emitError() << "zero points need unsigned storage and symmetric "
                          "schemes signed storage, got "
                       << storage;
  unsigned bits = integer.getWidth();
  int64_t min = zeroPoints ? 0 : llvm::minIntN(bits);
  int64_t max = zeroPoints ? llvm::maxUIntN(bits) : llvm::maxIntN(bits);
  if (lo < min || hi > max || lo >= hi || lo > 0)
    return emitError() << "range must lie in [" << min << ", " << max
                       << "] and hold 0, got [" << lo << ", " << hi << "]";
  return success();
}

SmallVector<int64_t> SchemeAttr::getScaleShape(int64_t rows,
                                               int64_t columns) const {
  switch (getGranularity()) {
  case Granularity::Tensor:
    return {1};
  case Granularity::Channel:
  case Granularity::Row:
    return {rows};
  case Granularity::Group:
    return {rows, columns / getGroupSize()};
  }
  llvm_unreachable("unknown granularity");
}

std::string SchemeAttr::getName() const {
  std::string name = getCodebook() == Codebook::NF4 ? "nf4"
                     : getCodebook() == Codebook::Float8
                         ? "fp8"
                         : "int" + std::to_string(getBits());
  if (getGranularity() == Granularity::Group)
    name += "-g" + std::to_string(getGroupSize());
  if (getGranularity() == Granularity::Tensor)
    name += "-tensor";
  if (getZeroPoints())
    name += "-zp";
  return name;
}

//===----------------------------------------------------------------------===//
// Packed layouts
//===----------------------------------------------------------------------===//

LayoutKind mlir::qlm::getWeightLayout(Type elementType) {
  if (elementType.isF32())
    return LayoutKind::Float32;
  if (elementType.isF16())
    return LayoutKind::Float16;
  if (elementType.isBF16())
    return LayoutKind::BFloat16;
  if (isa<Float8E4M3FNType>(elementType))
    return LayoutKind::Float8;
  return elementType.getIntOrFloatBitWidth() == 4 ? LayoutKind::Int4
                                                  : LayoutKind::Int8;
}

int64_t mlir::qlm::getSuperScaleCount(int64_t count) {
  return 1 + static_cast<int64_t>(
                 llvm::divideCeil(count, ::qlm::format::kDoubleBlock));
}

LayoutKind mlir::qlm::getGpuWeightLayout(Type elementType, bool integer) {
  if (elementType.isF16() || elementType.isBF16())
    return LayoutKind::Fragment16;
  if (isa<Float8E4M3FNType>(elementType))
    return integer ? LayoutKind::Fragment8x8 : LayoutKind::Fragment8;
  bool isCode = isa<IntegerType>(elementType);
  if (isCode && elementType.getIntOrFloatBitWidth() == 8)
    return integer ? LayoutKind::Fragment8x8 : LayoutKind::Fragment8;
  if (isCode && !integer)
    return LayoutKind::Fragment4;
  return getWeightLayout(elementType);
}

/// Lines of a block of rows with \p perLine columns in one.
static int64_t getFragmentLines(int64_t columns, int64_t perLine) {
  return llvm::divideCeil(columns, kFragmentColumns) * kFragmentColumns /
         perLine;
}

RankedTensorType mlir::qlm::getPackedType(RankedTensorType input,
                                          LayoutKind kind) {
  Type element = input.getElementType();
  if (!input.hasStaticShape() || input.getRank() < 1 || input.getRank() > 2)
    return {};
  int64_t rows = input.getDimSize(0);
  int64_t columns = input.getRank() == 2 ? input.getDimSize(1) : 1;
  int64_t blocks = llvm::divideCeil(rows, ::qlm::format::kRowBlock);
  Type byte = IntegerType::get(input.getContext(), 8);
  auto isCode = [&](unsigned bits) {
    return element.isInteger(bits) || element.isUnsignedInteger(bits);
  };
  bool matrix = input.getRank() == 2;
  switch (kind) {
  case LayoutKind::Float32:
    if (!matrix || !element.isF32())
      return {};
    return RankedTensorType::get({blocks, columns, 16}, element);
  case LayoutKind::Float16:
    if (!matrix || !element.isF16())
      return {};
    return RankedTensorType::get({blocks, columns, 16}, element);
  case LayoutKind::BFloat16:
    if (!matrix || !element.isBF16())
      return {};
    return RankedTensorType::get(
        {blocks, static_cast<int64_t>(llvm::divideCeil(columns, 2)), 32},
        element);
  case LayoutKind::Int8:
    if (!matrix || !isCode(8))
      return {};
    return RankedTensorType::get(
        {blocks, static_cast<int64_t>(llvm::divideCeil(columns, 4)), 64}, byte);
  case LayoutKind::Int4:
    if (!matrix || !isCode(4))
      return {};
    return RankedTensorType::get(
        {blocks, static_cast<int64_t>(llvm::divideCeil(columns, 8)), 64}, byte);
  case LayoutKind::Float8:
    if (!matrix || !isa<Float8E4M3FNType>(element))
      return {};
    return RankedTensorType::get(
        {blocks, static_cast<int64_t>(llvm::divideCeil(columns, 4)), 64}, byte);
  case LayoutKind::ScaleCode:
    if (!matrix || !element.isUnsignedInteger(8))
      return {};
    return RankedTensorType::get({blocks, columns, 16}, byte);
  case LayoutKind::Plain:
    if (matrix || !element.isF32())
      return {};
    return input;
  case LayoutKind::Fragment16:
    if (!matrix || (!element.isF16() && !element.isBF16()))
      return {};
    return RankedTensorType::get(
        {blocks, getFragmentLines(columns, 16), kFragmentLineBytes / 2},
        element);
  case LayoutKind::Fragment8:
  case LayoutKind::Fragment8x8:
    if (!matrix || (!isCode(8) && !isa<Float8E4M3FNType>(element)))
      return {};
    return RankedTensorType::get(
        {blocks, getFragmentLines(columns, 32), kFragmentLineBytes}, byte);
  case LayoutKind::Fragment4:
    if (!matrix || !isCode(4))
      return {};
    return RankedTensorType::get(
        {blocks, getFragmentLines(columns, 64), kFragmentLineBytes}, byte);
  case LayoutKind::Scale:
    if (!element.isF32() && !element.isF16())
      return {};
    return RankedTensorType::get({blocks, columns, 16}, element);
  case LayoutKind::ZeroPoint:
    if (!isCode(8) && !isCode(4))
      return {};
    return RankedTensorType::get({blocks, columns, 16}, byte);
  case LayoutKind::Bias:
    if (matrix || !isa<FloatType>(element))
      return {};
    return RankedTensorType::get({blocks * 16},
                                 Float32Type::get(input.getContext()));
  }
  return {};
}
