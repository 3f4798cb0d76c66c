//===- ManifestLaunches.cpp - Launches in a manifest ----------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "ManifestLaunches.h"

#include <iterator>

using namespace qlm;
using tokenizer::Json;

/// Names of LaunchArgumentKind, in its order.
static constexpr const char *argumentNames[] = {
    "weight", "arena",     "step",     "cache",
    "logits", "workspace", "sampling", "sampled"};

/// Names of TileSize, in its order.
static constexpr const char *sizeNames[] = {"one", "tokens", "sequences",
                                            "logit_rows"};

int64_t qlm::sizeOf(TileSize which, const format::StepSizes &sizes) {
  switch (which) {
  case TileSize::One:
    return 1;
  case TileSize::Tokens:
    return sizes.tokens;
  case TileSize::Sequences:
    return sizes.sequences;
  case TileSize::LogitRows:
    return sizes.logitRows;
  }
  return 0;
}

int64_t qlm::countTiles(const Tiles &tiles, const format::StepSizes &sizes) {
  int64_t size = sizeOf(tiles.size, sizes);
  return tiles.count * ((size + tiles.block - 1) / tiles.block);
}

static LaunchArgument readArgument(FieldReader &reader) {
  LaunchArgument argument;
  const Json &pair = *reader;
  if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string()) {
    reader.fail("must be [kind, value]");
    return argument;
  }
  const std::string &kind = pair[0].get_ref<const std::string &>();
  size_t index = 0;
  while (index < std::size(argumentNames) && kind != argumentNames[index])
    ++index;
  if (index == std::size(argumentNames)) {
    reader.fail("kind '" + kind +
                "' is not weight, arena, step, cache, logits, workspace, "
                "sampling or sampled");
    return argument;
  }
  argument.kind = static_cast<LaunchArgumentKind>(index);
  if (argument.kind == LaunchArgumentKind::Weight) {
    if (pair[1].is_string())
      argument.key = pair[1].get<std::string>();
    else
      reader.fail("the key of a weight must be a string");
    return argument;
  }
  if (!pair[1].is_number_unsigned() ||
      pair[1].get<uint64_t>() > static_cast<uint64_t>(maxBytes)) {
    reader.fail("'" + kind + "' takes a whole number, is " + pair[1].dump());
    return argument;
  }
  argument.value = pair[1].get<int64_t>();
  return argument;
}

static TileSize readSize(FieldReader &reader, const char *key) {
  std::string name = reader.string(key);
  for (size_t i = 0; i < std::size(sizeNames); ++i)
    if (name == sizeNames[i])
      return static_cast<TileSize>(i);
  reader.fail(std::string(key) + " '" + name +
              "' is not one, tokens, sequences or logit_rows");
  return TileSize::One;
}

static Tiles readTiles(FieldReader reader, int64_t leastCount) {
  Tiles tiles;
  tiles.count = reader.integer("count", leastCount, maxDimension);
  tiles.block = reader.integer("block", 1, maxDimension);
  tiles.size = readSize(reader, "size");
  return tiles;
}

static LaunchVariant readVariant(FieldReader &reader) {
  LaunchVariant variant;
  variant.kernel = reader.string("kernel");
  if (reader.has("chip"))
    variant.chip = reader.string("chip");
  variant.maxRows = reader.integer("max_rows", 1, maxDimension);
  variant.isDecodeOnly = reader.boolean("decode_only");
  variant.grid = readTiles(reader.object("grid"), /*leastCount=*/0);
  if (reader.has("grid_y"))
    variant.gridY = readTiles(reader.object("grid_y"), /*leastCount=*/1);
  variant.blockThreads = reader.integer("block_threads", 1, 1024);
  variant.sharedBytes = reader.integer("shared_bytes", 0, 1 << 20);
  variant.cluster = reader.integer("cluster", 1, 16);
  variant.isDependent = reader.boolean("dependent");
  return variant;
}

static Launch readLaunch(FieldReader &reader, bool isCuda) {
  Launch launch;
  launch.label = reader.string("label");
  if (isCuda) {
    launch.rows = readSize(reader, "rows");
    for (FieldReader &variant : reader.list("variants"))
      launch.variants.push_back(readVariant(variant));
    if (reader.ok() && launch.variants.empty())
      reader.fail("has no variants");
    if (reader.ok())
      launch.kernel = launch.variants[0].kernel;
  } else {
    launch.kernel = reader.string("kernel");
    launch.tiles = readTiles(reader.object("tiles"), /*leastCount=*/1);
  }
  for (FieldReader &argument : reader.list("args"))
    launch.arguments.push_back(readArgument(argument));
  launch.bytes = reader.integer("bytes", 0, maxBytes);
  launch.flopsPerRow = reader.integer("flops_per_row", 0, INT64_MAX);
  return launch;
}

std::vector<Launch> qlm::readLaunches(FieldReader &reader, const char *key,
                                      bool isCuda) {
  std::vector<Launch> launches;
  for (FieldReader &launch : reader.list(key)) {
    launches.push_back(readLaunch(launch, isCuda));
    if (!reader.ok())
      break;
  }
  return launches;
}

std::optional<std::pair<std::string, int64_t>>
qlm::parseObserveLabel(const std::string &label) {
  size_t prefix = std::string(format::kObservePrefix).size();
  size_t colon = label.rfind(':');
  if (label.compare(0, prefix, format::kObservePrefix) != 0 || colon < prefix ||
      label.size() - colon - 1 > 9)
    return std::nullopt;
  int64_t features = 0;
  for (char c : label.substr(colon + 1)) {
    if (c < '0' || c > '9')
      return std::nullopt;
    features = 10 * features + (c - '0');
  }
  if (features == 0)
    return std::nullopt;
  return std::pair(label.substr(prefix, colon - prefix), features);
}
