//===- Graph.cpp - Runs the package of a graph ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Graph.h"

#include "../FieldReader.h"
#include "GraphThreads.h"
#include "qlm/Package/GraphFormat.h"
#include "qlm/Runtime/CpuFeatures.h"
#include "qlm/Runtime/TensorTable.h"
#include "qlm/Runtime/Tokenizer/JsonNode.h"

#include <cinttypes>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>

using namespace qlm;
using tokenizer::Json;
using tokenizer::JsonNode;

static constexpr int64_t maxBytes = int64_t{1} << 46;
static constexpr int64_t maxRank = 64;

int64_t qlm::graphElementBytes(std::string_view type) {
  if (type == "float64" || type == "int64" || type == "uint64")
    return 8;
  if (type == "float32" || type == "int32" || type == "uint32")
    return 4;
  if (type == "float16" || type == "bfloat16" || type == "int16" ||
      type == "uint16")
    return 2;
  for (const char *name :
       {"bool", "int8", "uint8", "int4", "uint4", "int2", "uint2",
        "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz",
        "float8e8m0", "float4e2m1"})
    if (type == name)
      return 1;
  return 0;
}

//===----------------------------------------------------------------------===//
// Loading
//===----------------------------------------------------------------------===//

static std::string checksumOf(const char *data, size_t size) {
  format::Checksum checksum;
  checksum.update(data, size);
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, checksum.finish());
  return text;
}

/// Maps \p file and compares it with what the manifest says of it.
static Result<MappedMemory> mapChecked(const std::string &file, int64_t bytes,
                                       const std::string &checksum) {
  Result<MappedMemory> memory = MappedMemory::mapFile(file);
  if (!memory.ok())
    return memory.status();
  if (memory->size() != static_cast<uint64_t>(bytes))
    return Status(StatusCode::Corrupt,
                  file + ": file has " + std::to_string(memory->size()) +
                      " bytes, the manifest says " + std::to_string(bytes));
  std::string actual = checksumOf(memory->data(), memory->size());
  if (actual != checksum)
    return Status(StatusCode::Corrupt, file + ": checksum is " + actual +
                                           ", the manifest says " + checksum +
                                           "; the file is damaged");
  return memory;
}

/// A shape whose unknown sizes are null.
static std::vector<int64_t> readShape(FieldReader &reader) {
  std::vector<int64_t> shape;
  if (!reader.ok())
    return shape;
  const Json &object = *reader;
  auto found = object.find("shape");
  if (found == object.end() || !found->is_array() ||
      found->size() > static_cast<size_t>(maxRank)) {
    reader.fail("shape must be a list of at most " + std::to_string(maxRank) +
                " sizes");
    return shape;
  }
  for (const Json &size : *found) {
    if (size.is_null()) {
      shape.push_back(-1);
    } else if (size.is_number_unsigned() &&
               size.get<uint64_t>() <= static_cast<uint64_t>(maxBytes)) {
      shape.push_back(size.get<int64_t>());
    } else {
      reader.fail("a size must be a whole number or null, is " + size.dump());
      return shape;
    }
  }
  return shape;
}

static std::vector<GraphTensor> readTensors(FieldReader &root,
                                            const char *key) {
  std::vector<GraphTensor> list;
  for (FieldReader &reader : root.list(key)) {
    GraphTensor tensor;
    tensor.name = reader.string("name");
    tensor.type = reader.string("type");
    if (reader.ok() && !graphElementBytes(tensor.type))
      reader.fail("element type '" + tensor.type + "' is not known",
                  StatusCode::Unsupported);
    tensor.shape = readShape(reader);
    list.push_back(std::move(tensor));
  }
  return list;
}

/// A file of the package: its own name, no path.
static std::string readFileName(FieldReader &reader, const char *key) {
  std::string name = reader.string(key);
  if (reader.ok() &&
      (name.empty() || name[0] == '.' || name.find('/') != std::string::npos))
    reader.fail(std::string(key) + " must be a plain file name, is '" + name +
                "'");
  return name;
}

static Status checkManifestSum(std::string text, const std::string &expected,
                               const std::string &file) {
  size_t digits = std::strlen(format::kNoChecksum);
  size_t at = text.find('"' + expected + '"');
  if (expected.size() != digits || at == std::string::npos)
    return Status(StatusCode::Corrupt, file + ": checksum must be " +
                                           std::to_string(digits) +
                                           " hex digits");
  text.replace(at + 1, digits, format::kNoChecksum);
  std::string actual = checksumOf(text.data(), text.size());
  if (actual == expected)
    return Status();
  return Status(StatusCode::Corrupt, file + ": checksum is " + actual +
                                         ", the manifest says " + expected +
                                         "; the file is damaged");
}

Status Graph::readManifest(const std::string &path) {
  std::string file = path + "/" + format::kManifestFile;
  Result<MappedMemory> memory = MappedMemory::mapFile(file);
  if (!memory.ok())
    return memory.status();
  std::string text(memory->data(), memory->size());
  Result<Json> document = tokenizer::parseJson(text, file);
  if (!document.ok())
    return document.status();
  Status status;
  FieldReader root(JsonNode(*document, file + ":"), status);
  if (!(*root).is_object())
    root.fail("must be an object");
  root.checkFormat(format::kGraphFormatName);
  std::string checksum = root.string("checksum");
  FieldReader target = root.object("target");
  std::vector<std::string> features;
  for (FieldReader &feature : target.list("features")) {
    if ((*feature).is_string())
      features.push_back((*feature).get<std::string>());
    else
      feature.fail("must be a string");
  }
  std::string moduleFile = readFileName(target, "module");
  std::string moduleSum = target.string("module_checksum");
  int64_t moduleBytes = target.integer("module_bytes", 1, maxBytes);
  FieldReader weightsReader = root.object("weights");
  std::string weightsFile = readFileName(weightsReader, "file");
  std::string weightsSum = weightsReader.string("checksum");
  int64_t weightsBytes = weightsReader.integer("bytes", 8, maxBytes);
  inputList = readTensors(root, "inputs");
  outputList = readTensors(root, "outputs");
  for (FieldReader &reader : root.list("weight_arguments")) {
    Weight weight;
    weight.key = reader.string("key");
    weight.shape = readShape(reader);
    weights.push_back(std::move(weight));
  }
  QLM_RETURN_IF_ERROR(status);
  QLM_RETURN_IF_ERROR(checkManifestSum(text, checksum, file));
  QLM_RETURN_IF_ERROR(prepareFeatures(features));
  QLM_RETURN_IF_ERROR(
      mapWeights(path + "/" + weightsFile, weightsBytes, weightsSum));
  return openModule(path + "/" + moduleFile, moduleBytes, moduleSum);
}

/// Appends the words of a dense array's descriptor.
static void appendDescriptor(std::vector<int64_t> &words, const void *data,
                             const std::vector<int64_t> &shape) {
  auto address = reinterpret_cast<int64_t>(data);
  words.insert(words.end(), {address, address, 0});
  words.insert(words.end(), shape.begin(), shape.end());
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;)
    strides[i - 1] = strides[i] * shape[i];
  words.insert(words.end(), strides.begin(), strides.end());
}

Status Graph::mapWeights(const std::string &file, int64_t bytes,
                         const std::string &checksum) {
  Result<MappedMemory> memory = mapChecked(file, bytes, checksum);
  if (!memory.ok())
    return memory.status();
  weightMemory = memory.take();
  Result<TensorTable> table =
      parseTensorTable(weightMemory.data(), weightMemory.size(), file);
  if (!table.ok())
    return table.status();
  TensorTable tensors = table.take();
  for (const Weight &weight : weights) {
    auto found = tensors.find(weight.key);
    if (found == tensors.end() || found->second.shape != weight.shape ||
        found->second.offset % format::kAlignment)
      return Status(StatusCode::Corrupt,
                    file + ": no tensor '" + weight.key +
                        "' of the shape that the manifest gives");
    appendDescriptor(weightDescriptors.emplace_back(),
                     weightMemory.data() + found->second.offset, weight.shape);
  }
  return Status();
}

/// Where this thread's run goes on when its code finds sizes that contradict
/// each other.
static thread_local jmp_buf *wayOut = nullptr;

void qlm::leaveGraph(GraphExit why) {
  std::longjmp(*wayOut, static_cast<int>(why));
}

static void leaveRun() { leaveGraph(GraphExit::SizesContradict); }

Status Graph::openModule(const std::string &file, int64_t bytes,
                         const std::string &checksum) {
  Result<MappedMemory> code = mapChecked(file, bytes, checksum);
  if (!code.ok())
    return code.status();
  // A name without a slash would be searched in the system's folders.
  std::string name = file[0] == '/' ? file : "./" + file;
  module = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!module)
    return Status(StatusCode::Corrupt,
                  std::string("cannot load the module: ") + dlerror());
  void *address = dlsym(module, format::kGraphFunction);
  if (!address)
    return Status(StatusCode::Corrupt,
                  file + ": no function '" + format::kGraphFunction + "'");
  function = reinterpret_cast<void (*)(void **)>(address);
  if (void *trap = dlsym(module, format::kGraphTrap))
    *static_cast<void (**)()>(trap) = leaveRun;
  if (void *launch = dlsym(module, format::kGraphLaunch))
    *static_cast<format::GraphLaunchFunction *>(launch) = GraphThreads::launch;
  void *allocate = dlsym(module, format::kGraphAllocate),
       *release = dlsym(module, format::kGraphRelease);
  if (!allocate || !release)
    return Status(StatusCode::Unsupported,
                  file + ": takes its memory in another way; compile it again");
  *static_cast<void *(**)(int64_t)>(allocate) = GraphThreads::allocate;
  *static_cast<void (**)(void *)>(release) = GraphThreads::release;
  return Status();
}

Graph::Graph(int threads) : threads(std::make_unique<GraphThreads>(threads)) {}

Result<std::unique_ptr<Graph>> Graph::load(const std::string &path,
                                           int threads) {
  if (threads < 1)
    return Status(StatusCode::InvalidArgument,
                  "threads must be at least 1, got " + std::to_string(threads));
  std::unique_ptr<Graph> graph(new Graph(threads));
  QLM_RETURN_IF_ERROR(graph->readManifest(path));
  return graph;
}

Graph::~Graph() {
  if (module)
    dlclose(module);
}

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

/// Calls the graph. Where it was left early, the end of the run takes the
/// buffers back that it had then.
static GraphExit callGraph(void (*function)(void **), void **pointers) {
  jmp_buf here;
  jmp_buf *outer = wayOut;
  wayOut = &here;
  int why = setjmp(here);
  if (!why)
    function(pointers);
  wayOut = outer;
  return static_cast<GraphExit>(why);
}

static std::string toText(const std::vector<int64_t> &shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i)
    text += (i ? ", " : "") +
            (shape[i] < 0 ? std::string("?") : std::to_string(shape[i]));
  return text + "]";
}

static Status checkInput(const GraphTensor &wanted, const GraphArray &array) {
  auto error = [&](const std::string &what) {
    return Status(StatusCode::InvalidArgument,
                  "input '" + wanted.name + "' " + what);
  };
  if (array.type != wanted.type)
    return error("takes " + wanted.type + ", got " + array.type);
  bool fits = array.shape.size() == wanted.shape.size();
  for (size_t i = 0; fits && i < array.shape.size(); ++i)
    fits = array.shape[i] >= 0 &&
           (wanted.shape[i] < 0 || wanted.shape[i] == array.shape[i]);
  if (!fits)
    return error("takes the shape " + toText(wanted.shape) + ", got " +
                 toText(array.shape));
  int64_t bytes = graphElementBytes(array.type);
  for (int64_t size : array.shape)
    if (__builtin_mul_overflow(bytes, size, &bytes))
      return error("has too many elements");
  if (static_cast<uint64_t>(bytes) != array.bytes.size())
    return error("needs " + std::to_string(bytes) + " bytes, got " +
                 std::to_string(array.bytes.size()));
  return Status();
}

/// Whether elements lie one after the other.
static bool isDense(const std::vector<int64_t> &shape, const int64_t *strides) {
  int64_t expected = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    if (shape[d] != 1 && strides[d] != expected)
      return false;
    expected *= shape[d];
  }
  return true;
}

/// Kernels may read up to 63 bytes past an input's end.
static constexpr uintptr_t kReadPast = 63;
static constexpr uintptr_t kPageBytes = 4096;

/// The input's bytes: its own where reading past them stays in their last
/// page, else a copy kept by \p copies.
static const char *getReadable(const std::vector<char> &bytes,
                               std::deque<std::vector<char>> &copies) {
  uintptr_t end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
  bool fits = end % kPageBytes && end % kPageBytes + kReadPast <= kPageBytes;
  if (fits)
    return bytes.data();
  std::vector<char> &copy = copies.emplace_back(bytes);
  copy.resize(bytes.size() + kReadPast);
  return copy.data();
}

/// Copies the result that \p words describe, row by row where it has strides.
static GraphArray copyResult(const GraphTensor &wanted, const int64_t *words) {
  size_t rank = wanted.shape.size();
  GraphArray array;
  array.type = wanted.type;
  array.shape.assign(words + 3, words + 3 + rank);
  const int64_t *strides = words + 3 + rank;
  int64_t element = graphElementBytes(wanted.type), count = 1;
  for (int64_t size : array.shape)
    count *= size;
  array.bytes.resize(static_cast<size_t>(count * element));
  auto *data = reinterpret_cast<const char *>(words[1]) + words[2] * element;
  if (isDense(array.shape, strides)) {
    std::memcpy(array.bytes.data(), data, array.bytes.size());
    return array;
  }
  std::vector<int64_t> at(rank, 0);
  for (int64_t i = 0; i < count; ++i) {
    int64_t offset = 0;
    for (size_t d = 0; d < rank; ++d)
      offset += at[d] * strides[d];
    std::memcpy(array.bytes.data() + i * element, data + offset * element,
                static_cast<size_t>(element));
    for (size_t d = rank; d-- > 0;) {
      if (++at[d] < array.shape[d])
        break;
      at[d] = 0;
    }
  }
  return array;
}

Result<std::vector<GraphArray>>
Graph::run(const std::vector<GraphArray> &inputs) const {
  if (inputs.size() != inputList.size())
    return Status(StatusCode::InvalidArgument,
                  "the graph takes " + std::to_string(inputList.size()) +
                      " inputs, got " + std::to_string(inputs.size()));
  for (size_t i = 0; i < inputs.size(); ++i)
    QLM_RETURN_IF_ERROR(checkInput(inputList[i], inputs[i]));

  std::vector<std::vector<int64_t>> descriptors;
  std::deque<std::vector<char>> copies;
  for (const GraphArray &input : inputs)
    appendDescriptor(descriptors.emplace_back(),
                     getReadable(input.bytes, copies), input.shape);
  size_t words = 0;
  for (const GraphTensor &output : outputList)
    words += 3 + 2 * output.shape.size();
  std::vector<int64_t> results(words);
  std::vector<void *> pointers{results.data()};
  pointers.reserve(1 + inputs.size() + weightDescriptors.size());
  for (std::vector<int64_t> &descriptor : descriptors)
    pointers.push_back(descriptor.data());
  for (const std::vector<int64_t> &descriptor : weightDescriptors)
    pointers.push_back(const_cast<int64_t *>(descriptor.data()));
  GraphThreads::Use use(*threads);
  GraphExit why = callGraph(function, pointers.data());
  if (why == GraphExit::SizesContradict)
    return Status(StatusCode::InvalidArgument,
                  "the sizes of the inputs contradict each other");
  if (why == GraphExit::OutOfMemory)
    return Status(StatusCode::ResourceExhausted,
                  "no memory for the scratch of the graph's kernels");

  std::vector<GraphArray> outputs;
  const int64_t *next = results.data();
  for (const GraphTensor &output : outputList) {
    outputs.push_back(copyResult(output, next));
    next += 3 + 2 * output.shape.size();
  }
  return outputs;
}
