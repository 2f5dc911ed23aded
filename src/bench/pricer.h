// What a point takes on a machine: the simulated executor behind one call. `simulate`, `compare`,
// `recommend` and the paper's sweeps live on it, so that a point costs microseconds once its layout
// is known.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bench/line.h"
#include "bench/plan.h"
#include "execute/simulate/passage.h"
#include "execute/simulate/routing.h"
#include "machine/machine.h"

namespace helix {

using simulated::Accounting;
using simulated::CoverPrice;

struct Priced {
  double ttl_us = 0;
  // Of a step, one after another: as `tasks_us` of a run, the largest over the stages.
  std::vector<CoverPrice> covers;
  ExchangeTimes exchange;
  Memory memory;                      // of the widest rank
  simulated::Choices::Count experts;  // touched in a layer, of an EP rank; 0: none
  Roofline roofline;                  // at the machine's peaks
  std::string why_not;                // it does not fit; "": it does
  bool fits() const { return why_not.empty(); }
};

class Pricer {
 public:
  explicit Pricer(Machine machine, Accounting accounting = Accounting::chunks);
  const Machine& machine() const { return machine_; }
  Planner& planner() { return planner_; }
  void set_machine(Machine machine);  // schedules and routing are kept
  // Covers of an executor that there is, in place of those that the machine's kind is meant to
  // have.
  void set_fusions(std::span<const Fusion> fusions);

  // The busiest rank's first step. Valid until the next call. What does not fit is priced too.
  const Priced& price(const Point& point);
  // Of one rank alone (`run --shard`), with the times of its exchanges; those not named take none.
  const Priced& price_alone(const Point& point, int rank,
                            const std::vector<std::pair<std::string, double>>& exchanges_us);

  // Schedules are kept for the next point of their layout; a sweep of ten thousand layouts lets go
  // of each when it is done. What routers have drawn stays.
  void forget_layouts() {
    passages_.clear();
    planner_ = Planner();
  }

 private:
  simulated::Passage& passage(const Schedule& schedule);
  StepState load(const Point& point, const Schedule& schedule, const Slice& micro_batch);
  void route(const Point& point, StepState& state);
  void add(const simulated::PassagePrice& passage, int ticks);
  void begin(const Point& point);

  Machine machine_;
  std::span<const Fusion> fusions_;
  Accounting accounting_;
  Planner planner_;
  std::unordered_map<const Schedule*, std::unique_ptr<simulated::Passage>> passages_;
  std::map<std::tuple<const Model*, double, uint64_t>, simulated::Router> routers_;
  std::unique_ptr<simulated::Passage> alone_;  // its covers' names are priced_'s
  Priced priced_;
};

}  // namespace helix
