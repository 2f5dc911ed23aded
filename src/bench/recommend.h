// `recommend`: which layout to run, found by pricing every legal one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/pricer.h"

namespace helix {

struct Question {
  std::shared_ptr<const Model> model;
  Precision precision;
  int64_t gpus = 1;
  int64_t context = 0;                // tokens of history of each request
  std::optional<double> ttl_us = {};  // the most tokens/s/GPU within it, or …
  std::optional<int64_t> users = {};  // … the least TTL for so many at once
};

// A layout of a part of the GPUs, as often as it goes into them: `copies` serve `users` together.
struct Answer {
  Point point;  // of one copy
  int64_t copies = 1;
  double ttl_us = 0;
  Memory memory;  // of a rank
  int64_t users() const { return copies * point.batch; }
  int64_t gpus() const { return copies * point.layout.ranks(); }
  double per_gpu() const { return 1e6 * double(users()) / ttl_us / double(gpus()); }
};
bool better(const Question& question, const Answer& a, const Answer& b);

// The points of a question but for their batch: every layout on every divisor of the GPUs (DP, PP,
// TPA up to K, and 2 for MLA), all choices of its strategy, Helix also with HOP-B.
std::vector<Point> candidates(const Question& question);

// The best batch of each layout, the best layouts first; what cannot answer is left out.
std::vector<Answer> answers(const Question& question, Pricer& pricer);

struct RecommendOptions {
  std::string model, machine;
  int64_t gpus = 0, context = 0;
  std::optional<double> ttl_ms;
  std::optional<int64_t> users;
  std::string weights, kv;  // formats; "": what the machine computes fastest, and fp8
};
// Prints the three best. Throws InputError: nothing fits, or no TTL is short enough.
int recommend(const RecommendOptions& options);

}  // namespace helix
