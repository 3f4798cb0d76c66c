//===- Linear.cpp - Times the kernels of qlm.packed_linear ----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// The linears of a decoder with 1.1B parameters (hidden size 2048,
// intermediate size 5632), for each weight format: GB/s of weights at one row,
// GFLOP/s at many. Copies of the weights far larger than the caches take
// turns, so one row reads memory. "of read" compares with plain reading of the
// same bytes by the same threads, right before. Times are lower quartiles,
// of one thread's processor time or of several threads' wall time: the machine
// may have other work.
//
//   qlm-bench-linear [--rows=1,512] [--cores=1,2] [--target-cpu=native]
//                    [--formats=int4,int4-a8,...] [--shapes=qkv,...]
//                    [--tuning="tile_blocks = 16, prefetch_bytes = 3072"]
//
//===----------------------------------------------------------------------===//

#include "CompileKernel.h"
#include "Harness.h"
#include "ReadMemory.h"

#include "qlm/Lower/Cpu/Kernels.h"
#include "qlm/Package/Format.h"
#include "qlm/Package/LaunchScratch.h"
#include "qlm/Runtime/CpuFeatures.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <thread>
#include <time.h>

using namespace mlir;
using namespace mlir::qlm;
using bench::allocate;
using bench::Barrier;
using bench::kHugePage;
using ::qlm::format::StepSizes;

namespace {
/// Weights of one format in all: much more than a cache.
constexpr int64_t kWeightBytes = int64_t(512) << 20;

struct Shape {
  const char *name;
  int64_t features, columns;
};
constexpr Shape kShapes[] = {{"qkv", 2560, 2048},
                             {"o", 2048, 2048},
                             {"gate_up", 11264, 2048},
                             {"down", 2048, 5632},
                             {"lm_head", 32000, 2048}};

struct WeightFormat {
  const char *name;
  const char *layout;
  int64_t wordColumns, wordBytes; ///< columns and bytes of a packed word
  const char *element;            ///< of the packed tensor
  const char *scheme;             ///< empty without quantization
  int64_t groupColumns;           ///< 0: one group
  const char *scaleType;
  bool zeroPoints;
};
constexpr WeightFormat kFormats[] = {
    {"int4", "i4x16x8", 8, 4, "i8",
     "i4, group, 128, range [-8, 7], bound 7.5, scales f16", 128, "f16", false},
    {"int4-zp", "i4x16x8", 8, 4, "i8",
     "ui4, group, 128, zero_points, range [0, 15], scales f16", 128, "f16",
     true},
    {"int4-g32", "i4x16x8", 8, 4, "i8",
     "i4, group, 32, range [-8, 7], bound 7.5, scales f16", 32, "f16", false},
    {"int8", "i8x16x4", 4, 4, "i8",
     "i8, channel, range [-127, 127], bound 127.0, scales f32", 0, "f32",
     false},
    {"bf16", "bf16x16x2", 2, 4, "bf16", "", 0, "", false},
    {"f16", "f16x16", 1, 2, "f16", "", 0, "", false},
    {"f32", "f32x16", 1, 4, "f32", "", 0, "", false},
};

/// What a linear's input is stored as.
struct Activations {
  const char *name, *suffix, *element;
  int64_t bytes;
  /// Whether they go with a format.
  bool fits(const WeightFormat &format) const {
    if (StringRef(element) == "i8")
      return *format.scheme;
    return StringRef(element) == "f32" || StringRef(format.element) == "bf16";
  }
};
constexpr Activations kActivations[] = {{"f32", "", "f32", 4},
                                        {"int8", "-a8", "i8", 1},
                                        {"bf16", "-a16", "bf16", 2}};

/// One linear: its text, and the bytes of each of its weight operands.
struct Linear {
  std::string text;
  std::vector<int64_t> operandBytes;
};

Linear makeLinear(const Shape &shape, const WeightFormat &format,
                  const Activations &activations, const std::string &tuning) {
  auto number = [](int64_t value) { return std::to_string(value); };
  Linear linear;
  int64_t blocks = llvm::divideCeil(shape.features, 16);
  int64_t words = llvm::divideCeil(shape.columns, format.wordColumns);
  int64_t elementBytes = StringRef(format.element) == "i8"    ? 1
                         : StringRef(format.element) == "f32" ? 4
                                                              : 2;
  int64_t groups =
      format.groupColumns ? shape.columns / format.groupColumns : 1;
  std::string x =
      "tensor<?x" + number(shape.columns) + "x" + activations.element + ">";
  std::string y = "tensor<?x" + number(shape.features) + "xf32>";
  std::string parameters = "%x: " + x, uses = "%x", types = x;
  auto add = [&](const std::string &use, const std::string &name,
                 const std::string &type) {
    parameters += ", " + name + ": " + type;
    uses += use + name;
    types += ", " + type;
  };
  if (activations.bytes == 1)
    add(" input_scales ", "%xs", "tensor<?xf32>");
  add(", ", "%w",
      "tensor<" + number(blocks) + "x" + number(words) + "x" +
          number(16 * format.wordBytes / elementBytes) + "x" + format.element +
          ">");
  linear.operandBytes.push_back(blocks * words * 16 * format.wordBytes);
  std::string packed =
      "tensor<" + number(blocks) + "x" + number(groups) + "x16x";
  std::string scheme;
  if (*format.scheme) {
    add(" scales ", "%s", packed + format.scaleType + ">");
    linear.operandBytes.push_back(
        blocks * groups * 16 * (StringRef(format.scaleType) == "f16" ? 2 : 4));
    scheme = std::string(", scheme = #qlm.scheme<") + format.scheme + ">";
  }
  if (format.zeroPoints) {
    add(" zero_points ", "%z", packed + "i8>");
    linear.operandBytes.push_back(blocks * groups * 16);
  }
  linear.text = "func.func @f(" + parameters + ") -> " + y +
                " {\n%y = qlm.packed_linear " + uses +
                " {inFeatures = " + number(shape.columns) +
                ", outFeatures = " + number(shape.features) +
                ", layout = #qlm.layout<" + format.layout + ">" + scheme +
                (tuning.empty() ? "" : ", qlm.tuning = {" + tuning + "}") +
                "} : (" + types + ") -> " + y + "\nreturn %y : " + y + "\n}";
  return linear;
}

/// Memory that all measurements share.
struct Memory {
  char *weights, *input, *inputScales, *result;
  std::vector<char *> scratch;
};

/// Runs work(copy, thread) on \p threads threads, for each copy in turn,
/// several times over; gives the lower quartile of the times in seconds.
double getTime(int64_t copies, int threads,
               llvm::function_ref<void(int64_t, int)> work) {
  auto now = [&] {
    timespec at;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC,
                  &at);
    return double(at.tv_sec) + double(at.tv_nsec) * 1e-9;
  };
  constexpr int64_t kLaunches = 16;
  std::vector<double> samples;
  Barrier barrier(threads);
  auto run = [&](int thread) {
    for (int64_t i = 0; i < std::max(copies, kLaunches); ++i) {
      barrier.wait();
      double start = now();
      work(i % copies, thread);
      barrier.wait();
      if (thread == 0)
        samples.push_back(now() - start);
    }
  };
  std::vector<std::thread> pool;
  for (int thread = 1; thread < threads; ++thread)
    pool.emplace_back(run, thread);
  run(0);
  for (std::thread &thread : pool)
    thread.join();
  llvm::sort(samples);
  return samples[samples.size() / 4];
}

struct Times {
  double launch, reading;
};

Times measure(const bench::CompiledKernel &compiled, const Linear &linear,
              bool bytes, int64_t rows, int threads, const Memory &memory) {
  int64_t size = 0;
  for (int64_t operand : linear.operandBytes)
    size += llvm::alignTo(operand, 64);
  int64_t copies = std::max<int64_t>(1, kWeightBytes / size);
  StepSizes sizes = {rows, 1, rows, 1};
  int64_t tiles = compiled.info.tiles.getCount();
  auto launch = [&](int64_t copy, int thread) {
    llvm::SmallVector<void *> buffers = {memory.input};
    if (bytes)
      buffers.push_back(memory.inputScales);
    char *next = memory.weights + copy * size;
    for (int64_t operand : linear.operandBytes) {
      buffers.push_back(next);
      next += llvm::alignTo(operand, 64);
    }
    buffers.push_back(memory.result);
    ::qlm::format::beginLaunch(memory.scratch[thread]);
    compiled.function(buffers.data(), &sizes, tiles * thread / threads,
                      tiles * (thread + 1) / threads, memory.scratch[thread]);
  };
  auto read = [&](int64_t copy, int thread) {
    [[maybe_unused]] static volatile uint64_t sink;
    int64_t part = size / threads / 64 * 64;
    sink = ::qlm::bench::readMemory(
        memory.weights + copy * size + thread * part, part, /*streams=*/4);
  };
  Times times;
  times.reading = rows == 1 ? getTime(copies, threads, read) : 0;
  times.launch = getTime(rows == 1 ? copies : 1, threads, launch);
  return times;
}
} // namespace

static llvm::cl::list<int> rowCounts("rows", llvm::cl::CommaSeparated,
                                     llvm::cl::desc("rows of activations"));
static llvm::cl::list<int> threadCounts("cores", llvm::cl::CommaSeparated,
                                        llvm::cl::desc("numbers of threads"));
static llvm::cl::list<std::string> formatNames(
    "formats", llvm::cl::CommaSeparated,
    llvm::cl::desc("weight formats; -a8 for int8 activations, -a16 for bf16"));
static llvm::cl::list<std::string>
    shapeNames("shapes", llvm::cl::CommaSeparated,
               llvm::cl::desc("linears: qkv, o, gate_up, down, lm_head"));
static llvm::cl::opt<std::string>
    tuningText("tuning", llvm::cl::desc("entries of qlm.tuning"));
static llvm::cl::opt<std::string> targetName("target-cpu",
                                             llvm::cl::init("native"));

int main(int argc, char **argv) {
  llvm::cl::ParseCommandLineOptions(argc, argv, "times packed linears\n");
  llvm::ExitOnError exitOnError("qlm-bench-linear: ");
  std::vector<int> rowList(rowCounts.begin(), rowCounts.end());
  std::vector<int> threadList(threadCounts.begin(), threadCounts.end());
  if (rowList.empty())
    rowList = {1, 512};
  if (threadList.empty())
    threadList = {1, 2};
  int64_t mostRows = *std::max_element(rowList.begin(), rowList.end());
  cpu::Target target = exitOnError(cpu::Target::get(targetName));
  if (target.amxInt8 || target.amxBf16)
    if (::qlm::Status status = ::qlm::requestTiles(); !status.ok())
      exitOnError(llvm::createStringError(status.message()));

  std::unique_ptr<MLIRContext> context = bench::createContext();

  Memory memory;
  memory.weights = allocate(kWeightBytes + (int64_t(16) << 20));
  memory.input = allocate(mostRows * 5632 * 4 + 64);
  memory.inputScales = allocate(mostRows * 4 + 64);
  memory.result = allocate(mostRows * 32000 * 4 + 64);
  for (int i = 0; i < 64; ++i)
    memory.scratch.push_back(allocate(8 * kHugePage));
  // Untouched pages are one page of zeros: not what memory costs.
  for (int64_t i = 0; i < kWeightBytes; i += 64)
    memory.weights[i] = 1;

  llvm::outs() << "weights   activations  linear    rows threads       us   "
                  "GB/s of read  GFLOP/s\n";
  for (const WeightFormat &format : kFormats)
    for (const Activations &activations : kActivations) {
      std::string name = std::string(format.name) + activations.suffix;
      if (!activations.fits(format) ||
          (!formatNames.empty() && !llvm::is_contained(formatNames, name)))
        continue;
      for (const Shape &shape : kShapes) {
        if (!shapeNames.empty() && !llvm::is_contained(shapeNames, shape.name))
          continue;
        Linear linear = makeLinear(shape, format, activations, tuningText);
        bench::CompiledKernel compiled = bench::compileKernel(
            *context, linear.text, target, {mostRows, 1, mostRows});
        for (int rows : rowList)
          for (int threads : threadList) {
            Times times = measure(compiled, linear, activations.bytes == 1,
                                  rows, threads, memory);
            double seconds = times.launch;
            llvm::outs() << llvm::format(
                "%-9s %-12s %-8s %5d %7d %8.1f %6.1f %6.0f%% %8.1f\n",
                format.name, activations.name, shape.name, rows, threads,
                seconds * 1e6, compiled.info.bytes / seconds / 1e9,
                100 * times.reading / seconds,
                double(compiled.info.flopsPerRow) * rows / seconds / 1e9);
          }
      }
    }
  return 0;
}
