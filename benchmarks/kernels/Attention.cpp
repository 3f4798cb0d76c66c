//===- Attention.cpp - Times the kernel of qlm.paged_attention ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// Causal attention of a prompt, and of one token after a context, over a paged
// cache. GFLOP/s count four operations a feature, head and visible key; GB/s
// count the keys and values once. A decoding step reads caches of several
// layers in turn, larger than the processor's cache together. Times are the
// least of all repetitions, since the machine may have other work.
//
//   qlm-bench-attention [--cores=1,2] [--types=f32,bf16,f16]
//                       [--target-cpu=native] [--cases=prefill,decode-512,...]
//
//===----------------------------------------------------------------------===//

#include "CompileKernel.h"
#include "Harness.h"

#include "mlir/IR/MLIRContext.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <chrono>
#include <cstring>
#include <sys/mman.h>
#include <thread>

using namespace mlir;
using namespace mlir::qlm;
using bench::allocate;
using bench::Barrier;
using ::qlm::format::StepSizes;

namespace {
constexpr int64_t kPageTokens = 16;
/// The caches of all layers of a decoding step: much more than a cache.
constexpr int64_t kCacheBytes = int64_t(384) << 20;

/// Sequences of `context` tokens, of which the last `tokens` are computed.
struct Case {
  const char *name;
  int64_t batch, heads, kvHeads, headDim, context, tokens;

  int64_t rows() const { return batch * tokens; }
  int64_t pagesPerSequence() const {
    return llvm::divideCeil(context, kPageTokens);
  }
  int64_t pageElements() const { return 2 * kvHeads * headDim * kPageTokens; }
  double flops() const {
    double keys = 0;
    for (int64_t i = 0; i < tokens; ++i)
      keys += context - i;
    return 4.0 * batch * heads * headDim * keys;
  }
  double bytes(int64_t elementBytes) const {
    return 2.0 * batch * kvHeads * headDim * context * elementBytes;
  }
};
constexpr Case kCases[] = {
    {"prefill", 2, 8, 8, 64, 1024, 1024},
    {"prefill-gqa", 1, 32, 4, 64, 512, 512},
    {"prefill-128", 1, 32, 8, 128, 512, 512},
    {"decode-512", 1, 32, 4, 64, 512, 1},
    {"decode-2048", 1, 32, 4, 64, 2048, 1},
    {"decode-mha", 1, 32, 32, 64, 2048, 1},
    {"decode-batch", 8, 32, 4, 64, 2048, 1},
};

struct ElementType {
  const char *name;
  int64_t bytes;
};
constexpr ElementType kTypes[] = {{"f32", 4}, {"bf16", 2}, {"f16", 2}};

std::string getText(const Case &c, const ElementType &type, int64_t pages) {
  auto number = [](int64_t value) { return std::to_string(value); };
  std::string query = "tensor<?x" + number(c.heads * c.headDim) + "xf32>";
  std::string cache = "tensor<" + number(pages) + "x2x" + number(c.kvHeads) +
                      "x" + number(c.headDim * kPageTokens) + "x" + type.name +
                      ">";
  std::string i = "tensor<?xi32>", tables = "tensor<?x?xi32>";
  return "func.func @f(%q: " + query + ", %c: " + cache + ", %p: " + i +
         ", %s: " + i + ", %b: " + tables + ") {\n" +
         "%y = qlm.paged_attention %q, %c at %p, %s, %b heads " +
         number(c.heads) + " kv_heads " + number(c.kvHeads) + " page_tokens " +
         number(kPageTokens) + " scale 1.25e-01 : (" + query + ", " + cache +
         ", " + i + ", " + i + ", " + tables + ") -> " + query + "\nreturn\n}";
}

/// The bits of a float in the type of the cache.
uint32_t encode(float value, const ElementType &type) {
  llvm::APFloat number(value);
  bool lost;
  StringRef name(type.name);
  if (name != "f32")
    number.convert(name == "f16" ? llvm::APFloat::IEEEhalf()
                                 : llvm::APFloat::BFloat(),
                   llvm::APFloat::rmNearestTiesToEven, &lost);
  return number.bitcastToAPInt().getZExtValue();
}

/// What a step is given, for each of several layers.
struct Inputs {
  std::vector<int32_t> positions, sequences, tables;
  char *query, *cache, *result;
  int64_t layers, layerBytes;

  Inputs(const Case &c, const ElementType &type) {
    for (int64_t sequence = 0; sequence < c.batch; ++sequence)
      for (int64_t i = c.context - c.tokens; i < c.context; ++i) {
        positions.push_back(i);
        sequences.push_back(sequence);
      }
    int64_t pages = c.batch * c.pagesPerSequence();
    for (int64_t i = 0; i < pages; ++i)
      tables.push_back(i);
    layerBytes = pages * c.pageElements() * type.bytes;
    layers = c.tokens > 1 ? 1 : std::max<int64_t>(1, kCacheBytes / layerBytes);
    query = allocate(c.rows() * c.heads * c.headDim * 4 + 64);
    result = allocate(c.rows() * c.heads * c.headDim * 4 + 64);
    cache = allocate(layers * layerBytes + 64);
    // The same 64 K values over and over.
    constexpr int64_t kValues = 1 << 16;
    std::vector<uint32_t> bits;
    uint32_t state = 1;
    for (int64_t i = 0; i < kValues; ++i) {
      state = state * 1664525u + 1013904223u;
      bits.push_back(encode(state * 0x1p-31f - 1.0f, type));
    }
    for (int64_t i = 0; i < layers * layerBytes / type.bytes; ++i)
      memcpy(cache + i * type.bytes, &bits[i % kValues], type.bytes);
    auto *queries = reinterpret_cast<float *>(query);
    for (int64_t i = 0; i < c.rows() * c.heads * c.headDim; ++i)
      queries[i] = float((i * 7919) % 2003) / 1001.0f - 1.0f;
  }
};

/// Runs a step of each layer in turn; gives the least time of one in seconds.
double measure(const Case &c, const bench::CompiledKernel &kernel,
               Inputs &inputs, int threads, int64_t repetitions) {
  using Clock = std::chrono::steady_clock;
  StepSizes sizes = {c.rows(), c.batch, c.batch, c.pagesPerSequence()};
  int64_t tiles = kernel.info.tiles.getCount() *
                  llvm::divideCeil(c.rows(), kernel.info.tiles.getBlock());
  double least = 1e9;
  Barrier barrier(threads);
  auto run = [&](int thread) {
    char *scratch = allocate(kernel.info.scratchBytes + 64);
    for (int64_t i = 0; i < std::max(repetitions, inputs.layers); ++i) {
      void *buffers[] = {inputs.query,
                         inputs.cache + i % inputs.layers * inputs.layerBytes,
                         inputs.positions.data(),
                         inputs.sequences.data(),
                         inputs.tables.data(),
                         inputs.result};
      barrier.wait();
      auto start = Clock::now();
      kernel.function(buffers, &sizes, tiles * thread / threads,
                      tiles * (thread + 1) / threads, scratch);
      barrier.wait();
      if (thread == 0)
        least = std::min(
            least, std::chrono::duration<double>(Clock::now() - start).count());
    }
  };
  std::vector<std::thread> pool;
  for (int thread = 1; thread < threads; ++thread)
    pool.emplace_back(run, thread);
  run(0);
  for (std::thread &thread : pool)
    thread.join();
  return least;
}
} // namespace

static llvm::cl::list<int> threadCounts("cores", llvm::cl::CommaSeparated,
                                        llvm::cl::desc("numbers of threads"));
static llvm::cl::list<std::string> typeNames("types", llvm::cl::CommaSeparated,
                                             llvm::cl::desc("cache types"));
static llvm::cl::list<std::string> caseNames("cases", llvm::cl::CommaSeparated,
                                             llvm::cl::desc("names of cases"));
static llvm::cl::opt<std::string> targetName("target-cpu",
                                             llvm::cl::init("native"));
static llvm::cl::opt<int> repetitions("repetitions", llvm::cl::init(40));

template <typename List> static bool wants(const List &names, StringRef name) {
  return names.empty() || llvm::is_contained(names, name);
}

int main(int argc, char **argv) {
  llvm::cl::ParseCommandLineOptions(argc, argv, "times paged attention\n");
  llvm::ExitOnError exitOnError("qlm-bench-attention: ");
  cpu::Target target = exitOnError(cpu::Target::get(targetName));
  std::vector<int> threadList(threadCounts.begin(), threadCounts.end());
  if (threadList.empty())
    threadList = {1, 2};
  std::unique_ptr<MLIRContext> context = bench::createContext();

  llvm::outs() << "case         cache threads       ms  GFLOP/s   GB/s\n";
  for (const Case &c : kCases)
    for (const ElementType &type : kTypes) {
      if (!wants(caseNames, c.name) || !wants(typeNames, type.name))
        continue;
      Inputs inputs(c, type);
      bench::CompiledKernel kernel = bench::compileKernel(
          *context, getText(c, type, c.batch * c.pagesPerSequence()), target,
          {c.rows(), c.batch, c.batch});
      for (int threads : threadList) {
        double seconds = measure(c, kernel, inputs, threads, repetitions);
        llvm::outs() << llvm::format("%-12s %-5s %7d %8.3f %8.1f %6.1f\n",
                                     c.name, type.name, threads, seconds * 1e3,
                                     c.flops() / seconds / 1e9,
                                     c.bytes(type.bytes) / seconds / 1e9);
        llvm::outs().flush();
      }
      munmap(inputs.cache, inputs.layers * inputs.layerBytes);
    }
  return 0;
}
