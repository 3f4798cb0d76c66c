//===- PackedOutput.h - Rows that become a packed tensor --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_PACKEDOUTPUT_H
#define QLM_LIB_PACKAGE_PACKEDOUTPUT_H

#include "WeightsFile.h"
#include "qlm/Package/Format.h"
#include "qlm/Quantize/Numerics.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>
#include <vector>

namespace mlir::qlm {

/// How a program's rows become one packed tensor.
struct PackedOutput {
  size_t tensor;
  ::qlm::numerics::Layout layout;
  /// Elements of an unpacked row.
  int64_t columns;
  int64_t elementBytes;
  int codeOffset = 0;

  /// Packs \p count rows at \p input, the first one \p row, and writes them.
  llvm::Error write(const void *input, int64_t row, int64_t count,
                    std::vector<uint8_t> &packed,
                    ArrayRef<PackedTensor> tensors,
                    const WeightsFile &file) const {
    constexpr int64_t kRows = ::qlm::format::kRowBlock;
    int64_t blockBytes =
        ::qlm::numerics::packedBlockBytes(layout, columns, elementBytes);
    int64_t blocks = llvm::divideCeil(count, kRows);
    packed.resize(blocks * blockBytes);
    const char *source = static_cast<const char *>(input);
    for (int64_t block = 0; block < blocks; ++block) {
      int64_t rows = std::min(kRows, count - block * kRows);
      ::qlm::numerics::packBlock(layout, source, rows, columns, elementBytes,
                                 codeOffset,
                                 packed.data() + block * blockBytes);
      source += rows * columns * elementBytes;
    }
    return file.write(tensors[tensor].offset + row / kRows * blockBytes,
                      packed);
  }
};

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_PACKEDOUTPUT_H
