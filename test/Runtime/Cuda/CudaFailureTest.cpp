//===- CudaFailureTest.cpp - One line for what the GPU lacks --------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "CudaPackage.h"
#include "DriverApi.h"
#include "FakeCuda.h"
#include "gtest/gtest.h"

#include <filesystem>

using namespace qlm;
using namespace qlm::test;

namespace {
class CudaFailureTest : public testing::Test {
protected:
  void SetUp() override { fakeCudaReset(); }
  void TearDown() override {
    EXPECT_STREQ(fakeCudaViolations(), "");
    EXPECT_EQ(fakeCudaLiveObjects(), 0);
  }
  /// Generates with a package that loads; the first result.
  static GenerationResult generate(Model &model) {
    Request request;
    request.prompt = {0, 1, 2};
    request.maxNewTokens = 5;
    Result<std::vector<GenerationResult>> results = model.generate({request});
    EXPECT_TRUE(results.ok()) << results.status().message();
    return results->front();
  }
};
} // namespace

#define EXPECT_CONTAINS(text, part)                                            \
  EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST_F(CudaFailureTest, NamesAMissingDriver) {
  CudaPackage package;
  Model::Options options;
  options.cudaDriver = "libno-such-driver.so.1";
  Status status = Model::load(package.path(), options).status();
  EXPECT_EQ(status.getCode(), StatusCode::Unsupported);
  EXPECT_CONTAINS(status.message(), "no CUDA driver: libno-such-driver.so.1");
  EXPECT_CONTAINS(status.message(),
                  "; the package needs an NVIDIA GPU and its driver");
}

TEST_F(CudaFailureTest, NamesALibraryThatIsNoDriver) {
  CudaPackage package;
  Model::Options options;
  options.cudaDriver = "libm.so.6";
  EXPECT_EQ(Model::load(package.path(), options).status().message(),
            "libm.so.6: the CUDA driver has no cuInit; a driver of CUDA 12.0 "
            "or later is needed");
}

TEST_F(CudaFailureTest, NamesAMissingGpu) {
  CudaPackage package;
  fakeCudaSetDevices(0);
  EXPECT_EQ(package.refusal(), "cuInit failed with CUDA_ERROR_NO_DEVICE while "
                               "starting the CUDA driver");
}

TEST_F(CudaFailureTest, NamesAGpuOlderThanTheCode) {
  CudaPackage package;
  fakeCudaSetCapability(75);
  EXPECT_EQ(package.refusal(),
            "the package has code for sm_90a, PTX of sm_80, the GPU is an Fake "
            "GPU of compute capability 7.5; recompile it with quantc --target "
            "cuda:sm_75");
}

TEST_F(CudaFailureTest, TakesPtxForANewerGpu) {
  CudaPackage package;
  fakeCudaSetCapability(100);
  Result<std::unique_ptr<Model>> model = package.load();
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(generate(**model).tokens, (std::vector<int32_t>{3, 4, 5, 6, 7}));
}

TEST_F(CudaFailureTest, NamesADriverOlderThanThePtx) {
  CudaPackage package;
  fakeCudaSetCapability(100);
  fakeCudaSetVersion(12020);
  EXPECT_EQ(package.refusal(), "the package's PTX needs a driver of CUDA 12.3 "
                               "or later, the driver is of 12.2");
}

TEST_F(CudaFailureTest, RefusesAPlanThatDoesNotFitBeforeTakingAnyOfIt) {
  CudaPackage package;
  fakeCudaSetMemory(64 << 20);
  EXPECT_CONTAINS(package.refusal(), "the plan takes 67.2 MB of GPU memory "
                                     "(weights 0.0 MB, KV cache 0.0 MB");
  EXPECT_CONTAINS(package.refusal(),
                  "the Fake GPU has 67.1 MB free of 67.1 MB; recompile it with "
                  "quantc --max-batch or --max-context lower");
  EXPECT_EQ(fakeCudaCalls("cuMemAlloc_v2"), 0);
}

TEST_F(CudaFailureTest, NamesAKernelThatTakesTooMuchSharedMemory) {
  CudaPackage package;
  fakeCudaSetSharedBytes(50000);
  EXPECT_EQ(package.refusal(),
            "kernel 'gpu_attend' takes 60000 bytes of shared memory, a block "
            "of the GPU has 50000");
}

TEST_F(CudaFailureTest, NamesAMissingKernel) {
  CudaPackage package({}, [](Json &manifest) {
    manifest["launches"][1]["variants"][1]["kernel"] = "gpu_nothing";
  });
  EXPECT_CONTAINS(package.refusal(), "module.sm_90a.cubin: no kernel "
                                     "'gpu_nothing', which 'layers.0.append' "
                                     "runs");
}

TEST_F(CudaFailureTest, NamesPagesThatAreNotAligned) {
  CudaPackage package(
      {}, [](Json &manifest) { manifest["plan"]["kv"]["page_bytes"] = 1000; });
  EXPECT_CONTAINS(package.refusal(), "plan.kv.page_bytes must be a multiple "
                                     "of 256 on cuda, is 1000");
}

TEST_F(CudaFailureTest, NamesDamagedFiles) {
  CudaPackage package;
  std::string cubin = package.read("module.sm_90a.cubin");
  cubin[cubin.size() / 2] ^= 1;
  package.write("module.sm_90a.cubin", cubin);
  EXPECT_CONTAINS(package.refusal(), "module.sm_90a.cubin: checksum is ");
  std::filesystem::remove(package.file("module.sm_90a.cubin"));
  EXPECT_CONTAINS(package.refusal(), "module.sm_90a.cubin: No such file");

  CudaPackage other;
  std::string weights = other.read("weights.safetensors");
  weights.back() ^= 1;
  other.write("weights.safetensors", weights);
  EXPECT_CONTAINS(other.refusal(), "weights.safetensors: checksum is ");
  EXPECT_CONTAINS(other.refusal(), "the file is damaged");
}

TEST_F(CudaFailureTest, SkipsTheChecksumWhenTold) {
  CudaPackage package;
  std::string weights = package.read("weights.safetensors");
  weights.back() ^= 1;
  package.write("weights.safetensors", weights);
  Model::Options options;
  options.cudaDriver = QLM_FAKE_CUDA;
  options.verifyWeights = false;
  EXPECT_TRUE(Model::load(package.path(), options).ok());
}

TEST_F(CudaFailureTest, EndsRequestsWhenTheGpuIsLost) {
  CudaPackage package;
  Result<std::unique_ptr<Model>> model = package.load();
  ASSERT_TRUE(model.ok()) << model.status().message();
  fakeCudaFail("cuStreamSynchronize", 2, cuda::kIllegalAddress, true);
  for (int i = 0; i < 2; ++i) {
    GenerationResult result = generate(**model);
    EXPECT_EQ(result.reason, FinishReason::Error);
    EXPECT_EQ(result.status.getCode(), StatusCode::Io);
    EXPECT_EQ(result.status.message(),
              "cuStreamSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS "
              "while waiting for a step");
  }
}

TEST_F(CudaFailureTest, NamesTheLaunchThatFails) {
  CudaPackage package;
  Result<std::unique_ptr<Model>> model = package.load();
  ASSERT_TRUE(model.ok()) << model.status().message();
  fakeCudaFail("cuLaunchKernelEx", 3, 719, false);
  GenerationResult result = generate(**model);
  EXPECT_EQ(result.status.message(),
            "cuLaunchKernelEx failed with error 719 while starting "
            "'layers.0.attention' (gpu_attend)");
  EXPECT_TRUE(generate(**model).status.ok()) << "the next request is served";
}

namespace {
/// Each call of the driver fails once, wherever it is made.
class EveryCallFails : public CudaFailureTest,
                       public testing::WithParamInterface<const char *> {};
} // namespace

TEST_P(EveryCallFails, WithAMessageAndNoLeak) {
  CudaPackage package;
  int failures = 0;
  for (int nth = 1;; ++nth) {
    fakeCudaReset();
    fakeCudaFail(GetParam(), nth, 999, false);
    std::string message;
    {
      Result<std::unique_ptr<Model>> model = package.load();
      message = model.ok() ? generate(**model).status.message()
                           : model.status().message();
    }
    EXPECT_STREQ(fakeCudaViolations(), "") << "call " << nth;
    EXPECT_EQ(fakeCudaLiveObjects(), 0) << "call " << nth;
    if (fakeCudaCalls(GetParam()) < nth)
      break;
    // A call in a destructor has nobody to tell.
    if (message.empty())
      continue;
    ++failures;
    std::string name = GetParam();
    name = name.substr(0, name.find("_v2"));
    name = name.substr(0, name.find("WithFlags"));
    EXPECT_EQ(message.rfind(name, 0), 0u) << message;
    EXPECT_CONTAINS(message, " failed with error 999 while ");
  }
  EXPECT_GT(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Calls, EveryCallFails,
    testing::Values(
        "cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet",
        "cuDeviceGetName", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain",
        "cuMemGetInfo_v2", "cuMemAlloc_v2", "cuMemAllocHost_v2",
        "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemsetD8Async",
        "cuStreamCreate", "cuStreamSynchronize", "cuStreamBeginCapture_v2",
        "cuStreamEndCapture", "cuEventCreate", "cuEventRecord",
        "cuEventSynchronize", "cuModuleLoadDataEx", "cuModuleGetFunction",
        "cuFuncSetAttribute", "cuLaunchKernelEx", "cuGraphInstantiateWithFlags",
        "cuGraphUpload", "cuGraphLaunch"));
