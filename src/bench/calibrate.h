// `calibrate`: a machine file of this machine. Peaks are what its kernels and messages reach at
// their best; factors are found from the tasks of a sweep's points, timed one by one.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "bench/messages.h"
#include "bench/sample_tasks.h"

namespace helix {

struct CalibrateOptions {
  std::string output;  // the machine file; its name is the machine's
  std::string sweep;   // whose points are sampled; "": configs/sweeps/calibrate-cpu (-gpu).json
  ExecutorChoice how;
  std::string exchange = "auto";
  int threads = 0;  // a rank; 0: all cores shared out
};

// Collective over the world; returns the exit code. Writes nothing where a number that was measured
// cannot be true.
int calibrate(World& world, const CalibrateOptions& options);

// What was measured, and where.
struct Calibration {
  std::string name;
  bool gpu = false;
  std::string place;   // "commit 1234, vm (AMD EPYC), 2 ranks of 1 thread"
  bool far = false;    // the last rank is on another host than the first
  int host_ranks = 1;  // on the first one
  Peaks peaks;         // of one rank
  std::vector<MessageTime> messages;
  std::vector<SampledTask> tasks;
  struct Step {
    Point point;  // as it was carried out: without depths
    bool alone = false;
    double us = 0;
  };
  std::vector<Step> steps;
  std::span<const Fusion> fusions;  // of what carried them out
};
// Of tasks at these peaks: everything that the simulator divides by or adds. Its link is a unit,
// which machine_file replaces by what was reached.
Machine machine_at_peak(const Peaks& peaks, bool gpu);
// The document, with how well each cover is met under /calibration. Throws RunError for what cannot
// be: a rate or a time that is not positive, or beyond any processor there is.
Json machine_file(const Calibration& calibration);
std::string to_text(const Json& machine_file);

}  // namespace helix
