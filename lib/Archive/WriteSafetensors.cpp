//===- WriteSafetensors.cpp - Writes tensors of floats --------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Archive/WriteSafetensors.h"

#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

static llvm::Error cannotWrite(llvm::StringRef path, std::error_code code) {
  return llvm::createStringError(code, "cannot write '" + path +
                                           "': " + code.message());
}

llvm::Error mlir::qlm::writeSafetensors(llvm::StringRef path,
                                        llvm::ArrayRef<FloatTensor> tensors) {
  llvm::json::Object header;
  int64_t offset = 0;
  for (const FloatTensor &tensor : tensors) {
    int64_t bytes = tensor.values.size() * sizeof(float);
    header[tensor.name] = llvm::json::Object{
        {"dtype", "F32"},
        {"shape", llvm::json::Array(tensor.shape)},
        {"data_offsets", llvm::json::Array{offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text;
  llvm::raw_string_ostream(text) << llvm::json::Value(std::move(header));
  std::error_code code;
  llvm::raw_fd_ostream stream(path, code);
  if (code)
    return cannotWrite(path, code);
  uint64_t size = text.size();
  stream.write(reinterpret_cast<const char *>(&size), sizeof(size));
  stream << text;
  for (const FloatTensor &tensor : tensors)
    stream.write(reinterpret_cast<const char *>(tensor.values.data()),
                 tensor.values.size() * sizeof(float));
  stream.close();
  code = stream.error();
  stream.clear_error();
  return code ? cannotWrite(path, code) : llvm::Error::success();
}
