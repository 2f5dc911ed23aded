// Which request is whose, and which token: the round-robin rule of the KV cache, and the one
// function by which requests are cut into micro-batches, replicas and chunks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/slice.h"

namespace helix {

// Position p of a request lives on KVP rank (p / interval) mod KVP (helix.md, Round-robin KV).
constexpr int owner(int64_t position, int64_t interval, int kvp) {
  return static_cast<int>(position / interval % kvp);
}
// How many of a request's first `length` positions live on KVP rank r.
constexpr int64_t local_length(int64_t length, int64_t interval, int kvp, int r) {
  const int64_t round = kvp * interval;
  return length / round * interval +
         std::clamp<int64_t>(length % round - r * interval, 0, interval);
}
// The global position of local token i on KVP rank r.
constexpr int64_t global_position(int64_t i, int64_t interval, int kvp, int r) {
  return (i / interval * kvp + r) * interval + i % interval;
}

// Cuts consecutive requests into `parts`, balanced by tokens; no part is empty while requests
// remain, and equal requests give equal parts with the remainder in the lowest.
std::vector<Slice> cut(std::span<const int64_t> lengths, int64_t parts);

}  // namespace helix
