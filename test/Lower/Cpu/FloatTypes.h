//===- FloatTypes.h - Buffers of f32, f16 and bf16 --------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_TEST_LOWER_CPU_FLOATTYPES_H
#define QLM_TEST_LOWER_CPU_FLOATTYPES_H

#include "KernelTest.h"

#include "llvm/ADT/APFloat.h"

namespace mlir::qlm::cpu::test {

enum class FloatType { F32, F16, BF16 };

inline const char *getName(FloatType type) {
  return type == FloatType::F32   ? "f32"
         : type == FloatType::F16 ? "f16"
                                  : "bf16";
}

inline size_t getBytes(FloatType type) {
  return type == FloatType::F32 ? 4 : 2;
}

inline const llvm::fltSemantics &getSemantics(FloatType type) {
  return type == FloatType::F32   ? llvm::APFloat::IEEEsingle()
         : type == FloatType::F16 ? llvm::APFloat::IEEEhalf()
                                  : llvm::APFloat::BFloat();
}

/// \p value in \p type, half to even.
inline float roundTo(FloatType type, float value) {
  llvm::APFloat number(value);
  bool lost;
  number.convert(getSemantics(type), llvm::APFloat::rmNearestTiesToEven, &lost);
  return static_cast<float>(number.convertToDouble());
}

/// A buffer whose elements have a type chosen at run time.
class FloatBuffer {
public:
  /// Poisoned, as Buffer is.
  FloatBuffer(FloatType type, size_t count)
      : type(type), bytes(count * getBytes(type)) {}
  FloatBuffer(FloatType type, const std::vector<float> &values)
      : FloatBuffer(type, values.size()) {
    for (size_t i = 0; i < values.size(); ++i)
      set(i, values[i]);
  }

  void *data() { return bytes.data(); }
  bool isIntact() const { return bytes.isIntact(); }
  /// Rounds \p value, half to even.
  void set(size_t i, float value) {
    llvm::APFloat number(value);
    bool lost;
    number.convert(getSemantics(type), llvm::APFloat::rmNearestTiesToEven,
                   &lost);
    uint64_t bits = number.bitcastToAPInt().getZExtValue();
    memcpy(bytes.data() + i * getBytes(type), &bits, getBytes(type));
  }
  float get(size_t i) const {
    uint64_t bits = 0;
    memcpy(&bits, bytes.data() + i * getBytes(type), getBytes(type));
    llvm::APFloat number(getSemantics(type),
                         llvm::APInt(8 * getBytes(type), bits));
    return static_cast<float>(number.convertToDouble());
  }
  /// Whether element \p i still has the poison's bytes.
  bool isPoisoned(size_t i) const {
    for (size_t byte = 0; byte < getBytes(type); ++byte)
      if (bytes[i * getBytes(type) + byte] != '\xFF')
        return false;
    return true;
  }

private:
  FloatType type;
  Buffer<char> bytes;
};

} // namespace mlir::qlm::cpu::test

#endif // QLM_TEST_LOWER_CPU_FLOATTYPES_H
