// A line of a results file (README.md, "How to read a line"): what a run hands over, and the line
// made of it. Every number that follows from the samples is computed here and nowhere else.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "bench/point.h"
#include "bench/statistics.h"
#include "execute/executor.h"
#include "schedule/covers.h"

namespace helix {

inline constexpr std::string_view line_schema = "helix-bench/1.2";

// Lines of equal identity are one measurement; the later one counts. "" stands for null.
struct Identity {
  std::string key;
  std::string executor;
  std::string exchange;
  std::string machine;
  std::string shard;
  int64_t repeat = 1;
  // clang-tidy takes the 0 that <=> compares with for a pointer.
  // NOLINTNEXTLINE(modernize-use-nullptr)
  friend auto operator<=>(const Identity&, const Identity&) = default;
};
// Fails at a line that has no identity, with its file, line and pointer.
Identity identity_of(const Node& line);

// Which tasks stand as one in its `tasks_us`.
std::span<const Fusion> fusions_of(const Node& line);

// How a launch executes a point.
struct Setting {
  std::string executor = "cpu";
  std::string exchange = "mpi";  // "" where nothing is exchanged by us
  std::string machine = {};      // "" where it is not named
  std::string shard = {};        // "RANK/N"
  int64_t repeat = 1;
  std::optional<int64_t> gpus = {};  // none on CPUs
  std::optional<int64_t> ranks_per_gpu = {};
  int64_t threads = 1;           // a rank
  bool oversubscribed = false;   // more ranks times threads than cores
  std::string environment = {};  // its hash
};
Identity identity_of(const Point& point, const Setting& setting);

struct ExchangeTimes {      // µs a step
  double alone = 0;         // one after another, nothing else running
  double back_to_back = 0;  // all of a step issued at once
  double exposed = 0;       // what a step waits for them
  double hidden = 0;
};

struct Roofline {  // of the busiest rank, a step
  double bytes = 0;
  double flops = 0;
  double floor_us = 0;
  struct Task {
    std::string name;
    double floor_us = 0;
    bool computes = false;  // its FLOPs take longer than its bytes
  };
  // Of each task alone, as tasks_us names them, on the rank where it is the highest.
  std::vector<Task> tasks = {};
};

struct Verified {
  std::string scope = "step";  // or "tasks"
  double max_rel_err = 0;      // not finite: null in the line, and failed
  double tolerance = 0;
  // {"choices", "differing"}: of routers, and how many differed and were forced; {"codes",
  // "codes_differing"}: the same of a quantised KV cache; null when there are none.
  Json forced = {};
  bool passed() const { return max_rel_err <= tolerance; }  // NaN fails
};

// What the driver says of the cards while steps are measured.
struct CardNotes {
  bool known = false;                             // whether it watches the clocks
  std::vector<std::string> throttled = {};        // what held clocks down; empty: nothing
  std::optional<int> sm_clock_mhz = {};           // of the slowest card, after the last step
  std::optional<double> energy_j_per_token = {};  // of all cards; none when measured under a second
};

// What is taken on the fullest card, by all ranks that work there.
struct DeviceBytes {
  int64_t tensors = 0;                  // bytes_per_rank, summed
  int64_t workspaces = 0;               // what the executor allocates besides
  std::optional<int64_t> context = {};  // CUDA's, with the kernels, also of ranks without work
  int64_t libraries = 0;                // the rest: NCCL, graphs, and what the allocator rounds up
};

// Of a shard (Setting::shard): exchanges were not carried out. Samples and tasks are without them;
// the line's TTL has what would be exposed of them, where a machine has priced it.
struct NotExecuted {
  struct Experts {
    Slice held;
    int busiest_of = 1;  // EP ranks: what they have to do is what the busiest of them has
  };
  std::string machine;                                   // ""; none, and what follows is NaN
  std::vector<std::pair<std::string, double>> tasks_us;  // a cover each
  double exposed_us = 0;                                 // of a step
  double hidden_us = 0;
  std::optional<Experts> experts = {};
};

// What was measured of a model cut to some layers, where the line's point has depths.
struct MeasuredDepth {
  int64_t layers = 0;
  std::vector<double> samples_us;
};

struct Measured {
  std::vector<double> samples_us;  // a step each, the maximum over ranks; not empty
  std::vector<std::pair<std::string, double>> tasks_us;  // a cover each, in order of the step
  std::optional<ExchangeTimes> exchange;
  std::optional<SharedCores> shared_cores;  // of CPU ranks
  std::optional<NotExecuted> not_executed;
  int64_t weight_bytes = 0;  // of the fullest rank
  int64_t kv_bytes = 0;
  int64_t buffer_bytes = 0;
  std::optional<int64_t> peak_resident_bytes;
  Json experts_touched;  // null, or {"mean":, "busiest":}
  std::optional<Roofline> roofline;
  std::optional<CardNotes> card;  // of GPU ranks, as the next
  std::optional<DeviceBytes> device_bytes;
  std::string peer_memory;  // Executor::peer_memory()
  std::optional<Verified> verified;
  std::vector<MeasuredDepth> depths;  // of which the others are made; empty: measured whole
  std::string started;                // utc_now(); "" when simulated
};

Json ok_line(const Point& point, const Setting& setting, const Measured& measured);
// The same fields, without measurements.
Json skipped_line(const Point& point, const Setting& setting, const std::string& reason);
Json failed_line(const Point& point, const Setting& setting, const std::string& reason,
                 const std::string& started);

}  // namespace helix
