//===- WideInputs.cpp - Inputs that a static scale spoils -----------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Calibrate/WideInputs.h"

#include "qlm/Runtime/MappedMemory.h"
#include "qlm/Runtime/TensorTable.h"

#include <algorithm>
#include <cstring>

using namespace qlm;

/// Codes of int8 on one side of 0.
static constexpr double kSteps = 127;

/// The f32 elements at \p entry; copied, since nothing aligns them.
static std::vector<float> readFloats(const MappedMemory &file,
                                     const TensorEntry &entry) {
  std::vector<float> values(static_cast<size_t>(entry.bytes) / sizeof(float));
  std::memcpy(values.data(),
              static_cast<const char *>(file.data()) + entry.offset,
              values.size() * sizeof(float));
  return values;
}

Result<std::vector<WideInput>>
qlm::findWideInputs(const std::string &statistics) {
  Result<MappedMemory> file = MappedMemory::mapFile(statistics);
  if (!file.ok())
    return file.status();
  Result<TensorTable> table =
      parseTensorTable(file->data(), file->size(), statistics);
  if (!table.ok())
    return table.status();
  std::vector<WideInput> found;
  const std::string suffix = ".absmax";
  for (const auto &[name, entry] : *table) {
    if (name.size() <= suffix.size() ||
        name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0)
      continue;
    std::string label = name.substr(0, name.size() - suffix.size());
    auto means = table->find(label + ".mean_magnitude");
    if (means == table->end() || means->second.bytes == 0)
      continue;
    WideInput input{label, 0, 0};
    for (float value : readFloats(*file, entry))
      input.largest = std::max<double>(input.largest, value);
    std::vector<float> columns = readFloats(*file, means->second);
    for (float value : columns)
      input.mean += value / static_cast<double>(columns.size());
    if (input.largest > kSteps * input.mean)
      found.push_back(std::move(input));
  }
  std::sort(found.begin(), found.end(),
            [](const WideInput &a, const WideInput &b) {
              double left = a.largest * b.mean, right = b.largest * a.mean;
              return left != right ? left > right : a.label < b.label;
            });
  return found;
}
