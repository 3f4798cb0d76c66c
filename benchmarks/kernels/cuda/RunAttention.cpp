//===- RunAttention.cpp - Checks and times the GPU's attention ------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   qlm-run-cuda-attention DIR [check|time|all]
//
// Runs the cases of DIR/cases.txt (qlm-emit-cuda-attention). Each is first
// compared with attention in double over the values that the cache holds, on a
// ragged step: sequences whose contexts end before, on and after pages and
// tiles. Results are filled with NaN before, unused slots of pages hold NaN,
// pages lie in random order. A timing is a graph of launches over caches that
// exceed L2 together, its median of 20 replays; it goes to DIR/times.json too.
// GB/s count keys and values once, TFLOP/s four operations a feature, head and
// visible key (half of all: causal).
//
//===----------------------------------------------------------------------===//

#include "Device.h"

#include "qlm/Package/Format.h"
#include "qlm/Quantize/Numerics.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>

using namespace qlm::bench;
using namespace qlm::numerics;

namespace {

/// A sequence's rows in a step: its tokens before them, and how many.
struct Rows {
  int64_t first, count;
};

struct Shape {
  explicit Shape(const Case &words);
  int64_t heads, kvHeads, dim, pageTokens, window;
  std::string kv, type;

  int64_t typeBytes() const { return type == "f32" ? 4 : 2; }
  bool hasCodes() const { return kv == "int8" || kv == "fp8"; }
  int64_t elementBytes() const { return hasCodes() ? 1 : 2; }
  int64_t codeBytes() const { return dim * elementBytes() * pageTokens; }
  int64_t headBytes() const {
    return codeBytes() + (hasCodes() ? 4 * pageTokens : 0);
  }
  int64_t pageBytes() const { return 2 * kvHeads * headBytes(); }
  /// Byte of feature \p k of a head's row \p slot (AttentionShape.h).
  int64_t offset(int64_t slot, int64_t k) const;
};

/// A step's data on the device, and keys, values and queries on the host.
class Step {
public:
  Step(Device &device, const Shape &shape, const std::vector<Rows> &sequences,
       bool withValues, uint64_t seed);
  std::vector<Address> arguments(Address cache, Address workspace) const;
  /// Largest difference of a result over the largest one; NaN where a result
  /// is missing.
  double error();

  int64_t rows = 0, pages = 0;
  Address cache = 0, result = 0;

private:
  void makeCache();
  void storeRow(std::vector<uint8_t> &bytes, int64_t page, int64_t slot,
                int64_t kind, int64_t head, float *values) const;
  std::vector<double> reference(int64_t row, int64_t head) const;
  std::vector<float> download() const;
  size_t place(int64_t sequence, int64_t token, int64_t head) const {
    return size_t(((bases[size_t(sequence)] + token) * shape.kvHeads + head) *
                  shape.dim);
  }

  Device &device;
  const Shape &shape;
  std::vector<Rows> sequences;
  std::vector<int32_t> positions, owners, tables;
  std::vector<int64_t> bases; ///< tokens of the sequences before
  std::vector<float> keys, values, queries;
  int64_t maxPages = 1;
  Address query = 0, positionsAt = 0, ownersAt = 0, tablesAt = 0, sizes = 0;
};

/// \p value as \p type holds it.
float rounded(float value, const std::string &type) {
  return type == "bf16" ? fromBFloat16(toBFloat16(value))
                        : fromFloat16(toFloat16(value));
}
uint16_t bitsOf(float value, const std::string &type) {
  return type == "bf16" ? toBFloat16(value) : toFloat16(value);
}

} // namespace

Shape::Shape(const Case &words)
    : heads(words.number("heads", 32)), kvHeads(words.number("kv_heads", 8)),
      dim(words.number("dim", 128)), pageTokens(words.number("page", 64)),
      window(words.number("window")), kv(words.text("kv", "f16")),
      type(words.text("type", "f16")) {}

int64_t Shape::offset(int64_t slot, int64_t k) const {
  int64_t row = dim * elementBytes(), byte = k * elementBytes();
  if (row % 128)
    return slot * row + byte;
  return byte / 128 * pageTokens * 128 + slot * 128 +
         ((byte / 16 ^ slot) & 7) * 16 + byte % 16;
}

Step::Step(Device &device, const Shape &shape,
           const std::vector<Rows> &sequences, bool withValues, uint64_t seed)
    : device(device), shape(shape), sequences(sequences) {
  int64_t tokens = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    Rows own = sequences[s];
    bases.push_back(tokens);
    tokens += own.first + own.count;
    rows += own.count;
    maxPages =
        std::max(maxPages, (own.first + own.count + shape.pageTokens - 1) /
                               shape.pageTokens);
    for (int64_t r = 0; r < own.count; ++r) {
      positions.push_back(int32_t(own.first + r));
      owners.push_back(int32_t(s));
    }
  }
  int64_t used = int64_t(sequences.size()) * maxPages;
  pages = used + 3;
  std::vector<int32_t> order(static_cast<size_t>(pages));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 engine(seed);
  std::shuffle(order.begin(), order.end(), engine);
  tables.assign(order.begin(), order.begin() + used);

  queries = randomNormal(size_t(rows * shape.heads * shape.dim), 1.5f, seed);
  std::vector<uint16_t> bits(queries.size());
  for (size_t i = 0; i < bits.size() && shape.typeBytes() == 2; ++i) {
    bits[i] = bitsOf(queries[i], shape.type);
    queries[i] = rounded(queries[i], shape.type);
  }
  query = shape.typeBytes() == 2 ? device.upload(bits) : device.upload(queries);
  result = device.allocate(queries.size() * size_t(shape.typeBytes()));
  positionsAt = device.upload(positions);
  ownersAt = device.upload(owners);
  tablesAt = device.upload(tables);
  qlm::format::StepSizes stepSizes = {rows, int64_t(sequences.size()),
                                      int64_t(sequences.size()), maxPages};
  sizes = device.upload(&stepSizes, sizeof(stepSizes));
  if (!withValues)
    return;
  auto count = size_t(tokens * shape.kvHeads * shape.dim);
  keys = randomNormal(count, 1, seed + 1);
  values = randomNormal(count, 1, seed + 2);
  makeCache();
}

/// Stores one token's key or value, and leaves in \p values what is stored.
void Step::storeRow(std::vector<uint8_t> &bytes, int64_t page, int64_t slot,
                    int64_t kind, int64_t head, float *values) const {
  uint8_t *own =
      &bytes[size_t(page * shape.pageBytes() +
                    (kind * shape.kvHeads + head) * shape.headBytes())];
  float largest = 0;
  for (int64_t k = 0; k < shape.dim; ++k)
    largest = std::max(largest, std::fabs(values[k]));
  float scale = largest / (shape.kv == "int8" ? 127.0f : 448.0f);
  for (int64_t k = 0; k < shape.dim; ++k) {
    uint8_t *to = own + shape.offset(slot, k);
    if (!shape.hasCodes()) {
      uint16_t bits = bitsOf(values[k], shape.kv);
      std::memcpy(to, &bits, 2);
      values[k] = rounded(values[k], shape.kv);
      continue;
    }
    if (shape.kv == "int8") {
      *to = uint8_t(std::clamp(int(std::lround(values[k] / scale)), -127, 127));
      values[k] = float(int8_t(*to)) * scale;
    } else {
      *to = toFloat8(values[k] / scale);
      values[k] = fromFloat8(*to) * scale;
    }
  }
  if (shape.hasCodes())
    std::memcpy(own + shape.codeBytes() + 4 * slot, &scale, 4);
}

void Step::makeCache() {
  std::vector<uint8_t> bytes(size_t(pages * shape.pageBytes()), 0xff);
  for (size_t s = 0; s < sequences.size(); ++s)
    for (int64_t t = 0; t < sequences[s].first + sequences[s].count; ++t)
      for (int64_t head = 0; head < shape.kvHeads; ++head) {
        int64_t page =
            tables[s * size_t(maxPages) + size_t(t / shape.pageTokens)];
        size_t at = place(int64_t(s), t, head);
        storeRow(bytes, page, t % shape.pageTokens, 0, head, &keys[at]);
        storeRow(bytes, page, t % shape.pageTokens, 1, head, &values[at]);
      }
  cache = device.upload(bytes);
}

std::vector<Address> Step::arguments(Address cache, Address workspace) const {
  return {query,    cache,  positionsAt, ownersAt,
          tablesAt, result, workspace,   sizes};
}

std::vector<double> Step::reference(int64_t row, int64_t head) const {
  int64_t owner = owners[size_t(row)], count = positions[size_t(row)] + 1;
  int64_t first = shape.window ? std::max<int64_t>(0, count - shape.window) : 0;
  int64_t kvHead = head / (shape.heads / shape.kvHeads);
  const float *q = &queries[size_t((row * shape.heads + head) * shape.dim)];
  std::vector<double> weights;
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t t = first; t < count; ++t) {
    const float *key = &keys[place(owner, t, kvHead)];
    double product = 0;
    for (int64_t k = 0; k < shape.dim; ++k)
      product += double(q[k]) * double(key[k]);
    weights.push_back(product / std::sqrt(double(shape.dim)));
    most = std::max(most, weights.back());
  }
  for (double &weight : weights)
    sum += weight = std::exp(weight - most);
  std::vector<double> result(shape.dim, 0.0);
  for (int64_t t = first; t < count; ++t) {
    const float *value = &values[place(owner, t, kvHead)];
    double weight = weights[size_t(t - first)] / sum;
    for (int64_t k = 0; k < shape.dim; ++k)
      result[size_t(k)] += weight * double(value[k]);
  }
  return result;
}

std::vector<float> Step::download() const {
  std::vector<float> values(queries.size());
  if (shape.typeBytes() == 4) {
    device.download(values.data(), result, values.size() * 4);
    return values;
  }
  std::vector<uint16_t> bits(values.size());
  device.download(bits.data(), result, bits.size() * 2);
  for (size_t i = 0; i < bits.size(); ++i)
    values[i] =
        shape.type == "bf16" ? fromBFloat16(bits[i]) : fromFloat16(bits[i]);
  return values;
}

double Step::error() {
  std::vector<float> results = download();
  int64_t items = rows * shape.heads;
  std::vector<double> differences(items, 0.0), sizes(items, 0.0);
  parallelFor(items, [&](int64_t i) {
    std::vector<double> want = reference(i / shape.heads, i % shape.heads);
    for (int64_t k = 0; k < shape.dim; ++k) {
      double value = results[size_t(i * shape.dim + k)];
      double difference = std::fabs(value - want[size_t(k)]);
      // NaN must not get lost.
      if (!(difference <= differences[size_t(i)]))
        differences[size_t(i)] = difference;
      sizes[size_t(i)] = std::max(sizes[size_t(i)], std::fabs(want[size_t(k)]));
    }
  });
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < items; ++i) {
    if (!(differences[size_t(i)] <= worst))
      worst = differences[size_t(i)];
    if (std::isnan(worst))
      return worst;
    largest = std::max(largest, sizes[size_t(i)]);
  }
  return worst / largest;
}

namespace {

/// A case on the device.
class Run : public CaseRun {
public:
  Run(Device &device, const std::string &folder, const Case &words);
  std::string describe() const override;
  bool isTimed() const override { return !words.text("label").empty(); }
  bool check(std::string &said) override;
  Timing time(std::string &said) override;

private:
  bool isDecode() const { return words.text("kernel", "decode") == "decode"; }
  void setGrid(const Step &step);

  Device &device;
  const Case &words;
  Shape shape;
  Kernel kernel;
  Address workspace = 0;
};

/// More than L2 holds.
constexpr double kRotatedBytes = 600e6;

} // namespace

Run::Run(Device &device, const std::string &folder, const Case &words)
    : device(device), words(words), shape(words) {
  std::string name = words.text("name");
  kernel = device.load(folder + "/" + name + ".cubin", name,
                       unsigned(words.number("shared")));
  kernel.threads = unsigned(words.number("threads", 1));
  auto bytes = std::max<size_t>(size_t(words.number("workspace")), 256);
  workspace = device.allocate(bytes);
  device.fill(workspace, 0, bytes);
}

void Run::setGrid(const Step &step) {
  int64_t rows = words.number("rows", 1);
  int64_t tiles = rows ? (step.rows + rows - 1) / rows : 1;
  kernel.gridX = unsigned(tiles * words.number("per_row", 1));
}

bool Run::check(std::string &said) {
  // As many sequences as a kernel for one may take.
  std::vector<std::vector<Rows>> steps = {{{0, 1}}, {{62, 1}}, {{998, 1}}};
  if (!isDecode())
    steps = {{{0, 1}},
             {{0, 64}},
             {{0, 130}, {5, 1}, {63, 2}, {64, 64}, {0, 17}, {200, 129}}};
  else if (words.number("sequences", 16) >= 8)
    // Eight rows: the workspace has room for what the kernel was planned for.
    steps = {{{0, 1}},
             {{0, 1},
              {15, 1},
              {16, 1},
              {63, 1},
              {64, 1},
              {1023, 1},
              {1024, 1},
              {2500, 1}}};
  double worst = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    Step step(device, shape, steps[i], /*withValues=*/true, 7 * (i + 1));
    setGrid(step);
    device.fill(
        step.result, 0xff,
        size_t(step.rows * shape.heads * shape.dim * shape.typeBytes()));
    // Twice: the second must find the workspace's counters as they were.
    for (int k = 0; k < 2; ++k)
      device.launch(kernel, step.arguments(step.cache, workspace));
    device.synchronize();
    double error = step.error();
    if (!(error <= worst))
      worst = error;
  }
  bool isBf16 = shape.kv == "bf16" || shape.type == "bf16";
  bool good = worst < (isBf16 ? 1e-2 : 2e-3);
  char text[80];
  std::snprintf(text, sizeof(text), "error %.1e%s", worst,
                good ? "" : " FAILED");
  said = text;
  return good;
}

Timing Run::time(std::string &said) {
  int64_t sequences = words.number("sequences", 1);
  int64_t context = words.number("context", 512);
  Rows rows = isDecode() ? Rows{context - 1, 1} : Rows{0, context};
  Step step(device, shape, std::vector<Rows>(size_t(sequences), rows),
            /*withValues=*/false, 3);
  setGrid(step);
  auto pool = size_t(step.pages * shape.pageBytes());
  // Halves between 0.5 and 2, or codes and scales of any size.
  std::vector<uint16_t> random(pool / 2);
  std::mt19937 engine(5);
  for (uint16_t &half : random)
    half = uint16_t((engine() & 0x83ff) | 0x3800);
  int sets = std::clamp(int(kRotatedBytes / double(pool)), 1, 64);
  std::vector<Address> caches;
  for (int i = 0; i < sets; ++i)
    caches.push_back(device.upload(random));
  int launches =
      isDecode() ? std::max(sets, 16) : int(words.number("launches", 4));
  auto one = [&](int i) {
    device.launch(kernel, step.arguments(caches[size_t(i % sets)], workspace));
  };
  Device::Times plain = device.timeGraph(launches, one);
  kernel.dependent = true;
  Device::Times dependent = device.timeGraph(launches, one);
  double best = std::min(plain.median, dependent.median);
  double elements = double(sequences * context * shape.kvHeads * 2);
  double bytes = elements * double(shape.dim * shape.elementBytes() +
                                   (shape.hasCodes() ? 4 : 0));
  double pairs =
      isDecode() ? double(context) : double(context) * double(context) / 2;
  double operations = 4.0 * double(sequences * shape.heads * shape.dim) * pairs;
  char text[160];
  std::snprintf(text, sizeof(text),
                "  %8.2f us, dependent %8.2f (%.2f-%.2f)  %5.0f GB/s %6.1f "
                "TFLOP/s",
                plain.median, dependent.median, dependent.low, dependent.high,
                bytes / best * 1e-3, operations / best * 1e-6);
  said += text;
  return {words.text("label"), best, bytes / best * 1e-3,
          operations / best * 1e-6};
}

std::string Run::describe() const {
  char text[120];
  std::snprintf(text, sizeof(text),
                "%-7s %2lld/%-2lld heads of %-3lld %-4s cache, pages of %-3lld "
                "%2lld x %-5lld",
                words.text("kernel", "decode").c_str(), (long long)shape.heads,
                (long long)shape.kvHeads, (long long)shape.dim,
                shape.kv.c_str(), (long long)shape.pageTokens,
                (long long)words.number("sequences", 1),
                (long long)words.number("context"));
  return text;
}

int main(int argc, char **argv) {
  return runCases(
      argc, argv,
      [](Device &device, const std::string &folder, const Case &words, int) {
        return std::make_unique<Run>(device, folder, words);
      });
}
