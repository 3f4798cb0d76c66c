//===- GemvResults.cpp - y of a GEMV from sums of its warps ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "GemvEmitter.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

void GemvEmitter::emitResults(ArrayRef<Val> sums) {
  int64_t threads = plan.consumers();
  int64_t features = plan.sumFeatures();
  Type type = sums[0].type();
  // Reduce: [warp][token][feature]; all slots are read before.
  frame.barrier(kConsumers, threads);
  Val feature = lane / 4;
  if (team)
    feature = feature + team * (plan.teamBlocks * kBlockRows);
  Val token = lane % 4 * 2;
  for (int64_t t = 0; t < std::min(plan.maxRows, int64_t(2)); ++t)
    b.ifThen(token + t < plan.maxRows, [&] {
      Ptr place = shared.at(
          ((column * plan.maxRows + token + t) * features + feature) * 4);
      for (int64_t block = 0; block < plan.teamBlocks; ++block)
        for (int64_t half = 0; half < 2; ++half)
          place.at((block * kBlockRows + half * 8) * 4)
              .store(sums[blockSums() * block + half * blockSums() / 2 + t]);
    });
  storeOutlierParts();
  frame.barrier(kConsumers, threads);

  // Store: neighbouring threads have neighbouring features.
  auto load = [&](Val row, Val feature) {
    Val sum;
    for (int64_t w = 0; w < GemvPlan::kColumnWarps; ++w) {
      Val part = shared.at(((row + w * plan.maxRows) * features + feature) * 4)
                     .load(type);
      sum = w ? sum + part : part;
    }
    return sum;
  };
  int64_t outputs = outputCount();
  auto finish = [&](Val row, const Output &output,
                    ArrayRef<EpilogueTerms> terms) {
    SmallVector<Val> values;
    for (size_t i = 0; i < output.locals.size(); ++i) {
      EpilogueTerms own = terms[i];
      own.outliers = addOutlierParts(row, output.locals[i]);
      values.push_back(epilogue.finish(load(row, output.locals[i]), own, row,
                                       output.features[i]));
    }
    if (pairs)
      return pairs->store(frame, pairPlace(), row, output.number, values[0],
                          values[1]);
    Val value = shape.swiglu ? gateUp(b, values[0], values[1]) : values[0];
    epilogue.storeFinished(row, output.place, value, terms[0].residual);
  };
  if (!heldTerms.empty()) {
    Output output = locate(thread % outputs);
    Val row = thread / outputs;
    return b.ifThen((row < rows) & output.exists,
                    [&] { finish(row, output, heldTerms); });
  }
  b.forRange(thread, number(outputs) * rows, threads, [&](Val i) {
    Val row = i / outputs;
    Output output = locate(i % outputs);
    b.ifThen(output.exists, [&] {
      SmallVector<EpilogueTerms> terms(output.locals.size());
      for (size_t k = 0; k < terms.size(); ++k) {
        epilogue.loadFixed(terms[k], output.features[k]);
        epilogue.loadMoving(terms[k], row, output.place);
      }
      finish(row, output, terms);
    });
  });
}

/// Loads how many outliers the thread adds, for storeOutlierParts.
void GemvEmitter::holdOutliers() {
  if (!plan.outlierThreads(shape))
    return;
  Val row = thread / plan.features() % plan.maxRows;
  outlierCount = epilogue.countOutliers(b.max(b.min(row, rows - 1), number(0)));
}

/// Stores [part][row][feature]: what each of outlierThreads threads finds of a
/// row's outliers times a feature's weights.
void GemvEmitter::storeOutlierParts() {
  int64_t parts = plan.outlierThreads(shape);
  if (!parts)
    return;
  int64_t features = plan.features();
  Val local = thread % features, row = thread / features % plan.maxRows;
  Val part = thread / (features * plan.maxRows);
  Val block = local / kBlockRows, number = first + block;
  if (int64_t distance = shape.pairDistance) {
    Val pair = first + block / 2;
    number = pair / distance * (2 * distance) + pair % distance +
             block % 2 * distance;
  }
  Val exists =
      (part < parts) & (row < rows) & (block < count * shape.unitBlocks());
  b.ifThen(exists, [&] {
    Val sum =
        epilogue.sumOutliers(row, number * kBlockRows + local % kBlockRows,
                             outlierCount, part, parts);
    shared.at(plan.outliers).at(thread * 4).store(sum);
  });
}

Val GemvEmitter::addOutlierParts(Val row, Val feature) {
  Val sum;
  for (int64_t part = 0; part < plan.outlierThreads(shape); ++part) {
    Val place = (row + part * plan.maxRows) * plan.features() + feature;
    Val own = shared.at(plan.outliers).at(place * 4).load(b.f32());
    sum = sum ? sum + own : own;
  }
  return sum;
}

/// Elements of y, or pairs, that a thread block has for a row, at most.
int64_t GemvEmitter::outputCount() const {
  int64_t features = plan.blockCount * kBlockRows;
  return shape.swiglu || pairs ? features / 2 : features;
}

/// Where the thread block's element \p number of a row comes from.
GemvEmitter::Output GemvEmitter::locate(Val number) {
  Output output;
  output.number = number;
  Val exists = number < count * (shape.swiglu ? kBlockRows / 2 : kBlockRows);
  if (pairs) {
    int64_t distance = shape.pairDistance;
    Val inBlock = number % kBlockRows, unit = first + number / kBlockRows;
    Val local = number / kBlockRows * (2 * kBlockRows) + inBlock;
    Val feature =
        (unit / distance * (2 * distance) + unit % distance) * kBlockRows +
        inBlock;
    output.locals = {local, local + kBlockRows};
    output.features = {feature, feature + distance * kBlockRows};
    output.place = feature;
    output.exists = exists;
    return output;
  }
  if (shape.swiglu) {
    Val gate = number / 8 * kBlockRows + number % 8;
    output.locals = {gate, gate + 8};
    output.features = {first * kBlockRows + gate,
                       first * kBlockRows + gate + 8};
    output.place = first * (kBlockRows / 2) + number;
  } else {
    output.locals = {number};
    output.features = {first * kBlockRows + number};
    output.place = output.features[0];
  }
  output.exists = exists & (output.place < shape.outputFeatures());
  return output;
}

/// Loads the terms of the thread's only result while the weights arrive: what
/// depends on no other kernel, or the rest.
void GemvEmitter::holdTerms(bool isFixed) {
  int64_t outputs = outputCount();
  if (outputs * plan.maxRows > plan.consumers())
    return;
  Output output = locate(thread % outputs);
  Val row = thread / outputs;
  if (isFixed)
    heldTerms.resize(output.locals.size());
  auto load = [&] {
    SmallVector<Val> values;
    for (auto [i, term] : llvm::enumerate(heldTerms)) {
      EpilogueTerms terms;
      if (isFixed)
        epilogue.loadFixed(terms, output.features[i]);
      else
        epilogue.loadMoving(terms, row, output.place);
      for (Val value :
           {terms.scale, terms.bias, terms.inputScale, terms.residual})
        if (value)
          values.push_back(value);
    }
    return values;
  };
  bool isAny = isFixed ? (shape.scales && !shape.grouped()) || shape.bias
                       : shape.inputScales || shape.residual;
  if (!isAny)
    return;
  auto none = [&] {
    return SmallVector<Val>(heldTerms.size() * termCount(isFixed),
                            b.zero(b.f32()));
  };
  Val exists = (row < rows) & output.exists;
  SmallVector<Val> values =
      b.ifElse(exists, function_ref<SmallVector<Val>()>(load), none);
  size_t next = 0;
  for (EpilogueTerms &terms : heldTerms) {
    if (isFixed && shape.scales && !shape.grouped())
      terms.scale = values[next++];
    if (isFixed && shape.bias)
      terms.bias = values[next++];
    if (!isFixed && shape.inputScales)
      terms.inputScale = values[next++];
    if (!isFixed && shape.residual)
      terms.residual = values[next++];
  }
}

int64_t GemvEmitter::termCount(bool isFixed) const {
  if (isFixed)
    return (shape.scales && !shape.grouped()) + shape.bias;
  return shape.inputScales + shape.residual;
}

LinearPairs::Place GemvEmitter::pairPlace() {
  LinearPairs::Place place;
  place.shared = shared.at(plan.pairs);
  place.thread = thread;
  place.threads = plan.consumers();
  place.rows = rows;
  place.maxRows = plan.maxRows;
  place.first = first * kBlockRows;
  place.count = count * kBlockRows;
  place.most = plan.blockCount / 2 * kBlockRows;
  return place;
}
