//===- PackageTest.cpp - Damaged packages are refused by name -------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Package.h"

#include "FakeModel.h"
#include "FakePackage.h"
#include "qlm/Runtime/CpuFeatures.h"
#include "qlm/Runtime/Model.h"
#include "gtest/gtest.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

using namespace qlm;
using test::FakePackage;
using test::Json;

static std::string messageOf(const FakePackage &package, bool verify,
                             WeightsMemory memory) {
  Package::Options options;
  options.verifyWeights = verify;
  options.weightsMemory = memory;
  options.threads = 2;
  std::string message =
      Package::load(package.path(), options).status().message();
  // Paths differ from run to run.
  for (size_t at; (at = message.find(package.path())) != std::string::npos;)
    message.replace(at, package.path().size(), "PKG");
  return message;
}

/// What loading says, which is the same wherever the weights are to lie.
static std::string messageOf(const FakePackage &package, bool verify = true) {
  std::string message = messageOf(package, verify, WeightsMemory::Automatic);
  EXPECT_EQ(messageOf(package, verify, WeightsMemory::HugePages), message);
  EXPECT_EQ(messageOf(package, verify, WeightsMemory::Mapped), message);
  return message;
}

/// The output layer's weight, which \p memory of \p package holds.
static const float *outputIn(const MappedMemory &memory,
                             const Package &package) {
  return reinterpret_cast<const float *>(
      memory.data() + package.getTensors().at("lm_head.weight").offset);
}

static bool contains(const std::string &text, const std::string &part) {
  return text.find(part) != std::string::npos;
}

TEST(PackageTest, LoadsAndFindsKernelsAndWeights) {
  FakePackage package;
  Result<std::unique_ptr<Package>> loaded = Package::load(package.path(), {});
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ((*loaded)->getKernels().size(), 5u);
  const float *output = outputIn((*loaded)->weightsMemory(), **loaded);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(output) % 64, 0u);
  EXPECT_TRUE(std::equal(output, output + 32 * 32, test::fakeOutput().begin()));
}

TEST(PackageTest, RefusesWhatIsNotAPackage) {
  EXPECT_EQ(Package::load("/nonexistent", {}).status().message(),
            "/nonexistent: No such file or directory");
  FakePackage package;
  std::filesystem::remove(package.file("manifest.json"));
  EXPECT_EQ(messageOf(package), "PKG: not a package: no manifest.json");
}

TEST(PackageTest, FindsAFlippedByteInEachFile) {
  for (const char *name :
       {"weights.safetensors", "module.cpu.so", "tokenizer.json"}) {
    FakePackage package;
    std::string bytes = package.read(name);
    for (size_t at : {bytes.size() / 2, bytes.size() - 1}) {
      std::string damaged = bytes;
      damaged[at] ^= 4;
      package.write(name, damaged);
      std::string message = messageOf(package);
      EXPECT_TRUE(
          contains(message, std::string("PKG/") + name + ": checksum is ") &&
          contains(message, "the file is damaged"))
          << message;
    }
  }
}

TEST(PackageTest, SkipsTheWeightsChecksumOnlyWhenAsked) {
  FakePackage package;
  std::string bytes = package.read("weights.safetensors");
  bytes.back() ^= 1;
  package.write("weights.safetensors", bytes);
  EXPECT_EQ(messageOf(package, /*verify=*/false), "");
  EXPECT_NE(messageOf(package, /*verify=*/true), "");
}

TEST(PackageTest, RefusesTruncatedAndMissingFiles) {
  for (const char *name : {"weights.safetensors", "module.cpu.so"}) {
    FakePackage package;
    std::string bytes = package.read(name);
    package.write(name, bytes.substr(0, bytes.size() - 100));
    EXPECT_EQ(messageOf(package), std::string("PKG/") + name + ": file has " +
                                      std::to_string(bytes.size() - 100) +
                                      " bytes, the manifest says " +
                                      std::to_string(bytes.size()));
    std::filesystem::remove(package.file(name));
    EXPECT_EQ(messageOf(package),
              std::string("PKG/") + name + ": No such file or directory");
  }
}

TEST(PackageTest, RefusesAWeightsHeaderThatLies) {
  FakePackage package;
  std::string bytes = package.read("weights.safetensors");
  size_t at = bytes.find("\"shape\":[32,32]");
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, 15, "\"shape\":[32,99]");
  package.write("weights.safetensors", bytes);
  EXPECT_TRUE(contains(messageOf(package), "bytes of data for a shape of"));
}

TEST(PackageTest, RefusesAWeightThatIsMissingOrNotAligned) {
  FakePackage missing({}, [](Json &manifest) {
    manifest["launches"][4]["args"][1][1] = "head.weight";
  });
  EXPECT_EQ(messageOf(missing),
            "PKG/weights.safetensors: no tensor 'head.weight', which "
            "'lm_head' reads");
  FakePackage package;
  std::string bytes =
      test::safetensors({{"a", std::vector<float>(32)},
                         {"embedding.weight", test::fakeTable()},
                         {"lm_head.weight", test::fakeOutput()}});
  // The header grows by 4 bytes, and with it every offset.
  bytes[0] = static_cast<char>(bytes[0] + 4);
  bytes.insert(bytes.find('\0', 8), "    ");
  package.write("weights.safetensors", bytes);
  Json manifest = package.readManifest();
  manifest["weights"]["bytes"] = bytes.size();
  manifest["weights"]["checksum"] = test::checksumOf(bytes);
  package.writeManifest(manifest);
  EXPECT_TRUE(contains(messageOf(package), "must be aligned to 64 bytes"))
      << messageOf(package);
}

TEST(PackageTest, RefusesAModuleThatIsNoCodeOrLacksAKernel) {
  FakePackage lacking({}, [](Json &manifest) {
    manifest["launches"][2]["kernel"] = "fake_softmax";
  });
  EXPECT_EQ(messageOf(lacking), "PKG/module.cpu.so: no kernel 'fake_softmax', "
                                "which 'layers.0.attention' runs");
  FakePackage package;
  std::string bytes = "not code";
  package.write("module.cpu.so", bytes);
  Json manifest = package.readManifest();
  manifest["target"]["module_bytes"] = bytes.size();
  manifest["target"]["module_checksum"] = test::checksumOf(bytes);
  package.writeManifest(manifest);
  EXPECT_TRUE(contains(messageOf(package), "cannot load the module: "));
}

TEST(PackageTest, RefusesAProcessorWithoutTheFeatures) {
  FakePackage package({}, [](Json &manifest) {
    manifest["target"]["features"] = {"sse2", "amx-fp128"};
  });
  std::string message = messageOf(package);
  EXPECT_TRUE(contains(message, "needs processor features sse2,amx-fp128"));
  EXPECT_TRUE(contains(message, "this machine has "));
  EXPECT_TRUE(contains(message, "and lacks amx-fp128; recompile it with quantc "
                                "--target-cpu=native"));
}

TEST(PackageTest, RefusesAnotherVersionFirst) {
  FakePackage package({}, [](Json &manifest) {
    manifest["version"] = 7;
    manifest.erase("plan");
  });
  EXPECT_EQ(messageOf(package),
            "PKG/manifest.json: package has version 7, this runtime reads "
            "version 2; recompile it with quantc");
}

TEST(CpuFeaturesTest, AgreesWithTheCompilersOwnProbe) {
  std::vector<std::string> features = machineFeatures();
  EXPECT_TRUE(std::is_sorted(features.begin(), features.end()));
  auto has = [&](const char *name) {
    return std::find(features.begin(), features.end(), name) != features.end();
  };
  EXPECT_EQ(has("avx2"), __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(has("fma"), __builtin_cpu_supports("fma") != 0);
  EXPECT_EQ(has("avx512f"), __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(has("avx512vl"), __builtin_cpu_supports("avx512vl") != 0);
  EXPECT_EQ(has("avx512vnni"), __builtin_cpu_supports("avx512vnni") != 0);
  EXPECT_EQ(has("avx512bf16"), __builtin_cpu_supports("avx512bf16") != 0);
  EXPECT_EQ(has("avx512vbmi"), __builtin_cpu_supports("avx512vbmi") != 0);
}

// What the system says it saves for a process is what it lets it have.
TEST(CpuFeaturesTest, TilesAreAllowedWhereTheyAre) {
  std::vector<std::string> features = machineFeatures();
  bool tiles = std::count(features.begin(), features.end(), "amx-tile") != 0;
  EXPECT_EQ(tiles, __builtin_cpu_supports("amx-tile") != 0);
  EXPECT_LE(std::count(features.begin(), features.end(), "amx-int8"), tiles);
  EXPECT_TRUE(prepareFeatures({"sse3"}).ok());
  Status status = prepareFeatures({"amx-tile"});
  EXPECT_EQ(status.ok(), tiles);
  if (!tiles)
    EXPECT_TRUE(contains(status.message(), "lacks amx-tile"));
}

TEST(MappedMemoryTest, MayBeReadPastItsEnd) {
  FakePackage package;
  package.write("page", std::string(4096, 'p'));
  Result<MappedMemory> memory = MappedMemory::mapFile(package.file("page"));
  ASSERT_TRUE(memory.ok());
  EXPECT_EQ(memory->size(), 4096u);
  volatile char past = memory->data()[4096 + 63];
  EXPECT_EQ(past, 0);
}

TEST(MappedMemoryTest, ReadsAFileByAnyNumberOfThreads) {
  FakePackage package;
  // Parts of 1 MiB, and a rest; none; less than a part; large enough for huge
  // pages.
  for (size_t size : {size_t{0}, size_t{1}, (size_t{3} << 20) + 5,
                      (size_t{9} << 20) + 4097}) {
    std::string bytes(size, 0);
    for (size_t i = 0; i < size; ++i)
      bytes[i] = static_cast<char>(i * 2654435761u >> 13);
    package.write("file", bytes);
    for (int threads : {1, 2, 5}) {
      uint64_t checksum = 0;
      Result<MappedMemory> memory =
          MappedMemory::readFile(package.file("file"), threads, &checksum);
      ASSERT_TRUE(memory.ok()) << memory.status().message();
      ASSERT_EQ(memory->size(), size);
      EXPECT_EQ(memcmp(memory->data(), bytes.data(), size), 0);
      format::Checksum expected;
      expected.update(bytes.data(), size);
      EXPECT_EQ(checksum, expected.finish());
      volatile char past = memory->data()[size + 63];
      EXPECT_EQ(past, 0);
    }
  }
}

TEST(MappedMemoryTest, RefusesWhatIsNoFile) {
  FakePackage package;
  EXPECT_EQ(MappedMemory::readFile("/nonexistent", 2).status().message(),
            "/nonexistent: No such file or directory");
  EXPECT_EQ(MappedMemory::readFile(package.path(), 2).status().message(),
            package.path() + ": not a regular file");
}

TEST(MappedMemoryTest, LargeAllocationsBeginAtAHugePage) {
  constexpr size_t hugePage = size_t{2} << 20;
  for (size_t bytes : {4 * hugePage, 5 * hugePage + 1}) {
    Result<MappedMemory> memory = MappedMemory::allocate(bytes, "a test");
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % hugePage, 0u);
    memory->data()[bytes - 1] = 1;
    EXPECT_TRUE(memory->touch().ok());
    EXPECT_EQ(memory->data()[bytes - 1], 1);
  }
}

static Result<std::unique_ptr<Package>> load(const FakePackage &package,
                                             WeightsMemory memory,
                                             bool copyWhileLoading = false) {
  Package::Options options;
  options.weightsMemory = memory;
  options.copyWhileLoading = copyWhileLoading;
  return Package::load(package.path(), options);
}

// A file that is cut short while a model runs ends the process where it is
// mapped; copied weights stay.
TEST(PackageTest, CopiedWeightsOutliveTheirFile) {
  FakePackage package;
  Result<std::unique_ptr<Package>> loaded =
      load(package, WeightsMemory::HugePages);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_TRUE((*loaded)->areWeightsCopied());
  std::filesystem::resize_file(package.file("weights.safetensors"), 0);
  const float *output = outputIn((*loaded)->weightsMemory(), **loaded);
  EXPECT_TRUE(std::equal(output, output + 32 * 32, test::fakeOutput().begin()));
}

// Loading maps them only; what reads them later finds the copy.
TEST(PackageTest, LateCopyReplacesTheMapping) {
  FakePackage package;
  Result<std::unique_ptr<Package>> loaded = load(package, WeightsMemory::Late);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_FALSE((*loaded)->areWeightsCopied());
  Result<std::unique_ptr<Executor>> executor = Executor::create(**loaded, {});
  ASSERT_TRUE(executor.ok()) << executor.status().message();
  EXPECT_FALSE((*executor)->areWeightsCopied());
  (*executor)->settle();
  EXPECT_TRUE((*executor)->areWeightsCopied());
  std::filesystem::resize_file(package.file("weights.safetensors"), 0);
  const float *output = outputIn((*executor)->weightsMemory(), **loaded);
  EXPECT_TRUE(std::equal(output, output + 32 * 32, test::fakeOutput().begin()));

  // All memory at the start means all of it.
  FakePackage other;
  loaded = load(other, WeightsMemory::Late, /*copyWhileLoading=*/true);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_TRUE((*loaded)->areWeightsCopied());
  EXPECT_FALSE((*loaded)->isCopyDue());
}

TEST(PackageTest, LateCopyOfAChangedFileIsNotUsed) {
  FakePackage package;
  Result<std::unique_ptr<Package>> loaded = load(package, WeightsMemory::Late);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  {
    std::fstream file(package.file("weights.safetensors"),
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('x');
  }
  std::atomic<bool> isCancelled{false};
  EXPECT_TRUE(contains((*loaded)->copyWeights(isCancelled).status().message(),
                       "checksum is "));
  Result<std::unique_ptr<Executor>> executor = Executor::create(**loaded, {});
  ASSERT_TRUE(executor.ok()) << executor.status().message();
  (*executor)->settle();
  EXPECT_FALSE((*executor)->areWeightsCopied());
  isCancelled = true;
  EXPECT_FALSE((*loaded)->copyWeights(isCancelled).ok());
}

TEST(PackageTest, CodeForOtherProcessorsIsRefusedWithBothLists) {
  FakePackage package({}, [](Json &manifest) {
    manifest["target"]["features"] = {"avx2", "no-such-feature"};
  });
  std::string message = messageOf(package);
  EXPECT_TRUE(contains(message, "the package needs processor features avx2,"
                                "no-such-feature, this machine has "))
      << message;
  EXPECT_TRUE(contains(message, " and lacks no-such-feature; recompile it with "
                                "quantc --target-cpu=native"))
      << message;
}
