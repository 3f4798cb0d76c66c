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
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLFunctionalExtras.h"

#include <string>
#include <vector>

namespace mlir::qlm::onnx_import {

/// The weight of com.microsoft.MatMulNBits: rows are outputs (N), columns what
/// is summed over (K), and each `block` columns of a row share a scale:
///
///   weight[n, k] = (code[n, k] - zeroPoint[n, k / block]) * scale[n, k /
///   block]
///
/// Codes of `bits` bits lie in bytes, the first in the lowest bits, each block
/// in bytes of its own: `[N, blocks, block * bits / 8]` uint8. Zero points are
/// packed so within each row, or are floats, or all 2^(bits - 1).
struct PackedWeight {
  int64_t rows = 0, columns = 0, bits = 0, block = 0;
  std::vector<uint8_t> codes;    ///< `[rows, columns]`, one a byte
  std::vector<float> scales;     ///< `[rows, blocks]`
  std::vector<float> zeroPoints; ///< `[rows, blocks]`

  int64_t getBlocks() const { return (columns + block - 1) / block; }
  /// Whether all zero points are 2^(bits - 1), or whole numbers that are codes.
  bool isSymmetric() const;
  bool hasCodesAsZeroPoints() const;
  float at(int64_t row, int64_t column) const {
    int64_t place = row * getBlocks() + column / block;
    return (static_cast<float>(codes[row * columns + column]) -
            zeroPoints[place]) *
           scales[place];
  }

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
