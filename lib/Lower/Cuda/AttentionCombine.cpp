//===- AttentionCombine.cpp - Adds parts of decoding attention ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DecodeEmitter.h"

#include "qlm/Lower/Cuda/Kernels.h"
#include "qlm/Lower/Cuda/Workspace.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using namespace mlir::qlm::kernel;

/// Writes the warp's part to shared memory.
void DecodeEmitter::storeWarp(ArrayRef<Val> state) {
  Part part = warpPart(warp);
  for (int64_t set = 0; set < rowSets; ++set) {
    Val row = fragments.group() + 8 * set;
    Val sum = state[rowSets + set];
    sum = sum + ptx.shuffleXor(sum, 1);
    sum = sum + ptx.shuffleXor(sum, 2);
    b.ifThen(row < rows, [&] {
      b.ifThen(fragments.quad() == 0, [&] {
        part.maxima.element(b.f32(), row).store(state[set]);
        part.sums.element(b.f32(), row).store(sum);
      });
      SmallVector<Val> outputs;
      for (int64_t tile = 0; tile < fragments.outputTiles(); ++tile)
        for (int64_t i = 0; i < 4; ++i)
          outputs.push_back(
              state[2 * rowSets + (tile * rowSets + (i / 2) % rowSets) * 2 +
                    i % 2]);
      fragments.storeOutputs(part.outputs.at(row * (shape.headDim * 4)),
                             outputs, /*high=*/set == 1,
                             b.constant(b.f32(), 1.0), b.f32());
    });
  }
}

/// The sum of the warps' parts for vector \p index (four features of a row), in
/// the order of warps.
DecodeEmitter::Merged DecodeEmitter::mergeWarps(Val index) {
  Val row = index / rowVectors();
  Merged merged = {ptx.infinity(), b.constant(b.f32(), 0.0),
                   b.zero(b.vec(kVectorLanes, b.f32()))};
  SmallVector<Val> maxima;
  for (int64_t w = 0; w < plan.warps; ++w) {
    Part part = warpPart(constantLike(warp, w));
    maxima.push_back(part.maxima.element(b.f32(), row).load(b.f32()));
    merged.maximum = ptx.larger(merged.maximum, maxima.back());
  }
  for (int64_t w = 0; w < plan.warps; ++w) {
    Part part = warpPart(constantLike(warp, w));
    Val weight = ptx.exp2(maxima[w] - ptx.finite(merged.maximum));
    Val sum = part.sums.element(b.f32(), row).load(b.f32());
    merged.sum = b.fma(sum, weight, merged.sum);
    Val outputs =
        part.outputs.at(index * 16).load(b.vec(kVectorLanes, b.f32()), 16);
    merged.outputs =
        b.fma(outputs, b.broadcast(weight, kVectorLanes), merged.outputs);
  }
  return merged;
}

/// Sums the warps' parts to \p total.
void DecodeEmitter::combineWarps(const Part &total) {
  b.forRange(thread, constantLike(thread, rows * rowVectors()), plan.threads(),
             [&](Val index) {
               Merged merged = mergeWarps(index);
               total.outputs.at(index * 16).store(merged.outputs, 16);
               b.ifThen(index % rowVectors() == 0, [&] {
                 Val row = index / rowVectors();
                 total.maxima.element(b.f32(), row).store(merged.maximum);
                 total.sums.element(b.f32(), row).store(merged.sum);
               });
             });
}

/// Heads of the block's tile, as vectors of four features.
Val DecodeEmitter::vectorCount() {
  Val count = b.min(constantLike(firstHead, rows), shape.group() - firstHead);
  return count * rowVectors();
}

/// Sums the vectors of splits that \p load gives, in the order of splits, and
/// stores them.
void DecodeEmitter::combine(LoadVector load) {
  constexpr int64_t kLanes = kVectorLanes;
  Val head = kvHead * shape.group() + firstHead;
  int64_t bytes = shape.result.getIntOrFloatBitWidth() / 8;
  Val feature = (token * shape.heads + head) * shape.headDim;
  Ptr results = buffers.result.at(b.extendSigned(feature, b.i64()) * bytes);
  b.forRange(thread, vectorCount(), plan.threads(), [&](Val index) {
    SmallVector<Merged> parts = load(index);
    Val maximum = ptx.infinity(), sum = b.constant(b.f32(), 0.0);
    for (const Merged &part : parts)
      maximum = ptx.larger(maximum, part.maximum);
    SmallVector<Val> totals(kLanes, sum);
    for (const Merged &part : parts) {
      Val weight = ptx.exp2(part.maximum - maximum);
      sum = b.fma(part.sum, weight, sum);
      for (int64_t i = 0; i < kLanes; ++i)
        totals[i] = b.fma(part.outputs.lane(i), weight, totals[i]);
    }
    Val inverse = 1.0 / sum;
    for (Val &total : totals)
      total = total * inverse;
    if (bytes == 4) {
      Val vector = b.zero(b.vec(kLanes, b.f32()));
      for (int64_t i = 0; i < kLanes; ++i)
        vector = b.insert(vector, totals[i], i);
      results.at(index * 16).store(vector, 16);
      return;
    }
    HalfType half = shape.result.isBF16() ? HalfType::BF16 : HalfType::F16;
    Val vector = b.zero(b.vec(2, b.i32()));
    for (int64_t i = 0; i < 2; ++i)
      vector =
          b.insert(vector, ptx.pack(totals[2 * i], totals[2 * i + 1], half), i);
    results.at(index * 8).store(vector, 8);
  });
}

/// Combines parts in memory: that of split 0 at \p parts, and so on. Splits
/// without keys have none; the block's own stands for it, with weight zero.
void DecodeEmitter::combineParts(Ptr parts) {
  Val count = lastChunk - startChunk;
  auto exists = [&](int64_t s) {
    // Chunks startChunk, startChunk + 1, ... are of splits in turn.
    Val isOne = ((s - startChunk) & (shares - 1)) < count;
    return plan.isAdaptive() && s ? isOne & (shares > s) : isOne;
  };
  combine([&](Val index) {
    Val row = index / rowVectors();
    SmallVector<Merged> loaded;
    for (int64_t s = 0; s < plan.splits; ++s) {
      Val place = b.select(exists(s), constantLike(split, s), split);
      Part part(parts.at(place * (partFloats(shape) * 4)), rows, shape.headDim);
      Val maximum = part.maxima.element(b.f32(), row).load(b.f32());
      loaded.push_back(
          {b.select(exists(s), maximum, ptx.infinity()),
           part.sums.element(b.f32(), row).load(b.f32()),
           part.outputs.at(index * 16).load(b.vec(kVectorLanes, b.f32()), 16)});
    }
    return loaded;
  });
}

void DecodeEmitter::combineSplits() {
  if (plan.splits == 1)
    return combineOwn();
  if (plan.isWatched)
    return combineWatched();
  if (plan.fewest > 1)
    return combineBlocks();
  b.ifElse(shares == 1, [&] { combineOwn(); }, [&] { combineBlocks(); });
}

/// The block has all of the context.
void DecodeEmitter::combineOwn() {
  combine([&](Val index) { return SmallVector<Merged>{mergeWarps(index)}; });
}

/// The token's and KV head's parts in the workspace.
Ptr DecodeEmitter::itemParts() {
  Ptr parts = buffers.workspace.at(plan.partsOffset());
  return parts.at(b.extendSigned(item, b.i64()) *
                  (plan.splits * partFloats(shape) * 4));
}

/// The last of the blocks to arrive adds the parts of all: a counter tells.
void DecodeEmitter::combineBlocks() {
  Ptr parts = itemParts();
  combineWarps(
      Part(parts.at(split * (partFloats(shape) * 4)), rows, shape.headDim));
  // Release the part, count it, acquire the others'; shared memory tells all
  // threads.
  ptx.assemble("fence.acq_rel.gpu;", "~{memory}", {}, {}, true);
  ptx.barrier();
  Ptr counter = buffers.workspace.element(b.i32(), item);
  Ptr flag = buffers.shared;
  Val last = b.min(shares, lastChunk - startChunk) - 1;
  b.ifThen(thread == 0, [&] {
    Val before = ptx.assemble("atom.acq_rel.gpu.global.add.u32 $0, [$1], 1;",
                              "=r,l,~{memory}", b.i32(), {b.val(counter.get())},
                              true)[0];
    flag.store(before);
    b.ifThen(before == last,
             [&] { counter.store(constantLike(before, int64_t(0))); });
  });
  ptx.barrier();
  b.ifThen(flag.load(b.i32()) == last, [&] {
    ptx.assemble("fence.acq_rel.gpu;", "~{memory}", {}, {}, true);
    combineParts(parts);
  });
}

void DecodeEmitter::show(Ptr place, ArrayRef<Val> values) {
  constexpr int64_t kNegativeZero = 0x80000000;
  SmallVector<Val> operands = {b.val(place.get())};
  std::string list, constraints = "l,";
  for (auto [i, value] : llvm::enumerate(values)) {
    Val bits = b.bitcast(value, b.i32());
    operands.push_back(
        b.select(bits == 0, constantLike(bits, kNegativeZero), bits));
    list += (i ? ", $" : "$") + std::to_string(i + 1);
    constraints += "r,";
  }
  ptx.assemble("st.relaxed.gpu.global.v" + Twine(values.size()) +
                   ".b32 [$0], {" + list + "};",
               constraints + "~{memory}", {}, operands, true);
}

SmallVector<Val> DecodeEmitter::watch(Ptr four, Ptr two, int64_t stride,
                                      int64_t count, Val mask) {
  int64_t words = 6 * count;
  auto number = [](int64_t i) { return std::to_string(i); };
  std::string each = "<" + number(count) + ">", load, look;
  std::string start = "{ .reg .pred unset, own" + each +
                      "; .reg .b32 bit, some, seen" + each + "; ";
  for (int64_t i = 0; i < count; ++i) {
    std::string n = number(i), own = "@own" + n, word[6];
    start += "and.b32 bit, $" + number(words + 2) + ", " +
             number(int64_t(1) << i) + "; setp.ne.b32 own" + n + ", bit, 0; ";
    for (int64_t k = 0; k < 6; ++k) {
      word[k] = "$" + number(6 * i + k);
      start += "mov.b32 " + word[k] + ", 0f3F800000; ";
    }
    auto place = [&](int64_t half) {
      return "}, [$" + number(words + half) + " + " + number(i * stride) +
             "]; ";
    };
    load += own + " ld.relaxed.gpu.global.v4.b32 {" + word[0] + ", " + word[1] +
            ", " + word[2] + ", " + word[3] + place(0) + own +
            " ld.relaxed.gpu.global.v2.b32 {" + word[4] + ", " + word[5] +
            place(1);
    // The smallest word tells whether one is zero.
    auto least = [&](std::string to, std::string a, std::string c) {
      look += "min.u32 " + to + ", " + a + ", " + c + "; ";
    };
    least("seen" + n, word[0], word[1]);
    least("some", word[2], word[3]);
    least("seen" + n, "seen" + n, "some");
    least("some", word[4], word[5]);
    least("seen" + n, "seen" + n, "some");
  }
  load += look;
  for (int64_t left = count; left > 1; left = (left + 1) / 2)
    for (int64_t i = 0; i < left / 2; ++i)
      load += "min.u32 seen" + number(i) + ", seen" + number(i) + ", seen" +
              number(left - 1 - i) + "; ";
  std::string constraints;
  for (int64_t i = 0; i < words; ++i)
    constraints += "=r,";
  SmallVector<Val> results = ptx.assemble(
      start + "watching_${:uid}: " + load +
          "setp.eq.u32 unset, seen0, 0; @unset bra watching_${:uid}; }",
      constraints + "l,l,r,~{memory}", SmallVector<Type>(words, b.i32()),
      {b.val(four.get()), b.val(two.get()), mask}, true);
  for (Val &result : results)
    result = b.bitcast(result, b.f32());
  return results;
}

/// The block of the last split with keys adds all parts. It knows that a part
/// is there by the part itself: its place is zero before, and no word of a part
/// is (zeros are stored as -0). A fence, a counter and a second look at memory
/// would take twice as long. Blocks start in the order of their numbers, so
/// that those it waits for have started.
void DecodeEmitter::combineWatched() {
  Ptr parts = itemParts();
  int64_t bytes = partFloats(shape) * 4;
  Val one = constantLike(split, int64_t(1));
  // A bit for each split with keys: chunks are of splits in turn.
  Val count = b.min(shares, lastChunk - startChunk);
  Val turned = ((one << count) - 1) << (startChunk & (shares - 1));
  Val present = (turned | (turned >> shares)) & ((one << shares) - 1);
  auto add = [&](int64_t splits) { combineWatched(parts, present, splits); };
  constexpr int64_t kFew = 8;
  b.ifElse((present >> split) == 1,
           [&] {
             if (plan.splits > kFew)
               b.ifElse((present >> kFew) == 0, [&] { add(kFew); },
                        [&] { add(plan.splits); });
             else
               add(plan.splits);
             // All threads have seen all parts.
             ptx.barrier();
             Val zero = b.zero(b.vec(kVectorLanes, b.f32()));
             b.forRange(thread, constantLike(thread, plan.splits * bytes / 16),
                        plan.threads(),
                        [&](Val i) { parts.at(i * 16).store(zero, 16); });
           },
           [&] {
             WatchedPart part(parts.at(split * bytes), rows, shape);
             b.forRange(thread, vectorCount(), plan.threads(), [&](Val index) {
               Merged merged = mergeWarps(index);
               SmallVector<Val> outputs;
               for (int64_t i = 0; i < kVectorLanes; ++i)
                 outputs.push_back(merged.outputs.lane(i));
               show(part.outputs.at(index * 16), outputs);
               b.ifThen(index % rowVectors() == 0, [&] {
                 show(part.rows.at(index / rowVectors() * 8),
                      {merged.maximum, merged.sum});
               });
             });
           });
}

/// Adds the block's part to those of the first \p splits that \p present names.
void DecodeEmitter::combineWatched(Ptr parts, Val present, int64_t splits) {
  WatchedPart first(parts, rows, shape);
  Val others = present ^ (constantLike(split, int64_t(1)) << split);
  combine([&](Val index) {
    Merged own = mergeWarps(index);
    Val row = index / rowVectors();
    SmallVector<Val> words =
        watch(first.outputs.at(index * 16), first.rows.at(row * 8),
              partFloats(shape) * 4, splits, others);
    SmallVector<Merged> all;
    for (int64_t s = 0; s < splits; ++s) {
      ArrayRef<Val> six = ArrayRef(words).slice(6 * s, 6);
      Val isOwn = split == s;
      Val exists = ((present >> s) & 1) == 1;
      Val outputs = b.zero(b.vec(kVectorLanes, b.f32()));
      for (int64_t i = 0; i < kVectorLanes; ++i)
        outputs =
            b.insert(outputs, b.select(isOwn, own.outputs.lane(i), six[i]), i);
      Val maximum = b.select(exists, six[4], ptx.infinity());
      all.push_back({b.select(isOwn, own.maximum, maximum),
                     b.select(isOwn, own.sum, six[5]), outputs});
    }
    return all;
  });
}
