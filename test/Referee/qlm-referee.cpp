//===- qlm-referee.cpp - Runs definitions from the command line -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// qlm-referee FILE.mlir [--entry NAME] [--tokens N]
//             [--input RAW ...] [--output RAW ...]
//
// Compiles a function, @main if no other is named, through the definitions of
// its operations and runs it on raw little-endian arrays. Without --output,
// prints each result on a line: "tensor<2x2xf32> 1 2 3 4". A model's @forward
// runs too: N stands in for its unknown number of tokens, and parameters are
// read from the model's folder.
//
//===----------------------------------------------------------------------===//

#include "Referee.h"

#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using ::qlm::test::Array;
using ::qlm::test::Referee;

static llvm::cl::opt<std::string> file(llvm::cl::Positional, llvm::cl::Required,
                                       llvm::cl::desc("FILE.mlir"));
static llvm::cl::list<std::string>
    inputFiles("input", llvm::cl::desc("raw array of an argument"));
static llvm::cl::list<std::string>
    outputFiles("output", llvm::cl::desc("raw array of a result"));

static llvm::cl::opt<std::string> entry("entry", llvm::cl::init("main"),
                                        llvm::cl::desc("the function to run"));
static llvm::cl::opt<int64_t>
    tokens("tokens", llvm::cl::init(0),
           llvm::cl::desc("the size of dynamic dimensions"));

static int fail(const llvm::Twine &text) {
  llvm::errs() << "qlm-referee: error: " << text << "\n";
  return 1;
}

static void print(const Array &array, RankedTensorType type) {
  llvm::outs() << type;
  Type element = type.getElementType();
  for (int64_t i = 0; i < array.count(); ++i) {
    const uint8_t *at = array.bytes.data() + i * array.elementBytes;
    llvm::outs() << " ";
    if (element.isF32()) {
      float value;
      memcpy(&value, at, 4);
      llvm::outs() << llvm::format("%g", value);
    } else if (element.isF16() || element.isBF16()) {
      uint16_t bits;
      memcpy(&bits, at, 2);
      APFloat value(cast<FloatType>(element).getFloatSemantics(),
                    APInt(16, bits));
      bool losesInfo;
      value.convert(APFloat::IEEEsingle(), APFloat::rmNearestTiesToEven,
                    &losesInfo);
      llvm::outs() << llvm::format("%g", value.convertToFloat());
    } else {
      unsigned bits = element.getIntOrFloatBitWidth();
      uint64_t word = 0;
      memcpy(&word, at, array.elementBytes);
      APInt value(bits, word, /*isSigned=*/false, /*implicitTrunc=*/true);
      value.print(llvm::outs(), !element.isUnsignedInteger());
    }
  }
  llvm::outs() << "\n";
}

int main(int argc, char **argv) {
  llvm::cl::ParseCommandLineOptions(argc, argv);
  auto text = llvm::MemoryBuffer::getFile(file);
  if (!text)
    return fail("cannot read " + file);
  auto referee = Referee::compile((*text)->getBuffer(), {entry, tokens});
  if (!referee)
    return fail(llvm::toString(referee.takeError()));
  FunctionType type = (*referee)->getType();
  std::vector<Array> inputs;
  for (auto [name, argument] : llvm::zip(inputFiles, type.getInputs())) {
    auto tensor = cast<RankedTensorType>(argument);
    auto raw = llvm::MemoryBuffer::getFile(name, /*IsText=*/false,
                                           /*RequiresNullTerminator=*/false);
    if (!raw)
      return fail("cannot read " + name);
    llvm::StringRef bytes = (*raw)->getBuffer();
    inputs.push_back(
        {tensor.getShape().vec(), (tensor.getElementTypeBitWidth() + 7) / 8,
         std::vector<uint8_t>(bytes.bytes_begin(), bytes.bytes_end())});
  }
  auto outputs = (*referee)->run(inputs);
  if (!outputs)
    return fail(llvm::toString(outputs.takeError()));
  for (auto [i, output] : llvm::enumerate(*outputs)) {
    if (outputFiles.empty()) {
      print(output, cast<RankedTensorType>(type.getResult(i)));
      continue;
    }
    if (i >= outputFiles.size())
      break;
    std::error_code code;
    llvm::raw_fd_ostream os(outputFiles[i], code);
    if (code)
      return fail("cannot write " + outputFiles[i]);
    os.write(reinterpret_cast<const char *>(output.bytes.data()),
             output.bytes.size());
  }
  return 0;
}
