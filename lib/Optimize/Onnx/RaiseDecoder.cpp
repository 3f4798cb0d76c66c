//===- RaiseDecoder.cpp - Turns a decoder's graph into a model ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "DecoderBuilder.h"
#include "qlm/Optimize/Passes.h"

namespace mlir::qlm {
#define GEN_PASS_DEF_RAISEDECODER
#include "qlm/Optimize/Passes.h.inc"
} // namespace mlir::qlm

using namespace mlir;
using namespace mlir::qlm;
using namespace mlir::qlm::onnxir;

namespace {
struct RaiseDecoder : qlm::impl::RaiseDecoderBase<RaiseDecoder> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto graph = module.lookupSymbol<func::FuncOp>(kGraphName);
    if (!graph || graph.isExternal()) {
      module.emitError("there is no graph of ONNX nodes to raise");
      return signalPassFailure();
    }
    DecoderBuilder decoder(module, graph);
    if (failed(decoder.build()) ||
        failed(labelDecoder(module, decoder.getConfig())))
      return signalPassFailure();
    graph.erase();
    module->removeAttr("onnx.opsets");
    module->removeAttr(kConfigAttr);
  }
};
} // namespace
