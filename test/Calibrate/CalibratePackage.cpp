//===- CalibratePackage.cpp - Calibrates a package, for scripts -----------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
//   CalibratePackage PACKAGE TEXT STATISTICS cpu|cuda
//
// What quantc does between two compilations, without the compiler, so that
// scripts/gpu_test.py can do it where only a GPU is.
//
//===----------------------------------------------------------------------===//

#include "qlm/Calibrate/Calibrate.h"

#include <cstdio>

using namespace qlm;

int main(int count, char **arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: %s PACKAGE TEXT STATISTICS cpu|cuda\n",
                 arguments[0]);
    return 2;
  }
  CalibrationOptions options;
  options.package = arguments[1];
  options.text = arguments[2];
  options.output = arguments[3];
  options.device = arguments[4];
  Result<CalibrationSummary> summary = calibrate(options);
  if (summary.ok())
    return 0;
  std::fprintf(stderr, "%s\n", summary.status().message().c_str());
  return 1;
}
