//===- GpuAsync.cpp - Copies and barriers of a GPU kernel -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Lower/Kernel/GpuAsync.h"

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::kernel;

Value kernel::inlinePtx(KernelBuilder &b, Type result, StringRef text,
                        StringRef constraints, ArrayRef<Val> operands,
                        bool effects) {
  SmallVector<Value> values;
  for (Val operand : operands)
    values.push_back(operand.get());
  std::string all = constraints.str();
  if (effects)
    all += all.empty() ? "~{memory}" : ",~{memory}";
  if (!result)
    result = LLVM::LLVMVoidType::get(b.getContext());
  auto call = LLVM::InlineAsmOp::create(
      b, b.getLoc(), result, values, text, all, /*has_side_effects=*/effects,
      /*is_align_stack=*/false, LLVM::tailcallkind::TailCallKind::None,
      LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT),
      /*operand_attrs=*/ArrayAttr());
  return call.getNumResults() ? call.getResult(0) : Value();
}

/// An instruction that only has an effect.
static void effect(KernelBuilder &b, StringRef text, StringRef constraints = "",
                   ArrayRef<Val> operands = {}) {
  inlinePtx(b, Type(), text, constraints, operands, /*effects=*/true);
}

Val kernel::sharedAddress(KernelBuilder &b, Ptr pointer) {
  return b.val(LLVM::PtrToIntOp::create(b, b.getLoc(), b.i32(), pointer.get()));
}

//===----------------------------------------------------------------------===//
// Mbarriers
//===----------------------------------------------------------------------===//

Mbarrier::Mbarrier(Ptr address, KernelBuilder &b)
    : b(b), place(sharedAddress(b, address)) {}

void Mbarrier::init(int64_t arrivals) {
  effect(b, "mbarrier.init.shared::cta.b64 [$0], $1;", "r,r",
         {place, b.constant(b.i32(), arrivals)});
}

void Mbarrier::arrive() {
  effect(b, "mbarrier.arrive.shared::cta.b64 _, [$0];", "r", {place});
}

void Mbarrier::arriveExpecting(Val bytes) {
  effect(b, "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r",
         {place, bytes});
}

void Mbarrier::arriveAfterCopies() {
  effect(b, "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [$0];", "r",
         {place});
}

void Mbarrier::wait(Val parity) {
  // The hint (ns) lets the thread sleep instead of spinning.
  effect(b,
         "{ .reg .pred done; waiting: "
         "mbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1, 10000000; "
         "@done bra.uni landed; bra.uni waiting; landed: }",
         "r,r", {place, parity});
}

void kernel::fenceMbarrierInit(KernelBuilder &b) {
  effect(b, "fence.mbarrier_init.release.cluster;");
}

void kernel::fenceAsyncProxy(KernelBuilder &b) {
  effect(b, "fence.proxy.async.shared::cta;");
}

//===----------------------------------------------------------------------===//
// Copies
//===----------------------------------------------------------------------===//

/// Policies as `createpolicy.fractional` gives them for all lines.
static constexpr int64_t kEvictFirstPolicy = 0x12F0000000000000;
static constexpr int64_t kEvictLastPolicy = 0x14F0000000000000;

void kernel::bulkCopy(Ptr target, Ptr source, Val bytes,
                      const Mbarrier &barrier, CacheHint hint) {
  KernelBuilder &b = *bytes.getBuilder();
  SmallVector<Val> operands = {sharedAddress(b, target), b.val(source.get()),
                               bytes, barrier.address()};
  std::string text = "cp.async.bulk.shared::cluster.global."
                     "mbarrier::complete_tx::bytes";
  if (hint == CacheHint::Normal)
    return effect(b, text + " [$0], [$1], $2, [$3];", "r,l,r,r", operands);
  operands.push_back(b.constant(b.i64(), hint == CacheHint::EvictFirst
                                             ? kEvictFirstPolicy
                                             : kEvictLastPolicy));
  effect(b, text + ".L2::cache_hint [$0], [$1], $2, [$3], $4;", "r,l,r,r,l",
         operands);
}

/// The builder that a pointer's users get.
static KernelBuilder &builderOf(Ptr pointer) { return *pointer.getBuilder(); }

void kernel::copyAsync16(Ptr target, Ptr source) {
  KernelBuilder &b = builderOf(target);
  effect(b, "cp.async.cg.shared.global [$0], [$1], 16;", "r,l",
         {sharedAddress(b, target), b.val(source.get())});
}

void kernel::copyAsync16(Ptr target, Ptr source, Val bytes) {
  KernelBuilder &b = builderOf(target);
  effect(b, "cp.async.cg.shared.global [$0], [$1], 16, $2;", "r,l,r",
         {sharedAddress(b, target), b.val(source.get()), bytes});
}

void kernel::commitCopies(KernelBuilder &b) {
  effect(b, "cp.async.commit_group;");
}

void kernel::waitCopies(KernelBuilder &b, int64_t pending) {
  effect(b, "cp.async.wait_group " + std::to_string(pending) + ";");
}

//===----------------------------------------------------------------------===//
// Threads
//===----------------------------------------------------------------------===//

void kernel::fenceDevice(KernelBuilder &b) { effect(b, "fence.acq_rel.gpu;"); }

void kernel::raiseFlag(Ptr flag) {
  KernelBuilder &b = builderOf(flag);
  effect(b, "st.release.gpu.global.u32 [$0], $1;", "l,r",
         {b.val(flag.get()), b.constant(b.i32(), int64_t(1))});
}

void kernel::awaitFlag(Ptr flag) {
  KernelBuilder &b = builderOf(flag);
  effect(b,
         "{ .reg .pred unset; .reg .u32 word; waiting: "
         "ld.acquire.gpu.global.u32 word, [$0]; "
         "setp.eq.u32 unset, word, 0; @unset bra waiting; }",
         "l", {b.val(flag.get())});
}

void kernel::namedBarrier(KernelBuilder &b, int64_t id, int64_t threads) {
  effect(b, "bar.sync " + std::to_string(id) + ", " + std::to_string(threads) +
                ";");
}

void kernel::namedBarrier(KernelBuilder &b, Val id, int64_t threads) {
  effect(b, "bar.sync $0, " + std::to_string(threads) + ";", "r", {id});
}

void kernel::arriveNamedBarrier(KernelBuilder &b, int64_t id, int64_t threads) {
  effect(b, "bar.arrive " + std::to_string(id) + ", " +
                std::to_string(threads) + ";");
}

void kernel::decreaseRegisters(KernelBuilder &b, int64_t count) {
  effect(b, "setmaxnreg.dec.sync.aligned.u32 " + std::to_string(count) + ";");
}

void kernel::increaseRegisters(KernelBuilder &b, int64_t count) {
  effect(b, "setmaxnreg.inc.sync.aligned.u32 " + std::to_string(count) + ";");
}

//===----------------------------------------------------------------------===//
// Clusters
//===----------------------------------------------------------------------===//

void kernel::clusterBarrier(KernelBuilder &b) {
  effect(b, "barrier.cluster.arrive.release;");
  effect(b, "barrier.cluster.wait.acquire;");
}

Val kernel::mapToRank(KernelBuilder &b, Val sharedAddress, Val rank) {
  return b.val(inlinePtx(b, b.i32(), "mapa.shared::cluster.u32 $0, $1, $2;",
                         "=r,r,r", {sharedAddress, rank}, /*effects=*/false));
}

SmallVector<Val> kernel::loadCluster4(KernelBuilder &b, Val address) {
  Type f32 = b.f32();
  auto four =
      LLVM::LLVMStructType::getLiteral(b.getContext(), {f32, f32, f32, f32});
  Value loaded =
      inlinePtx(b, four, "ld.shared::cluster.v4.f32 {$0, $1, $2, $3}, [$4];",
                "=f,=f,=f,=f,r", {address}, /*effects=*/true);
  SmallVector<Val> values;
  for (int64_t i = 0; i < 4; ++i)
    values.push_back(
        b.val(LLVM::ExtractValueOp::create(b, b.getLoc(), loaded, i)));
  return values;
}
