// What a schedule is priced on: a machine's peaks, as its data sheet has them, apart from the
// empirical factors that say how much of them a decode step gets.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/format.h"
#include "base/json.h"

namespace helix {

// Where a number comes from. `fitted`: found from whole steps; its source says which.
enum class Basis : uint8_t { data_sheet, measured, fitted, assumed };
std::string_view name_of(Basis basis);

struct Machine {
  std::string name;
  bool gpu = true;  // false: ranks are processes on CPU cores
  // Ranks of one domain of fast links (NVLink); the network lies between domains.
  int64_t domain_ranks = 8;
  // bf16 products of more rows are a library's, which begin when the cover before them has ended,
  // and nothing begins before they have; 0: none are.
  int64_t library_rows = 0;

  // Peaks of one rank.
  double memory_gb = 0;
  double read_gb_per_s = 0;
  double link_gb_per_s = 0;     // sent, inside a domain
  double network_gb_per_s = 0;  // sent, between domains
  // By the format in which the weights, or the KV cache, are stored: a product that is quantised in
  // its weights alone computes at another format's rate, and its source says so.
  using Rates = std::array<double, std::size(formats)>;
  Rates product_tflops = {};
  Rates attention_tflops = {};

  // Factors. Efficiencies are shares of a peak.
  double weight_read_efficiency = 1;  // also of activations
  double kv_read_efficiency = 1;
  double product_efficiency = 1;
  double attention_efficiency = 1;
  double link_efficiency = 1;
  double network_efficiency = 1;
  double kernel_us = 0;          // fixed time of a cover that does not communicate
  double all_reduce_us = 0;      // of an all-reduce of nothing inside a domain, its kernel included
  double exchange_us = 0;        // of any other collective
  double network_us = 0;         // more, where a collective leaves the domain
  double touched_expert_us = 0;  // of each expert that some token chose, in both its products
  double read_ahead_mb = 0;      // of weights and KV history read before their inputs are there
  double launch_ahead_us = 0;    // of a cover's fixed time, while the one before it ends
  double memory_reserve = 0;     // share of the memory that stays free

  // Of covers (schedule/covers.h) that were measured apart: in place of what stands above. Shapes
  // that were timed take what was timed, and others follow from them (execute/simulate/shapes.h).
  struct Shape {
    double value_bytes = 0;   // of a weight, or of the KV cache
    double flops_a_byte = 0;  // of one request, for a byte of weights or history
    double bytes = 0;         // that one request reads and writes in a layer
    double count = 0;         // requests; of experts, those that some token chose
  };
  struct TimedShape {
    Shape shape;
    double us = 0;  // a layer
  };
  struct CoverFactors {
    double fixed_us = 0;
    double read_efficiency = 1;
    double compute_efficiency = 1;
    std::vector<TimedShape> shapes = {};
  };
  std::map<std::string, CoverFactors, std::less<>> covers;

  struct Provenance {
    Basis basis = Basis::assumed;
    std::string source;
  };
  std::map<std::string, Provenance, std::less<>> provenance;  // by key
  Json document;                                              // as read

  double usable_bytes() const { return memory_gb * 1e9 * (1 - memory_reserve); }
};

// The numbers of a machine that have one key each, with what is allowed.
struct MachineNumber {
  std::string_view key;
  double Machine::*value;
  double low, high;
  bool peak;
};
std::span<const MachineNumber> machine_numbers();

// A name of configs/machines ("gb200-nvl72"), or the path of a file: what has a slash or ends in
// .json. Throws InputError: no such machine, with the nearest name; not a machine file; a number
// that no machine has.
Machine read_machine(const std::string& name_or_path);
Machine parse_machine(const Node& document);
std::vector<std::string> machine_names();

}  // namespace helix
