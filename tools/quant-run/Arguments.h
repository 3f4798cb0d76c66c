//===- Arguments.h - Command line of quant-run ------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TOOLS_QUANT_RUN_ARGUMENTS_H
#define QLM_TOOLS_QUANT_RUN_ARGUMENTS_H

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace qlm::tool {

/// Exit codes of every command.
enum ExitCode { exitSuccess = 0, exitBadInput = 1, exitWrongUsage = 2 };

/// Options and operands of one command. Options are declared with the variable
/// they set; `--name value` and `--name=value` are the same.
class Arguments {
public:
  /// \p command and \p operands ("PKG") begin the usage text.
  Arguments(std::string command, std::string operands, std::string summary)
      : command(std::move(command)), operands(std::move(operands)),
        summary(std::move(summary)) {}

  void flag(const char *name, bool &value, const char *help);
  void integer(const char *name, int64_t &value, const char *help);
  void seed(const char *name, uint64_t &value, const char *help);
  void number(const char *name, float &value, const char *help);
  void text(const char *name, std::string &value, const char *help);
  /// May be given many times.
  void texts(const char *name, std::vector<std::string> &values,
             const char *help);
  /// Comma-separated whole numbers.
  void integers(const char *name, std::vector<int64_t> &values,
                const char *help);

  /// Sets the variables and \p package, the one operand. Returns false when
  /// the command must end with \p exitCode: after `--help`, or wrong usage,
  /// which it has reported.
  bool parse(int argc, char **argv, std::string &package, int &exitCode) const;

  /// Reports wrong usage and returns the exit code for it.
  int wrongUsage(const std::string &what) const;

private:
  struct Option {
    std::string name;
    const char *help;
    bool takesValue;
    /// False when the value isn't of the option's kind.
    std::function<bool(const std::string &)> set;
    const char *kind;
  };
  std::string set(const std::string &name, const std::string *inlineValue,
                  int argc, char **argv, int &index) const;
  void printHelp() const;

  std::string command, operands, summary;
  std::vector<Option> options;
};

/// Reports \p message as a failure of the input and returns the exit code.
int badInput(const std::string &message);

} // namespace qlm::tool

#endif // QLM_TOOLS_QUANT_RUN_ARGUMENTS_H
