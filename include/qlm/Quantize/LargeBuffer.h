//===- LargeBuffer.h - Memory that isn't cleared first ----------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_QUANTIZE_LARGEBUFFER_H
#define QLM_QUANTIZE_LARGEBUFFER_H

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <sys/mman.h>

namespace qlm::numerics {

/// Elements that nobody has set. A vector would clear them, from one thread;
/// of a matrix of 11,008 columns that takes longer than its factor. Pages are
/// huge where the system has them, since all of them are touched.
template <typename T> class LargeBuffer {
public:
  LargeBuffer() = default;
  explicit LargeBuffer(int64_t count) {
    auto bytes = static_cast<size_t>(count) * sizeof(T);
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (count <= 0)
      return;
    void *memory = std::aligned_alloc(kAlignment, bytes);
    if (!memory)
      throw std::bad_alloc();
    // Only a wish.
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    elements.reset(static_cast<T *>(memory));
  }

  T *data() { return elements.get(); }
  const T *data() const { return elements.get(); }
  T &operator[](int64_t i) { return elements.get()[i]; }
  const T &operator[](int64_t i) const { return elements.get()[i]; }

private:
  static constexpr size_t kAlignment = size_t(2) << 20;
  struct Free {
    void operator()(T *memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> elements;
};

} // namespace qlm::numerics

#endif // QLM_QUANTIZE_LARGEBUFFER_H
