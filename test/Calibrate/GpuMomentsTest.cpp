//===- GpuMomentsTest.cpp - Sums on a GPU, and observers that use them ----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeCuda.h"
#include "Observer.h"
#include "qlm/Calibrate/Calibrate.h"

#include "gtest/gtest.h"

#include <cmath>
#include <random>
#include <thread>
#include <vector>

using namespace qlm;
using namespace qlm::test;

namespace {

std::vector<float> makeRows(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<size_t>(count));
  for (float &value : rows)
    value = normal(random);
  return rows;
}

class GpuMomentsTest : public testing::Test {
protected:
  void SetUp() override { fakeCudaReset(); }
  void TearDown() override {
    EXPECT_STREQ(fakeCudaViolations(), "");
    EXPECT_EQ(fakeCudaLiveObjects(), 0);
    fakeCudaReset();
  }
  static Result<std::unique_ptr<GpuMoments>> open() {
    return GpuMoments::open(QLM_FAKE_CUDA, {"libmissing.so", QLM_FAKE_BLAS});
  }
};

} // namespace

TEST_F(GpuMomentsTest, SumsAreThoseOfFloat64) {
  Result<std::unique_ptr<GpuMoments>> gpu = open();
  ASSERT_TRUE(gpu.ok()) << gpu.status().message();
  // The sums of 530 take more than one piece to fetch.
  for (int64_t features : {1, 7, 33, 530}) {
    Result<GpuMoments::Sums> sums = (*gpu)->makeSums(features);
    ASSERT_TRUE(sums.ok());
    std::vector<double> expected(static_cast<size_t>(features * features));
    unsigned seed = 0;
    for (int64_t count : {5, 1, 19}) {
      std::vector<float> rows = makeRows(count * features, ++seed);
      ASSERT_TRUE((*gpu)->add(*sums, rows.data(), count).ok());
      for (int64_t t = 0; t < count; ++t)
        for (int64_t i = 0; i < features; ++i)
          for (int64_t j = 0; j < features; ++j)
            expected[i * features + j] +=
                static_cast<double>(rows[t * features + i]) *
                rows[t * features + j];
    }
    std::vector<float> actual(expected.size(), NAN);
    ASSERT_TRUE((*gpu)->fetch(*sums, actual.data()).ok());
    for (int64_t i = 0; i < features; ++i)
      for (int64_t j = 0; j <= i; ++j)
        EXPECT_NEAR(actual[i * features + j], expected[i * features + j], 1e-4);
  }
}

TEST_F(GpuMomentsTest, ObserversGiveWhatTheyGiveWithout) {
  Result<std::unique_ptr<GpuMoments>> gpu = open();
  ASSERT_TRUE(gpu.ok());
  constexpr int64_t kFeatures = 40, kRows = 64;
  std::vector<std::vector<float>> results[2];
  for (int onGpu : {0, 1}) {
    LinearObserver observer("layers.0.qkv", kFeatures,
                            onGpu ? gpu->get() : nullptr);
    for (unsigned step = 0; step < 3; ++step) {
      std::vector<float> rows = makeRows(kRows * kFeatures, step);
      observer.reserveRows(kRows);
      observer.put(0, rows.data(), kRows);
      ASSERT_TRUE(observer.addRows().ok());
    }
    ASSERT_TRUE(observer.fetchMoments().ok());
    results[onGpu] = observer.finish();
  }
  ASSERT_EQ(results[0].size(), results[1].size());
  for (size_t i = 0; i < results[0].size(); ++i)
    for (size_t k = 0; k < results[0][i].size(); ++k)
      EXPECT_NEAR(results[0][i][k], results[1][i][k], 1e-5) << i << " " << k;
}

TEST_F(GpuMomentsTest, ThreadsMayShareIt) {
  Result<std::unique_ptr<GpuMoments>> gpu = open();
  ASSERT_TRUE(gpu.ok());
  std::vector<std::thread> threads;
  std::vector<float> found(4);
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      Result<GpuMoments::Sums> sums = (*gpu)->makeSums(1);
      float value = static_cast<float>(i + 1);
      for (int step = 0; sums.ok() && step < 10; ++step)
        (void)(*gpu)->add(*sums, &value, 1);
      (void)(*gpu)->fetch(*sums, &found[i]);
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(found, (std::vector<float>{10, 40, 90, 160}));
}

TEST_F(GpuMomentsTest, WhatIsMissingIsTold) {
  auto noDriver = GpuMoments::open("libmissing.so", {QLM_FAKE_BLAS});
  EXPECT_EQ(noDriver.status().getCode(), StatusCode::Unsupported);
  auto noBlas = GpuMoments::open(QLM_FAKE_CUDA, {"libmissing.so"});
  EXPECT_EQ(noBlas.status().getCode(), StatusCode::Unsupported);
  EXPECT_EQ(noBlas.status().message(),
            "cannot open cuBLAS: none of 1 libraries, the last "
            "'libmissing.so'");
  fakeCudaSetDevices(0);
  EXPECT_EQ(open().status().getCode(), StatusCode::Unsupported);
}

TEST_F(GpuMomentsTest, MemoryThatIsMissingAndLostInputsAreTold) {
  Result<std::unique_ptr<GpuMoments>> gpu = open();
  ASSERT_TRUE(gpu.ok());
  fakeCudaFail("cuMemAlloc_v2", 1, /*error=*/2, /*forever=*/false);
  EXPECT_EQ((*gpu)->makeSums(3).status().getCode(),
            StatusCode::ResourceExhausted);
  LinearObserver observer("o", 2, gpu->get());
  const float rows[] = {1, INFINITY};
  observer.reserveRows(1);
  observer.put(0, rows, 1);
  EXPECT_EQ(observer.addRows().message(), "inputs of o must be finite");
}

TEST(CalibrateTest, DevicesAreNamed) {
  CalibrationOptions options;
  options.device = "tpu";
  EXPECT_EQ(calibrate(options).status().message(),
            "device must be cpu or cuda, got 'tpu'");
  options.device = "cuda";
  options.cudaDriver = "libmissing.so";
  EXPECT_EQ(calibrate(options).status().getCode(), StatusCode::Unsupported);
}
