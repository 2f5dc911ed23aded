// Which request is whose, and which token: the round-robin rule of the KV cache, and the one
// function by which requests are cut into micro-batches, replicas and chunks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
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

// A rank's KV cache holds a request's tokens one after another, with room for whole intervals; or
// in pages, wherever a table says.
enum class KvLayout : uint8_t { dense, paged };
std::string_view name_of(KvLayout);
inline constexpr int64_t page_tokens = 64;
// Tokens that there is room for, where `tokens` are held at most.
constexpr int64_t room_for(int64_t tokens, int64_t interval, KvLayout layout) {
  const int64_t unit = layout == KvLayout::paged ? page_tokens : interval;
  return (tokens + unit - 1) / unit * unit;
}

// Cuts consecutive requests into `parts`, balanced by tokens; no part is empty while requests
// remain, and equal requests give equal parts with the remainder in the lowest.
std::vector<Slice> cut(std::span<const int64_t> lengths, int64_t parts);

}  // namespace helix
