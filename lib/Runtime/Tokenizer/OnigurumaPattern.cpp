//===- OnigurumaPattern.cpp - Oniguruma's syntax in PCRE2's ---------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#define PCRE2_CODE_UNIT_WIDTH 8

#include "qlm/Runtime/Tokenizer/Pattern.h"
#include "qlm/Runtime/Tokenizer/Utf8.h"

#include <cctype>
#include <pcre2.h>

namespace qlm::tokenizer {

namespace {

// Class contents, as Oniguruma defines them for UTF-8. PCRE2's own \s takes
// U+180E in, and its \w lacks marks and connector punctuation.
constexpr std::string_view spaceItems =
    R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view notSpaceItems =
    R"(\x00-\x08\x0e-\x1f\x21-\x84\x86-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::string_view wordItems = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view hexItems = "0-9a-fA-F";
constexpr std::string_view punctuationItems = R"(\p{P}$+<=>\^`|~)";

constexpr int maxClassDepth = 16;

/// One side of `&&` in a class.
struct ClassOperand {
  std::string items;
  std::vector<std::string> nested;
  /// The last item was a set or a range's end, so that no range starts there.
  bool closed = true;
  bool rangeOpen = false;

  void add(std::string_view text, bool isSet) {
    items += text;
    closed = isSet || rangeOpen;
    rangeOpen = false;
  }
  std::string expression(bool negated) const {
    std::string open = negated ? "[^" : "[";
    if (nested.empty())
      return open + items + "]";
    std::string text = items.empty() ? "" : "[" + items + "]|";
    for (const std::string &inner : nested)
      text += inner + "|";
    text.pop_back();
    return negated ? "(?:(?!" + text + ")(?s:.))" : "(?:" + text + ")";
  }
};

/// Walks over the expression once and writes its translation.
class Translator {
public:
  explicit Translator(std::string_view pattern) : in(pattern) {}

  Result<std::string> run();

private:
  bool done() const { return at >= in.size(); }
  bool next(std::string_view text) const {
    return in.substr(at, text.size()) == text;
  }
  Status refuse(const std::string &what) const {
    return Status(StatusCode::Unsupported,
                  "pattern uses " + what + " at offset " + std::to_string(at) +
                      ", which is not handled");
  }
  Status unfinished(const std::string &what) const {
    return Status(StatusCode::Corrupt, "pattern has " + what);
  }

  Status step();
  Status openGroup();
  Status groupOptions();
  Status closeGroup();
  Status escape();
  bool characterEscape(std::string &text);
  Status quantifier();
  bool interval(std::string &text);
  /// Reads `\p{..}` or `\P{..}` at the cursor; the same text is valid inside
  /// a class and outside.
  Status property(std::string &text);
  /// Reads `\x..` and `\u....` as one scalar.
  Status scalarEscape(std::string &text);
  Result<std::string> characterClass(int depth);
  Status classEscape(ClassOperand &operand);
  Status posixBracket(ClassOperand &operand);
  /// Whether a hyphen at the cursor stands for itself within a class.
  bool hyphenIsLiteral(const ClassOperand &operand) const;

  void atom(std::string_view text) {
    lastAtom = out.size();
    out += text;
  }

  std::string_view in;
  size_t at = 0;
  std::string out;
  /// Where in `out` the piece begins that a quantifier would apply to.
  size_t lastAtom = 0;
  /// Where in `out` each open group begins, and what its inside begins with.
  std::vector<Span> groups;
};

std::string set(std::string_view items) {
  return "[" + std::string(items) + "]";
}
std::string notSet(std::string_view items) {
  return "[^" + std::string(items) + "]";
}

bool isAsciiLetter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool isUpper(char c) { return c >= 'A' && c <= 'Z'; }

/// Items of the sets \d, \s, \w and \h and of their upper-case complements,
/// or empty.
std::string_view setItems(char escape) {
  switch (escape) {
  case 'd':
  case 'D':
    return R"(\p{Nd})";
  case 's':
  case 'S':
    return spaceItems;
  case 'w':
  case 'W':
    return wordItems;
  case 'h':
  case 'H':
    return hexItems;
  default:
    return {};
  }
}

/// Items of the names that POSIX brackets and `\p` share, or empty.
std::string_view namedItems(std::string name, bool isBracket) {
  for (char &c : name)
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (name == "alpha")
    return R"(\p{Alphabetic})";
  if (name == "alnum")
    return R"(\p{Alphabetic}\p{Nd})";
  if (name == "digit")
    return R"(\p{Nd})";
  if (name == "upper")
    return R"(\p{Uppercase})";
  if (name == "lower")
    return R"(\p{Lowercase})";
  if (name == "space")
    return spaceItems;
  // Only the bracket takes the ASCII symbols in.
  if (name == "punct")
    return isBracket ? punctuationItems : R"(\p{P})";
  if (name == "word")
    return wordItems;
  if (name == "xdigit")
    return hexItems;
  return {};
}

/// Whether PCRE2 knows \p name as a script. Its bare names also take in
/// script extensions, which Oniguruma's don't.
bool isScript(const std::string &name) {
  std::string probe = "\\p{sc:" + name + "}";
  int error;
  PCRE2_SIZE offset;
  pcre2_code *code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(probe.data()), probe.size(),
                    PCRE2_UTF, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

Result<std::string> Translator::run() {
  while (!done())
    QLM_RETURN_IF_ERROR(step());
  if (!groups.empty())
    return unfinished("a group that is not closed");
  return std::move(out);
}

Status Translator::step() {
  switch (in[at]) {
  case '\\':
    return escape();
  case '(':
    return openGroup();
  case ')':
    return closeGroup();
  case '*':
  case '+':
  case '?':
  case '{':
    return quantifier();
  case '[': {
    ++at;
    Result<std::string> text = characterClass(0);
    if (!text.ok())
      return text.status();
    atom(*text);
    return Status();
  }
  default:
    size_t length = scalarLength(in[at]);
    atom(in.substr(at, length));
    at += length;
    return Status();
  }
}

Status Translator::openGroup() {
  if (next("(*"))
    return refuse("'(*'");
  size_t start = out.size();
  size_t opener = 1;
  if (next("(?")) {
    opener = 0;
    for (std::string_view known : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"})
      if (next(known))
        opener = known.size();
    if (next("(?#")) {
      size_t end = in.find(')', at);
      if (end == in.npos)
        return unfinished("a comment that is not closed");
      at = end + 1;
      return Status();
    }
    if (!opener && next("(?<") && at + 3 < in.size() &&
        isAsciiLetter(in[at + 3])) {
      size_t end = in.find('>', at);
      if (end == in.npos)
        return unfinished("a group name that is not closed");
      opener = end + 1 - at;
    }
    if (!opener)
      return groupOptions();
  }
  out += in.substr(at, opener);
  at += opener;
  groups.push_back({start, out.size()});
  return Status();
}

/// `(?i:`, `(?m-i:` and, at the start of a group, `(?i)`. Ruby's `m` lets the
/// dot match a newline, which is PCRE2's `s`.
Status Translator::groupOptions() {
  size_t start = out.size();
  std::string flags = "(?";
  size_t i = at + 2;
  for (; i < in.size() && in[i] != ':' && in[i] != ')'; ++i) {
    if (in[i] == 'm')
      flags += 's';
    else if (in[i] == 'i' || (in[i] == '-' && flags.back() != '-'))
      flags += in[i];
    else
      return refuse("group '" + std::string(in.substr(at, i + 1 - at)) + "'");
  }
  if (i >= in.size())
    return unfinished("a group that is not closed");
  if (in[i] == ')') {
    // Ruby lets such options end at the next `|`'s group, PCRE2 does not; they
    // agree only when nothing precedes.
    size_t inside = groups.empty() ? 0 : groups.back().end;
    if (out.size() != inside)
      return refuse("options in the middle of a group");
    out += flags + ")";
    at = i + 1;
    return Status();
  }
  out += flags + ":";
  at = i + 1;
  groups.push_back({start, out.size()});
  return Status();
}

Status Translator::closeGroup() {
  if (groups.empty())
    return unfinished("')' without '('");
  lastAtom = groups.back().begin;
  groups.pop_back();
  out += ')';
  ++at;
  return Status();
}

/// Reads `{n}`, `{n,}`, `{,m}` or `{n,m}` at the cursor.
bool Translator::interval(std::string &text) {
  size_t i = at + 1;
  std::string low, high;
  while (i < in.size() && std::isdigit(static_cast<unsigned char>(in[i])))
    low += in[i++];
  bool comma = i < in.size() && in[i] == ',';
  if (comma)
    for (++i; i < in.size() && std::isdigit(static_cast<unsigned char>(in[i]));)
      high += in[i++];
  if (i >= in.size() || in[i] != '}' || (low.empty() && high.empty()))
    return false;
  at = i + 1;
  text = "{" + (low.empty() ? "0" : low) + (comma ? "," + high : "") + "}";
  return true;
}

Status Translator::quantifier() {
  if (in[at] != '{') {
    out += in[at++];
    // Lazy and possessive forms mean the same in both.
    if (!done() && (in[at] == '?' || in[at] == '+'))
      out += in[at++];
    return Status();
  }
  std::string text;
  if (!interval(text)) {
    atom("\\{");
    ++at;
    return Status();
  }
  out += text;
  bool exact = text.find(',') == text.npos;
  // In Ruby's syntax the + of x{n,m}+ repeats, and the ? of x{n}? makes
  // optional; PCRE2 reads both as a mode of the interval.
  if (!done() && (in[at] == '+' || (in[at] == '?' && exact))) {
    out.insert(lastAtom, "(?:");
    out += ')';
    out += in[at++];
  } else if (!done() && in[at] == '?') {
    out += in[at++];
  }
  return Status();
}

Status Translator::property(std::string &text) {
  bool negated = in[at + 1] == 'P';
  size_t end = in.find('}', at);
  if (at + 2 >= in.size() || in[at + 2] != '{' || end == in.npos)
    return unfinished("a property without braces");
  std::string name(in.substr(at + 3, end - at - 3));
  if (!name.empty() && name[0] == '^') {
    negated = !negated;
    name.erase(0, 1);
  }
  for (char c : name)
    if (!isAsciiLetter(c) && c != '_' && c != '&')
      return refuse("property '" + name + "'");
  const char *letter = negated ? "\\P{" : "\\p{";
  if (std::string_view items = namedItems(name, /*isBracket=*/false);
      !items.empty())
    text = negated ? notSet(items) : set(items);
  else
    text = letter + ((isScript(name) ? "sc:" : "") + name) + "}";
  at = end + 1;
  return Status();
}

Status Translator::scalarEscape(std::string &text) {
  bool wide = in[at + 1] == 'u';
  size_t first = at + 2, last;
  bool braces = !wide && first < in.size() && in[first] == '{';
  if (braces) {
    last = in.find('}', ++first);
    if (last == in.npos)
      return unfinished("an escape without '}'");
  } else {
    last = std::min(in.size(), first + (wide ? 4 : 2));
    while (last > first &&
           !std::isxdigit(static_cast<unsigned char>(in[last - 1])))
      --last;
  }
  std::string digits(in.substr(first, last - first));
  bool valid = !digits.empty() && digits.size() <= 8;
  for (char c : digits)
    valid = valid && std::isxdigit(static_cast<unsigned char>(c));
  if (!valid)
    return refuse("the escape '\\" + std::string(1, in[at + 1]) + "'");
  // Two digits above 7f give a byte in Oniguruma, not a character.
  if (!wide && !braces && digits.size() == 2 && digits[0] > '7')
    return refuse("the byte escape '\\x" + digits + "'");
  text = "\\x{" + digits + "}";
  at = last + (braces ? 1 : 0);
  return Status();
}

/// Reads an escape of one character: a control or the character itself.
bool Translator::characterEscape(std::string &text) {
  char c = in[at + 1];
  if (c == 'v')
    text = R"(\x0b)"; // any vertical space in PCRE2
  else if (std::string_view("nrtfae").find(c) != std::string_view::npos)
    text = in.substr(at, 2);
  else if (isAsciiLetter(c) || (c >= '0' && c <= '9'))
    return false;
  else if (static_cast<unsigned char>(c) < 0x80)
    text = in.substr(at, 2);
  else
    text = in.substr(at + 1, scalarLength(c));
  at += 1 + scalarLength(c);
  return true;
}

Status Translator::escape() {
  if (at + 1 >= in.size())
    return unfinished("a backslash at its end");
  char c = in[at + 1];
  std::string text;
  if (c == 'p' || c == 'P' || c == 'x' || c == 'u') {
    QLM_RETURN_IF_ERROR(c == 'x' || c == 'u' ? scalarEscape(text)
                                             : property(text));
    atom(text);
    return Status();
  }
  std::string word = set(wordItems);
  if (std::string_view items = setItems(c); !items.empty())
    text = isUpper(c) ? notSet(items) : set(items);
  else if (c == 'b')
    text = "(?:(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word +
           "))";
  else if (c == 'B')
    text = "(?:(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word +
           "))";
  else if (std::string_view("AzZGR").find(c) != std::string_view::npos ||
           (c >= '1' && c <= '9'))
    text = in.substr(at, 2);
  if (!text.empty()) {
    atom(text);
    at += 2;
    return Status();
  }
  if (!characterEscape(text))
    return refuse("the escape '\\" + std::string(1, c) + "'");
  atom(text);
  return Status();
}

bool Translator::hyphenIsLiteral(const ClassOperand &operand) const {
  if (operand.closed || operand.rangeOpen || at + 1 >= in.size())
    return true;
  char after = in[at + 1];
  if (after == ']' || after == '[' || in.substr(at + 1, 2) == "&&")
    return true;
  return after == '\\' && at + 2 < in.size() &&
         std::string_view("dDsSwWhHpP").find(in[at + 2]) != std::string::npos;
}

Status Translator::posixBracket(ClassOperand &operand) {
  size_t end = in.find(":]", at);
  std::string name(in.substr(at + 2, end - at - 2));
  bool negated = !name.empty() && name[0] == '^';
  if (negated)
    name.erase(0, 1);
  std::string_view items = namedItems(name, /*isBracket=*/true);
  if (items.empty())
    return refuse("the bracket '[:" + name + ":]'");
  if (negated)
    operand.nested.push_back(notSet(items));
  else
    operand.add(items, /*isSet=*/true);
  at = end + 2;
  return Status();
}

Status Translator::classEscape(ClassOperand &operand) {
  if (at + 1 >= in.size())
    return unfinished("a class that is not closed");
  char c = in[at + 1];
  std::string text;
  if (c == 'b') {
    operand.add(R"(\x08)", /*isSet=*/false);
    at += 2;
    return Status();
  }
  if (c == 'p' || c == 'P') {
    QLM_RETURN_IF_ERROR(property(text));
    if (text[0] == '[')
      operand.nested.push_back(text);
    else
      operand.add(text, /*isSet=*/true);
    return Status();
  }
  if (c == 'x' || c == 'u') {
    QLM_RETURN_IF_ERROR(scalarEscape(text));
    operand.add(text, /*isSet=*/false);
    return Status();
  }
  if (c == 'S') {
    // As ranges, which keep a class free of nesting: [^\S\n] is common.
    operand.add(notSpaceItems, /*isSet=*/true);
    at += 2;
    return Status();
  }
  if (std::string_view items = setItems(c); !items.empty()) {
    if (isUpper(c))
      operand.nested.push_back(notSet(items));
    else
      operand.add(items, /*isSet=*/true);
    at += 2;
    return Status();
  }
  if (!characterEscape(text))
    return refuse("the escape '\\" + std::string(1, c) + "'");
  operand.add(text, /*isSet=*/false);
  return Status();
}

/// Reads a class whose `[` has been passed.
Result<std::string> Translator::characterClass(int depth) {
  if (depth > maxClassDepth)
    return refuse("classes nested deeper than " +
                  std::to_string(maxClassDepth));
  bool negated = next("^");
  if (negated)
    ++at;
  std::vector<ClassOperand> operands(1);
  // A bracket right at the start stands for itself.
  if (next("]")) {
    operands.back().add("\\]", /*isSet=*/false);
    ++at;
  }
  while (!done() && in[at] != ']') {
    ClassOperand &operand = operands.back();
    if (next("[:") && in.find(":]", at) != in.npos) {
      QLM_RETURN_IF_ERROR(posixBracket(operand));
    } else if (next("[")) {
      ++at;
      Result<std::string> inner = characterClass(depth + 1);
      if (!inner.ok())
        return inner.status();
      operand.nested.push_back(inner.take());
      operand.closed = true;
    } else if (next("&&")) {
      operands.emplace_back();
      at += 2;
    } else if (next("\\")) {
      QLM_RETURN_IF_ERROR(classEscape(operand));
    } else if (next("-")) {
      if (hyphenIsLiteral(operand)) {
        operand.add("\\-", /*isSet=*/false);
      } else {
        operand.items += '-';
        operand.rangeOpen = true;
      }
      ++at;
    } else {
      size_t length = scalarLength(in[at]);
      std::string text(in.substr(at, length));
      operand.add(text == "^" ? "\\^" : text, /*isSet=*/false);
      at += length;
    }
  }
  if (done())
    return unfinished("a class that is not closed");
  ++at;
  for (const ClassOperand &operand : operands)
    if (operand.items.empty() && operand.nested.empty())
      return unfinished("an empty class");
  if (operands.size() == 1)
    return operands[0].expression(negated);
  std::string text;
  for (size_t i = 1; i < operands.size(); ++i)
    text += "(?=" + operands[i].expression(/*negated=*/false) + ")";
  text += operands[0].expression(/*negated=*/false);
  return negated ? "(?:(?!" + text + ")(?s:.))" : "(?:" + text + ")";
}

} // namespace

Result<std::string> translateOniguruma(std::string_view pattern) {
  if (findInvalidUtf8(pattern) != std::string_view::npos)
    return Status(StatusCode::Corrupt, "pattern is not valid UTF-8");
  return Translator(pattern).run();
}

} // namespace qlm::tokenizer
