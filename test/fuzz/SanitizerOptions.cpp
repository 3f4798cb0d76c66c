//===- SanitizerOptions.cpp - AddressSanitizer beside Debian's LLVM -------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//
//
// LLVM's allocators, inlined into our sanitized code, poison memory that the
// unsanitized shared library then uses without unpoisoning it. Poisoning by
// hand and container annotations are therefore off; every other check is on.
//
//===----------------------------------------------------------------------===//

extern "C" const char *__asan_default_options() {
  return "allow_user_poisoning=0:detect_container_overflow=0";
}
