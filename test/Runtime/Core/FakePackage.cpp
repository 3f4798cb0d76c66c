//===- FakePackage.cpp - A package written for a test ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakePackage.h"

#include "FakeModel.h"
#include "qlm/Package/Format.h"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <unistd.h>

using namespace qlm;
using namespace qlm::test;

std::vector<float> test::fakeTable() {
  std::vector<float> table(fakeVocabulary * fakeHidden, 0.0f);
  for (int v = 0; v < fakeVocabulary; ++v)
    table[v * fakeHidden + v] = 1;
  table[fakePoison * fakeHidden + fakePoison] = NAN;
  return table;
}

std::vector<float> test::fakeOutput() {
  std::vector<float> output(fakeVocabulary * fakeHidden);
  for (int v = 0; v < fakeVocabulary; ++v)
    for (int h = 0; h < fakeHidden; ++h)
      // Multiples of 1/64 keep all sums exact in any order.
      output[v * fakeHidden + h] =
          static_cast<float>((v * 7 + h * 13) % 17) / 64 +
          (v == (h + 1) % fakeVocabulary ? 8 : 0);
  return output;
}

std::vector<float> test::fakeLogits(const std::vector<int32_t> &tokens) {
  std::vector<float> table = fakeTable(), output = fakeOutput(), logits;
  float sum[fakeHidden] = {};
  for (int32_t token : tokens) {
    const float *x = &table[token * fakeHidden];
    for (int v = 0; v < fakeVocabulary; ++v) {
      float logit = 0;
      for (int h = 0; h < fakeHidden; ++h)
        logit += (x[h] + sum[h]) * output[v * fakeHidden + h];
      logits.push_back(logit);
    }
    for (int h = 0; h < fakeHidden; ++h)
      sum[h] = (sum[h] + x[h]) / 2;
  }
  return logits;
}

static Json makeLaunch(const char *kernel, const char *label, int64_t count,
                       const char *size, const std::vector<Json> &arguments,
                       int64_t bytes) {
  return {{"kernel", kernel},
          {"label", label},
          {"tiles", {{"count", count}, {"size", size}, {"block", 1}}},
          {"args", arguments},
          {"bytes", bytes},
          {"flops_per_row", 0}};
}

static Json argument(const char *kind, int64_t value) {
  return Json::array({kind, value});
}
static Json weight(const char *key) { return Json::array({"weight", key}); }

Json test::fakeManifest(const FakeLimits &limits) {
  int64_t rowBytes = fakeHidden * 4;
  // x, y and z, each for the largest step and a vector more.
  int64_t bufferBytes = limits.maxStepTokens * rowBytes + 64;
  int64_t pagesEach = (limits.maxContext + fakePageTokens - 1) / fakePageTokens;
  int64_t pages = limits.maxBatch * pagesEach;
  int64_t pageBytes = 2 * rowBytes * fakePageTokens;
  int64_t logitRows = std::max(limits.maxBatch, limits.maxStepTokens);
  int64_t weightBytes = fakeVocabulary * rowBytes;
  Json x = argument("arena", 0), y = argument("arena", bufferBytes),
       z = argument("arena", 2 * bufferBytes), cache = argument("cache", 0),
       positions = argument("step", 1), sequences = argument("step", 2),
       tables = argument("step", 5);
  return {{"format", "qlm-package"},
          {"version", qlm::format::kFormatVersion},
          {"producer", "a test"},
          {"model",
           {{"architecture", "fake"},
            {"name", "fake"},
            {"vocabulary_size", fakeVocabulary},
            {"hidden_size", fakeHidden},
            {"layers", 1},
            {"heads", 1},
            {"kv_heads", 1},
            {"head_dim", fakeHidden},
            {"intermediate_size", 1},
            {"context_length", limits.maxContext},
            {"bos_token_id", nullptr},
            {"eos_token_ids", {fakeEos}},
            {"parameters", 2 * fakeVocabulary * fakeHidden}}},
          {"quantization",
           {{"weights", "f32"},
            {"scheme", ""},
            {"activations", "none"},
            {"method", "none"}}},
          {"target",
           {{"kind", "cpu"},
            {"cpu", "x86-64"},
            {"features", {"sse2"}},
            {"module", "module.cpu.so"},
            {"module_checksum", "0000000000000000"},
            {"module_bytes", 1}}},
          {"weights",
           {{"file", "weights.safetensors"},
            {"bytes", 8},
            {"checksum", "0000000000000000"}}},
          {"files", Json::object()},
          {"plan",
           {{"max_batch", limits.maxBatch},
            {"max_context", limits.maxContext},
            {"max_step_tokens", limits.maxStepTokens},
            {"max_logit_rows", logitRows},
            {"arena_bytes", 3 * bufferBytes},
            {"scratch_bytes", rowBytes},
            {"kv",
             {{"type", "f32"},
              {"page_tokens", fakePageTokens},
              {"layers", 1},
              {"pages", pages},
              {"page_bytes", pageBytes},
              {"pool_bytes", pages * pageBytes},
              {"bytes_per_token", 2 * rowBytes}}},
            {"logits_bytes", logitRows * fakeVocabulary * 4},
            {"peak_bytes", 1 << 20}}},
          {"launches",
           {makeLaunch("fake_embed", "embedding", 1, "tokens",
                       {argument("step", 0), weight("embedding.weight"), x}, 0),
            makeLaunch("fake_append", "layers.0.append", 1, "tokens",
                       {x, cache, positions, sequences, tables}, 0),
            makeLaunch("fake_attend", "layers.0.attention", 1, "tokens",
                       {x, cache, positions, sequences, tables, y}, 0),
            makeLaunch("fake_select", "select", 1, "logit_rows",
                       {y, argument("step", 6), z}, 0),
            makeLaunch("fake_project", "lm_head", fakeVocabulary, "one",
                       {z, weight("lm_head.weight"), argument("logits", 0)},
                       weightBytes)}}};
}

std::string test::safetensors(
    const std::vector<std::pair<std::string, std::vector<float>>> &tensors) {
  Json header = Json::object();
  std::string data;
  for (const auto &[name, values] : tensors) {
    size_t begin = data.size();
    data.append(reinterpret_cast<const char *>(values.data()),
                values.size() * sizeof(float));
    header[name] = {{"dtype", "F32"},
                    {"shape", {values.size() / fakeHidden, fakeHidden}},
                    {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.append(63 - (text.size() + 7) % 64, ' ');
  uint64_t size = text.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &size, 8);
  return file + text + data;
}

std::string test::checksumOf(const std::string &bytes) {
  format::Checksum checksum;
  checksum.update(bytes.data(), bytes.size());
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, checksum.finish());
  return text;
}

/// A byte-level tokenizer of single characters; letters are 0 to 25.
static std::string makeTokenizer() {
  Json vocabulary = Json::object();
  for (int i = 0; i < 26; ++i)
    vocabulary[std::string(1, static_cast<char>('a' + i))] = i;
  vocabulary["\u0120"] = fakeSpace; // how byte-level vocabularies spell ' '
  vocabulary["."] = 27;
  vocabulary["\u010a"] = 28; // '\n'
  vocabulary["th"] = 30;
  vocabulary["he"] = fakePoison;
  Json byteLevel = {{"type", "ByteLevel"},
                    {"add_prefix_space", false},
                    {"trim_offsets", true},
                    {"use_regex", true}};
  Json eos = {{"id", fakeEos},   {"content", "</s>"}, {"single_word", false},
              {"lstrip", false}, {"rstrip", false},   {"normalized", false},
              {"special", true}};
  return Json{{"version", "1.0"},
              {"truncation", nullptr},
              {"padding", nullptr},
              {"added_tokens", {eos}},
              {"normalizer", nullptr},
              {"pre_tokenizer", byteLevel},
              {"post_processor", nullptr},
              {"decoder", byteLevel},
              {"model",
               {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", false},
                {"vocab", vocabulary},
                {"merges", Json::array()}}}}
      .dump();
}

FakePackage::FakePackage(const FakeLimits &limits,
                         const std::function<void(Json &)> &change) {
  std::string pattern =
      (std::filesystem::temp_directory_path() / "qlm-test-XXXXXX").string();
  folder = mkdtemp(pattern.data());
  std::ifstream module(QLM_FAKE_KERNELS, std::ios::binary);
  std::string code{std::istreambuf_iterator<char>(module), {}};
  std::string weights = safetensors(
      {{"embedding.weight", fakeTable()}, {"lm_head.weight", fakeOutput()}});
  std::string tokenizer = makeTokenizer();
  Json manifest = fakeManifest(limits);
  manifest["target"]["module_bytes"] = code.size();
  manifest["target"]["module_checksum"] = checksumOf(code);
  manifest["weights"]["bytes"] = weights.size();
  manifest["weights"]["checksum"] = checksumOf(weights);
  manifest["files"]["tokenizer.json"] = checksumOf(tokenizer);
  change(manifest);
  write("module.cpu.so", code);
  write("weights.safetensors", weights);
  write("tokenizer.json", tokenizer);
  writeManifest(manifest);
}

FakePackage::~FakePackage() { std::filesystem::remove_all(folder); }

std::string FakePackage::read(const char *name) const {
  std::ifstream stream(file(name), std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void FakePackage::write(const char *name, const std::string &bytes) const {
  // A mapping of the old file must not change under a loaded package.
  std::filesystem::remove(file(name));
  std::ofstream(file(name), std::ios::binary) << bytes;
}

void FakePackage::writeManifest(const Json &manifest) const {
  Json complete = manifest;
  complete["checksum"] = format::kNoChecksum;
  std::string text = complete.dump();
  text.replace(text.find(format::kNoChecksum), 16, checksumOf(text));
  write("manifest.json", text);
}

Json FakePackage::readManifest() const {
  return Json::parse(read("manifest.json"));
}
