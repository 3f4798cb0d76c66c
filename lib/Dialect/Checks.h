//===- Checks.h - Checks that several verifiers share -----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_DIALECT_CHECKS_H
#define QLM_LIB_DIALECT_CHECKS_H

#include "qlm/Dialect/Qlm.h"

namespace mlir::qlm {

inline constexpr int64_t kDynamic = ShapedType::kDynamic;

/// A tensor's shape for messages: "?x4xf32".
std::string shapeText(Type type);

/// Checks that \p value is ranked with \p rank dimensions.
LogicalResult checkRank(Operation *op, StringRef name, Value value,
                        int64_t rank);

/// Checks that two sizes are equal as far as both are known.
LogicalResult checkSize(Operation *op, StringRef name, int64_t actual,
                        StringRef of, int64_t expected);

/// Size of a ranked tensor's dimension; kDynamic where unknown.
int64_t dim(Value value, int64_t index);

/// Checks scales and zero points of a [rows, columns] matrix (rows may be
/// dynamic for activations).
LogicalResult checkScales(Operation *op, SchemeAttr scheme, Value codes,
                          Value scales, Value zeroPoints);

/// Checks the float operands that all linear operations share.
LogicalResult checkLinear(Operation *op, Value input, Value inputScales,
                          int64_t inFeatures, int64_t outFeatures,
                          Value residual, Value result);

/// Checks that codes as activations meet codes of their kind: of integers the
/// products add up exactly, of f8E4M3FN each product is exact.
LogicalResult checkExact(Operation *op, SchemeAttr scheme, Value input,
                         Value inputScales);

/// Checks the lists \p outliers of \p tokens rows (null: none) of \p features
/// each.
LogicalResult checkOutliers(Operation *op, Value outliers, int64_t tokens,
                            int64_t features);

/// Checks that the operation lists outliers exactly if it has a positive
/// threshold, and that its codes are integers then.
LogicalResult checkThreshold(Operation *op, std::optional<APFloat> threshold,
                             Value codes, Value outliers);

/// Checks that outliers meet int8 activations and codes of 8 bits without
/// groups.
LogicalResult checkOutlierProduct(Operation *op,
                                  std::optional<SchemeAttr> scheme, Value input,
                                  Value inputScales, Value outliers);

/// Checks the operands of a norm.
LogicalResult checkNorm(Operation *op, Value input, Value weight,
                        const APFloat &epsilon);

/// Checks head counts against the features of queries and of keys.
LogicalResult checkHeads(Operation *op, int64_t heads, int64_t kvHeads,
                         int64_t features, int64_t kvFeatures);

/// Checks the number of keys that a token sees, if there is one.
LogicalResult checkWindow(Operation *op, std::optional<uint64_t> window);

/// Checks the scheme of activations: i8, or f8E4M3FN unless \p integersOnly.
LogicalResult checkRowScheme(Operation *op, SchemeAttr scheme,
                             bool integersOnly = false);

} // namespace mlir::qlm

#endif // QLM_LIB_DIALECT_CHECKS_H
