//===- Arguments.cpp - Command line of quant-run --------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "Arguments.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

using namespace qlm::tool;

static bool parseInteger(const std::string &text, int64_t &value) {
  char *end;
  errno = 0;
  value = std::strtoll(text.c_str(), &end, 10);
  return !text.empty() && text[0] != ' ' && *end == '\0' && errno == 0;
}

void Arguments::flag(const char *name, bool &value, const char *help) {
  options.push_back({name, help, /*takesValue=*/false,
                     [&value](const std::string &) { return value = true; },
                     ""});
}

void Arguments::integer(const char *name, int64_t &value, const char *help) {
  options.push_back(
      {name, help, /*takesValue=*/true,
       [&value](const std::string &text) { return parseInteger(text, value); },
       "a whole number"});
}

void Arguments::seed(const char *name, uint64_t &value, const char *help) {
  options.push_back({name, help, /*takesValue=*/true,
                     [&value](const std::string &text) {
                       char *end;
                       errno = 0;
                       value = std::strtoull(text.c_str(), &end, 10);
                       return !text.empty() && text[0] >= '0' &&
                              text[0] <= '9' && *end == '\0' && errno == 0;
                     },
                     "a whole number"});
}

void Arguments::number(const char *name, float &value, const char *help) {
  options.push_back({name, help, /*takesValue=*/true,
                     [&value](const std::string &text) {
                       char *end;
                       value = std::strtof(text.c_str(), &end);
                       return !text.empty() && *end == '\0';
                     },
                     "a number"});
}

void Arguments::text(const char *name, std::string &value, const char *help) {
  options.push_back({name, help, /*takesValue=*/true,
                     [&value](const std::string &text) {
                       value = text;
                       return true;
                     },
                     "text"});
}

void Arguments::texts(const char *name, std::vector<std::string> &values,
                      const char *help) {
  options.push_back({name, help, /*takesValue=*/true,
                     [&values](const std::string &text) {
                       values.push_back(text);
                       return true;
                     },
                     "text"});
}

void Arguments::integers(const char *name, std::vector<int64_t> &values,
                         const char *help) {
  options.push_back(
      {name, help, /*takesValue=*/true,
       [&values](const std::string &text) {
         values.clear();
         for (size_t i = 0; i <= text.size();) {
           size_t end = std::min(text.find(',', i), text.size());
           values.push_back(0);
           if (!parseInteger(text.substr(i, end - i), values.back()))
             return false;
           i = end + 1;
         }
         return true;
       },
       "whole numbers with commas between"});
}

void Arguments::printHelp() const {
  std::printf("usage: quant-run %s %s [options]\n\n%s\n\noptions:\n",
              command.c_str(), operands.c_str(), summary.c_str());
  for (const Option &option : options)
    std::printf("  %-22s %s\n", option.name.c_str(), option.help);
}

int Arguments::wrongUsage(const std::string &what) const {
  std::fprintf(stderr, "quant-run %s: error: %s (see quant-run %s --help)\n",
               command.c_str(), what.c_str(), command.c_str());
  return exitWrongUsage;
}

/// Sets the option \p name, whose value may be the next argument. Returns what
/// is wrong, or nothing.
std::string Arguments::set(const std::string &name,
                           const std::string *inlineValue, int argc,
                           char **argv, int &index) const {
  for (const Option &option : options) {
    if (option.name != name)
      continue;
    if (!option.takesValue)
      return inlineValue ? name + " takes no value"
                         : (option.set(""), std::string());
    if (!inlineValue && index + 1 >= argc)
      return name + " takes " + option.kind;
    std::string value = inlineValue ? *inlineValue : argv[++index];
    return option.set(value)
               ? ""
               : name + " takes " + option.kind + ", got '" + value + "'";
  }
  return "unknown option " + name;
}

bool Arguments::parse(int argc, char **argv, std::string &package,
                      int &exitCode) const {
  std::vector<std::string> found;
  for (int i = 0; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--help" || word == "-h") {
      printHelp();
      exitCode = exitSuccess;
      return false;
    }
    if (word.size() < 2 || word[0] != '-') {
      found.push_back(word);
      continue;
    }
    size_t equals =
        word.rfind("--", 0) == 0 ? word.find('=') : std::string::npos;
    std::string value =
        equals == std::string::npos ? "" : word.substr(equals + 1);
    std::string wrong =
        set(word.substr(0, equals),
            equals == std::string::npos ? nullptr : &value, argc, argv, i);
    if (!wrong.empty()) {
      exitCode = wrongUsage(wrong);
      return false;
    }
  }
  if (found.size() != 1) {
    exitCode =
        wrongUsage(found.empty() ? "no package given"
                                 : "unexpected operand '" + found[1] + "'");
    return false;
  }
  package = found[0];
  return true;
}

int qlm::tool::badInput(const std::string &message) {
  std::fprintf(stderr, "quant-run: error: %s\n", message.c_str());
  return exitBadInput;
}
