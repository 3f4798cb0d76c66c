//===- AttentionPtx.cpp - Instructions that attention needs ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "AttentionPtx.h"

#include <limits>

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::cuda;
using kernel::Val;

SmallVector<Val> Ptx::assemble(const Twine &text, StringRef constraints,
                               ArrayRef<Type> results, ArrayRef<Val> operands,
                               bool effects) {
  SmallVector<Value> values;
  for (Val operand : operands)
    values.push_back(operand.get());
  Type type;
  if (results.size() == 1)
    type = results.front();
  else if (!results.empty())
    type = LLVM::LLVMStructType::getLiteral(b.getContext(), results);
  auto dialect =
      LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT);
  std::string string = text.str();
  auto op = LLVM::InlineAsmOp::create(
      b, b.getLoc(), type, values, StringRef(string), constraints, effects,
      /*is_align_stack=*/false, LLVM::TailCallKind::None, dialect,
      /*operand_attrs=*/ArrayAttr());
  SmallVector<Val> unpacked;
  if (results.size() == 1)
    unpacked.push_back(b.val(op.getResult(0)));
  else
    for (int64_t i = 0, e = results.size(); i < e; ++i)
      unpacked.push_back(b.val(LLVM::ExtractValueOp::create(
          b, b.getLoc(), op.getResult(0), ArrayRef<int64_t>{i})));
  return unpacked;
}

static Val readRegister(Ptx &ptx, kernel::KernelBuilder &b, StringRef name) {
  return ptx.assemble("mov.u32 $0, %" + name + ";", "=r", b.i32(), {})[0];
}

Val Ptx::thread() { return readRegister(*this, b, "tid.x"); }
Val Ptx::block() { return readRegister(*this, b, "ctaid.x"); }
Val Ptx::blocks() { return readRegister(*this, b, "nctaid.x"); }
Val Ptx::blockY() { return readRegister(*this, b, "ctaid.y"); }

Val Ptx::exp2(Val x) {
  return assemble("ex2.approx.ftz.f32 $0, $1;", "=f,f", b.f32(), x)[0];
}

Val Ptx::log2(Val x) {
  return assemble("lg2.approx.f32 $0, $1;", "=f,f", b.f32(), x)[0];
}

Val Ptx::infinity() {
  return b.constant(b.f32(), -std::numeric_limits<double>::infinity());
}

Val Ptx::finite(Val maximum) {
  return b.select(maximum == infinity(), b.constant(b.f32(), 0.0), maximum);
}

Val Ptx::larger(Val a, Val c) {
  return assemble("max.f32 $0, $1, $2;", "=f,f,f", b.f32(), {a, c})[0];
}

Val Ptx::reciprocal(Val x) {
  return assemble("rcp.approx.ftz.f32 $0, $1;", "=f,f", b.f32(), x)[0];
}

Val Ptx::shuffleXor(Val value, int64_t mask) {
  return assemble("shfl.sync.bfly.b32 $0, $1, " + Twine(mask) +
                      ", 0x1f, 0xffffffff;",
                  "=f,f", b.f32(), value, /*effects=*/true)[0];
}

Val Ptx::permute(Val a, Val c, int64_t selector) {
  return assemble("prmt.b32 $0, $1, $2, " + Twine(selector) + ";", "=r,r,r",
                  b.i32(), {a, c})[0];
}

Val Ptx::pack(Val low, Val high, HalfType type) {
  // The instruction names the high half first.
  StringRef name = type == HalfType::BF16 ? "bf16x2" : "f16x2";
  return assemble("cvt.rn." + name + ".f32 $0, $2, $1;", "=r,f,f", b.i32(),
                  {low, high})[0];
}

Val Ptx::subtractHalves(Val a, Val c) {
  return assemble("sub.rn.f16x2 $0, $1, $2;", "=r,r,r", b.i32(), {a, c})[0];
}

std::pair<Val, Val> Ptx::unpack(Val pair, HalfType type) {
  if (type == HalfType::BF16)
    return {b.bitcast(pair << 16, b.f32()),
            b.bitcast(pair & 0xFFFF0000ll, b.f32())};
  auto halves = assemble("{ .reg .b16 l, h; mov.b32 {l, h}, $2; "
                         "cvt.f32.f16 $0, l; cvt.f32.f16 $1, h; }",
                         "=f,=f,r", {b.f32(), b.f32()}, pair);
  return {halves[0], halves[1]};
}

void Ptx::multiply(MutableArrayRef<Val> sums, ArrayRef<Val> a, Val b0, Val b1,
                   HalfType type) {
  StringRef name = type == HalfType::BF16 ? "bf16" : "f16";
  SmallVector<Val> operands(a);
  operands.append({b0, b1});
  operands.append(sums.begin(), sums.end());
  auto results =
      assemble("mma.sync.aligned.m16n8k16.row.col.f32." + name + "." + name +
                   ".f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, "
                   "{$10, $11, $12, $13};",
               "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", SmallVector<Type>(4, b.f32()),
               operands);
  llvm::copy(results, sums.begin());
}

void Ptx::copyAsync(Val shared, kernel::Ptr global) {
  assemble("cp.async.cg.shared.global [$0], [$1], 16;", "r,l,~{memory}", {},
           {shared, b.val(global.get())}, true);
}

void Ptx::commitCopies() {
  assemble("cp.async.commit_group;", "~{memory}", {}, {}, true);
}

void Ptx::waitForCopies(int64_t pending) {
  assemble("cp.async.wait_group " + Twine(pending) + ";", "~{memory}", {}, {},
           true);
}

Val Ptx::countUp(kernel::Ptr counter, Val last) {
  return assemble("atom.relaxed.gpu.global.inc.u32 $0, [$1], $2;",
                  "=r,l,r,~{memory}", b.i32(), {b.val(counter.get()), last},
                  true)[0];
}

Val Ptx::address(kernel::Ptr place) {
  return b.val(LLVM::PtrToIntOp::create(b, b.getLoc(), b.i32(), place.get()));
}

void Ptx::barrier() { assemble("bar.sync 0;", "~{memory}", {}, {}, true); }

void Ptx::barrier(int64_t id, int64_t threads) {
  assemble("bar.sync " + Twine(id) + ", " + Twine(threads) + ";", "~{memory}",
           {}, {}, true);
}

void Ptx::launchDependents() {
  assemble("griddepcontrol.launch_dependents;", "~{memory}", {}, {}, true);
}

void Ptx::waitForPrevious() {
  assemble("griddepcontrol.wait;", "~{memory}", {}, {}, true);
}

//===----------------------------------------------------------------------===//
// mbarriers and bulk copies
//===----------------------------------------------------------------------===//

void Ptx::initBarrier(Val barrier, int64_t arrivals) {
  assemble("mbarrier.init.shared::cta.b64 [$0], " + Twine(arrivals) + ";",
           "r,~{memory}", {}, barrier, true);
}

void Ptx::fenceBarriers() {
  assemble("fence.mbarrier_init.release.cluster;", "~{memory}", {}, {}, true);
}

void Ptx::arrive(Val barrier) {
  assemble("mbarrier.arrive.release.cta.shared::cta.b64 _, [$0];",
           "r,~{memory}", {}, barrier, true);
}

void Ptx::arriveExpecting(Val barrier, Val bytes) {
  assemble("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [$0], "
           "$1;",
           "r,r,~{memory}", {}, {barrier, bytes}, true);
}

void Ptx::waitBarrier(Val barrier, Val parity) {
  assemble("{ .reg .pred p; "
           "wait_${:uid}: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 "
           "p, [$0], $1; @!p bra wait_${:uid}; }",
           "r,r,~{memory}", {}, {barrier, parity}, true);
}

void Ptx::bulkCopy(Val shared, kernel::Ptr global, Val bytes, Val barrier) {
  assemble("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
           "[$0], [$1], $2, [$3];",
           "r,l,r,r,~{memory}", {},
           {shared, b.val(global.get()), bytes, barrier}, true);
}

void Ptx::fenceProxy() {
  assemble("fence.proxy.async.shared::cta;", "~{memory}", {}, {}, true);
}

//===----------------------------------------------------------------------===//
// wgmma
//===----------------------------------------------------------------------===//

/// "{$first, ..., $(first + count - 1)}"
static std::string listRegisters(int64_t first, int64_t count) {
  std::string text = "{";
  for (int64_t i = 0; i < count; ++i)
    text += (i ? ", $" : "$") + std::to_string(first + i);
  return text + "}";
}

static std::string nameWgmma(int64_t columns, HalfType type) {
  std::string half = type == HalfType::BF16 ? "bf16" : "f16";
  return "wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) +
         "k16.f32." + half + "." + half + " ";
}

/// "\p text," \p count times.
static std::string repeat(StringRef text, int64_t count) {
  std::string all;
  for (int64_t i = 0; i < count; ++i)
    all += (text + ",").str();
  return all;
}

SmallVector<Val> Ptx::pin(ArrayRef<Val> values) {
  int64_t count = values.size();
  std::string constraints =
      repeat(values.front().isFloat() ? "=f" : "=l", count);
  for (int64_t i = 0; i < count; ++i)
    constraints += std::to_string(i) + (i + 1 < count ? "," : "");
  return assemble("", constraints,
                  SmallVector<Type>(count, values.front().type()), values,
                  true);
}

SmallVector<Val> Ptx::multiplyShared(ArrayRef<Val> queries, ArrayRef<Val> keys,
                                     int64_t columns, HalfType type) {
  int64_t count = columns / 2, steps = queries.size();
  std::string sums = listRegisters(0, count);
  std::string text = "{ .reg .pred zero, add; setp.ne.b32 zero, 0, 0; "
                     "setp.eq.b32 add, 0, 0; wgmma.fence.sync.aligned; ";
  for (int64_t i = 0; i < steps; ++i)
    text += nameWgmma(columns, type) + sums + ", $" +
            std::to_string(count + i) + ", $" +
            std::to_string(count + steps + i) + ", " + (i ? "add" : "zero") +
            ", 1, 1, 0, 0; ";
  text += "wgmma.commit_group.sync.aligned; }";
  SmallVector<Val> operands(queries);
  operands.append(keys.begin(), keys.end());
  return assemble(text,
                  repeat("=f", count) + repeat("l", 2 * steps) + "~{memory}",
                  SmallVector<Type>(count, b.f32()), operands, true);
}

SmallVector<Val> Ptx::multiplyRegisters(ArrayRef<Val> sums,
                                        ArrayRef<Val> weights,
                                        ArrayRef<Val> values, int64_t columns,
                                        HalfType type) {
  int64_t count = sums.size(), steps = values.size();
  std::string list = listRegisters(0, count);
  std::string text = "{ .reg .pred add; setp.eq.b32 add, 0, 0; "
                     "wgmma.fence.sync.aligned; ";
  for (int64_t i = 0; i < steps; ++i)
    text += nameWgmma(columns, type) + list + ", " +
            listRegisters(2 * count + 4 * i, 4) + ", $" +
            std::to_string(2 * count + 4 * steps + i) + ", add, 1, 1, 1; ";
  text += "wgmma.commit_group.sync.aligned; }";
  std::string constraints = repeat("=f", count);
  for (int64_t i = 0; i < count; ++i)
    constraints += std::to_string(i) + ",";
  constraints += repeat("r", 4 * steps) + repeat("l", steps) + "~{memory}";
  SmallVector<Val> operands(sums);
  operands.append(weights.begin(), weights.end());
  operands.append(values.begin(), values.end());
  return assemble(text, constraints, SmallVector<Type>(count, b.f32()),
                  operands, true);
}

SmallVector<Val> Ptx::waitProducts(int64_t pending, ArrayRef<Val> sums,
                                   ArrayRef<Val> kept) {
  std::string constraints;
  for (size_t i = 0; i < sums.size(); ++i)
    constraints += "=f,";
  for (size_t i = 0; i < sums.size(); ++i)
    constraints += std::to_string(i) + ",";
  for (size_t i = 0; i < kept.size(); ++i)
    constraints += "r,";
  SmallVector<Val> operands(sums);
  operands.append(kept.begin(), kept.end());
  return assemble("wgmma.wait_group.sync.aligned " + Twine(pending) + ";",
                  constraints + "~{memory}",
                  SmallVector<Type>(sums.size(), b.f32()), operands, true);
}

void Ptx::setRegisters(int64_t count, bool increase) {
  assemble(Twine("setmaxnreg.") + (increase ? "inc" : "dec") +
               ".sync.aligned.u32 " + Twine(count) + ";",
           "", {}, {}, true);
}
