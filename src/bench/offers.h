// Whole sweeps priced in memory: what each point offers a user and a GPU, and which offers are
// worth having. 400 000 points take seconds and 24 bytes each, so that no line is written for them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "bench/pricer.h"
#include "bench/sweep.h"

namespace helix {

struct Offer {         // of a point that fits the machine
  uint32_t point = 0;  // its place in the sweep
  int32_t gpus = 0;
  int64_t batch = 0;
  double ttl_us = 0;
  double per_user() const { return 1e6 / ttl_us; }  // tokens/s
  double per_gpu() const { return static_cast<double>(batch) * 1e6 / ttl_us / gpus; }
};

using Wanted = std::function<bool(const Point&)>;
// Of the points wanted (null: all), in the order of the sweep; those that do not fit are left out.
// `threads` share the layouts.
std::vector<Offer> offers_of(const Sweep& sweep, const Machine& machine, Accounting accounting,
                             int threads, const Wanted& wanted = {});

// A subset by what the point is.
std::vector<Offer> those(const Sweep& sweep, std::span<const Offer> offers, const Wanted& wanted);

// The rivals of Helix in the paper: the best of tp, dp_ep and medha, each with DP and PP; medha is
// legal on no MLA model. dcp is a curve of its own.
bool is_helix(const Point& point);
bool is_baseline(const Point& point);

// Those that no other beats in tokens/s/user and in tokens/s/GPU, from the left; equal ones stand
// together.
std::vector<Offer> frontier_of(std::span<const Offer> offers);

// The most that `first` has over `second`: with the best `worth` of those offers that have at least
// a `level`, the largest ratio over all levels that both reach.
using Measure = double (*)(const Offer&);
struct Ratio {
  double value = 0;  // 0: they have no level in common
  Offer first, second;
};
Ratio largest_ratio(std::span<const Offer> first, std::span<const Offer> second, Measure level,
                    Measure worth);

}  // namespace helix
