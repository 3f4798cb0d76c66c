//===- NumericsModule.cpp - The Python binding of the numerics ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Thin: documentation and defaults are in python/qlm/functional.py. Arrays
// come in through DLPack or the buffer protocol and go out as NumPy's.
//
//===----------------------------------------------------------------------===//

#include "qlm/Quantize/Functional.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

namespace nb = nanobind;
using namespace nb::literals;
using namespace qlm::numerics;

using Input = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu, nb::ndim<2>>;

/// The elements as f32. Throws where they are of another type than f32, f16,
/// bf16 or f64.
static std::vector<float> toFloats(const Input &input) {
  std::vector<float> values(input.size());
  auto count = static_cast<int64_t>(input.size());
  nb::dlpack::dtype type = input.dtype();
  bool isFloat =
      type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float);
  bool isBrain =
      type.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat);
  if (isFloat && type.bits == 32)
    toFloat32(FloatType::Float32, input.data(), values.data(), count);
  else if (isFloat && type.bits == 16)
    toFloat32(FloatType::Float16, input.data(), values.data(), count);
  else if (isBrain && type.bits == 16)
    toFloat32(FloatType::BFloat16, input.data(), values.data(), count);
  else
    throw std::invalid_argument(
        "elements must be float32, float16 or bfloat16");
  return values;
}

/// A NumPy array [shape] that owns \p values.
template <typename T>
static nb::object toArray(std::vector<T> values, std::vector<size_t> shape) {
  auto *owned = new std::vector<T>(std::move(values));
  nb::capsule owner(
      owned, [](void *p) noexcept { delete static_cast<std::vector<T> *>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(owned->data(), shape.size(),
                                            shape.data(), owner));
}

/// (codes, scales, zero points or None, scale codes or None, super or None)
static nb::tuple toTuple(QuantizedTensor tensor) {
  auto rows = static_cast<size_t>(tensor.rows);
  auto columns = static_cast<size_t>(tensor.columns);
  std::vector<size_t> shape = {tensor.scales.size()};
  if (tensor.scheme.granularity == Granularity::Group)
    shape = {rows, tensor.scales.size() / rows};
  nb::object zeros = nb::none(), codes = nb::none(), super = nb::none();
  if (!tensor.zeroPoints.empty())
    zeros = toArray(std::move(tensor.zeroPoints), shape);
  if (!tensor.scaleCodes.empty()) {
    codes = toArray(std::move(tensor.scaleCodes), shape);
    size_t count = tensor.superScales.size();
    super = toArray(std::move(tensor.superScales), {count});
  }
  return nb::make_tuple(toArray(std::move(tensor.codes), {rows, columns}),
                        toArray(std::move(tensor.scales), shape), zeros, codes,
                        super);
}

static Granularity parseGranularity(const std::string &name) {
  if (name == "tensor")
    return Granularity::Tensor;
  if (name == "channel")
    return Granularity::Channel;
  if (name == "group")
    return Granularity::Group;
  throw std::invalid_argument("granularity must be tensor, channel or group, "
                              "got '" +
                              name + "'");
}

static nb::tuple quantizeArray(const Input &input, const std::string &kind,
                               const std::string &granularity,
                               int64_t groupSize, bool zeroPoints,
                               bool doubleQuant) {
  std::vector<float> values = toFloats(input);
  auto rows = static_cast<int64_t>(input.shape(0));
  auto columns = static_cast<int64_t>(input.shape(1));
  Granularity shared = parseGranularity(granularity);
  std::string error;
  std::optional<QuantizedTensor> tensor;
  {
    nb::gil_scoped_release release;
    if (kind == "nf4")
      tensor = quantizeNormalFloat4(values.data(), rows, columns, groupSize,
                                    doubleQuant, error);
    else if (kind == "fp8")
      tensor = quantizeFloat8(values.data(), rows, columns, error);
    else
      tensor = quantize(values.data(), rows, columns,
                        getUniformScheme(kind == "int4" ? 4 : 8, shared,
                                         groupSize, zeroPoints),
                        error);
  }
  if (!tensor)
    throw std::invalid_argument(error);
  return toTuple(std::move(*tensor));
}

using Bytes =
    nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu, nb::ndim<2>>;
using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Zeros = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;

static nb::object dequantizeArray(const Bytes &codes, const Floats &scales,
                                  const std::optional<Zeros> &zeroPoints,
                                  const std::string &kind,
                                  const std::string &granularity,
                                  int64_t groupSize) {
  Scheme scheme = getUniformScheme(kind == "int4" || kind == "nf4" ? 4 : 8,
                                   parseGranularity(granularity), groupSize,
                                   zeroPoints.has_value());
  if (kind == "nf4")
    scheme.codebook = Codebook::NF4;
  if (kind == "fp8")
    scheme.codebook = Codebook::Float8;
  auto rows = static_cast<int64_t>(codes.shape(0));
  auto columns = static_cast<int64_t>(codes.shape(1));
  if (scheme.granularity == Granularity::Group &&
      (groupSize <= 0 || columns % groupSize != 0))
    throw std::invalid_argument("group size must divide the columns, got " +
                                std::to_string(groupSize) + " and " +
                                std::to_string(columns));
  auto count = static_cast<size_t>(scheme.getScaleCount(rows, columns));
  if (scales.size() != count || (zeroPoints && zeroPoints->size() != count))
    throw std::invalid_argument(
        "scales and zero points must number " + std::to_string(count) +
        ", got " + std::to_string(scales.size()) +
        (zeroPoints ? " and " + std::to_string(zeroPoints->size()) : ""));
  std::vector<float> values(codes.size());
  dequantize(codes.data(), rows, columns, scheme, scales.data(),
             zeroPoints ? zeroPoints->data() : nullptr, values.data());
  return toArray(std::move(values), {codes.shape(0), codes.shape(1)});
}

NB_MODULE(_numerics, m) {
  m.def("quantize", quantizeArray, "values"_a, "kind"_a, "granularity"_a,
        "group_size"_a, "zero_points"_a, "double_quant"_a);
  m.def("dequantize", dequantizeArray, "codes"_a, "scales"_a,
        "zero_points"_a.none(), "kind"_a, "granularity"_a, "group_size"_a);
}
