//===- ArrayFile.cpp - Arrays in NumPy's files ----------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "qlm/Runtime/ArrayFile.h"

#include "qlm/Runtime/MappedMemory.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <unistd.h>
#include <zlib.h>

using namespace qlm;

namespace {
struct TypeName {
  const char *descr, *name;
};
} // namespace

/// NumPy's spelling of types, without the byte order.
static constexpr TypeName typeNames[] = {
    {"f8", "float64"}, {"f4", "float32"}, {"f2", "float16"}, {"i8", "int64"},
    {"i4", "int32"},   {"i2", "int16"},   {"i1", "int8"},    {"u8", "uint64"},
    {"u4", "uint32"},  {"u2", "uint16"},  {"u1", "uint8"},   {"b1", "bool"},
    {"V1", "void1"},   {"V2", "void2"}};

static int64_t elementBytes(const std::string &type) {
  if (type == "void1" || type == "void2")
    return type.back() - '0';
  return graphElementBytes(type);
}

void qlm::acceptRawBytes(GraphArray &array, const std::string &type) {
  for (const TypeName &known : typeNames)
    if (type == known.name)
      return;
  int64_t bytes = graphElementBytes(type);
  if ((bytes == 1 && (array.type == "void1" || array.type == "uint8")) ||
      (bytes == 2 && (array.type == "void2" || array.type == "uint16")))
    array.type = type;
  else
    return;
  // Of a narrow integer's byte only the low bits count.
  int unused = type == "int4" || type == "uint4"   ? 4
               : type == "int2" || type == "uint2" ? 6
                                                   : 0;
  bool isSigned = type[0] == 'i';
  for (char &byte : array.bytes) {
    auto high =
        static_cast<unsigned char>(static_cast<unsigned>(byte) << unused);
    byte = isSigned
               ? static_cast<char>(static_cast<signed char>(high) >> unused)
               : static_cast<char>(high >> unused);
  }
}

//===----------------------------------------------------------------------===//
// .npy
//===----------------------------------------------------------------------===//

/// What follows `'key': ` in the header's dictionary; empty when it's missing.
static std::string_view findField(std::string_view header,
                                  const std::string &key) {
  size_t at = header.find("'" + key + "':");
  if (at == std::string_view::npos)
    return {};
  std::string_view rest = header.substr(at + key.size() + 3);
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  return rest;
}

/// "(2, 3)" or "(4,)" as sizes; false when it is something else.
static bool parseShape(std::string_view text, std::vector<int64_t> &shape) {
  if (text.empty() || text[0] != '(')
    return false;
  text.remove_prefix(1);
  text = text.substr(0, text.find(')'));
  while (!text.empty()) {
    int64_t size = 0;
    size_t digits = 0;
    while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9')
      if (__builtin_mul_overflow(size, int64_t{10}, &size) ||
          __builtin_add_overflow(size, int64_t{text[digits++] - '0'}, &size))
        return false;
    if (!digits)
      return false;
    shape.push_back(size);
    text.remove_prefix(digits);
    text.remove_prefix(std::min(text.find_first_not_of(", "), text.size()));
  }
  return true;
}

/// The array that \p bytes, a whole .npy file, hold.
static Result<GraphArray> parseNpy(std::string_view bytes,
                                   const std::string &what) {
  auto corrupt = [&](const std::string &message) {
    return Status(StatusCode::Corrupt, what + ": " + message);
  };
  if (bytes.size() < 12 || bytes.substr(0, 6) != "\x93NUMPY")
    return corrupt("not a file of NumPy's format");
  size_t lengthBytes = bytes[6] == 1 ? 2 : 4, length = 0;
  std::memcpy(&length, bytes.data() + 8, lengthBytes);
  if (length > bytes.size() - 8 - lengthBytes)
    return corrupt("the header is cut short");
  std::string_view header = bytes.substr(8 + lengthBytes, length);
  std::string_view data = bytes.substr(8 + lengthBytes + length);

  std::string_view descr = findField(header, "descr").substr(0, 5);
  GraphArray array;
  for (const TypeName &known : typeNames)
    if (descr.size() == 5 && descr.substr(2, 2) == known.descr &&
        descr[1] != '>' && descr[4] == '\'')
      array.type = known.name;
  if (array.type.empty())
    return Status(StatusCode::Unsupported, what + ": elements of type " +
                                               std::string(descr) +
                                               " are not handled");
  if (findField(header, "fortran_order").substr(0, 5) != "False")
    return Status(StatusCode::Unsupported,
                  what + ": the array must be in row-major order; save "
                         "numpy.ascontiguousarray of it");
  if (!parseShape(findField(header, "shape"), array.shape))
    return corrupt("the header has no shape");
  int64_t wanted = elementBytes(array.type);
  for (int64_t size : array.shape)
    if (__builtin_mul_overflow(wanted, size, &wanted))
      return corrupt("the shape's product overflows");
  if (static_cast<uint64_t>(wanted) != data.size())
    return corrupt("the shape needs " + std::to_string(wanted) +
                   " bytes, the file has " + std::to_string(data.size()));
  array.bytes.assign(data.begin(), data.end());
  return array;
}

static std::string makeNpyHeader(const GraphArray &array) {
  std::string descr;
  for (const TypeName &known : typeNames)
    if (array.type == known.name)
      descr = known.descr;
  int64_t bytes = elementBytes(array.type);
  if (descr.empty())
    descr = "V" + std::to_string(bytes);
  std::string header = "{'descr': '" +
                       std::string(bytes == 1 || descr[0] == 'V' ? "|" : "<") +
                       descr + "', 'fortran_order': False, 'shape': (";
  for (int64_t size : array.shape)
    header += std::to_string(size) + ", ";
  header += "), }";
  if (array.shape.size() != 1 && !array.shape.empty())
    header.erase(header.size() - 6, 2); // "2, 3, )" to "2, 3)"
  else if (!array.shape.empty())
    header.erase(header.size() - 5, 1); // "4, )" to "4,)"
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string prefix("\x93NUMPY\x01\x00", 8);
  prefix += static_cast<char>(header.size() & 0xff);
  prefix += static_cast<char>(header.size() >> 8);
  return prefix + header;
}

//===----------------------------------------------------------------------===//
// .npz: a zip archive of stored .npy files
//===----------------------------------------------------------------------===//

static constexpr uint32_t localMagic = 0x04034b50, centralMagic = 0x02014b50,
                          endMagic = 0x06054b50;
static constexpr size_t localBytes = 30, centralBytes = 46, endBytes = 22;

static uint64_t readNumber(std::string_view bytes, size_t at, size_t width) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + at, width);
  return value;
}

/// Where the central directory's end record begins; npos when there is none.
static size_t findEnd(std::string_view bytes) {
  size_t longestComment = 65535;
  for (size_t back = endBytes;
       back <= bytes.size() && back <= endBytes + longestComment; ++back)
    if (readNumber(bytes, bytes.size() - back, 4) == endMagic)
      return bytes.size() - back;
  return std::string_view::npos;
}

static Result<std::vector<NamedArray>> parseNpz(std::string_view bytes,
                                                const std::string &path) {
  auto corrupt = [&](const std::string &message) {
    return Status(StatusCode::Corrupt, path + ": " + message);
  };
  size_t end = findEnd(bytes);
  if (end == std::string_view::npos)
    return corrupt("not an .npz file, or cut short");
  uint64_t count = readNumber(bytes, end + 10, 2),
           at = readNumber(bytes, end + 16, 4);
  std::vector<NamedArray> arrays;
  for (uint64_t i = 0; i < count; ++i) {
    if (at > end || end - at < centralBytes ||
        readNumber(bytes, at, 4) != centralMagic)
      return corrupt("the list of arrays is damaged");
    uint64_t method = readNumber(bytes, at + 10, 2),
             sum = readNumber(bytes, at + 16, 4),
             size = readNumber(bytes, at + 20, 4),
             nameLength = readNumber(bytes, at + 28, 2),
             skip =
                 readNumber(bytes, at + 30, 2) + readNumber(bytes, at + 32, 2),
             start = readNumber(bytes, at + 42, 4);
    if (nameLength > end - at - centralBytes)
      return corrupt("the list of arrays is damaged");
    std::string name(bytes.substr(at + centralBytes, nameLength));
    at += centralBytes + nameLength + skip;
    if (method != 0)
      return Status(StatusCode::Unsupported,
                    path + ": '" + name +
                        "' is compressed; write it with numpy.savez");
    if (start > bytes.size() || bytes.size() - start < localBytes ||
        readNumber(bytes, start, 4) != localMagic)
      return corrupt("'" + name + "' is not where the list says");
    start += localBytes + readNumber(bytes, start + 26, 2) +
             readNumber(bytes, start + 28, 2);
    if (start > bytes.size() || size > bytes.size() - start)
      return corrupt("'" + name + "' is cut short");
    std::string_view member = bytes.substr(start, size);
    if (crc32_z(0, reinterpret_cast<const Bytef *>(member.data()),
                member.size()) != sum)
      return corrupt("'" + name + "' is damaged: its checksum differs");
    Result<GraphArray> array = parseNpy(member, path + ": '" + name + "'");
    if (!array.ok())
      return array.status();
    if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0)
      name.resize(name.size() - 4);
    arrays.push_back({name, array.take()});
  }
  return arrays;
}

Result<std::vector<NamedArray>> qlm::readArrays(const std::string &path) {
  Result<MappedMemory> memory = MappedMemory::mapFile(path);
  if (!memory.ok())
    return memory.status();
  std::string_view bytes(memory->data(), memory->size());
  if (bytes.substr(0, 2) == "PK")
    return parseNpz(bytes, path);
  Result<GraphArray> array = parseNpy(bytes, path);
  if (!array.ok())
    return array.status();
  return std::vector<NamedArray>{{"", array.take()}};
}

static void append(std::string &text, uint64_t value, size_t width) {
  text.append(reinterpret_cast<const char *>(&value), width);
}

/// What local and central headers share: version, flags, method, date, sum,
/// sizes and the name's length.
static std::string makeEntry(const std::string &name, uint64_t sum,
                             uint64_t size) {
  std::string entry;
  append(entry, 20, 2);         // version that can read it
  append(entry, 0, 4);          // no flags, stored
  append(entry, 0x00210000, 4); // the first day that the format knows
  append(entry, sum, 4);
  append(entry, size, 4);
  append(entry, size, 4);
  append(entry, name.size(), 2);
  return entry;
}

Status qlm::writeArrays(const std::string &path,
                        const std::vector<NamedArray> &arrays) {
  std::string temporary = path + ".tmp-" + std::to_string(getpid());
  std::FILE *file = std::fopen(temporary.c_str(), "wb");
  auto fail = [&](const std::string &why) {
    if (file)
      std::fclose(file);
    std::remove(temporary.c_str());
    return Status(StatusCode::Io, path + ": cannot write: " + why);
  };
  if (!file)
    return fail(std::strerror(errno));
  std::string central;
  uint64_t at = 0;
  auto write = [&](const void *data, size_t size) {
    std::fwrite(data, 1, size, file);
    at += size;
  };
  for (const NamedArray &named : arrays) {
    std::string header = makeNpyHeader(named.array), name = named.name + ".npy";
    const std::vector<char> &bytes = named.array.bytes;
    uint64_t size = header.size() + bytes.size();
    if (name.size() > 65535 || size >= UINT32_MAX || at >= UINT32_MAX - size)
      return fail("an .npz file holds less than 4 GB");
    uLong sum = crc32_z(0, reinterpret_cast<const Bytef *>(header.data()),
                        header.size());
    // Of no bytes zlib would begin anew.
    if (!bytes.empty())
      sum = crc32_z(sum, reinterpret_cast<const Bytef *>(bytes.data()),
                    bytes.size());
    std::string entry = makeEntry(name, sum, size);
    append(central, centralMagic, 4);
    append(central, 20, 2);
    central += entry;
    central.append(12, '\0'); // no extra field, comment, disk, attributes
    append(central, at, 4);
    central += name;
    std::string local;
    append(local, localMagic, 4);
    local += entry;
    append(local, 0, 2);
    local += name;
    write(local.data(), local.size());
    write(header.data(), header.size());
    write(bytes.data(), bytes.size());
  }
  std::string end;
  append(end, endMagic, 4);
  append(end, 0, 4);
  append(end, arrays.size(), 2);
  append(end, arrays.size(), 2);
  append(end, central.size(), 4);
  append(end, at, 4);
  append(end, 0, 2);
  write(central.data(), central.size());
  write(end.data(), end.size());
  bool failed = std::ferror(file) != 0;
  failed |= std::fclose(file) != 0;
  file = nullptr;
  if (failed || std::rename(temporary.c_str(), path.c_str()) != 0)
    return fail(std::strerror(errno));
  return Status();
}
