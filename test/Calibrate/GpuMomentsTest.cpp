//===- GpuMomentsTest.cpp - Sums on a GPU, and observers that use them ----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "FakeGpuTest.h"
#include "FakeObserve.h"
#include "Observer.h"

#include <cmath>
#include <random>
#include <vector>

using namespace qlm;
using namespace qlm::cuda;
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

class GpuMomentsTest : public FakeGpuTest {
protected:
  /// A step's rows, on the device and with a stream of their own.
  class Rows {
  public:
    explicit Rows(int64_t features) : features(features) {
      gpu = Gpu::open(QLM_FAKE_CUDA).take();
      EXPECT_TRUE(gpu->makeCurrent().ok());
      stream = makeStream(*gpu).take();
    }
    Executor::DeviceRows put(const std::vector<float> &values) {
      auto bytes = 4 * static_cast<int64_t>(values.size());
      memory = {};
      memory = allocateDevice(*gpu, bytes, "rows").take();
      auto *target = reinterpret_cast<float *>(memory.get());
      std::copy(values.begin(), values.end(), target);
      int64_t count = static_cast<int64_t>(values.size()) / features;
      auto start = [this, target, count](const std::vector<uint64_t> &buffers) {
        EXPECT_EQ(gpu->getDriver().cuStreamSynchronize(stream.get()), 0);
        void *all[6] = {target};
        EXPECT_EQ(buffers.size(), 5u);
        for (size_t i = 0; i < buffers.size(); ++i)
          all[i + 1] = reinterpret_cast<void *>(buffers[i]);
        observeRows(all, count, features);
        return Status();
      };
      return {0, memory.get(), count, stream.get(), start};
    }

  private:
    int64_t features;
    std::unique_ptr<Gpu> gpu;
    DeviceMemory memory;
    OwnedStream stream;
  };

  static Result<std::unique_ptr<GpuMoments>> open() {
    return GpuMoments::open(QLM_FAKE_CUDA, {"libmissing.so", QLM_FAKE_BLAS});
  }
};

} // namespace

TEST_F(GpuMomentsTest, SumsAreThoseOfFloat64) {
  Result<std::unique_ptr<GpuMoments>> gpu = open();
  ASSERT_TRUE(gpu.ok()) << gpu.status().message();
  // The sums of 2053 take two parts to fetch.
  for (int64_t features : {1, 7, 33, 2053}) {
    Result<GpuMoments::Sums> sums = (*gpu)->makeSums(features, 3);
    ASSERT_TRUE(sums.ok());
    std::vector<double> expected(static_cast<size_t>(features * features));
    unsigned seed = 0;
    Rows rows(features);
    for (int64_t count : {5, 1, 2}) {
      std::vector<float> values = makeRows(count * features, ++seed);
      ASSERT_TRUE((*gpu)->add(*sums, rows.put(values)).ok());
      for (int64_t t = 0; t < count; ++t)
        for (int64_t i = 0; i < features; ++i)
          for (int64_t j = 0; j < features; ++j)
            expected[i * features + j] +=
                0.5 * values[t * features + i] * values[t * features + j];
    }
    std::vector<float> actual(expected.size(), NAN);
    auto take = [&](int64_t first, const float *values, int64_t count) {
      std::copy_n(values, count, actual.begin() + first);
      return Status();
    };
    ASSERT_TRUE((*gpu)->fetchMoments(*sums, 0.5f, take).ok());
    float worst = 0;
    for (size_t i = 0; i < actual.size(); ++i)
      worst = std::max(worst,
                       std::fabs(actual[i] - static_cast<float>(expected[i])));
    EXPECT_LT(worst, 1e-5) << features;
  }
}

TEST_F(GpuMomentsTest, ObserversGiveWhatTheyGiveWithout) {
  Result<std::unique_ptr<GpuMoments>> gpu = open();
  ASSERT_TRUE(gpu.ok());
  constexpr int64_t kFeatures = 40, kRows = 64;
  LinearObserver host("layers.0.qkv", kFeatures);
  LinearObserver device("layers.0.qkv", kFeatures, gpu->get(), /*windows=*/4);
  Rows places(kFeatures);
  for (unsigned step = 0; step < 4; ++step) {
    // Nothing but zeros first; later windows pass the first one's range.
    std::vector<float> rows = makeRows(kRows * kFeatures, step);
    for (float &value : rows)
      value *= static_cast<float>(step);
    host.reserveRows(kRows);
    host.put(0, rows.data(), kRows);
    ASSERT_TRUE(host.addRows().ok());
    ASSERT_TRUE(device.addDeviceRows(places.put(rows)).ok());
  }
  std::vector<float> moments;
  ASSERT_TRUE(
      device
          .fetch([&](int64_t first, const float *values, int64_t count) {
            EXPECT_EQ(first, static_cast<int64_t>(moments.size()));
            moments.insert(moments.end(), values, values + count);
            return Status();
          })
          .ok());
  std::vector<std::vector<float>> expected = host.finish();
  std::vector<std::vector<float>> actual = device.finish();
  ASSERT_EQ(actual.size(), expected.size());
  EXPECT_TRUE(actual[0].empty());
  actual[0] = moments;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(actual[i].size(), expected[i].size()) << i;
    for (size_t k = 0; k < expected[i].size(); ++k)
      ASSERT_NEAR(actual[i][k], expected[i][k], 1e-5) << i << " " << k;
  }
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
  EXPECT_EQ((*gpu)->makeSums(3, 1).status().getCode(),
            StatusCode::ResourceExhausted);
  for (float lost : {INFINITY, -INFINITY, NAN}) {
    LinearObserver observer("o", 2, gpu->get(), /*windows=*/1);
    Rows rows(2);
    ASSERT_TRUE(observer.addDeviceRows(rows.put({1, lost})).ok());
    auto take = [](int64_t, const float *, int64_t) { return Status(); };
    EXPECT_EQ(observer.fetch(take).message(), "inputs of o must be finite");
    LinearObserver onHost("o", 2);
    const float values[] = {1, lost};
    onHost.reserveRows(1);
    onHost.put(0, values, 1);
    EXPECT_EQ(onHost.addRows().message(), "inputs of o must be finite");
  }
}

TEST_F(GpuMomentsTest, WindowsHaveTheirPlaces) {
  Result<std::unique_ptr<GpuMoments>> gpu = open();
  ASSERT_TRUE(gpu.ok());
  LinearObserver observer("o", 2, gpu->get(), /*windows=*/1);
  Rows rows(2);
  ASSERT_TRUE(observer.addDeviceRows(rows.put({1, 2})).ok());
  EXPECT_EQ(observer.addDeviceRows(rows.put({1, 2})).message(),
            "sums have room for 1 windows, got another");
}

TEST_F(GpuMomentsTest, FailuresOnTheWayAreTold) {
  Result<std::unique_ptr<GpuMoments>> gpu = open();
  ASSERT_TRUE(gpu.ok());
  constexpr int64_t kFeatures = 2053; // two parts
  Rows rows(kFeatures);
  auto fetch = [&](const GpuMoments::Sink &sink) {
    Result<GpuMoments::Sums> sums = (*gpu)->makeSums(kFeatures, 1);
    EXPECT_TRUE(sums.ok());
    EXPECT_TRUE((*gpu)->add(*sums, rows.put(makeRows(kFeatures, 1))).ok());
    return (*gpu)->fetchMoments(*sums, 1, sink);
  };
  int parts = 0;
  auto take = [&](int64_t, const float *, int64_t) {
    ++parts;
    return Status();
  };
  for (int nth : {1, 2}) {
    fakeCudaFail("cuMemcpyDtoHAsync_v2", nth, /*error=*/700, false);
    EXPECT_EQ(fetch(take).getCode(), StatusCode::Io);
  }
  EXPECT_EQ(parts, 0);
  // A file that is full.
  auto refuse = [](int64_t, const float *, int64_t) {
    return Status(StatusCode::Io, "cannot write 'x'");
  };
  EXPECT_EQ(fetch(refuse).message(), "cannot write 'x'");
}
