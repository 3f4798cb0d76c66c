//===- RequestQueue.h - Texts that wait -------------------------*- C++ -*-===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#ifndef QLM_LIB_RUNTIME_ENGINE_REQUESTQUEUE_H
#define QLM_LIB_RUNTIME_ENGINE_REQUESTQUEUE_H

#include "Sequence.h"

#include <list>
#include <map>
#include <set>
#include <unordered_map>

namespace qlm {

/// Texts that wait, the next one first: of the highest priority, of the client
/// that got the least work so far, its first. All operations take a time that
/// grows with the logarithm of the clients, not with the queue.
///
/// A client that comes, or comes back, starts at the work of the one served
/// last, so that nobody saves up a claim by staying away.
class RequestQueue {
public:
  using Sequence = Engine::Sequence;

  /// Adds \p sequence, as its client's first when \p first.
  void push(Sequence &sequence, bool first);
  void erase(Sequence &sequence);
  /// The next text, or null.
  Sequence *front() const;
  /// Counts \p work done for \p client.
  void charge(uint64_t client, double work);
  int64_t size() const { return count; }
  /// Clients whose work is remembered.
  size_t clients() const { return work.size(); }
  /// Errors: Internal, with what doesn't hold.
  Status check() const;

private:
  struct Level {
    std::set<std::pair<double, uint64_t>> order; ///< (work, client)
    std::unordered_map<uint64_t, std::list<Sequence *>> lines;
  };
  void forgetIdle();

  std::map<int32_t, Level, std::greater<int32_t>> levels;
  std::unordered_map<uint64_t, double> work;
  double floor = 0; ///< work of the client served last
  int64_t count = 0;
};

} // namespace qlm

#endif // QLM_LIB_RUNTIME_ENGINE_REQUESTQUEUE_H
