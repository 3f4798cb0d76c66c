//===- RoundingProgram.cpp - Evaluates qlm.rtn ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RoundingProgram.h"

#include "PackageErrors.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Quantize/NumericsScheme.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <cmath>

using namespace mlir;
using namespace mlir::qlm;
namespace numerics = ::qlm::numerics;

Operation *mlir::qlm::getRounding(PackOp pack) {
  Value input = pack.getInput();
  if (auto doubled = input.getDefiningOp<QuantizeScalesOp>())
    input = doubled.getScales();
  Operation *op = input.getDefiningOp();
  return isa_and_nonnull<RtnOp, GptqOp, KeepCodesOp>(op) ? op : nullptr;
}

SchemeAttr mlir::qlm::getRoundingScheme(Operation *rounding) {
  if (auto gptq = dyn_cast<GptqOp>(rounding))
    return gptq.getScheme();
  if (auto kept = dyn_cast<KeepCodesOp>(rounding))
    return kept.getScheme();
  return cast<RtnOp>(rounding).getScheme();
}

RoundingProgram::RoundingProgram(std::unique_ptr<RowReader> reader,
                                 SchemeAttr scheme)
    : ParameterProgram(std::move(reader)), scheme(getNumericsScheme(scheme)) {}

llvm::Expected<std::unique_ptr<RoundingProgram>>
RoundingProgram::create(Operation *rounding, ReaderContext &context) {
  auto reader = RowReader::create(rounding->getOperand(0), context);
  if (!reader)
    return reader.takeError();
  std::unique_ptr<RoundingProgram> program(
      new RoundingProgram(std::move(*reader), getRoundingScheme(rounding)));
  if (auto kept = dyn_cast<KeepCodesOp>(rounding)) {
    auto scales = RowReader::create(kept.getKnownScales(), context);
    if (!scales)
      return scales.takeError();
    program->knownScales = std::move(*scales);
    if (!kept.getKnownZeroPoints())
      return program;
    auto zeros = RowReader::create(kept.getKnownZeroPoints(), context);
    if (!zeros)
      return zeros.takeError();
    program->knownZeroPoints = std::move(*zeros);
    return program;
  }
  auto gptq = dyn_cast<GptqOp>(rounding);
  if (!gptq)
    return program;
  auto moments = RowReader::create(gptq.getSecondMoments(), context);
  if (!moments)
    return moments.takeError();
  program->moments = std::move(*moments);
  program->gptq.damping = gptq.getDamping().convertToDouble();
  program->gptq.blockSize = gptq.getBlockSize();
  program->gptq.actOrder = gptq.getActOrder();
  program->gptq.staticGroups = gptq.getStaticGroups();
  program->gptq.cholesky = context.cholesky;
  program->gptq.searchScales = gptq->hasAttr(kSearchScalesAttr);
  if (auto refine = gptq->getAttrOfType<IntegerAttr>(kRefineAttr))
    program->gptq.refinements = static_cast<int>(refine.getInt());
  return program;
}

void RoundingProgram::add(PackOp pack, size_t tensor) {
  constexpr Part kOfRounding[] = {Part::Codes, Part::Scales, Part::ZeroPoints};
  unsigned result = cast<OpResult>(pack.getInput()).getResultNumber();
  Part part = kOfRounding[result];
  if (pack.getInput().getDefiningOp<QuantizeScalesOp>()) {
    part = result == 0 ? Part::ScaleCodes : Part::SuperScales;
    doubled = true;
  }
  PackedOutput output;
  output.tensor = tensor;
  output.layout = getNumericsLayout(pack.getLayout().getKind());
  bool isWeight = part == Part::Codes;
  output.columns =
      isWeight ? getColumns() : scheme.getScalesPerRow(getColumns());
  output.elementBytes = part == Part::Scales ? scheme.getScaleBytes() : 1;
  // Products of 8-bit codes on a GPU take codes as they are.
  bool hasOffset = (isWeight || part == Part::ZeroPoints) &&
                   pack.getLayout().getKind() != LayoutKind::Fragment8x8;
  output.codeOffset = hasOffset ? scheme.getCodeOffset() : 0;
  packs.push_back({part, output});
  outputs.push_back(tensor);
}

//===----------------------------------------------------------------------===//
// A tensor's one scale
//===----------------------------------------------------------------------===//

bool RoundingProgram::needsLook() const {
  return scheme.granularity == numerics::Granularity::Tensor;
}

llvm::Error RoundingProgram::look(int64_t row, int64_t count,
                                  EvaluationScratch &scratch) {
  scratch.rows.resize(count * getColumns());
  if (llvm::Error error = reader->read(row, count, scratch.rows.data()))
    return error;
  numerics::ValueRange seen;
  numerics::RoundingResult result =
      numerics::widenRange(scratch.rows.data(), count, getColumns(), seen);
  if (!result.ok())
    return makeRoundingError(result, row);
  std::lock_guard<std::mutex> lock(mutex);
  range.magnitude = std::max(range.magnitude, seen.magnitude);
  range.smallest = std::min(range.smallest, seen.smallest);
  range.largest = std::max(range.largest, seen.largest);
  return llvm::Error::success();
}

llvm::Error RoundingProgram::prepare(int threads) {
  if (doubled)
    doubledScales.resize(scheme.getScaleCount(getRows(), getColumns()));
  if (moments)
    return factorMoments(threads);
  if (!needsLook())
    return llvm::Error::success();
  numerics::RoundingResult result =
      numerics::findScale(scheme, range, &tensorScale, &tensorZeroPoint);
  return result.ok() ? llvm::Error::success() : makeRoundingError(result, 0);
}

//===----------------------------------------------------------------------===//
// GPTQ
//===----------------------------------------------------------------------===//

llvm::Error RoundingProgram::factorMoments(int threads) {
  int64_t columns = getColumns();
  std::string failure;
  auto read = [&](int64_t row, float *target) {
    llvm::Error error = moments->read(row, 1, target);
    if (!error)
      return true;
    std::lock_guard<std::mutex> lock(mutex);
    failure = llvm::toString(std::move(error));
    return false;
  };
  bool isFactored = factor.compute(read, columns, gptq, threads);
  moments->release(0, columns);
  if (!failure.empty())
    return makeError(failure);
  if (isFactored) {
    if (factor.getDamping() > gptq.damping)
      raisedDamping = factor.getDamping();
    return llvm::Error::success();
  }
  return makeError("second moments '" + moments->getName() +
                   "' must be positive definite, and are not with a damping "
                   "of 1");
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

llvm::Error
RoundingProgram::makeRoundingError(const numerics::RoundingResult &result,
                                   int64_t row) const {
  return makeError("cannot quantize '" + reader->getName() +
                   "': " + result.getMessage(row));
}

llvm::Error RoundingProgram::keepCodes(int64_t row, int64_t count,
                                       EvaluationScratch &scratch) {
  int64_t columns = getColumns(), perRow = scheme.getScalesPerRow(columns);
  int64_t perScale = scheme.getColumnsPerScale(columns);
  std::vector<float> values(count * columns), zeros(count * perRow);
  if (llvm::Error error = knownScales->read(row, count, scratch.scales.data()))
    return error;
  if (knownZeroPoints)
    if (llvm::Error error = knownZeroPoints->read(row, count, zeros.data()))
      return error;
  auto fail = [&](int64_t scale, const llvm::Twine &what) {
    return makeError("cannot keep the codes of '" + reader->getName() + "': " +
                     what + " at [" + llvm::Twine(row + scale / perRow) + ", " +
                     llvm::Twine(scale % perRow * perScale) + "]");
  };
  for (int64_t i = 0; i < count * perRow; ++i) {
    float rounded = scratch.scales[i];
    if (scheme.scalesF16)
      rounded = numerics::fromFloat16(numerics::toFloat16(rounded));
    if (rounded != scratch.scales[i])
      return fail(i, "scale must be a value of f16");
    if (!(zeros[i] >= 0 && zeros[i] <= scheme.hi &&
          zeros[i] == std::rint(zeros[i])) &&
        knownZeroPoints)
      return fail(i, "zero point must be a code");
    scratch.zeroPoints[i] = static_cast<uint8_t>(zeros[i]);
  }
  const uint8_t *zeroPoints =
      knownZeroPoints ? scratch.zeroPoints.data() : nullptr;
  numerics::quantizeWithScales(scratch.rows.data(), count, columns, scheme,
                               scratch.scales.data(), zeroPoints,
                               scratch.codes.data());
  numerics::dequantize(scratch.codes.data(), count, columns, scheme,
                       scratch.scales.data(), zeroPoints, values.data());
  for (int64_t i = 0; i < count * columns; ++i) {
    float error = std::fabs(values[i] - scratch.rows[i]);
    if (error <= std::fabs(values[i]) / 128)
      continue;
    int64_t scale = i / perScale;
    if (scratch.scales[scale] == 0)
      return fail(scale, "scale must not be 0 for weights that are not");
    return fail(scale, "weight must be a multiple of its scale");
  }
  return llvm::Error::success();
}

llvm::Error RoundingProgram::round(int64_t row, int64_t count,
                                   EvaluationScratch &scratch) {
  uint8_t *zeroPoints = scheme.zeroPoints ? scratch.zeroPoints.data() : nullptr;
  if (knownScales)
    return keepCodes(row, count, scratch);
  if (needsLook()) {
    numerics::quantizeWithScales(
        scratch.rows.data(), count, getColumns(), scheme, &tensorScale,
        zeroPoints ? &tensorZeroPoint : nullptr, scratch.codes.data());
    std::fill(scratch.scales.begin(), scratch.scales.end(), tensorScale);
    std::fill(scratch.zeroPoints.begin(), scratch.zeroPoints.end(),
              tensorZeroPoint);
    return llvm::Error::success();
  }
  numerics::RoundingResult result =
      moments
          ? numerics::quantizeGptq(scratch.rows.data(), count, getColumns(),
                                   scheme, factor, gptq, scratch.codes.data(),
                                   scratch.scales.data(), zeroPoints)
          : numerics::quantizeRtn(scratch.rows.data(), count, getColumns(),
                                  scheme, scratch.codes.data(),
                                  scratch.scales.data(), zeroPoints);
  return result.ok() ? llvm::Error::success() : makeRoundingError(result, row);
}

llvm::Error RoundingProgram::evaluate(int64_t row, int64_t count,
                                      EvaluationScratch &scratch,
                                      ArrayRef<PackedTensor> tensors,
                                      const WeightsFile &file) {
  int64_t elements = count * getColumns();
  int64_t perRow = scheme.getScalesPerRow(getColumns());
  // A tensor's scale stands in every row of the last block too.
  int64_t scaleRows =
      needsLook() ? llvm::alignTo(count, ::qlm::format::kRowBlock) : count;
  int64_t scaleCount = scaleRows * perRow;
  scratch.rows.resize(elements);
  scratch.codes.resize(elements);
  scratch.scales.resize(scaleCount);
  scratch.zeroPoints.resize(scaleCount);
  if (llvm::Error error = reader->read(row, count, scratch.rows.data()))
    return error;
  if (llvm::Error error = round(row, count, scratch))
    return error;
  zeroGroups += std::count(scratch.scales.begin(),
                           scratch.scales.begin() + count * perRow, 0.0f);
  if (doubled)
    std::copy(scratch.scales.begin(), scratch.scales.end(),
              doubledScales.begin() + row * perRow);
  scratch.bytes.resize(scaleCount * scheme.getScaleBytes());
  numerics::storeScales(scheme, scratch.scales.data(), scratch.bytes.data(),
                        scaleCount);
  for (const auto &[part, output] : packs) {
    const uint8_t *input = part == Part::Codes    ? scratch.codes.data()
                           : part == Part::Scales ? scratch.bytes.data()
                                                  : scratch.zeroPoints.data();
    if (part == Part::ScaleCodes || part == Part::SuperScales)
      continue;
    int64_t rows = part == Part::Codes ? count : scaleRows;
    if (llvm::Error error =
            output.write(input, row, rows, scratch.packed, tensors, file))
      return error;
  }
  return llvm::Error::success();
}

std::string RoundingProgram::getNote() const {
  std::string note;
  llvm::raw_string_ostream stream(note);
  if (zeroGroups)
    stream << zeroGroups << " of "
           << getRows() * scheme.getScalesPerRow(getColumns())
           << " groups are all zero";
  if (raisedDamping > 0)
    stream << (note.empty() ? "" : ", ") << "second moments '"
           << moments->getName() << "' took a damping of "
           << llvm::format("%g", raisedDamping) << ", not "
           << llvm::format("%g", gptq.damping);
  return note.empty() ? note : "weight '" + reader->getName() + "': " + note;
}

llvm::Error RoundingProgram::finish(ArrayRef<PackedTensor> tensors,
                                    const WeightsFile &file) {
  factor = {};
  if (!doubled)
    return llvm::Error::success();
  auto count = static_cast<int64_t>(doubledScales.size());
  std::vector<uint8_t> codes(count), packed;
  std::vector<float> super(numerics::getSuperScaleCount(count));
  numerics::quantizeScales(doubledScales.data(), count, codes.data(),
                           super.data());
  ArrayRef superBytes(reinterpret_cast<const uint8_t *>(super.data()),
                      super.size() * sizeof(float));
  for (const auto &[part, output] : packs) {
    llvm::Error error = llvm::Error::success();
    if (part == Part::ScaleCodes)
      error = output.write(codes.data(), /*row=*/0, getRows(), packed, tensors,
                           file);
    if (part == Part::SuperScales)
      error = file.write(tensors[output.tensor].offset, superBytes);
    if (error)
      return error;
  }
  return llvm::Error::success();
}
