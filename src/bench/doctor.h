// `doctor`: what a user would trip over on this machine, found before a big job. Probes fill plain
// facts, checks judge them: a test makes any machine.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/world.h"
#include "execute/card_facts.h"

namespace helix {

inline constexpr double no_limit = std::numeric_limits<double>::max();

struct RankFacts {  // of one rank
  std::string host = {};
  int cores = 1;                   // that it may use
  int host_cores = 1;              // that some rank on its host may use
  double memory_bytes = no_limit;  // free on its host
  double address_space_bytes = no_limit;
  double locked_bytes = no_limit;
  double shared_memory_bytes = no_limit;  // free in /dev/shm
  std::string huge_pages = {};            // transparent ones: always, madvise, never; "" unknown
  double exchange_us = 0;                 // all-to-all over MPI, 4 KB to each rank
  bool exchanged = true;                  // what was sent is what came
  CardFacts card = {};
  bool nvml = true;  // answers
  uint32_t throttled = 0;
  std::string ipc = {};  // why a neighbour's device memory cannot be mapped; "" it can
};
struct Facts {
  bool gpu = false;                            // GPU ranks are asked for
  int ranks_launched = 0;                      // as the launcher says; 0: there is none
  std::string mpi_built = {}, mpi_found = {};  // "4.1.4"; "" another MPI than Open MPI
  std::string folder = {};                     // of results
  std::string folder_error = {};               // why nothing can be written there; "" it can
  double folder_bytes = no_limit;              // free
  std::vector<RankFacts> ranks = {};
};

enum class Health : uint8_t { ok, warning, fault };
struct Finding {
  std::string_view check;
  Health health = Health::ok;
  std::string text;  // what was found and, unless ok, what to do
};
// A finding a check, in order. What a fault rules out is left out.
std::vector<Finding> diagnose(const Facts& facts);

struct DoctorOptions {
  std::optional<bool> gpu;  // none: where this program has the GPU executor
  std::string folder = "results";
};
// Collective; the same on all ranks.
Facts examine(World& world, const DoctorOptions& options);
// Prints a line a check; exit code 2 where there is a fault.
int doctor(World& world, const DoctorOptions& options);

}  // namespace helix
