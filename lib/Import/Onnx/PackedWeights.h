//===- PackedWeights.h - Weights whose codes share bytes --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_IMPORT_ONNX_PACKEDWEIGHTS_H
#define QLM_LIB_IMPORT_ONNX_PACKEDWEIGHTS_H

#include "onnx-ml.pb.h"
#include "qlm/Archive/OnnxFile.h"
#include "qlm/Archive/PackedCodes.h"
#include "qlm/Dialect/Qlm.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <string>
#include <vector>

namespace mlir::qlm::onnx_import {

/// The weight of com.microsoft.MatMulNBits: rows are outputs (N), columns what
/// is summed over (K). The file holds zero points as codes, packed within each
/// row, or as floats, or, where there are none, all are 2^(bits - 1).
struct PackedWeight : PackedCodes {
  llvm::ArrayRef<char> codes;    ///< as in a record; of the file
  std::vector<float> scales;     ///< `[rows, blocks]`
  std::vector<float> zeroPoints; ///< `[rows, blocks]`

  /// Whether all zero points are 2^(bits - 1), or whole numbers that are codes.
  bool isSymmetric() const;
  bool hasCodesAsZeroPoints() const;
  /// The scheme whose codes, scales and zero points these are: of 4 bits where
  /// there are 2, and with f16 scales where those have all the values. Null
  /// where there is none.
  SchemeAttr getScheme(MLIRContext *context) const;
  /// `[rows, columns]`, or \p turned, `[columns, rows]`.
  std::vector<float> dequantize(bool turned) const;
  /// Writes a record.
  void write(llvm::raw_ostream &stream) const;

  /// A tensor that the file holds: null where the name is absent or of a value
  /// that is computed.
  using FindTensor =
      llvm::function_ref<const ::onnx::TensorProto *(const std::string &)>;

  /// Reads and checks the inputs and attributes of \p node. Errors, without the
  /// node's name: inputs that are computed, sizes that contradict the
  /// attributes, an order of columns other than the plain one.
  static llvm::Expected<PackedWeight> read(const ::onnx::NodeProto &node,
                                           OnnxFile &file, FindTensor find);
};

} // namespace mlir::qlm::onnx_import

#endif // QLM_LIB_IMPORT_ONNX_PACKEDWEIGHTS_H
