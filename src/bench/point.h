// One point of a sweep, fully resolved: what is decoded, in which layout, under which load.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "bench/noise.h"
#include "layout/layout.h"
#include "layout/requests.h"
#include "model/model.h"

namespace helix {

// Tokens of history of each request: all `low`, or drawn from [low, high] by (seed, request).
struct Context {
  int64_t low = 0;
  int64_t high = 0;
  friend bool operator==(const Context&, const Context&) = default;
};

struct Point {
  std::shared_ptr<const Model> model;
  Layout layout;
  int64_t batch = 1;
  Context context;
  Precision precision;
  bool hop_b = false;
  int64_t chunks = 1;  // of a replica's requests; 1 without HOP-B, never more than requests
  int64_t interval = 32;
  KvLayout kv_layout = KvLayout::dense;
  std::optional<std::pair<int64_t, int64_t>> depths;
  std::optional<double> zipf;  // routing skew
  // Tokens that every request reads in place of a generated history; the context is one less.
  std::shared_ptr<const std::vector<int32_t>> prompt;
  uint64_t seed = 1;
  // Not part of the key.
  int64_t steps = 8;
  int64_t warmup = 2;
  NoiseTarget noise = {};
};

// The `point` member of a result line (names and order as in README.md), and parts of it. The
// inverse is sweep_of (bench/sweep.h).
Json to_json(const Point& point);
Json to_json(const Layout& layout);
Json to_json(const Precision& precision);
Json to_json(const Context& context);
// to_json(point).dump(), faster.
std::string canonical_text(const Point& point);
// 16 hexadecimal digits: a hash of the canonical text; no steps, no warm-up.
std::string key_of(const Point& point);
// The history of each request, [batch].
std::vector<int64_t> lengths_of(const Point& point);
// Requests of the largest replica in the largest micro-batch: chunks cannot be more.
int64_t most_requests(const Point& point);

}  // namespace helix
