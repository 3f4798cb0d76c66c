//===- RowReader.h - Rows of a parameter program ----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_ROWREADER_H
#define QLM_LIB_PACKAGE_ROWREADER_H

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Operation.h"
#include "mlir/IR/Value.h"
#include "qlm/Archive/ParameterArchive.h"
#include "qlm/Quantize/Gptq.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/Support/Error.h"

#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace mlir::qlm {

class SearchedVector;

/// What readers of one package share.
struct ReaderContext {
  explicit ReaderContext(ParameterArchive &archive) : archive(archive) {}

  ParameterArchive &archive;
  /// Whether infinities and NaN of the source count as 0.
  bool allowNonfinite = false;
  /// See numerics::GptqOptions::cholesky.
  ::qlm::numerics::CholeskyFunction cholesky;
  /// By weight, where the first one was: "inf at [3, 7]".
  std::map<std::string, std::string> nonfinite;
  std::mutex mutex; ///< of `nonfinite`
  /// Of the operations that search: what they found.
  llvm::DenseMap<Operation *, std::shared_ptr<SearchedVector>> searches;
};

/// The float part of a parameter program (`qlm.load`, `qlm.convert`,
/// `tensor.concat dim(0)`, `arith.constant`, and the operations of
/// QlmMethodOps.td), read a few rows at a time. A
/// tensor of rank 1 is a matrix of one column, a rank above 2 one of as many
/// columns as the inner dimensions have elements. Values are given in f32,
/// rounded as the program says. Reading is safe from several threads.
class RowReader {
public:
  virtual ~RowReader() = default;

  /// Reads rows `row .. row + count - 1` to \p target `[count, columns]`.
  /// Fails on a value that isn't finite, naming the weight.
  virtual llvm::Error read(int64_t row, int64_t count, float *target) const = 0;
  /// Tells that these rows of the source aren't needed any more.
  virtual void release(int64_t row, int64_t count) const {}
  /// The weights that are read, for messages: "model.norm.weight".
  virtual std::string getName() const = 0;

  int64_t getRows() const { return rows; }
  int64_t getColumns() const { return columns; }

  /// Makes the reader of \p value. Fails, with the operation's spelling, on a
  /// program of another form, and on a parameter that the archive lacks or
  /// holds with another shape or type. The context must outlive the reader.
  static llvm::Expected<std::unique_ptr<RowReader>>
  create(Value value, ReaderContext &context);

protected:
  RowReader(RankedTensorType type);

  int64_t rows;
  int64_t columns;
};

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_ROWREADER_H
