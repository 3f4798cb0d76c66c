//===- GraphPackage.cpp - Writes a lowered graph as a package -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Package/GraphPackage.h"

#include "GraphPlan.h"
#include "Manifest.h"
#include "PackageErrors.h"
#include "PackageFolder.h"
#include "WeightsFile.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "onnx-ml.pb.h"
#include "qlm/Package/GraphFormat.h"
#include "qlm/Package/ObjectFile.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;
using namespace mlir::qlm;
namespace format = ::qlm::format;
namespace json = llvm::json;

GraphSignature mlir::qlm::getGraphSignature(ModuleOp module) {
  GraphSignature signature;
  auto graph = module.lookupSymbol<FunctionOpInterface>("graph");
  auto describe = [](Type type, DictionaryAttr attributes, StringRef name) {
    auto tensor = cast<RankedTensorType>(type);
    GraphValue value;
    value.name = attributes.getAs<StringAttr>(name).getValue().str();
    value.type = attributes.getAs<StringAttr>("qlm.type").getValue().str();
    for (int64_t size : tensor.getShape())
      value.shape.push_back(ShapedType::isDynamic(size) ? -1 : size);
    return value;
  };
  for (unsigned i = 0; i < graph.getNumArguments(); ++i) {
    DictionaryAttr attributes = graph.getArgAttrDict(i);
    bool isWeight = static_cast<bool>(attributes.get("qlm.weight"));
    (isWeight ? signature.weights : signature.inputs)
        .push_back(describe(graph.getArgumentTypes()[i], attributes,
                            isWeight ? "qlm.weight" : "qlm.name"));
  }
  for (unsigned i = 0; i < graph.getNumResults(); ++i)
    signature.outputs.push_back(describe(
        graph.getResultTypes()[i], graph.getResultAttrDict(i), "qlm.name"));
  return signature;
}

/// Safetensors' name of a type by its width: the graph knows what it means.
static StringRef getStorageName(int64_t bytes) {
  switch (bytes) {
  case 8:
    return "I64";
  case 4:
    return "I32";
  case 2:
    return "I16";
  default:
    return "U8";
  }
}

namespace {
/// Initializers that are stored as the file has them.
struct CopiedWeights {
  std::vector<PackedTensor> tensors;
  std::vector<ArrayRef<char>> data;
};
} // namespace

static llvm::Expected<CopiedWeights> findCopied(const GraphSignature &signature,
                                                OnnxFile &onnxFile,
                                                const WeightPlan &plan) {
  llvm::StringSet<> evaluated;
  for (const PackedTensor &tensor : plan.tensors)
    evaluated.insert(tensor.key);
  llvm::StringMap<const ::onnx::TensorProto *> initializers;
  for (const auto &proto : onnxFile.getModel().graph().initializer())
    initializers[proto.name()] = &proto;
  CopiedWeights copied;
  for (const GraphValue &weight : signature.weights) {
    const ::onnx::TensorProto *proto = initializers.lookup(weight.name);
    if (evaluated.contains(weight.name) || !proto)
      continue;
    auto bytes = onnxFile.getData(*proto);
    if (!bytes)
      return bytes.takeError();
    PackedTensor tensor;
    tensor.key = weight.name;
    tensor.type = getStorageName(getOnnxElementBytes(proto->data_type())).str();
    tensor.shape.assign(weight.shape.begin(), weight.shape.end());
    tensor.bytes = bytes->size();
    copied.tensors.push_back(std::move(tensor));
    copied.data.push_back(*bytes);
  }
  return copied;
}

static llvm::Expected<PackagedFile>
writeWeights(StringRef folder, const GraphSignature &signature,
             OnnxFile &onnxFile, WeightPlan &plan) {
  auto copied = findCopied(signature, onnxFile, plan);
  if (!copied)
    return copied.takeError();
  size_t planned = plan.tensors.size();
  std::vector<PackedTensor> tensors(plan.tensors);
  llvm::append_range(tensors, copied->tensors);
  auto file =
      WeightsFile::create(joinPath(folder, format::kWeightsFile), tensors);
  if (!file)
    return file.takeError();
  std::copy_n(tensors.begin(), planned, plan.tensors.begin());
  if (llvm::Error error = evaluateWeights(plan, *file, /*threads=*/0, {}, {}))
    return std::move(error);
  for (auto [tensor, bytes] :
       llvm::zip_equal(ArrayRef(tensors).drop_front(planned), copied->data))
    if (llvm::Error error = file->write(
            tensor.offset,
            ArrayRef<uint8_t>(reinterpret_cast<const uint8_t *>(bytes.data()),
                              bytes.size())))
      return std::move(error);
  auto checksum = file->computeChecksum();
  if (!checksum)
    return checksum.takeError();
  return PackagedFile{format::kWeightsFile, file->getSize(), *checksum};
}

static json::Array toJson(ArrayRef<int64_t> shape) {
  json::Array sizes;
  for (int64_t size : shape)
    sizes.push_back(size < 0 ? json::Value(nullptr) : json::Value(size));
  return sizes;
}

static json::Array toJson(ArrayRef<GraphValue> values) {
  json::Array list;
  for (const GraphValue &value : values)
    list.push_back(json::Object{{"name", value.name},
                                {"type", value.type},
                                {"shape", toJson(value.shape)}});
  return list;
}

static json::Object makeGraphManifest(ModuleOp module,
                                      const GraphSignature &signature,
                                      StringRef producer,
                                      const PackagedFile &code,
                                      const PackagedFile &weights) {
  json::Array features, arguments;
  SmallVector<StringRef> parts;
  if (auto attr = module->getAttrOfType<StringAttr>("qlm.target_features"))
    attr.getValue().split(parts, ',', /*MaxSplit=*/-1, /*KeepEmpty=*/false);
  for (StringRef part : parts)
    if (part.consume_front("+"))
      features.push_back(part.str());
  for (const GraphValue &weight : signature.weights)
    arguments.push_back(
        json::Object{{"key", weight.name}, {"shape", toJson(weight.shape)}});
  auto cpu = module->getAttrOfType<StringAttr>("qlm.target_cpu");
  return json::Object{
      {"format", format::kGraphFormatName},
      {"version", format::kFormatVersion},
      {"producer", producer.str()},
      {"target", json::Object{{"kind", "cpu"},
                              {"cpu", cpu ? cpu.getValue().str() : ""},
                              {"features", std::move(features)},
                              {"module", code.name},
                              {"module_checksum", toHex(code.checksum)},
                              {"module_bytes", code.bytes}}},
      {"weights", json::Object{{"file", weights.name},
                               {"bytes", weights.bytes},
                               {"checksum", toHex(weights.checksum)}}},
      {"inputs", toJson(signature.inputs)},
      {"outputs", toJson(signature.outputs)},
      {"weight_arguments", std::move(arguments)}};
}

llvm::Expected<GraphSizes>
mlir::qlm::writeGraphPackage(ModuleOp module, const GraphSignature &signature,
                             OnnxFile &onnxFile, GraphParameters &parameters,
                             StringRef output, StringRef producer,
                             Effort effort) {
  GraphSizes sizes;
  llvm::Error error = writePackageFolder(
      output, /*overwrite=*/true, [&](StringRef folder) -> llvm::Error {
        if (llvm::Error error = emitSharedLibrary(
                module, joinPath(folder, format::kCpuModuleFile),
                Libraries::CAndMath, effort))
          return error;
        auto code = describeFile(folder, format::kCpuModuleFile);
        if (!code)
          return code.takeError();
        auto weights = writeWeights(folder, signature, onnxFile,
                                    parameters.getPlan().weights);
        if (!weights)
          return weights.takeError();
        sizes = {weights->bytes, code->bytes};
        return writeManifest(
            folder,
            makeGraphManifest(module, signature, producer, *code, *weights));
      });
  if (error)
    return std::move(error);
  return sizes;
}
