//===- Evaluate.h - Evaluates parameter programs ----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A program is evaluated once, whatever the number of its packed results, by
// chunks of whole 16-row blocks: read rows, round, pack, write. Its forms:
//
//   pack(rtn(rows))      codes, scales and zero points; scales also through
//                        quantize_scales
//   pack(rows)           a float weight or bias
//   rows                 stored as they are: tables and norms
//   rope_table(rows)     cosines and sines
//
// where `rows` is what a RowReader reads. A scale of a whole tensor takes a
// look at all rows first; codes of scales are found after the last row.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_PACKAGE_EVALUATE_H
#define QLM_LIB_PACKAGE_EVALUATE_H

#include "RowReader.h"
#include "WeightsFile.h"
#include "llvm/ADT/MapVector.h"

#include <functional>
#include <memory>
#include <vector>

namespace mlir::qlm {

/// Buffers of one thread, reused from chunk to chunk.
struct EvaluationScratch {
  std::vector<float> rows;
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeroPoints;
  std::vector<uint8_t> packed;
};

/// One evaluation; writes its tensors chunk by chunk.
class ParameterProgram {
public:
  virtual ~ParameterProgram() = default;

  /// Evaluates rows `row .. row + count - 1`; `row` is a multiple of 16, and
  /// so is `count` unless the rows end there.
  virtual llvm::Error evaluate(int64_t row, int64_t count,
                               EvaluationScratch &scratch,
                               ArrayRef<PackedTensor> tensors,
                               const WeightsFile &file) = 0;

  /// Whether `look` must see all rows before `evaluate` gets any.
  virtual bool needsLook() const { return false; }
  virtual llvm::Error look(int64_t row, int64_t count,
                           EvaluationScratch &scratch) {
    return llvm::Error::success();
  }
  /// Called once after `look` has seen all rows, and before `evaluate`; may use
  /// \p threads.
  virtual llvm::Error prepare(int threads) { return llvm::Error::success(); }
  /// Called once after all rows have been evaluated.
  virtual llvm::Error finish(ArrayRef<PackedTensor> tensors,
                             const WeightsFile &file) {
    return llvm::Error::success();
  }

  /// What is worth saying of the evaluation once it is done; empty if nothing.
  virtual std::string getNote() const { return ""; }

  int64_t getRows() const { return reader->getRows(); }
  int64_t getColumns() const { return reader->getColumns(); }
  const RowReader &getReader() const { return *reader; }
  /// Indices of the tensors that it writes.
  ArrayRef<size_t> getTensors() const { return outputs; }

protected:
  ParameterProgram(std::unique_ptr<RowReader> reader)
      : reader(std::move(reader)) {}

  std::unique_ptr<RowReader> reader;
  SmallVector<size_t> outputs;
};

/// The weights of a package: what to write, and how.
struct WeightPlan {
  /// In the order of first use.
  std::vector<PackedTensor> tensors;
  std::vector<std::unique_ptr<ParameterProgram>> programs;

  /// Adds \p value under \p key. Results of one `qlm.rtn` join one program.
  llvm::Error add(Value value, StringRef key, ReaderContext &context);
  /// Bytes of all tensors.
  int64_t getBytes() const;

private:
  llvm::MapVector<Operation *, size_t> roundings;
};

/// Runs all programs of \p plan on \p threads threads (0: all of the
/// machine's). \p progress gets the key at work and the bytes written so far,
/// from one thread at a time; \p cancelled stops the work. Both may be empty.
llvm::Error
evaluateWeights(const WeightPlan &plan, const WeightsFile &file, int threads,
                const std::function<void(StringRef, int64_t)> &progress,
                const std::function<bool()> &cancelled);

} // namespace mlir::qlm

#endif // QLM_LIB_PACKAGE_EVALUATE_H
