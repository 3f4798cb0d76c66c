//===- KernelTest.h - Compiles and runs the kernel of one op ----*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A test writes a function with one operation, in MLIR:
//
//   CompiledKernel kernel("x86-64-v3", R"(
//     func.func @f(%x: tensor<?x8xf32>) -> tensor<?x4xf32> {
//       %y = qlm.swiglu %x : tensor<?x8xf32> -> tensor<?x4xf32>
//       return %y : tensor<?x4xf32>
//     })", {/*tokens=*/3, /*sequences=*/1, /*logitRows=*/1});
//   Buffer<float> x(random), y(3 * 4);
//   kernel.run({x.data(), y.data()}, sizes);
//   EXPECT_TRUE(x.isIntact() && y.isIntact());
//
// The code goes through the passes and the code generator of a real package.
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_LOWER_CPU_KERNELTEST_H
#define QLM_TEST_LOWER_CPU_KERNELTEST_H

#include "qlm/Lower/Cpu/Kernels.h"
#include "qlm/Package/Format.h"

#include "llvm/Support/MathExtras.h"

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <random>
#include <sys/mman.h>
#include <vector>

namespace llvm::orc {
class LLJIT;
} // namespace llvm::orc

namespace mlir::qlm::cpu::test {

using ::qlm::format::KernelFunction;
using ::qlm::format::StepSizes;

/// Targets that this machine can run: AVX2, and with AVX512 that and the
/// machine's own features too. To a name, "+tiles" adds bf16 matrix registers
/// in memory.
std::vector<std::string> getRunnableTargets();

/// Memory as the runtime hands it to kernels: 64-byte aligned, readable up to
/// 63 bytes past its end (rounded up to whole lines), where a page that
/// nobody may touch follows. All bytes start as 0xFF, which is NaN in every
/// float type, so that elements that a kernel leaves out, and elements past
/// the end that it uses, show.
template <typename T> class Buffer {
public:
  explicit Buffer(size_t count) : count(count) {
    size_t page = 4096;
    tail = llvm::alignTo(bytes() + 63, 64);
    size = llvm::alignTo(tail + 64, page) + page;
    map = static_cast<char *>(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    memset(map, 0xFF, size);
    mprotect(map + size - page, page, PROT_NONE);
    start = map + size - page - tail;
  }
  explicit Buffer(const std::vector<T> &values) : Buffer(values.size()) {
    memcpy(start, values.data(), bytes());
  }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() { munmap(map, size); }

  T *data() { return reinterpret_cast<T *>(start); }
  const T *data() const { return reinterpret_cast<const T *>(start); }
  T &operator[](size_t i) { return data()[i]; }
  const T &operator[](size_t i) const { return data()[i]; }
  size_t getCount() const { return count; }
  std::vector<T> toVector() const { return {data(), data() + count}; }

  /// Whether the bytes before and after the buffer are as they were.
  bool isIntact() const {
    auto isPoison = [](const char *from, const char *to) {
      for (; from != to; ++from)
        if (*from != '\xFF')
          return false;
      return true;
    };
    return isPoison(start - 64, start) &&
           isPoison(start + bytes(), start + tail);
  }

private:
  size_t bytes() const { return count * sizeof(T); }

  size_t count, size = 0, tail = 0;
  char *map = nullptr, *start = nullptr;
};

/// The kernel of the last qlm operation of a function. What goes wrong on the
/// way is a failure of the test, and leaves an empty kernel.
class CompiledKernel {
public:
  CompiledKernel(llvm::StringRef target, const std::string &text,
                 StepLimits limits, SizeKind rows = SizeKind::Tokens);
  ~CompiledKernel();

  const KernelInfo &getInfo() const { return info; }
  explicit operator bool() const { return function; }

  /// Runs all tiles in \p parts consecutive ranges as two threads would that
  /// take turns, each with its scratch.
  void run(llvm::ArrayRef<void *> buffers, const StepSizes &sizes,
           int64_t parts = 3) const;
  int64_t getTiles(const StepSizes &sizes) const;

private:
  void compile(llvm::StringRef target, const std::string &text,
               StepLimits limits, SizeKind rows);
  void load(ModuleOp kernels);

  std::unique_ptr<MLIRContext> context;
  KernelInfo info;
  std::unique_ptr<llvm::orc::LLJIT> jit;
  KernelFunction function = nullptr;
};

/// Values that are the same on every run.
class Random {
public:
  explicit Random(uint32_t seed) : engine(seed) {}
  /// Normal values of standard deviation \p scale.
  std::vector<float> floats(size_t count, float scale = 1.0f) {
    std::normal_distribution<float> distribution(0.0f, scale);
    std::vector<float> values(count);
    for (float &value : values)
      value = distribution(engine);
    return values;
  }
  /// Integers of [lo, hi].
  template <typename T = int32_t>
  std::vector<T> integers(size_t count, int64_t lo, int64_t hi) {
    std::uniform_int_distribution<int64_t> distribution(lo, hi);
    std::vector<T> values(count);
    for (T &value : values)
      value = static_cast<T>(distribution(engine));
    return values;
  }

private:
  std::mt19937 engine;
};

/// ||actual - expected|| / ||expected||; NaN anywhere gives NaN.
template <typename Actual, typename Expected>
double getRelativeError(const Actual &actual, const Expected &expected,
                        size_t count) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < count; ++i) {
    double delta = double(actual[i]) - double(expected[i]);
    difference += delta * delta;
    norm += double(expected[i]) * double(expected[i]);
  }
  return std::sqrt(difference / (norm > 0 ? norm : 1.0));
}

} // namespace mlir::qlm::cpu::test

#endif // QLM_TEST_LOWER_CPU_KERNELTEST_H
