//===- GpuCalibrationTest.cpp - A calibration whose rows stay on a GPU ----===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "../Runtime/Core/FakeModel.h"
#include "../Runtime/Cuda/CudaPackage.h"
#include "FakeGpuTest.h"
#include "qlm/Calibrate/Calibrate.h"
#include "qlm/Runtime/MappedMemory.h"
#include "qlm/Runtime/TensorTable.h"

#include <cstring>
#include <fstream>
#include <map>

using namespace qlm;
using namespace qlm::test;

namespace {

/// A package that observes its embedded rows, twice.
class GpuCalibrationTest : public FakeGpuTest {
protected:
  static void observe(Json &manifest) {
    Json observe = manifest["launches"][0];
    observe["args"] = Json::array({observe["args"].back()});
    for (Json &variant : observe["variants"]) {
      variant["kernel"] = "gpu_observe";
      variant["grid"]["count"] = 0;
    }
    auto &launches = manifest["launches"];
    for (const char *label : {"first", "second"}) {
      observe["label"] =
          std::string("observe:") + label + ":" + std::to_string(fakeHidden);
      launches.insert(launches.begin() + 1, observe);
    }
  }

  CalibrationOptions getOptions(const std::string &device) const {
    CalibrationOptions options;
    options.package = package.path();
    options.text = package.file("text.txt");
    options.output = package.file(("statistics-" + device).c_str());
    options.threads = 1;
    options.device = device;
    options.cudaDriver = QLM_FAKE_CUDA;
    options.blas = {QLM_FAKE_BLAS};
    return options;
  }

  /// The statistics' tensors as floats, by name.
  static std::map<std::string, std::vector<float>>
  read(const std::string &path) {
    std::map<std::string, std::vector<float>> tensors;
    Result<MappedMemory> file = MappedMemory::mapFile(path);
    EXPECT_TRUE(file.ok()) << path;
    Result<TensorTable> table =
        parseTensorTable(file->data(), file->size(), path);
    EXPECT_TRUE(table.ok());
    for (const auto &[name, entry] : *table) {
      std::vector<float> values(static_cast<size_t>(entry.bytes) / 4);
      std::memcpy(values.data(),
                  static_cast<const char *>(file->data()) + entry.offset,
                  static_cast<size_t>(entry.bytes));
      tensors[name] = values;
    }
    return tensors;
  }

  CudaPackage package{{}, observe};
};

} // namespace

TEST_F(GpuCalibrationTest, RowsOnTheDeviceGiveWhatTheyGiveOnTheHost) {
  package.write("text.txt", "some words of which each letter is a token, so "
                            "that there are windows");
  for (const char *device : {"cpu", "cuda"}) {
    Result<CalibrationSummary> summary = calibrate(getOptions(device));
    ASSERT_TRUE(summary.ok()) << summary.status().message();
    EXPECT_EQ(summary->labels, 2);
    EXPECT_GT(summary->tokens, 2 * 8);
  }
  auto expected = read(getOptions("cpu").output);
  auto actual = read(getOptions("cuda").output);
  ASSERT_EQ(actual.size(), expected.size());
  ASSERT_EQ(expected.size(), 2u * 7);
  for (const auto &[name, values] : expected) {
    ASSERT_EQ(actual[name].size(), values.size()) << name;
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_NEAR(actual[name][i], values[i], 1e-6) << name << " " << i;
  }
  // Each row has one 1: on the diagonal stand the letters' frequencies.
  float sum = 0;
  for (int i = 0; i < fakeHidden; ++i)
    sum += actual["first.second_moments"][i * fakeHidden + i];
  EXPECT_NEAR(sum, 1, 1e-5);
}

TEST_F(GpuCalibrationTest, RowsStayOnTheDevice) {
  package.write("text.txt", std::string(64, 'a'));
  int copies[2];
  for (int onGpu : {0, 1}) {
    int before = fakeCudaCalls("cuMemcpyDtoHAsync_v2");
    ASSERT_TRUE(calibrate(getOptions(onGpu ? "cuda" : "cpu")).ok());
    copies[onGpu] = fakeCudaCalls("cuMemcpyDtoHAsync_v2") - before;
  }
  // Eight windows of two labels, but for the sums of each at the end.
  EXPECT_EQ(copies[0] - copies[1], 8 * 2 - 2 * 2);
}

TEST_F(GpuCalibrationTest, FailuresOfTheDeviceAreTold) {
  package.write("text.txt", std::string(64, 'a'));
  CalibrationOptions options = getOptions("cuda");
  options.blas = {"libmissing.so"};
  EXPECT_EQ(calibrate(options).status().getCode(), StatusCode::Unsupported);
  options = getOptions("cuda");
  options.text = package.file("none.txt");
  EXPECT_FALSE(calibrate(options).ok());
  EXPECT_FALSE(std::ifstream(options.output).good());
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

TEST_F(FakeGpuTest, PackagesOfTheProcessorAreRefused) {
  FakePackage package;
  CalibrationOptions options;
  options.package = package.path();
  options.threads = 1;
  options.device = "cuda";
  options.cudaDriver = QLM_FAKE_CUDA;
  options.blas = {QLM_FAKE_BLAS};
  EXPECT_EQ(calibrate(options).status().message(),
            "device cuda needs a package that was compiled for it");
}
