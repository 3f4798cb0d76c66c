//===- CompileCuda.h - Makes a cubin of kernels -----------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_BENCHMARKS_KERNELS_CUDA_COMPILECUDA_H
#define QLM_BENCHMARKS_KERNELS_CUDA_COMPILECUDA_H

#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <string>

namespace mlir::qlm::bench {

/// `key=value` words of a line.
class Words {
public:
  explicit Words(StringRef line) {
    SmallVector<StringRef> parts;
    line.split(parts, ' ', -1, /*KeepEmpty=*/false);
    for (StringRef part : parts) {
      auto [key, value] = part.split('=');
      values[key] = value.str();
    }
  }
  std::string text(StringRef key, StringRef otherwise) const {
    auto found = values.find(key);
    return found == values.end() ? otherwise.str() : found->second;
  }
  int64_t number(StringRef key, int64_t otherwise) const {
    auto found = values.find(key);
    return found == values.end() ? otherwise : std::stoll(found->second);
  }

private:
  llvm::StringMap<std::string> values;
};

/// A context that knows the dialects of GPU kernels and their translations.
std::unique_ptr<MLIRContext> createCudaContext();

/// Lowers the one `gpu.module` of \p module and writes \p path.ptx and
/// \p path.cubin; gives what ptxas says of registers and spills.
llvm::Expected<std::string>
compileCuda(ModuleOp module, const std::string &chip, const std::string &path);

/// The main function of a program that emits kernels: one for each line of
/// standard input, called \p prefix and a number, by \p emit, which gives the
/// words that say how it is launched. Writes `cases.txt`, the lines with these
/// words, and says registers and spills.
int emitCases(int argc, char **argv, StringRef prefix,
              function_ref<std::string(gpu::GPUModuleOp kernels, StringRef name,
                                       const Words &words)>
                  emit);

} // namespace mlir::qlm::bench

#endif // QLM_BENCHMARKS_KERNELS_CUDA_COMPILECUDA_H
