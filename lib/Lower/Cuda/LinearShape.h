//===- LinearShape.h - What a linear of the GPU multiplies ------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// y[rows, N] = f(x)[rows, K] * w[N, K]^T, then an epilogue. The weights are
// the left operand of the tensor cores in every kernel, as the registers of
// one lane (GpuMatrix.h): so a line of packed weights is what one warp loads
// with one 16-byte load a lane, whatever the number of rows of x.
//
//   block: 16 output features        line: 512 bytes, 16 a lane
//   +------+------+------+----       bf16, f16   16 columns
//   | line | line | line | ...       8 bits      32 columns
//   +------+------+------+----       4 bits      64 columns
//
// Columns are padded to a multiple of 64. Formulas: qlm/Package/Format.h.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_LOWER_CUDA_LINEARSHAPE_H
#define QLM_LIB_LOWER_CUDA_LINEARSHAPE_H

#include "qlm/Lower/Kernel/GpuFrame.h"
#include "qlm/Lower/Kernel/GpuMatrix.h"

#include "llvm/Support/MathExtras.h"

namespace mlir::qlm::cuda {

/// How weights are stored.
enum class WeightFormat { F16, BF16, Int8, Int4, Fp8, Nf4 };
/// Element type of x as the tensor cores take it.
enum class InputFormat { F16, BF16, Int8, Fp8 };
/// Element type of y.
enum class OutputFormat { F32, F16, BF16 };

/// Rows of a block of packed weights.
inline constexpr int64_t kBlockRows = 16;
/// Bytes that a warp loads at once, and a lane of it.
inline constexpr int64_t kLineBytes = 512;
inline constexpr int64_t kLaneBytes = 16;
/// What asynchronous copies of a thread move at once.
inline constexpr int64_t kPieceBytes = 16;
/// Columns are padded to a multiple of this.
inline constexpr int64_t kPaddedColumns = 64;
inline constexpr int64_t kWarp = 32;

struct LinearShape {
  int64_t features = 0; ///< N
  int64_t columns = 0;  ///< K
  WeightFormat weights = WeightFormat::F16;
  InputFormat input = InputFormat::F16;
  OutputFormat output = OutputFormat::F32;

  /// Columns that share a scale; 0: one scale a row of w, or none.
  int64_t groupColumns = 0;
  bool scales = false;
  bool halfScales = false;   ///< f16, not f32
  bool doubleScales = false; ///< codes of `qlm.quantize_scales`
  bool zeroPoints = false;
  bool inputScales = false; ///< one f32 for each row of x
  /// Rows of x have lists of elements that stay wide (`qlm.dynamic_quantize`).
  bool outliers = false;
  bool bias = false;
  bool residual = false; ///< f32, added to y
  /// Rows r and r + 8 of a block are gate and up of a gated MLP: y has N / 2
  /// features, silu(gate) * up.
  bool swiglu = false;
  /// Where not 0: blocks b and b + pairDistance of each 2 * pairDistance are
  /// multiplied by the same thread block, since they are used together.
  int64_t pairDistance = 0;
  /// x is f32 and normalized first: x * rsqrt(mean(x^2) + epsilon) * weight.
  bool norm = false;
  double epsilon = 0;

  /// The shape of an operation, or none where only the plain kernel serves it.
  static std::optional<LinearShape> get(PackedLinearOp op);

  int64_t blocks() const { return llvm::divideCeil(features, kBlockRows); }
  /// Blocks that a thread block owns together.
  int64_t unitBlocks() const { return pairDistance ? 2 : 1; }
  int64_t units() const { return blocks() / unitBlocks(); }
  int64_t paddedColumns() const {
    return llvm::alignTo(columns, kPaddedColumns);
  }
  int64_t weightBits() const {
    switch (weights) {
    case WeightFormat::F16:
    case WeightFormat::BF16:
      return 16;
    case WeightFormat::Int8:
    case WeightFormat::Fp8:
      return 8;
    case WeightFormat::Int4:
    case WeightFormat::Nf4:
      return 4;
    }
    llvm_unreachable("all formats are covered");
  }
  int64_t lineColumns() const { return 256 / weightBits(); }
  int64_t lines() const { return paddedColumns() / lineColumns(); }
  int64_t blockBytes() const { return lines() * kLineBytes; }
  int64_t inputBytes() const {
    return input == InputFormat::F16 || input == InputFormat::BF16 ? 2 : 1;
  }
  int64_t outputBytes() const { return output == OutputFormat::F32 ? 4 : 2; }
  int64_t outputFeatures() const { return swiglu ? features / 2 : features; }
  int64_t groups() const {
    return groupColumns ? columns / groupColumns : int64_t(1);
  }
  int64_t scaleBytes() const { return doubleScales ? 1 : halfScales ? 2 : 4; }
  /// Groups have scales that differ along a row.
  bool grouped() const { return scales && groupColumns != 0; }
  /// The last line's padding would be a group more, which has no scale.
  bool lacksGroup() const {
    return grouped() && groups() * groupColumns < paddedColumns();
  }
  kernel::MatrixType matrixType() const {
    switch (input) {
    case InputFormat::F16:
      return kernel::MatrixType::F16;
    case InputFormat::BF16:
      return kernel::MatrixType::BF16;
    case InputFormat::Int8:
      return kernel::MatrixType::S8;
    case InputFormat::Fp8:
      return kernel::MatrixType::E4M3;
    }
    llvm_unreachable("all formats are covered");
  }
  /// Columns of one tensor core instruction.
  int64_t stepColumns() const { return kernel::matrixColumns(matrixType()); }
};

/// The addresses of a linear's operands; null where it has none. Global.
struct LinearBuffers {
  kernel::Ptr input, inputScales, outliers, normWeight, weights, scales,
      superScales, zeroPoints, bias, residual, result, workspace;
  SizeKind rows = SizeKind::Tokens; ///< what counts the rows of x
};

class LinearTables;

/// Turns packed lines to the registers of the left operand.
class WeightUnpacker {
public:
  /// \p tables, filled, serve formats of a codebook.
  WeightUnpacker(kernel::KernelBuilder &b, const LinearShape &shape,
                 LinearTables &tables);

  /// The steps (4 registers each) of a line, from the lane's 16 bytes
  /// (vector<4xi32>). \p zeros are the zero points of rows r and r + 8 of the
  /// line's group as vector<2xf16>, null for symmetric weights.
  SmallVector<SmallVector<kernel::Val>>
  unpack(kernel::Val line, ArrayRef<kernel::Val> zeros = {});
  /// 1024 + z, twice, of a zero point z (i8).
  kernel::Val biasOf(kernel::Val zeroPoint);
  /// What the sums still have to be multiplied by (1 for most formats).
  double factor() const;

private:
  SmallVector<kernel::Val> unpackNibbles(kernel::Val word,
                                         ArrayRef<kernel::Val> zeros);
  kernel::Val unpackBytes(kernel::Val word, int64_t half);

  kernel::KernelBuilder &b;
  const LinearShape &shape;
  LinearTables &tables;
};

} // namespace mlir::qlm::cuda

#endif // QLM_LIB_LOWER_CUDA_LINEARSHAPE_H
