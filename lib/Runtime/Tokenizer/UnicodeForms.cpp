//===- UnicodeForms.cpp - Normal forms and lower case ---------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/Tokenizer/Normalizer.h"
#include "qlm/Runtime/Tokenizer/Utf8.h"

#include <algorithm>
#include <tuple>
#include <utf8proc.h>

namespace qlm::tokenizer {

/// utf8proc orders marks by exchanging neighbours, which takes quadratic time
/// on a long run; here each run is sorted instead.
static void orderMarks(std::vector<utf8proc_int32_t> &scalars) {
  auto markClass = [](utf8proc_int32_t scalar) {
    return scalar < 0x300 ? 0 : utf8proc_get_property(scalar)->combining_class;
  };
  for (size_t i = 0; i < scalars.size();) {
    if (!markClass(scalars[i])) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < scalars.size() && markClass(scalars[end]))
      ++end;
    // The position as second key keeps equal classes in their order.
    std::vector<std::tuple<int, size_t, utf8proc_int32_t>> run;
    for (size_t k = i; end - i > 1 && k < end; ++k)
      run.emplace_back(markClass(scalars[k]), k, scalars[k]);
    std::sort(run.begin(), run.end());
    for (size_t k = 0; k < run.size(); ++k)
      scalars[i + k] = std::get<2>(run[k]);
    i = end;
  }
}

Status normalizeUnicode(std::string_view text, NormalForm form,
                        std::string &out) {
  if (isAscii(text)) {
    out += text;
    return Status();
  }
  bool compatible = form == NormalForm::Nfkc || form == NormalForm::Nfkd;
  bool compose = form == NormalForm::Nfc || form == NormalForm::Nfkc;
  auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));

  std::vector<utf8proc_int32_t> scalars;
  scalars.reserve(text.size());
  // The longest decomposition of one character has 18 (U+FDFA).
  utf8proc_int32_t buffer[32];
  for (size_t i = 0; i < text.size();) {
    auto scalar = static_cast<utf8proc_int32_t>(nextScalar(text, i));
    if (scalar < 0x80) {
      scalars.push_back(scalar);
      continue;
    }
    int boundary = 0;
    utf8proc_ssize_t count =
        utf8proc_decompose_char(scalar, buffer, 32, options, &boundary);
    if (count < 0 || count > 32)
      return Status(StatusCode::Internal,
                    "cannot decompose character " + std::to_string(scalar));
    scalars.insert(scalars.end(), buffer, buffer + count);
  }
  orderMarks(scalars);
  auto count = static_cast<utf8proc_ssize_t>(scalars.size());
  if (compose)
    count = utf8proc_normalize_utf32(
        scalars.data(), count,
        static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  if (count < 0)
    return Status(StatusCode::Internal, utf8proc_errmsg(count));
  for (utf8proc_ssize_t i = 0; i < count; ++i)
    appendScalar(out, static_cast<char32_t>(scalars[i]));
  return Status();
}

void lowercase(std::string_view text, std::string &out) {
  for (size_t i = 0; i < text.size();) {
    char32_t scalar = nextScalar(text, i);
    if (scalar < 0x80)
      out.push_back(scalar >= 'A' && scalar <= 'Z'
                        ? static_cast<char>(scalar + ('a' - 'A'))
                        : static_cast<char>(scalar));
    else if (scalar == 0x130) // the one mapping to two characters
      out += "i\xCC\x87";
    else
      appendScalar(out, static_cast<char32_t>(utf8proc_tolower(
                            static_cast<utf8proc_int32_t>(scalar))));
  }
}

} // namespace qlm::tokenizer
