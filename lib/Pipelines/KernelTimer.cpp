//===- KernelTimer.cpp - Times one kernel on this machine -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "KernelTimer.h"

#include "mlir/Pass/PassManager.h"
#include "qlm/Archive/Errors.h"
#include "qlm/Lower/Passes.h"
#include "qlm/Package/Format.h"
#include "qlm/Package/LaunchScratch.h"
#include "qlm/Package/ObjectFile.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Path.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

using namespace mlir;
using namespace mlir::qlm;
namespace format = ::qlm::format;

/// Copies of a weight take at least this much memory.
static constexpr int64_t kWeightBytes = int64_t(128) << 20;
/// Measurements that the shortest is taken of.
static constexpr int kRepeats = 5;
/// Where a buffer's end may be read.
static constexpr int64_t kTail = 64;

/// Machine code that is loaded.
struct KernelTimer::Code {
  void *library = nullptr;
  format::KernelFunction function = nullptr;
  cpu::KernelInfo info;
};

//===----------------------------------------------------------------------===//
// The machine
//===----------------------------------------------------------------------===//

/// Asks the system for AMX's registers.
static llvm::Error requestTiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0)
    return llvm::Error::success();
  return makeError(llvm::Twine("the system refuses AMX's registers: ") +
                   std::strerror(errno));
}

llvm::Expected<std::unique_ptr<KernelTimer>>
KernelTimer::create(const cpu::Target &target, int64_t maxRows, int threads) {
  auto native = cpu::Target::get("native");
  if (!native)
    return native.takeError();
  std::vector<std::string> missing;
  llvm::copy_if(target.features, std::back_inserter(missing),
                [&](const std::string &feature) {
                  return !llvm::is_contained(native->features, feature);
                });
  if (!missing.empty())
    return makeError("tuning runs kernels here, and this machine lacks " +
                     llvm::join(missing, ", ") + " of target cpu " +
                     target.cpu);
  if (target.amxInt8 || target.amxBf16)
    if (llvm::Error error = requestTiles())
      return std::move(error);
  if (threads <= 0)
    threads = std::max(1u, std::thread::hardware_concurrency());
  std::unique_ptr<KernelTimer> timer(new KernelTimer(target, maxRows, threads));
  timer->scratch.resize(threads);
  return timer;
}

KernelTimer::~KernelTimer() {
  auto unmap = [](Memory &memory) {
    if (memory.data)
      munmap(memory.data, memory.bytes);
  };
  unmap(weights);
  unmap(activations);
  llvm::for_each(scratch, unmap);
}

llvm::Expected<char *> KernelTimer::reserve(Memory &memory, int64_t bytes) {
  if (memory.bytes >= bytes)
    return memory.data;
  if (memory.data)
    munmap(memory.data, memory.bytes);
  memory = Memory();
  void *data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    return makeError("cannot map " + llvm::Twine(bytes) +
                     " bytes to time "
                     "kernels: " +
                     std::strerror(errno));
  madvise(data, bytes, MADV_HUGEPAGE);
  // Ones, in any type: pages that nobody wrote cost nothing to read, and
  // denormal numbers cost too much. 0x3c3c is 1.06 in f16 and 0.0115 in bf16
  // and f32.
  constexpr int kFill = 0x3c;
  std::memset(data, kFill, bytes);
  memory = {static_cast<char *>(data), bytes};
  return memory.data;
}

//===----------------------------------------------------------------------===//
// Code
//===----------------------------------------------------------------------===//

llvm::Expected<KernelTimer::Code> KernelTimer::compile(Operation *op) {
  OpBuilder builder(op->getContext());
  OwningOpRef<ModuleOp> kernels =
      ModuleOp::create(builder.getUnknownLoc(), kKernelsName);
  (*kernels)->setAttr(kTargetCpuAttr, builder.getStringAttr(target.cpu));
  (*kernels)->setAttr(kTargetFeaturesAttr,
                      builder.getStringAttr(target.featureString()));
  Code code;
  auto info = cpu::emitKernel(*kernels, op, target, SizeKind::Tokens,
                              {maxRows, 1, maxRows});
  if (failed(info))
    return makeError("no kernel emitted");
  code.info = *info;
  PassManager pm(op->getContext(), ModuleOp::getOperationName());
  buildKernelsToLLVMPipeline(pm);
  if (failed(pm.run(*kernels)))
    return makeError("the kernel cannot be lowered to LLVM");
  llvm::SmallString<128> path;
  if (std::error_code error =
          llvm::sys::fs::createTemporaryFile("qlm-tune", "so", path))
    return makeError("cannot write a kernel to time: " + error.message());
  llvm::scope_exit cleanup([&] { (void)llvm::sys::fs::remove(path); });
  if (llvm::Error error = emitSharedLibrary(*kernels, path))
    return std::move(error);
  code.library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (code.library)
    code.function = reinterpret_cast<format::KernelFunction>(
        dlsym(code.library, code.info.name.c_str()));
  if (!code.function)
    return makeError(llvm::Twine("cannot load a kernel to time: ") + dlerror());
  return code;
}

//===----------------------------------------------------------------------===//
// Runs
//===----------------------------------------------------------------------===//

/// Bytes of a buffer of \p rows rows, rounded up to whole lines.
static int64_t getBytes(Value value, int64_t rows) {
  auto type = cast<RankedTensorType>(value.getType());
  int64_t elements = 1;
  for (int64_t i = 0; i < type.getRank(); ++i)
    elements *= type.isDynamicDim(i) ? rows : type.getDimSize(i);
  int64_t bytes = llvm::divideCeil(elements * type.getElementTypeBitWidth(), 8);
  return llvm::alignTo(bytes, kTail);
}

/// Whether \p value is a weight: all its sizes are known.
static bool isWeight(Value value) {
  return cast<RankedTensorType>(value.getType()).hasStaticShape();
}

llvm::Error KernelTimer::reserveFor(Operation *op,
                                    const cpu::KernelInfo &info) {
  int64_t activationBytes = kTail, copyBytes = 0;
  for (Value value : op->getOperands())
    (isWeight(value) ? copyBytes : activationBytes) += getBytes(value, maxRows);
  for (Value value : op->getResults())
    activationBytes += getBytes(value, maxRows);
  auto data = reserve(activations, activationBytes);
  if (!data)
    return data.takeError();
  data = reserve(weights, std::max(copyBytes, kWeightBytes) + kTail);
  if (!data)
    return data.takeError();
  for (Memory &memory : scratch)
    if (auto mine = reserve(memory, info.scratchBytes + kTail); !mine)
      return mine.takeError();
  return llvm::Error::success();
}

/// Empties the lists of outliers: what other launches left there would be
/// lengths and columns without bounds.
void KernelTimer::clearOutliers(Operation *op, int64_t rows) {
  auto linear = dyn_cast<PackedLinearOp>(op);
  if (!linear || !linear.getOutliers())
    return;
  char *next = activations.data;
  for (Value value : op->getOperands()) {
    if (isWeight(value))
      continue;
    if (value == linear.getOutliers())
      std::memset(next, 0, getBytes(value, rows));
    next += getBytes(value, rows);
  }
}

/// Seconds of a launch: the mean over all copies of the weights for few rows,
/// of one copy for many.
double KernelTimer::run(const Code &code, Operation *op, int64_t rows) {
  int64_t copyBytes = 0;
  for (Value value : op->getOperands())
    copyBytes += isWeight(value) ? getBytes(value, rows) : 0;
  int64_t copies =
      std::max<int64_t>(1, kWeightBytes / std::max<int64_t>(1, copyBytes));
  constexpr int64_t kFewRows = 16;
  if (rows > kFewRows)
    copies = 1;
  clearOutliers(op, rows);
  format::StepSizes sizes = {rows, 1, rows, 1};
  int64_t tiles = code.info.tiles.getCount();
  auto work = [&](int thread) {
    for (int64_t copy = 0; copy < copies; ++copy) {
      llvm::SmallVector<void *> buffers;
      char *weight = weights.data + copy * copyBytes;
      char *activation = activations.data;
      auto add = [&](Value value) {
        char *&next = isWeight(value) ? weight : activation;
        buffers.push_back(next);
        next += getBytes(value, rows);
      };
      llvm::for_each(op->getOperands(), add);
      llvm::for_each(op->getResults(), add);
      format::beginLaunch(scratch[thread].data);
      code.function(buffers.data(), &sizes, tiles * thread / threads,
                    tiles * (thread + 1) / threads, scratch[thread].data);
    }
  };
  auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> pool;
  for (int thread = 1; thread < threads; ++thread)
    pool.emplace_back(work, thread);
  work(0);
  for (std::thread &thread : pool)
    thread.join();
  std::chrono::duration<double> spent =
      std::chrono::steady_clock::now() - start;
  return spent.count() / static_cast<double>(copies);
}

llvm::Expected<std::vector<double>>
KernelTimer::time(Operation *op, llvm::ArrayRef<int64_t> rows) {
  auto code = compile(op);
  if (!code)
    return code.takeError();
  llvm::scope_exit close([&] { dlclose(code->library); });
  if (llvm::Error error = reserveFor(op, code->info))
    return std::move(error);
  std::vector<double> shortest(rows.size(), HUGE_VAL);
  for (int repeat = 0; repeat < kRepeats; ++repeat)
    for (size_t i = 0; i < rows.size(); ++i)
      shortest[i] = std::min(shortest[i], run(*code, op, rows[i]));
  return shortest;
}
