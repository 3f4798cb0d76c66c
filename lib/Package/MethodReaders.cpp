//===- MethodReaders.cpp - Rows that a method has changed -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "MethodReaders.h"

#include "PackageErrors.h"
#include "qlm/Dialect/MethodOps.h"
#include "qlm/Quantize/Awq.h"
#include "qlm/Quantize/NumericsScheme.h"
#include "llvm/ADT/TypeSwitch.h"

#include <mutex>
#include <thread>

using namespace mlir;
using namespace mlir::qlm;
namespace numerics = ::qlm::numerics;

using Heads = std::optional<ArrayRef<int64_t>>;
using ReaderPtr = std::unique_ptr<RowReader>;

/// All elements of \p reader.
static llvm::Expected<std::vector<float>> readAll(const RowReader &reader) {
  std::vector<float> values(reader.getRows() * reader.getColumns());
  if (llvm::Error error = reader.read(0, reader.getRows(), values.data()))
    return std::move(error);
  return values;
}

static numerics::ScaleOrder getOrder(Heads heads) {
  ScaleOrder order = ScaleOrder::get(heads);
  return {order.shared, order.headDim};
}

namespace mlir::qlm {

/// A vector that takes work to find: found when first asked for, by whichever
/// thread that is.
class SearchedVector {
public:
  using Search = std::function<llvm::Expected<std::vector<float>>()>;

  explicit SearchedVector(Search search) : search(std::move(search)) {}

  /// The values; fails with the same message each time.
  llvm::Expected<ArrayRef<float>> get() {
    std::call_once(once, [&] {
      llvm::Expected<std::vector<float>> found = search();
      if (found)
        values = std::move(*found);
      else
        message = llvm::toString(found.takeError());
      search = nullptr;
    });
    if (!message.empty())
      return makeError(message);
    return ArrayRef(values);
  }

private:
  std::once_flag once;
  Search search;
  std::vector<float> values;
  std::string message;
};

} // namespace mlir::qlm

//===----------------------------------------------------------------------===//
// Readers
//===----------------------------------------------------------------------===//

namespace {

/// A vector that was searched for.
class VectorReader : public RowReader {
public:
  VectorReader(RankedTensorType type, std::shared_ptr<SearchedVector> vector,
               StringRef name)
      : RowReader(type), vector(std::move(vector)), name(name) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    llvm::Expected<ArrayRef<float>> values = vector->get();
    if (!values)
      return values.takeError();
    std::copy_n(values->data() + row, count, target);
    return llvm::Error::success();
  }
  std::string getName() const override { return name; }

private:
  std::shared_ptr<SearchedVector> vector;
  std::string name;
};

/// Another reader's rows, changed by a vector's elements.
class ScaledReader : public RowReader {
public:
  ScaledReader(RankedTensorType type, ReaderPtr input, ReaderPtr scales)
      : RowReader(type), input(std::move(input)), scales(std::move(scales)) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    if (llvm::Error error = input->read(row, count, target))
      return error;
    llvm::Expected<std::vector<float>> values = readAll(*scales);
    if (!values)
      return values.takeError();
    change(row, count, *values, target);
    return llvm::Error::success();
  }
  void release(int64_t row, int64_t count) const override {
    input->release(row, count);
  }
  std::string getName() const override { return input->getName(); }

protected:
  virtual void change(int64_t row, int64_t count, ArrayRef<float> values,
                      float *target) const = 0;

private:
  ReaderPtr input, scales;
};

/// qlm.scale_columns
class ColumnsReader : public ScaledReader {
public:
  ColumnsReader(ScaleColumnsOp op, ReaderPtr input, ReaderPtr scales)
      : ScaledReader(cast<RankedTensorType>(op.getType()), std::move(input),
                     std::move(scales)),
        order(getOrder(op.getHeads())) {}

protected:
  void change(int64_t row, int64_t count, ArrayRef<float> values,
              float *target) const override {
    for (int64_t i = 0; i < count; ++i, target += columns)
      for (int64_t k = 0; k < columns; ++k)
        target[k] *= values[order.at(k)];
  }

private:
  numerics::ScaleOrder order;
};

/// qlm.scale_rows
class RowsReader : public ScaledReader {
public:
  RowsReader(ScaleRowsOp op, ReaderPtr input, ReaderPtr scales)
      : ScaledReader(cast<RankedTensorType>(op.getType()), std::move(input),
                     std::move(scales)),
        first(op.getFirstRow()) {}

protected:
  void change(int64_t row, int64_t count, ArrayRef<float> values,
              float *target) const override {
    auto size = static_cast<int64_t>(values.size());
    for (int64_t i = 0; i < count; ++i, target += columns) {
      int64_t scaled = row + i - first;
      if (scaled < 0 || scaled >= size)
        continue;
      for (int64_t k = 0; k < columns; ++k)
        target[k] /= values[scaled];
    }
  }

private:
  int64_t first;
};

/// qlm.scale_moments
class MomentsReader : public ScaledReader {
public:
  MomentsReader(ScaleMomentsOp op, ReaderPtr input, ReaderPtr scales)
      : ScaledReader(cast<RankedTensorType>(op.getType()), std::move(input),
                     std::move(scales)),
        order(getOrder(op.getHeads())) {}

protected:
  void change(int64_t row, int64_t count, ArrayRef<float> values,
              float *target) const override {
    for (int64_t i = 0; i < count; ++i, target += columns)
      for (int64_t k = 0; k < columns; ++k)
        target[k] /= values[order.at(row + i)] * values[order.at(k)];
  }

private:
  numerics::ScaleOrder order;
};

/// qlm.clip; keeps the blocks of second moments that it needs, not all.
class ClipReader : public RowReader {
public:
  ClipReader(ClipOp op, ReaderPtr input, ReaderPtr moments)
      : RowReader(cast<RankedTensorType>(op.getType())),
        scheme(getNumericsScheme(op.getScheme())), input(std::move(input)),
        blocks([this, moments = std::shared_ptr<RowReader>(
                          std::move(moments))] { return cut(*moments); }) {}

  llvm::Error read(int64_t row, int64_t count, float *target) const override {
    llvm::Expected<ArrayRef<float>> found = blocks.get();
    if (!found)
      return found.takeError();
    if (llvm::Error error = input->read(row, count, target))
      return error;
    numerics::RoundingResult result =
        numerics::clipWeight(target, count, columns, scheme, found->data());
    if (result.ok())
      return llvm::Error::success();
    return makeError("cannot quantize '" + getName() +
                     "': " + result.getMessage(row));
  }
  void release(int64_t row, int64_t count) const override {
    input->release(row, count);
  }
  std::string getName() const override { return input->getName(); }

private:
  llvm::Expected<std::vector<float>> cut(const RowReader &moments) const {
    int64_t n = scheme.getColumnsPerScale(columns);
    std::vector<float> result(columns * n), band(n * columns);
    for (int64_t first = 0; first < columns; first += n) {
      if (llvm::Error error = moments.read(first, n, band.data()))
        return std::move(error);
      for (int64_t i = 0; i < n; ++i)
        std::copy_n(band.data() + i * columns + first, n,
                    result.data() + (first + i) * n);
    }
    moments.release(0, columns);
    return result;
  }

  numerics::Scheme scheme;
  ReaderPtr input;
  mutable SearchedVector blocks;
};

} // namespace

//===----------------------------------------------------------------------===//
// Searches
//===----------------------------------------------------------------------===//

/// Readers of some values.
static llvm::Expected<std::vector<std::shared_ptr<RowReader>>>
createAll(ValueRange values, ReaderContext &context) {
  std::vector<std::shared_ptr<RowReader>> readers;
  for (Value value : values) {
    auto reader = RowReader::create(value, context);
    if (!reader)
      return reader.takeError();
    readers.push_back(std::move(*reader));
  }
  return readers;
}

static llvm::Expected<std::vector<float>>
searchAwq(AwqScalesOp op, ArrayRef<std::shared_ptr<RowReader>> readers) {
  std::vector<std::vector<float>> all;
  for (const std::shared_ptr<RowReader> &reader : readers) {
    auto values = readAll(*reader);
    if (!values)
      return values.takeError();
    reader->release(0, reader->getRows());
    all.push_back(std::move(*values));
  }
  size_t weights = readers.size() - 2;
  numerics::AwqSearch search;
  for (size_t i = 0; i < weights; ++i)
    search.weights.push_back({all[i].data(), readers[i]->getRows()});
  search.columns = op.getColumns();
  search.meanMagnitude = all[weights].data();
  search.moments = all[weights + 1].data();
  search.scheme = getNumericsScheme(op.getScheme());
  search.steps = op.getSteps();
  search.order = getOrder(op.getHeads());
  search.threads =
      static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<float> scales(search.order.getScaleCount(search.columns));
  numerics::RoundingResult result =
      numerics::findAwqScales(search, scales.data());
  if (!result.ok())
    return makeError("cannot quantize '" + readers[0]->getName() +
                     "' with scaled columns: " + result.getMessage());
  return scales;
}

static llvm::Expected<std::vector<float>>
searchSmooth(SmoothScalesOp op, ArrayRef<std::shared_ptr<RowReader>> readers) {
  int64_t columns = op.getColumns();
  std::vector<float> largest(columns);
  for (const std::shared_ptr<RowReader> &reader : readers.drop_back()) {
    auto values = readAll(*reader);
    if (!values)
      return values.takeError();
    reader->release(0, reader->getRows());
    for (size_t i = 0; i < values->size(); ++i) {
      float &column = largest[i % columns];
      column = std::max(column, std::fabs((*values)[i]));
    }
  }
  auto absmax = readAll(*readers.back());
  if (!absmax)
    return absmax.takeError();
  numerics::ScaleOrder order = getOrder(op.getHeads());
  std::vector<float> scales(order.getScaleCount(columns));
  numerics::findSmoothScales(absmax->data(), largest.data(), columns,
                             op.getAlpha().convertToDouble(), order,
                             scales.data());
  return scales;
}

static llvm::Expected<std::vector<float>>
findStaticScale(StaticScaleOp op,
                ArrayRef<std::shared_ptr<RowReader>> readers) {
  auto magnitudes = readAll(*readers[0]);
  if (!magnitudes)
    return magnitudes.takeError();
  std::vector<float> scales(magnitudes->size(), 1.0f);
  if (op.getScales()) {
    auto given = readAll(*readers[1]);
    if (!given)
      return given.takeError();
    numerics::ScaleOrder order = getOrder(op.getHeads());
    for (size_t k = 0; k < scales.size(); ++k)
      scales[k] = (*given)[order.at(static_cast<int64_t>(k))];
  }
  float largest = 0;
  for (size_t k = 0; k < scales.size(); ++k)
    if (!op.getElement() || *op.getElement() == k)
      largest = std::max(largest, std::fabs((*magnitudes)[k]) / scales[k]);
  return std::vector<float>{largest == 0 ? 1.0f : largest / 127.0f};
}

/// The reader of \p op's vector, whose search is shared by all of its readers.
template <typename OpTy, typename Search>
static llvm::Expected<ReaderPtr> createVector(OpTy op, ReaderContext &context,
                                              Search search) {
  std::shared_ptr<SearchedVector> &shared = context.searches[op];
  if (!shared) {
    auto readers = createAll(op->getOperands(), context);
    if (!readers)
      return readers.takeError();
    shared = std::make_shared<SearchedVector>(
        [op, readers = std::move(*readers), search] {
          return search(op, readers);
        });
  }
  return std::make_unique<VectorReader>(cast<RankedTensorType>(op.getType()),
                                        shared, op->getName().stripDialect());
}

template <typename Reader, typename OpTy>
static llvm::Expected<ReaderPtr> createPair(OpTy op, ReaderContext &context) {
  auto input = RowReader::create(op->getOperand(0), context);
  if (!input)
    return input;
  auto second = RowReader::create(op->getOperand(1), context);
  if (!second)
    return second;
  return std::make_unique<Reader>(op, std::move(*input), std::move(*second));
}

llvm::Expected<ReaderPtr>
mlir::qlm::createMethodReader(Value value, ReaderContext &context) {
  using Result = llvm::Expected<ReaderPtr>;
  return llvm::TypeSwitch<Operation *, Result>(value.getDefiningOp())
      .Case([&](ScaleColumnsOp op) {
        return createPair<ColumnsReader>(op, context);
      })
      .Case([&](ScaleRowsOp op) { return createPair<RowsReader>(op, context); })
      .Case([&](ScaleMomentsOp op) {
        return createPair<MomentsReader>(op, context);
      })
      .Case([&](ClipOp op) { return createPair<ClipReader>(op, context); })
      .Case(
          [&](AwqScalesOp op) { return createVector(op, context, searchAwq); })
      .Case([&](SmoothScalesOp op) {
        return createVector(op, context, searchSmooth);
      })
      .Case([&](StaticScaleOp op) {
        return createVector(op, context, findStaticScale);
      })
      .Default([](Operation *) -> Result { return ReaderPtr(); });
}
