//===- Sample.cpp - Chooses tokens on the device --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// What qlm::Sampler does on the host (qlm/Runtime/Sampler.h), a block a row:
//
//   best   = the largest logit, the lowest id among equals
//   weight = e^((logit - best) / temperature)
//   keep the topK most likely, of these the fewest whose weights reach topP of
//   their sum, of these those of at least minP; draw by uniform, walking by id
//
// Nothing is sorted. Every "the most likely that ..." is a threshold: the
// largest t such that the elements with key >= t measure at least a target. It
// is found two bits a pass, by measuring three candidates at once; `key` is the
// logit's or the weight's bits, or the id turned around (which breaks ties, and
// walks by id). Weights are summed as integers of 40 fractional bits: exact, so
// that no sum depends on the order of threads.
//
// A weight is within 2^-21 of the host's; a draw or a topP that falls between
// two tokens closer than that may choose the other one.
//
//===----------------------------------------------------------------------===//

#include "Sample.h"
#include "AttentionPtx.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "qlm/Package/Format.h"

#include <cstddef>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;
using ::qlm::format::SampleRequest;
using ::qlm::format::SampleResult;

static constexpr int64_t kFractionBits = 40;
/// Loads of a thread that are under way at once.
static constexpr int64_t kVectorsAtOnce = 4;
static constexpr double kLog2E = 1.44269504088896341;
static constexpr double kLn2 = 0.693147180559945309;

namespace {
/// An element of the row.
struct Element {
  Val id;    ///< i32
  Val logit; ///< f32
};

/// The elements above a threshold: key > bound, or key == bound and
/// id <= lastId.
struct Threshold {
  Val bound;  ///< i64
  Val lastId; ///< i32
};

class SampleEmitter {
public:
  SampleEmitter(GpuKernelFrame &frame, int64_t vocabulary)
      : frame(frame), b(frame.builder()), vocabulary(vocabulary) {}

  void emit();

private:
  using Keys = function_ref<Val(const Element &)>;

  void emitRow(Val row);
  Val draw(Ptr request);
  SmallVector<Val>
  forElements(ArrayRef<Val> init,
              function_ref<void(const Element &, MutableArrayRef<Val>)> body);
  SmallVector<Val> foldBlock(ArrayRef<Val> values,
                             function_ref<Val(Val, Val)> fold);
  SmallVector<Val>
  sumElements(int64_t count,
              function_ref<SmallVector<Val>(const Element &)> terms);
  Val search(int64_t bits, Val target, Keys key, Keys measure);
  Threshold breakTies(Val bound, Val need, Val equal, Keys key, Keys isIn);
  Threshold keepTopK(Val topK);
  Threshold keepTopP(Val topP, const Threshold &likely);

  // Of an element.
  Val order(Val logit);
  Val unsignedOrder(const Element &element) {
    return b.extendUnsigned(order(element.logit) ^ 0x80000000ll, b.i64());
  }
  Val weight(const Element &element) {
    return frame.exp2Fast((element.logit - best) * slope);
  }
  Val weightBits(const Element &element) {
    return b.extendUnsigned(b.bitcast(weight(element), b.i32()), b.i64());
  }
  /// The weight as an integer, rounded down.
  Val mass(const Element &element) {
    double unit = static_cast<double>(int64_t(1) << kFractionBits);
    return b.toInteger(weight(element) * unit, b.i64());
  }
  Val isAbove(const Element &element, Val key, const Threshold &threshold) {
    return (key > threshold.bound) |
           ((key == threshold.bound) & (element.id <= threshold.lastId));
  }
  Val countIf(Val condition, Val number) {
    return b.select(condition, number, constantLike(number, int64_t(0)));
  }
  Val long_(int64_t number) { return b.constant(b.i64(), number); }
  Val toDouble(Val value) {
    return b.val(
        arith::ExtFOp::create(b, b.getLoc(), b.getF64Type(), value.get()));
  }
  int64_t idBits() const {
    return llvm::alignTo(llvm::Log2_64_Ceil(vocabulary), 2);
  }
  Threshold everything() {
    return {long_(-1), b.constant(b.i32(), vocabulary)};
  }

  GpuKernelFrame &frame;
  KernelBuilder &b;
  int64_t vocabulary;

  Ptr logits, scratch;
  /// The largest logit; log2(e) / temperature.
  Val best, slope;
};
} // namespace

void SampleEmitter::emit() {
  scratch = frame.shared(3 * 8 * kSampleThreads / kWarpThreads);
  frame.waitForPrevious();
  Val row = frame.block();
  b.ifThen(row < frame.size(SizeKind::LogitRows), [&] { emitRow(row); });
}

void SampleEmitter::emitRow(Val row) {
  logits = frame.buffer(0).at(frame.wide(row) * (vocabulary * 4));
  Ptr request = frame.buffer(1).at(frame.wide(row) * sizeof(SampleRequest));
  Ptr result = frame.buffer(2).at(frame.wide(row) * sizeof(SampleResult));

  // The largest logit, the lowest id among equals; NaN is larger than all.
  auto larger = [&](Val x, Val y) { return b.max(x, y); };
  Val found = foldBlock(
      forElements({long_(std::numeric_limits<int64_t>::min())},
                  [&](const Element &element, MutableArrayRef<Val> most) {
                    Val key =
                        (b.extendSigned(order(element.logit), b.i64()) << 32) |
                        b.extendUnsigned(element.id ^ -1, b.i64());
                    most[0] = b.max(most[0], key);
                  }),
      larger)[0];
  Val bestId = b.truncate(found, b.i32()) ^ -1;
  Val bestOrder = b.truncate(found >> 32, b.i32());
  // Of infinity and minus infinity.
  constexpr int64_t kInfinity = 0x7F800000, kMinusInfinity = ~kInfinity;
  Val isFinite = (bestOrder < kInfinity) & (bestOrder > kMinusInfinity);
  using Values = function_ref<SmallVector<Val>()>;
  auto choose = [&]() -> SmallVector<Val> {
    best = logits.element(b.f32(), bestId).load(b.f32());
    Val sum = frame.blockSum(
        forElements({b.constant(b.f32(), 0.0)},
                    [&](const Element &element, MutableArrayRef<Val> total) {
                      total[0] = total[0] + frame.expFast(element.logit - best);
                    })[0]);
    Val logSum = Ptx(b).log2(sum) * kLn2;
    Val temperature =
        request.at(offsetof(SampleRequest, temperature)).load(b.f32());
    slope = kLog2E / temperature;
    auto drawn = [&] { return SmallVector<Val>{draw(request)}; };
    auto greedy = [&] { return SmallVector<Val>{bestId}; };
    Val token = b.ifElse(temperature > 0.0, Values(drawn), Values(greedy))[0];
    Val logit = logits.element(b.f32(), token).load(b.f32());
    return {token, (logit - best) - logSum};
  };
  auto refuse = [&] {
    return SmallVector<Val>{
        bestId, b.constant(b.f32(), std::numeric_limits<double>::quiet_NaN())};
  };
  auto chosen = b.ifElse(isFinite, Values(choose), Values(refuse));
  frame.ifThread(0, [&] {
    result.at(offsetof(SampleResult, token)).store(chosen[0]);
    result.at(offsetof(SampleResult, logProbability)).store(chosen[1]);
    // The step has read its own tokens; these may be those of the next one.
    frame.buffer(3).element(b.i32(), row).store(chosen[0]);
  });
}

/// The token by the request's rules.
Val SampleEmitter::draw(Ptr request) {
  using Values = function_ref<SmallVector<Val>()>;
  auto pack = [](const Threshold &t) {
    return SmallVector<Val>{t.bound, t.lastId};
  };
  auto all = [&] { return pack(everything()); };
  Val topK = request.at(offsetof(SampleRequest, topK)).load(b.i32());
  auto keepLikely = [&] { return pack(keepTopK(topK)); };
  auto likelyValues = b.ifElse((topK > 0) & (topK < vocabulary),
                               Values(keepLikely), Values(all));
  Threshold likely{likelyValues[0], likelyValues[1]};
  Val topP = request.at(offsetof(SampleRequest, topP)).load(b.f32());
  auto keepNucleus = [&] { return pack(keepTopP(topP, likely)); };
  auto nucleusValues = b.ifElse(topP < 1.0, Values(keepNucleus), Values(all));
  Threshold nucleus{nucleusValues[0], nucleusValues[1]};
  Val minP = request.at(offsetof(SampleRequest, minP)).load(b.f32());
  auto kept = [&](const Element &element) {
    Val isKept = isAbove(element, unsignedOrder(element), likely) &
                 isAbove(element, weightBits(element), nucleus) &
                 (weight(element) >= minP);
    return countIf(isKept, mass(element));
  };
  Val total = sumElements(1, [&](const Element &element) {
    return SmallVector<Val>{kept(element)};
  })[0];
  // The first id at which the sum of masses passes uniform * total.
  Val uniform =
      request.at(offsetof(SampleRequest, uniform)).load(b.getF64Type());
  Val point = b.toInteger(b.toFloat(total, b.getF64Type()) * uniform, b.i64());
  int64_t highest = (int64_t(1) << idBits()) - 1;
  Val place = search(
      idBits(), point + 1,
      [&](const Element &element) {
        return highest - b.extendUnsigned(element.id, b.i64());
      },
      kept);
  return b.truncate(highest - place, b.i32());
}

//===----------------------------------------------------------------------===//
// Thresholds
//===----------------------------------------------------------------------===//

/// Signed integers in the order of floats; zeros are equal, NaN is largest.
Val SampleEmitter::order(Val logit) {
  Val positive = logit + 0.0; // of -0, 0
  Val bits = b.bitcast(positive, b.i32());
  Val flipped = bits ^ (b.shiftRightSigned(bits, 31) & 0x7FFFFFFF);
  return b.select(logit != logit, constantLike(bits, int64_t(0x7FFFFFFF)),
                  flipped);
}

/// The largest t of \p bits bits such that elements with key >= t measure at
/// least \p target (i64), which all together do.
Val SampleEmitter::search(int64_t bits, Val target, Keys key, Keys measure) {
  Val zero = b.constant(b.i32(), int64_t(0));
  return b.forRange(zero, b.constant(b.i32(), bits / 2), 1, {long_(0)},
                    [&](Val pass, ArrayRef<Val> before) {
                      Val shift =
                          b.extendUnsigned(bits - 2 - pass * 2, b.i64());
                      Val candidates[3];
                      for (int64_t i = 0; i < 3; ++i)
                        candidates[i] = before[0] | (long_(i + 1) << shift);
                      auto sums = sumElements(3, [&](const Element &element) {
                        Val k = key(element), m = measure(element);
                        SmallVector<Val> terms;
                        for (Val candidate : candidates)
                          terms.push_back(countIf(k >= candidate, m));
                        return terms;
                      });
                      Val next = before[0];
                      for (int64_t i = 0; i < 3; ++i)
                        next = b.select(sums[i] >= target, candidates[i], next);
                      return SmallVector<Val>{next};
                    })[0];
}

/// Of \p equal elements whose key is \p bound keeps the \p need with the lowest
/// ids, and all whose key is larger.
Threshold SampleEmitter::breakTies(Val bound, Val need, Val equal, Keys key,
                                   Keys isIn) {
  using Values = function_ref<SmallVector<Val>()>;
  int64_t highest = (int64_t(1) << idBits()) - 1;
  auto cut = [&] {
    Val place = search(
        idBits(), need,
        [&](const Element &element) {
          return highest - b.extendUnsigned(element.id, b.i64());
        },
        [&](const Element &element) {
          return countIf(isIn(element) & (key(element) == bound), long_(1));
        });
    return SmallVector<Val>{b.truncate(highest - place, b.i32())};
  };
  auto all = [&] { return SmallVector<Val>{b.constant(b.i32(), vocabulary)}; };
  return {bound, b.ifElse(need < equal, Values(cut), Values(all))[0]};
}

Threshold SampleEmitter::keepTopK(Val topK) {
  Val target = b.extendUnsigned(topK, b.i64());
  auto key = [&](const Element &element) { return unsignedOrder(element); };
  Val bound =
      search(32, target, key, [&](const Element &) { return long_(1); });
  auto counts = sumElements(2, [&](const Element &element) {
    Val k = key(element);
    return SmallVector<Val>{countIf(k > bound, long_(1)),
                            countIf(k == bound, long_(1))};
  });
  return breakTies(
      bound, target - counts[0], counts[1], key,
      [&](const Element &) { return b.constant(b.i1(), int64_t(1)); });
}

Threshold SampleEmitter::keepTopP(Val topP, const Threshold &likely) {
  auto isIn = [&](const Element &element) {
    return isAbove(element, unsignedOrder(element), likely);
  };
  auto key = [&](const Element &element) { return weightBits(element); };
  auto measure = [&](const Element &element) {
    return countIf(isIn(element), mass(element));
  };
  Val total = sumElements(1, [&](const Element &element) {
    return SmallVector<Val>{measure(element)};
  })[0];
  Val wanted = b.toFloat(total, b.getF64Type()) * toDouble(topP);
  Val rounded = b.val(math::CeilOp::create(b, b.getLoc(), wanted.get()));
  Val target = b.max(b.toInteger(rounded, b.i64()), long_(1));
  Val bound = search(32, target, key, measure);
  auto sums = sumElements(3, [&](const Element &element) {
    Val k = key(element), m = measure(element);
    Val isEqual = isIn(element) & (k == bound);
    return SmallVector<Val>{countIf(k > bound, m), countIf(isEqual, m),
                            countIf(isEqual, long_(1))};
  });
  // The masses of equal weights are equal.
  Val each = b.max(sums[1] / b.max(sums[2], long_(1)), long_(1));
  Val need = (target - sums[0] + (each - 1)) / each;
  return breakTies(bound, need, sums[2], key, isIn);
}

//===----------------------------------------------------------------------===//
// Elements
//===----------------------------------------------------------------------===//

/// Visits the thread's elements, in vectors of four where rows allow it and
/// several vectors at once, so that their loads overlap.
SmallVector<Val> SampleEmitter::forElements(
    ArrayRef<Val> init,
    function_ref<void(const Element &, MutableArrayRef<Val>)> body) {
  int64_t width = vocabulary % 4 ? 1 : 4, vectors = vocabulary / width;
  Type type = width == 1 ? b.f32() : Type(b.vec(width, b.f32()));
  auto load = [&](Val index) {
    return logits.element(type, index).load(type, 4 * width);
  };
  auto visit = [&](Val index, Val loaded, MutableArrayRef<Val> carried) {
    for (int64_t i = 0; i < width; ++i)
      body({index * width + i, width == 1 ? loaded : loaded.lane(i)}, carried);
  };
  int64_t step = kSampleThreads * kVectorsAtOnce;
  int64_t whole = vectors / step * step;
  SmallVector<Val> sums =
      b.forRange(frame.thread(), b.constant(b.i32(), whole), step, init,
                 [&](Val first, ArrayRef<Val> before) {
                   SmallVector<Val> carried(before), loaded;
                   for (int64_t i = 0; i < kVectorsAtOnce; ++i)
                     loaded.push_back(load(first + i * kSampleThreads));
                   for (int64_t i = 0; i < kVectorsAtOnce; ++i)
                     visit(first + i * kSampleThreads, loaded[i], carried);
                   return carried;
                 });
  return b.forRange(frame.thread() + whole, b.constant(b.i32(), vectors),
                    kSampleThreads, sums, [&](Val index, ArrayRef<Val> before) {
                      SmallVector<Val> carried(before);
                      visit(index, load(index), carried);
                      return carried;
                    });
}

/// Folds up to three i64 of each thread; every thread gets the results.
SmallVector<Val> SampleEmitter::foldBlock(ArrayRef<Val> values,
                                          function_ref<Val(Val, Val)> fold) {
  int64_t count = values.size();
  SmallVector<Val> results;
  Val warp = frame.thread() >> 5;
  for (auto [i, value] : llvm::enumerate(values)) {
    Val folded = frame.warpFold(value, fold);
    frame.ifLane(0, [&, i = i] {
      scratch.element(b.i64(), warp * count + static_cast<int64_t>(i))
          .store(folded);
    });
  }
  frame.barrier();
  for (int64_t i = 0; i < count; ++i) {
    Val result = scratch.at(8 * i).load(b.i64());
    for (int64_t w = 1; w < kSampleThreads / kWarpThreads; ++w)
      result = fold(result, scratch.at(8 * (w * count + i)).load(b.i64()));
    results.push_back(result);
  }
  // The next fold writes the same place.
  frame.barrier();
  return results;
}

SmallVector<Val> SampleEmitter::sumElements(
    int64_t count, function_ref<SmallVector<Val>(const Element &)> terms) {
  SmallVector<Val> sums = forElements(
      SmallVector<Val>(count, long_(0)),
      [&](const Element &element, MutableArrayRef<Val> carried) {
        for (auto [sum, term] : llvm::zip_equal(carried, terms(element)))
          sum = sum + term;
      });
  return foldBlock(sums, [](Val x, Val y) { return x + y; });
}

void cuda::emitSample(GpuKernelFrame &frame, int64_t vocabulary) {
  SampleEmitter(frame, vocabulary).emit();
}
