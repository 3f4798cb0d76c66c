//===- CApi.h - What the C interface's files share --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_CAPI_H
#define QLM_LIB_RUNTIME_CAPI_H

#include "qlm/Runtime/Model.h"
#include "qlm/Runtime/qlm.h"

struct qlm_model {
  std::shared_ptr<qlm::Model> model;
};

namespace qlm::capi {

/// A copy that qlm_string_free frees.
char *copyString(const std::string &text);
/// Sets *\p error, if wanted, and returns the status as C has it.
qlm_status report(const Status &status, char **error);
qlm_finish_reason toReason(FinishReason reason);
/// Copies all that \p source points to, but callbacks and their data.
Result<Request> makeRequest(const Model &model, const qlm_request &source);

} // namespace qlm::capi

#endif // QLM_LIB_RUNTIME_CAPI_H
