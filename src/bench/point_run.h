// One point carried out: load, verify, warm up, measure.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "bench/cards.h"
#include "bench/faults.h"
#include "bench/line.h"
#include "bench/plan.h"
#include "bench/point.h"
#include "bench/shard.h"
#include "bench/signals.h"
#include "bench/verification.h"
#include "bench/world.h"
#include "execute/cpu/host_rates.h"
#include "execute/weights.h"
#include "machine/machine.h"

namespace helix {

// What is executed of a point: its model, or that cut to the deeper of its depths, which has to
// outlive the assignment.
std::shared_ptr<const Model> executed_model(const Point& point);
Assignment assignment_of(const Point& point, const Model& executed);

enum class Status : uint8_t { ok, unverified, skipped, failed, dropped };

struct PointResult {
  Status status = Status::ok;  // the same on all ranks
  Json line;                   // on rank 0; null when dropped
  std::string trace;           // on rank 0, when asked for
};

// All calls are collective over the world; ranks without work wait.
class PointRunner {
 public:
  struct Settings {
    Setting setting;  // of the lines
    Scope scope = Scope::automatic;
    Fault fault;
    HostRates rates;
    ExecutorChoice how;
    Cards* cards = nullptr;  // of GPU ranks
    std::optional<Shard> shard = {};
    std::optional<Machine> prices = {};  // of a shard's exchanges
  };
  PointRunner(World& world, Stop& stop, Settings settings);

  // `number` counts points from 1. Throws what no rank but this one knows of.
  PointResult run(const Point& point, int64_t number, bool trace);

 private:
  struct Work;  // of the point in hand
  std::string cannot_hold(Work& work);
  Setting setting_of(const Point& point) const;
  // Processes that carry it out, and what each may take.
  int processes(const Point& point) const { return settings_.shard ? 1 : point.layout.ranks(); }
  Memory planned(const Point& point);
  bool load(Work& work);
  void decode(Work& work);
  void decode_phases(Work& work);
  void verify(Work& work);
  std::optional<Measured> measure_at(Work& work, int64_t layers);
  void measure_steps(Work& work, Measured& m);
  void measure_tasks(Work& work, Measured& m);
  void note_memory(Work& work, Measured& m);
  PointResult result(Work& work) const;
  bool fault_now(FaultKind kind) const;

  World& world_;
  Stop& stop_;
  Settings settings_;
  Judges judges_;
  Planner planner_;
  std::shared_ptr<HeldWeights> weights_ = std::make_shared<HeldWeights>();  // of the last point
  int64_t number_ = 0;
};

}  // namespace helix
