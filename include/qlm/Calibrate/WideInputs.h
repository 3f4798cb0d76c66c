//===- WideInputs.h - Inputs that a static scale spoils ---------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_CALIBRATE_WIDEINPUTS_H
#define QLM_CALIBRATE_WIDEINPUTS_H

#include "qlm/Runtime/Status.h"

#include <string>
#include <vector>

namespace qlm {

/// The inputs of one linear, and how many steps of int8 its values take.
struct WideInput {
  std::string label; ///< "layers.0.down"
  double largest;    ///< magnitude
  double mean;       ///< magnitude
};

/// Linears of \p statistics, a calibration's file, whose largest input is more
/// than 127 times the mean magnitude: with one int8 scale for all, a step is
/// larger than most values, which become 0. The worst first.
/// Errors: NotFound, Io, Corrupt.
Result<std::vector<WideInput>> findWideInputs(const std::string &statistics);

} // namespace qlm

#endif // QLM_CALIBRATE_WIDEINPUTS_H
