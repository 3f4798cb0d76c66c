//===- WeightScheme.cpp - From options to a scheme ------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "WeightScheme.h"

#include "qlm/Package/Tables.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::qlm;

namespace {

/// A kind of codes and its conventions.
struct CodeKind {
  StringRef name;
  unsigned bits;
  Granularity granularity; ///< unless another one is asked for
  int64_t groupSize;       ///< unless another one is asked for
  Codebook codebook;
  // Of a symmetric scheme. The range [-127, 127] keeps int8 symmetric, as
  // activations are; int4 can't spare a code, and 7.5 spreads both ends over
  // the range [-8, 7].
  int64_t lo, hi;
  double bound;
  bool scalesF16;
};

} // namespace

static const CodeKind kKinds[] = {
    {"int8", 8, Granularity::Channel, 128, Codebook::Uniform, -127, 127, 127,
     /*scalesF16=*/false},
    {"int4", 4, Granularity::Group, 128, Codebook::Uniform, -8, 7, 7.5,
     /*scalesF16=*/true},
    // The block size and f32 scales of bitsandbytes.
    {"nf4", 4, Granularity::Group, 64, Codebook::NF4, 0, 0, 0,
     /*scalesF16=*/false},
    {"fp8", 8, Granularity::Channel, 128, Codebook::Float8, 0, 0,
     ::qlm::format::kFloat8Max, /*scalesF16=*/false},
};

static FailureOr<Granularity> getGranularity(ModuleOp module,
                                             const WeightRequest &request,
                                             const CodeKind &kind) {
  if (request.granularity == "default")
    return kind.granularity;
  std::optional<Granularity> asked = symbolizeGranularity(request.granularity);
  if (!asked || *asked == Granularity::Row)
    return module.emitError() << "granularity must be tensor, channel or "
                                 "group, got '"
                              << request.granularity << "'";
  if (kind.codebook == Codebook::NF4 && *asked != Granularity::Group)
    return module.emitError() << "weights=nf4 needs granularity=group, got '"
                              << request.granularity << "'";
  return *asked;
}

static Type getStorage(Builder builder, const CodeKind &kind, bool zeroPoints) {
  if (kind.codebook == Codebook::Float8)
    return Float8E4M3FNType::get(builder.getContext());
  if (zeroPoints || kind.codebook == Codebook::NF4)
    return builder.getIntegerType(kind.bits, /*isSigned=*/false);
  return builder.getIntegerType(kind.bits);
}

static FailureOr<WeightTarget> getQuantized(ModuleOp module,
                                            const WeightRequest &request,
                                            const CodeKind &kind) {
  bool isUniform = kind.codebook == Codebook::Uniform;
  if (request.zeroPoints && !isUniform)
    return module.emitError()
           << "zero-points needs weights=int8 or weights=int4, got '"
           << request.weights << "'";
  if (request.doubleQuant && kind.codebook != Codebook::NF4)
    return module.emitError()
           << "double-quant needs weights=nf4, got '" << request.weights << "'";
  FailureOr<Granularity> granularity = getGranularity(module, request, kind);
  if (failed(granularity))
    return failure();
  int64_t groupSize = request.groupSize ? request.groupSize : kind.groupSize;
  bool isGroup = *granularity == Granularity::Group;
  if (isGroup && groupSize < 0)
    return module.emitError()
           << "group-size must be positive, got " << groupSize;
  Builder builder(module.getContext());
  bool zero = request.zeroPoints;
  auto scheme = SchemeAttr::get(
      module.getContext(), getStorage(builder, kind, zero), *granularity,
      isGroup ? groupSize : 0, zero, zero ? 0 : kind.lo,
      zero ? (int64_t(1) << kind.bits) - 1 : kind.hi,
      APFloat(zero ? 0.0 : kind.bound),
      kind.scalesF16 ? Type(builder.getF16Type()) : builder.getF32Type(),
      kind.codebook);
  return WeightTarget{{}, scheme, request.doubleQuant};
}

FailureOr<WeightTarget>
mlir::qlm::getWeightTarget(ModuleOp module, const WeightRequest &request) {
  for (const CodeKind &kind : kKinds)
    if (request.weights == kind.name)
      return getQuantized(module, request, kind);
  if (request.weights == "source" && !request.zeroPoints &&
      !request.doubleQuant)
    return WeightTarget{};
  Builder builder(module.getContext());
  auto type = llvm::StringSwitch<FloatType>(request.weights)
                  .Case("f32", builder.getF32Type())
                  .Case("f16", builder.getF16Type())
                  .Case("bf16", builder.getBF16Type())
                  .Default({});
  if (!type)
    return module.emitError() << "weights must be f32, bf16, f16, int8, int4, "
                                 "nf4, fp8 or source, got '"
                              << request.weights << "'";
  if (request.zeroPoints)
    return module.emitError()
           << "zero-points needs weights=int8 or weights=int4, got '"
           << request.weights << "'";
  if (request.doubleQuant)
    return module.emitError()
           << "double-quant needs weights=nf4, got '" << request.weights << "'";
  return WeightTarget{type, {}};
}
