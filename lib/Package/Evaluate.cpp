//===- Evaluate.cpp - Evaluates parameter programs ------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Evaluate.h"

#include "PackageErrors.h"
#include "RoundingProgram.h"
#include "qlm/Dialect/Qlm.h"
#include "qlm/Package/Format.h"
#include "qlm/Quantize/NumericsScheme.h"
#include "llvm/Support/MathExtras.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <thread>

using namespace mlir;
using namespace mlir::qlm;
namespace format = ::qlm::format;
namespace numerics = ::qlm::numerics;

/// f32 elements of the rows that a thread holds at a time: 4 MB.
static constexpr int64_t kChunkElements = 1 << 20;

namespace {

/// Rows as they are, in the tensor's element type.
class PlainProgram : public ParameterProgram {
public:
  PlainProgram(std::unique_ptr<RowReader> reader, numerics::FloatType type,
               size_t tensor)
      : ParameterProgram(std::move(reader)), type(type) {
    outputs = {tensor};
  }

  llvm::Error evaluate(int64_t row, int64_t count, EvaluationScratch &scratch,
                       ArrayRef<PackedTensor> tensors,
                       const WeightsFile &file) override {
    int64_t elements = count * getColumns();
    int64_t bytes = numerics::getFloatBytes(type);
    scratch.rows.resize(elements);
    if (llvm::Error error = reader->read(row, count, scratch.rows.data()))
      return error;
    scratch.bytes.resize(elements * bytes);
    numerics::fromFloat32(type, scratch.rows.data(), scratch.bytes.data(),
                          elements);
    return file.write(tensors[outputs[0]].offset + row * getColumns() * bytes,
                      scratch.bytes);
  }

private:
  numerics::FloatType type;
};

/// pack(rows) of a float layout or a bias.
class FloatProgram : public ParameterProgram {
public:
  FloatProgram(std::unique_ptr<RowReader> reader, numerics::FloatType type,
               const PackedOutput &output)
      : ParameterProgram(std::move(reader)), type(type), output(output) {
    outputs = {output.tensor};
  }

  llvm::Error evaluate(int64_t row, int64_t count, EvaluationScratch &scratch,
                       ArrayRef<PackedTensor> tensors,
                       const WeightsFile &file) override {
    int64_t elements = count * getColumns();
    scratch.rows.resize(elements);
    if (llvm::Error error = reader->read(row, count, scratch.rows.data()))
      return error;
    const void *input = scratch.rows.data();
    if (type != numerics::FloatType::Float32) {
      scratch.bytes.resize(elements * numerics::getFloatBytes(type));
      numerics::fromFloat32(type, scratch.rows.data(), scratch.bytes.data(),
                            elements);
      input = scratch.bytes.data();
    }
    return output.write(input, row, count, scratch.packed, tensors, file);
  }

private:
  /// What packBlock takes.
  numerics::FloatType type;
  PackedOutput output;
};

/// rope_table(frequencies). Its rows are positions, so its reader only gives
/// the frequencies; evaluation takes them whole.
class RopeTableProgram : public ParameterProgram {
public:
  /// The positions of the table, as rows to walk over.
  class Positions : public RowReader {
  public:
    Positions(RankedTensorType table) : RowReader(table) {}
    llvm::Error read(int64_t row, int64_t count, float *target) const override {
      return llvm::Error::success();
    }
    std::string getName() const override { return "rope_table"; }
  };

  RopeTableProgram(RankedTensorType table, std::vector<float> frequencies,
                   size_t tensor)
      : ParameterProgram(std::make_unique<Positions>(table)),
        frequencies(std::move(frequencies)) {
    outputs = {tensor};
  }

  llvm::Error evaluate(int64_t row, int64_t count, EvaluationScratch &scratch,
                       ArrayRef<PackedTensor> tensors,
                       const WeightsFile &file) override {
    scratch.rows.resize(count * getColumns());
    float *target = scratch.rows.data();
    for (int64_t position = row; position < row + count; ++position)
      for (float frequency : frequencies) {
        float angle = static_cast<float>(position) * frequency;
        *target++ = static_cast<float>(std::cos(static_cast<double>(angle)));
        *target++ = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    return file.write(
        tensors[outputs[0]].offset + row * getColumns() * sizeof(float),
        ArrayRef(reinterpret_cast<const uint8_t *>(scratch.rows.data()),
                 scratch.rows.size() * sizeof(float)));
  }

private:
  std::vector<float> frequencies;
};

} // namespace

//===----------------------------------------------------------------------===//
// Building programs
//===----------------------------------------------------------------------===//

static llvm::Expected<std::unique_ptr<ParameterProgram>>
createFloatProgram(PackOp pack, size_t tensor, ReaderContext &context) {
  auto type = cast<RankedTensorType>(pack.getInput().getType());
  LayoutKind layout = pack.getLayout().getKind();
  bool isBias = layout == LayoutKind::Bias;
  auto element = getFloatType(type.getElementType());
  if (!element ||
      (!isBias && layout != getWeightLayout(type.getElementType()) &&
       layout != getGpuWeightLayout(type.getElementType(),
                                    /*integer=*/false)))
    return makeUnsupported(pack, "layout and values don't fit each other");
  auto reader = RowReader::create(pack.getInput(), context);
  if (!reader)
    return reader.takeError();
  // A bias is packed from f32, whatever it is stored as.
  numerics::FloatType input = isBias ? numerics::FloatType::Float32 : *element;
  PackedOutput output;
  output.tensor = tensor;
  output.layout = getNumericsLayout(layout);
  output.columns = (*reader)->getColumns();
  output.elementBytes = numerics::getFloatBytes(input);
  return std::make_unique<FloatProgram>(std::move(*reader), input, output);
}

static llvm::Expected<std::unique_ptr<ParameterProgram>>
createRopeTable(RopeTableOp rope, size_t tensor, ReaderContext &context) {
  auto reader = RowReader::create(rope.getInverseFrequencies(), context);
  if (!reader)
    return reader.takeError();
  std::vector<float> frequencies((*reader)->getRows() *
                                 (*reader)->getColumns());
  if (llvm::Error error =
          (*reader)->read(0, (*reader)->getRows(), frequencies.data()))
    return std::move(error);
  auto type = cast<RankedTensorType>(rope.getType());
  if (type.getRank() != 3 || type.getDimSize(2) != 2 ||
      type.getDimSize(1) != static_cast<int64_t>(frequencies.size()))
    return makeUnsupported(rope, "a table has a cosine and a sine for each "
                                 "position and frequency");
  return std::make_unique<RopeTableProgram>(type, std::move(frequencies),
                                            tensor);
}

llvm::Error WeightPlan::add(Value value, StringRef key,
                            ReaderContext &context) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  Operation *op = value.getDefiningOp();
  if (!type || !op)
    return makeError("weight '" + key + "' is not a parameter program");
  auto tensor = PackedTensor::get(key, type);
  if (!tensor)
    return tensor.takeError();
  size_t index = tensors.size();
  tensors.push_back(std::move(*tensor));

  auto pack = dyn_cast<PackOp>(op);
  if (Operation *rounding = pack ? getRounding(pack) : nullptr) {
    auto [entry, isNew] = roundings.insert({rounding, programs.size()});
    if (isNew) {
      auto program = RoundingProgram::create(rounding, context);
      if (!program)
        return program.takeError();
      programs.push_back(std::move(*program));
    }
    static_cast<RoundingProgram &>(*programs[entry->second]).add(pack, index);
    return llvm::Error::success();
  }
  llvm::Expected<std::unique_ptr<ParameterProgram>> program =
      [&]() -> llvm::Expected<std::unique_ptr<ParameterProgram>> {
    if (pack)
      return createFloatProgram(pack, index, context);
    if (auto rope = dyn_cast<RopeTableOp>(op))
      return createRopeTable(rope, index, context);
    auto reader = RowReader::create(value, context);
    if (!reader)
      return reader.takeError();
    return std::make_unique<PlainProgram>(
        std::move(*reader), *getFloatType(type.getElementType()), index);
  }();
  if (!program)
    return program.takeError();
  programs.push_back(std::move(*program));
  return llvm::Error::success();
}

int64_t WeightPlan::getBytes() const {
  int64_t bytes = 0;
  for (const PackedTensor &tensor : tensors)
    bytes += tensor.bytes;
  return bytes;
}

//===----------------------------------------------------------------------===//
// Running programs
//===----------------------------------------------------------------------===//

namespace {

/// All chunks of a program's rows, shared by the threads that take them in
/// turn.
class ChunkQueue {
public:
  using Step = function_ref<llvm::Error(int64_t row, int64_t count,
                                        EvaluationScratch &scratch)>;

  ChunkQueue(const ParameterProgram &program, Step step)
      : program(program), step(step) {
    int64_t rows = kChunkElements / program.getColumns();
    rowsPerChunk = std::max<int64_t>(format::kRowBlock,
                                     llvm::alignDown(rows, format::kRowBlock));
  }

  int64_t getChunks() const {
    return llvm::divideCeil(program.getRows(), rowsPerChunk);
  }

  /// Takes chunks until none is left or one failed. \p done is called after
  /// each with its number of rows.
  void work(EvaluationScratch &scratch, function_ref<void(int64_t)> done,
            const std::function<bool()> &cancelled) {
    while (!failed) {
      int64_t row = next.fetch_add(1) * rowsPerChunk;
      if (row >= program.getRows())
        return;
      int64_t count = std::min(rowsPerChunk, program.getRows() - row);
      llvm::Error result = cancelled && cancelled() ? makeError("interrupted")
                                                    : step(row, count, scratch);
      program.getReader().release(row, count);
      std::lock_guard<std::mutex> lock(mutex);
      if (result) {
        // The first error is as good as the others.
        if (!failed)
          message = llvm::toString(std::move(result));
        else
          llvm::consumeError(std::move(result));
        failed = true;
        return;
      }
      done(count);
    }
  }

  llvm::Error takeError() const {
    return failed ? makeError(message) : llvm::Error::success();
  }

private:
  const ParameterProgram &program;
  Step step;
  int64_t rowsPerChunk;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::string message;
};

} // namespace

/// Runs \p step over all rows of \p program.
static llvm::Error runChunks(const ParameterProgram &program,
                             std::vector<EvaluationScratch> &scratch,
                             ChunkQueue::Step step,
                             function_ref<void(int64_t)> done,
                             const std::function<bool()> &cancelled) {
  ChunkQueue queue(program, step);
  std::vector<std::thread> helpers;
  int64_t wanted = std::min<int64_t>(static_cast<int64_t>(scratch.size()),
                                     queue.getChunks());
  for (int64_t i = 1; i < wanted; ++i)
    helpers.emplace_back([&, i] { queue.work(scratch[i], done, cancelled); });
  queue.work(scratch[0], done, cancelled);
  for (std::thread &helper : helpers)
    helper.join();
  return queue.takeError();
}

/// The look at all rows, the codes, and what comes after them.
static llvm::Error runProgram(ParameterProgram &program, const WeightPlan &plan,
                              const WeightsFile &file,
                              std::vector<EvaluationScratch> &scratch,
                              function_ref<void(int64_t)> done,
                              const std::function<bool()> &cancelled) {
  auto look = [&](int64_t row, int64_t count, EvaluationScratch &buffers) {
    return program.look(row, count, buffers);
  };
  auto evaluate = [&](int64_t row, int64_t count, EvaluationScratch &buffers) {
    return program.evaluate(row, count, buffers, plan.tensors, file);
  };
  if (program.needsLook())
    if (llvm::Error error =
            runChunks(program, scratch, look, [](int64_t) {}, cancelled))
      return error;
  if (llvm::Error error = program.prepare(static_cast<int>(scratch.size())))
    return error;
  if (llvm::Error error =
          runChunks(program, scratch, evaluate, done, cancelled))
    return error;
  return program.finish(plan.tensors, file);
}

llvm::Error mlir::qlm::evaluateWeights(
    const WeightPlan &plan, const WeightsFile &file, int threads,
    const std::function<void(StringRef, int64_t)> &progress,
    const std::function<bool()> &cancelled) {
  if (threads <= 0)
    threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<EvaluationScratch> scratch(threads);
  int64_t bytesBefore = 0;
  for (const std::unique_ptr<ParameterProgram> &program : plan.programs) {
    int64_t bytes = 0;
    for (size_t tensor : program->getTensors())
      bytes += plan.tensors[tensor].bytes;
    StringRef key = plan.tensors[program->getTensors().front()].key;
    int64_t rowsDone = 0;
    auto done = [&](int64_t rows) {
      rowsDone += rows;
      if (progress)
        progress(key, bytesBefore + bytes * rowsDone / program->getRows());
    };
    if (llvm::Error error =
            runProgram(*program, plan, file, scratch, done, cancelled))
      return error;
    bytesBefore += bytes;
  }
  return llvm::Error::success();
}
