//===- Graphs.cpp - ONNX files of quantc's command line -------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Graphs.h"

#include "qlm/Archive/Errors.h"
#include "qlm/Runtime/ArrayFile.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/ThreadPool.h"
#include "llvm/Support/raw_ostream.h"

#include <mutex>

using namespace mlir::qlm;

llvm::Error mlir::qlm::readFixedInputs(llvm::StringRef text,
                                       OnnxOptions &options) {
  auto [name, path] = text.rsplit('=');
  if (path.empty())
    std::swap(name, path);
  auto arrays = ::qlm::readArrays(path.str());
  if (!arrays.ok())
    return makeError(arrays.status().message());
  for (::qlm::NamedArray &named : *arrays) {
    FixedInput fixed;
    fixed.typeName = named.array.type;
    fixed.shape = named.array.shape;
    fixed.bytes = std::move(named.array.bytes);
    llvm::StringRef key = name.empty() ? llvm::StringRef(named.name) : name;
    if (key.empty())
      return makeError("--fix needs the input's name: --fix NAME=" + path);
    options.fixed[key] = std::move(fixed);
  }
  return llvm::Error::success();
}

static llvm::Error compileLine(llvm::StringRef line,
                               const BatchOptions &options) {
  llvm::SmallVector<llvm::StringRef, 3> fields;
  line.split(fields, '\t');
  if (fields.size() < 2 || fields.size() > 3)
    return makeError("a line must be MODEL, PKG and perhaps an .npz, with "
                     "tabs between");
  GraphOptions graph;
  graph.model = fields[0].str();
  graph.output = fields[1].str();
  graph.targetCpu = options.targetCpu;
  graph.producer = options.producer;
  graph.quick = options.quick;
  if (fields.size() == 3)
    if (llvm::Error error = readFixedInputs(fields[2], graph.import))
      return error;
  auto summary = compileGraph(graph);
  return summary ? llvm::Error::success() : summary.takeError();
}

llvm::Error mlir::qlm::compileBatch(const BatchOptions &options) {
  auto buffer = llvm::MemoryBuffer::getFile(options.path);
  if (!buffer)
    return makeError(options.path + ": " + buffer.getError().message());
  llvm::SmallVector<llvm::StringRef> lines;
  (*buffer)->getBuffer().split(lines, '\n', /*MaxSplit=*/-1,
                               /*KeepEmpty=*/false);
  std::mutex printing;
  llvm::DefaultThreadPool pool(
      llvm::hardware_concurrency(static_cast<unsigned>(options.threads)));
  for (llvm::StringRef line : lines)
    pool.async([&, line] {
      llvm::Error error = compileLine(line, options);
      bool failed = static_cast<bool>(error);
      std::string text = llvm::toString(std::move(error));
      std::lock_guard<std::mutex> lock(printing);
      llvm::outs() << (failed ? "error\t" : "ok\t") << line.split('\t').first
                   << (failed ? "\t" : "") << text << "\n";
      llvm::outs().flush();
    });
  pool.wait();
  return llvm::Error::success();
}
