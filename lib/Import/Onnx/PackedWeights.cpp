//===- PackedWeights.cpp - Weights whose codes share bytes ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "PackedWeights.h"

#include "qlm/Archive/Errors.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>
#include <cmath>
#include <cstring>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnx_import;
using onnx::TensorProto;

bool PackedWeight::isSymmetric() const {
  float middle = static_cast<float>(1 << (bits - 1));
  return llvm::all_of(zeroPoints, [&](float z) { return z == middle; });
}

bool PackedWeight::hasCodesAsZeroPoints() const {
  auto codeCount = static_cast<float>(1 << bits);
  return llvm::all_of(zeroPoints, [&](float z) {
    return z == std::floor(z) && z >= 0 && z < codeCount;
  });
}

static bool isHalf(float value) {
  bool loses = false;
  llvm::APFloat number(value);
  number.convert(llvm::APFloat::IEEEhalf(), llvm::APFloat::rmNearestTiesToEven,
                 &loses);
  return !loses;
}

SchemeAttr PackedWeight::getScheme(MLIRContext *context) const {
  if (columns % block || !hasCodesAsZeroPoints())
    return {};
  Builder b(context);
  int64_t stored = std::max<int64_t>(bits, 4);
  bool zeros = !isSymmetric();
  int64_t half = int64_t(1) << (stored - 1);
  Type scale = llvm::all_of(scales, isHalf) ? Type(b.getF16Type())
                                            : Type(b.getF32Type());
  auto storage = static_cast<unsigned>(stored);
  return SchemeAttr::get(context,
                         zeros ? b.getIntegerType(storage, /*isSigned=*/false)
                               : b.getIntegerType(storage),
                         Granularity::Group, block, zeros, zeros ? 0 : -half,
                         zeros ? 2 * half - 1 : half - 1,
                         APFloat(zeros ? 0.0 : static_cast<double>(half) - 0.5),
                         scale);
}

std::vector<float> PackedWeight::dequantize(bool turned) const {
  std::vector<float> values(rows * columns);
  std::vector<uint8_t> row(columns);
  for (int64_t i = 0; i < rows; ++i) {
    unpackRow(codes.data() + i * getRowBytes(), row.data());
    for (int64_t k = 0; k < columns; ++k) {
      int64_t place = i * getBlocks() + k / block;
      values[turned ? k * rows + i : i * columns + k] =
          (static_cast<float>(row[k]) - zeroPoints[place]) * scales[place];
    }
  }
  return values;
}

void PackedWeight::write(llvm::raw_ostream &stream) const {
  stream.write(codes.data(), codes.size());
  for (const std::vector<float> *list : {&scales, &zeroPoints})
    stream.write(reinterpret_cast<const char *>(list->data()),
                 list->size() * sizeof(float));
}

static llvm::Expected<int64_t> getInteger(const ::onnx::NodeProto &node,
                                          llvm::StringRef name,
                                          int64_t missing) {
  for (const auto &attribute : node.attribute())
    if (attribute.name() == name)
      return attribute.i();
  if (missing < 0)
    return makeError("attribute " + name + " is missing");
  return missing;
}

/// Spreads \p count codes a row, each row in bytes of its own.
static std::vector<uint8_t> unpackRows(llvm::ArrayRef<char> bytes, int64_t rows,
                                       int64_t count, int64_t bits) {
  PackedCodes shape{rows, count, bits, count};
  std::vector<uint8_t> codes(rows * count);
  int64_t rowBytes = llvm::divideCeil(count * bits, 8);
  for (int64_t row = 0; row < rows; ++row)
    shape.unpackRow(bytes.data() + row * rowBytes, codes.data() + row * count);
  return codes;
}

/// The elements of a float tensor as float32.
static llvm::Expected<std::vector<float>> readFloats(const TensorProto &tensor,
                                                     OnnxFile &file) {
  auto data = file.getData(tensor);
  if (!data)
    return data.takeError();
  std::vector<float> values;
  if (tensor.data_type() == TensorProto::FLOAT) {
    values.resize(data->size() / 4);
    // An empty vector has no address that memcpy would take.
    std::copy_n(data->data(), data->size(),
                reinterpret_cast<char *>(values.data()));
    return values;
  }
  bool isHalf = tensor.data_type() == TensorProto::FLOAT16;
  if (!isHalf && tensor.data_type() != TensorProto::BFLOAT16)
    return makeError("scales and zero points that aren't packed must be "
                     "float32, float16 or bfloat16, got " +
                     getOnnxTypeName(tensor.data_type()));
  const llvm::fltSemantics &semantics =
      isHalf ? llvm::APFloat::IEEEhalf() : llvm::APFloat::BFloat();
  for (size_t i = 0; i + 2 <= data->size(); i += 2) {
    uint16_t bits;
    std::memcpy(&bits, data->data() + i, 2);
    values.push_back(
        llvm::APFloat(semantics, llvm::APInt(16, bits)).convertToFloat());
  }
  return values;
}

namespace {
/// Reads one node's inputs; the checks are those that read() promises.
class PackedReader {
public:
  PackedReader(const ::onnx::NodeProto &node, OnnxFile &file,
               PackedWeight::FindTensor find)
      : node(node), file(file), find(find) {}

  llvm::Expected<PackedWeight> read();

private:
  llvm::Error readAttributes();
  llvm::Error readCodes();
  llvm::Error readScales();
  llvm::Error readZeroPoints();
  llvm::Error checkOrder();

  bool has(int i) const {
    return i < node.input_size() && !node.input(i).empty();
  }
  llvm::Expected<const TensorProto *> get(int i) const;

  const ::onnx::NodeProto &node;
  OnnxFile &file;
  PackedWeight::FindTensor find;
  PackedWeight weight;
};
} // namespace

llvm::Expected<const TensorProto *> PackedReader::get(int i) const {
  if (!has(i))
    return makeError("input " + llvm::Twine(i) + " is missing");
  if (const TensorProto *tensor = find(node.input(i)))
    return tensor;
  return makeError("input " + llvm::Twine(i) + " ('" + node.input(i) +
                   "') must be an initializer");
}

llvm::Error PackedReader::readAttributes() {
  auto read = [&](llvm::StringRef name, int64_t missing,
                  int64_t &value) -> llvm::Error {
    auto found = getInteger(node, name, missing);
    if (!found)
      return found.takeError();
    value = *found;
    return llvm::Error::success();
  };
  if (llvm::Error error = read("N", -1, weight.rows))
    return error;
  if (llvm::Error error = read("K", -1, weight.columns))
    return error;
  if (llvm::Error error = read("block_size", -1, weight.block))
    return error;
  if (llvm::Error error = read("bits", 4, weight.bits))
    return error;
  constexpr int64_t kLargest = int64_t(1) << 30;
  if (weight.rows < 1 || weight.columns < 1 || weight.rows > kLargest ||
      weight.columns > kLargest)
    return makeError("K and N must be positive, got " +
                     llvm::Twine(weight.columns) + " and " +
                     llvm::Twine(weight.rows));
  if (weight.bits != 2 && weight.bits != 4 && weight.bits != 8)
    return makeError("bits must be 2, 4 or 8, got " + llvm::Twine(weight.bits));
  if (weight.block < 16 || weight.block > kLargest ||
      (weight.block & (weight.block - 1)))
    return makeError("block_size must be a power of two of at least 16, got " +
                     llvm::Twine(weight.block));
  return llvm::Error::success();
}

llvm::Error PackedReader::readCodes() {
  auto tensor = get(1);
  if (!tensor)
    return tensor.takeError();
  if ((*tensor)->data_type() != TensorProto::UINT8)
    return makeError("codes must be uint8, got " +
                     getOnnxTypeName((*tensor)->data_type()));
  auto data = file.getData(**tensor);
  if (!data)
    return data.takeError();
  int64_t expected = weight.getCodesBytes();
  if (static_cast<int64_t>(data->size()) != expected)
    return makeError("codes must have " + llvm::Twine(expected) +
                     " bytes, got " + llvm::Twine(data->size()));
  weight.codes = *data;
  return llvm::Error::success();
}

llvm::Error PackedReader::readScales() {
  auto tensor = get(2);
  if (!tensor)
    return tensor.takeError();
  auto values = readFloats(**tensor, file);
  if (!values)
    return values.takeError();
  weight.scales = std::move(*values);
  int64_t count = weight.rows * weight.getBlocks();
  if (static_cast<int64_t>(weight.scales.size()) != count)
    return makeError("there must be " + llvm::Twine(count) + " scales, got " +
                     llvm::Twine(weight.scales.size()));
  return llvm::Error::success();
}

llvm::Error PackedReader::readZeroPoints() {
  int64_t blocks = weight.getBlocks(), count = weight.rows * blocks;
  if (!has(3)) {
    weight.zeroPoints.assign(count, static_cast<float>(1 << (weight.bits - 1)));
    return llvm::Error::success();
  }
  auto tensor = get(3);
  if (!tensor)
    return tensor.takeError();
  if ((*tensor)->data_type() != TensorProto::UINT8) {
    auto values = readFloats(**tensor, file);
    if (!values)
      return values.takeError();
    weight.zeroPoints = std::move(*values);
  } else {
    auto data = file.getData(**tensor);
    if (!data)
      return data.takeError();
    int64_t perByte = 8 / weight.bits;
    int64_t expected = weight.rows * ((blocks + perByte - 1) / perByte);
    if (static_cast<int64_t>(data->size()) != expected)
      return makeError("zero points must have " + llvm::Twine(expected) +
                       " bytes, got " + llvm::Twine(data->size()));
    std::vector<uint8_t> codes =
        unpackRows(*data, weight.rows, blocks, weight.bits);
    weight.zeroPoints.assign(codes.begin(), codes.end());
  }
  if (static_cast<int64_t>(weight.zeroPoints.size()) != count)
    return makeError("there must be " + llvm::Twine(count) +
                     " zero points, got " +
                     llvm::Twine(weight.zeroPoints.size()));
  return llvm::Error::success();
}

/// A fifth input gives the block of each column: only the plain order will do.
llvm::Error PackedReader::checkOrder() {
  if (!has(4))
    return llvm::Error::success();
  auto tensor = get(4);
  if (!tensor)
    return tensor.takeError();
  if ((*tensor)->data_type() != TensorProto::INT32)
    return makeError("g_idx must be int32");
  auto data = file.getData(**tensor);
  if (!data)
    return data.takeError();
  auto count = static_cast<int64_t>(data->size() / 4);
  for (int64_t i = 0; i < count; ++i) {
    int32_t block;
    std::memcpy(&block, data->data() + i * 4, 4);
    if (block != i / weight.block)
      return makeError("g_idx must give column " + llvm::Twine(i) +
                       " to block " + llvm::Twine(i / weight.block) + ", got " +
                       llvm::Twine(block));
  }
  // Padded to whole blocks, or not.
  if (count != weight.columns && count != weight.getBlocks() * weight.block)
    return makeError("g_idx must have " + llvm::Twine(weight.columns) +
                     " elements, got " + llvm::Twine(count));
  return llvm::Error::success();
}

llvm::Expected<PackedWeight> PackedReader::read() {
  for (auto step : {&PackedReader::readAttributes, &PackedReader::readCodes,
                    &PackedReader::readScales, &PackedReader::readZeroPoints,
                    &PackedReader::checkOrder})
    if (llvm::Error error = (this->*step)())
      return std::move(error);
  return std::move(weight);
}

llvm::Expected<PackedWeight> PackedWeight::read(const ::onnx::NodeProto &node,
                                                OnnxFile &file,
                                                FindTensor find) {
  return PackedReader(node, file, find).read();
}
