//===- RequestQueue.cpp - Texts that wait ---------------------------------===//
//
// Part of the QLM project, under the Apache License v2.0 with LLVM Exceptions.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
//===----------------------------------------------------------------------===//

#include "RequestQueue.h"

#include <algorithm>
#include <utility>

using namespace qlm;

void RequestQueue::push(Sequence &sequence, bool first) {
  const Request &request = sequence.request();
  Level &level = levels[request.priority];
  std::list<Sequence *> &line = level.lines[request.client];
  if (line.empty()) {
    double &done = work[request.client];
    double before = std::exchange(done, std::max(done, floor));
    // The client may wait at other priorities, ordered by the same number.
    for (auto &[priority, other] : levels)
      if (other.order.erase({before, request.client}))
        other.order.emplace(done, request.client);
    level.order.emplace(done, request.client);
  }
  sequence.place = line.insert(first ? line.begin() : line.end(), &sequence);
  ++count;
}

void RequestQueue::erase(Sequence &sequence) {
  const Request &request = sequence.request();
  auto level = levels.find(request.priority);
  auto line = level->second.lines.find(request.client);
  line->second.erase(sequence.place);
  --count;
  if (line->second.empty()) {
    level->second.order.erase({work[request.client], request.client});
    level->second.lines.erase(line);
  }
  if (level->second.lines.empty())
    levels.erase(level);
}

RequestQueue::Sequence *RequestQueue::front() const {
  if (levels.empty())
    return nullptr;
  const Level &level = levels.begin()->second;
  return level.lines.at(level.order.begin()->second).front();
}

void RequestQueue::charge(uint64_t client, double amount) {
  auto entry = work.find(client);
  if (entry == work.end()) {
    forgetIdle();
    entry = work.emplace(client, floor).first;
  }
  double before = entry->second, after = before + amount;
  entry->second = after;
  for (auto &[priority, level] : levels)
    if (level.order.erase({before, client}))
      level.order.emplace(after, client);
  // The least work among those that wait never falls, and who comes new starts
  // there.
  double least = after;
  if (!levels.empty())
    least = levels.begin()->second.order.begin()->first;
  floor = std::max(floor, std::min(least, after));
}

/// Drops clients that a newcomer can't be told from, when there are many.
void RequestQueue::forgetIdle() {
  if (work.size() < 4096 || work.size() < 4 * static_cast<size_t>(count))
    return;
  for (auto it = work.begin(); it != work.end();) {
    bool waits = std::any_of(levels.begin(), levels.end(), [&](auto &level) {
      return level.second.lines.count(it->first) > 0;
    });
    it = !waits && it->second <= floor ? work.erase(it) : std::next(it);
  }
}

Status RequestQueue::check() const {
  auto error = [](const std::string &what) {
    return Status(StatusCode::Internal, "queue: " + what);
  };
  int64_t found = 0;
  for (const auto &[priority, level] : levels) {
    if (level.order.size() != level.lines.size() || level.lines.empty())
      return error("clients and lines differ in number");
    for (auto [done, client] : level.order) {
      auto line = level.lines.find(client);
      if (line == level.lines.end() || line->second.empty())
        return error("a client without a line");
      if (work.at(client) != done)
        return error("a client's work is not what it is ordered by");
      for (const Sequence *sequence : line->second)
        if (sequence->state != Sequence::State::Waiting)
          return error("a text that doesn't wait");
      found += static_cast<int64_t>(line->second.size());
    }
  }
  if (found != count)
    return error("holds " + std::to_string(found) + " texts and counts " +
                 std::to_string(count));
  return Status();
}
