//===- Accuracy.h - How near a package is to a reference --------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// A text's tokens are cut into windows that don't overlap. Each window is fed
// behind one begin-of-sequence token, so that every token of the text is scored
// once, predicted from those before it in the window. A model without such a
// token can't predict the first one of a window, which isn't scored then.
//
//   perplexity      = exp(mean of -log p(token))
//   kl              = mean over positions of sum_v q(v) (log q(v) - log p(v)),
//                     q the reference's probabilities, p this package's
//   top1_agreement  = part of positions where both find the same token
//                     likeliest
//   layer error     = |x - r| / |r| over all rows that a label's observers saw
//                     in both packages, x of this one, r of the reference
//
//===----------------------------------------------------------------------===//

#ifndef QLM_CALIBRATE_ACCURACY_H
#define QLM_CALIBRATE_ACCURACY_H

#include "qlm/Runtime/Model.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace qlm {

struct Accuracy {
  double perplexity = 0;
  double kl = 0;            ///< 0 without a reference
  double top1Agreement = 0; ///< 0 without a reference
  int64_t positions = 0;
  /// Labels and errors, in the order of launches; empty unless asked for.
  std::vector<std::pair<std::string, double>> layerErrors;
};

struct AccuracyOptions {
  int64_t window = 256; ///< tokens, at least 2
  bool layers = false;  ///< find layer errors: both packages with observers
  /// Gets the tokens done, of all; may be empty.
  std::function<void(int64_t, int64_t)> progress;
};

/// Measures \p model on \p tokens, against \p reference unless null.
/// Errors: InvalidArgument (a window above a context, other vocabularies, no
/// observers of one label), Internal (logits that are not finite), and those
/// of Model::logits.
Result<Accuracy> measureAccuracy(Model &model, Model *reference,
                                 const std::vector<int32_t> &tokens,
                                 const AccuracyOptions &options);

} // namespace qlm

#endif // QLM_CALIBRATE_ACCURACY_H
