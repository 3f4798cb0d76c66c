//===- CudaPackage.cpp - The fake package, for a GPU ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CudaPackage.h"

#include "../Core/FakeModel.h"

#include <fstream>
#include <iterator>

using namespace qlm;
using namespace qlm::test;

static const std::string ptx = std::string("// ptx ") + QLM_FAKE_GPU_KERNELS;

std::string test::fakeCubin() {
  std::ifstream stream(QLM_FAKE_GPU_KERNELS, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

static Json tiles(int64_t count, const char *size) {
  return {{"count", count}, {"size", size}, {"block", 1}};
}

/// Two variants: one for steps of few rows in which all decode, one for all.
static Json variants(const std::string &kernel, const Json &grid,
                     int64_t sharedBytes) {
  Json many = {{"kernel", kernel},     {"max_rows", 1 << 20},
               {"decode_only", false}, {"grid", grid},
               {"block_threads", 128}, {"shared_bytes", sharedBytes},
               {"cluster", 1},         {"dependent", false}};
  Json few = many;
  few["max_rows"] = 2;
  few["decode_only"] = true;
  few["dependent"] = true;
  return Json::array({few, many});
}

/// Turns a launch of the processor's manifest into one of a GPU's.
static void toCuda(Json &launch, int64_t bufferBytes, int64_t oldBytes) {
  std::string kernel = launch["kernel"].get<std::string>();
  std::string size = launch["tiles"]["size"].get<std::string>();
  int64_t shared = kernel == "fake_attend" ? 60000 : 0;
  launch["rows"] = kernel == "fake_project" ? "logit_rows" : size;
  launch["variants"] =
      variants("gpu" + kernel.substr(4),
               tiles(launch["tiles"]["count"], size.c_str()), shared);
  launch.erase("kernel");
  launch.erase("tiles");
  for (Json &argument : launch["args"])
    if (argument[0] == "arena")
      argument[1] = argument[1].get<int64_t>() / oldBytes * bufferBytes;
}

static void makeCuda(Json &manifest) {
  Json &plan = manifest["plan"];
  int64_t oldBytes = plan["arena_bytes"].get<int64_t>() / 3;
  int64_t bufferBytes = (oldBytes + 255) / 256 * 256;
  plan["arena_bytes"] = 3 * bufferBytes;
  plan["workspace_bytes"] = 512;
  plan.erase("scratch_bytes");
  for (Json &launch : manifest["launches"])
    toCuda(launch, bufferBytes, oldBytes);
  manifest["sampling"] = Json::array(
      {{{"label", "sample"},
        {"rows", "logit_rows"},
        {"variants", variants("gpu_sample", tiles(1, "logit_rows"), 0)},
        {"args",
         Json::array({Json::array({"logits", 0}), Json::array({"sampling", 0}),
                      Json::array({"sampled", 0}), Json::array({"step", 0})})},
        {"bytes", 0},
        {"flops_per_row", 0}}});
  std::string cubin = fakeCubin();
  manifest["target"] = {{"kind", "cuda"},
                        {"chips",
                         {{{"chip", "sm_90a"},
                           {"file", "module.sm_90a.cubin"},
                           {"checksum", checksumOf(cubin)},
                           {"bytes", cubin.size()}}}},
                        {"ptx",
                         {{"chip", "sm_80"},
                          {"version", 83},
                          {"file", "module.ptx"},
                          {"checksum", checksumOf(ptx)},
                          {"bytes", ptx.size()}}}};
}

CudaPackage::CudaPackage(const FakeLimits &limits,
                         const std::function<void(Json &)> &change)
    : FakePackage(limits, [&](Json &manifest) {
        makeCuda(manifest);
        change(manifest);
      }) {
  write("module.sm_90a.cubin", fakeCubin());
  write("module.ptx", ptx);
}

Result<std::unique_ptr<Model>> CudaPackage::load() const {
  Model::Options options;
  options.threads = 2;
  options.cudaDriver = QLM_FAKE_CUDA;
  return Model::load(path(), options);
}

std::string CudaPackage::refusal() const {
  Result<std::unique_ptr<Model>> model = load();
  return model.status().message();
}
