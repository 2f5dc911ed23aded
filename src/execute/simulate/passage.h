// The simulated executor: the covers of a schedule priced on a machine instead of carried out.
//
// A cover takes its fixed time and then the longest of its bytes, its FLOPs and its messages at the
// machine's rates; times that were measured at its shapes scale all of them alike. Lanes run as the
// executors run them: each in order, and a cover waits for the last writer of what it reads. Early
// bytes may be read while memory is idle before the cover's inputs are there, up to the machine's
// `read_ahead_mb`; routed experts not before the router has decided, and nothing of or behind a
// library's products. What the two lanes take from
// each other's memory bandwidth is left out.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "execute/simulate/rates.h"
#include "execute/simulate/terms.h"

namespace helix::simulated {

// How HOP-B is priced. `chunks`: each chunk is a cover of its own and pays its latency. `paper`:
// Figure 3's way: with c and a for the attention and exchange time of one of B requests, latency
// paid once by the whole batch, B c + a where a <= c, else c + B a: never longer than without.
enum class Accounting : uint8_t { chunks, paper };

enum class Bound : uint8_t { fixed, read, compute, link };  // what takes most of a cover's time
std::string_view name_of(Bound bound);

struct CoverPrice {  // in a step: of all layers, chunks and covers of that name
  std::string_view name;
  bool communicates = false;
  double us = 0;  // one after another, nothing read ahead
  double bytes = 0;
  double flops = 0;
  double sent_bytes = 0;
  double floor_us = 0;    // at the machine's peaks
  bool computes = false;  // FLOPs make the floor
  Bound bound = Bound::fixed;
};

struct PassagePrice {
  double us = 0;
  std::vector<CoverPrice> covers;  // in order of the schedule
  double exchange_us = 0;          // of covers that communicate, one after another
  double exposed_us = 0;           // of that, what the compute lane takes or waits for
  double floor_us = 0;             // all bytes, or all FLOPs, at the machine's peaks
};

// One stage's schedule, ready to be priced. With `paper` accounting HOP-B is a schedule of two
// chunks, of which the first stands for all requests.
class Passage {
 public:
  // `fusions`: of which executor's covers.
  Passage(const Schedule& schedule, std::span<const Fusion> fusions, const Machine& machine,
          Accounting accounting);
  Passage(const Passage&) = delete;
  Passage& operator=(const Passage&) = delete;
  const PassagePrice& price(const StepState& state);  // valid until the next call

 private:
  struct Entry {  // a cover
    Terms terms;
    Rates rates;
    Lane lane = Lane::compute;
    int chunk = all_chunks;
    size_t name = 0;  // its place in price_.covers
    std::vector<Id> waits_for, writes;
    Id early_after = -1;  // what its early bytes are is not known before this tensor
    // In the state in hand.
    double early_us = 0;
    double late_us = 0;
    double other_us = 0;  // computing, or sending
    double fixed_us = 0;
    bool in_turn = false;  // a library's: nothing of it begins early
    double us() const { return fixed_us + std::max(early_us + late_us, other_us); }
  };
  struct Part {  // a segment's covers
    size_t begin, end;
    int layers;
  };
  Entry entry_of(const Schedule& schedule, const Cover& cover, const Machine& machine);
  void cost(Entry& entry, const Symbols& symbols, int layers);
  static double correction(const Entry& entry, const Symbols& symbols);
  void lap(const Part& part, double requests);
  void take(const Entry& entry);
  size_t overlap(size_t at, double requests);

  std::vector<Entry> entries_;
  std::vector<Part> parts_;
  std::vector<std::string> names_;
  bool paper_;
  double read_ahead_bytes_;
  double launch_ahead_us_;
  double peak_byte_us_;
  PassagePrice price_;
  double bytes_us_ = 0, flops_us_ = 0;  // of a step, at the peaks
  // The timeline.
  std::array<double, 2> free_ = {};   // a lane
  std::array<double, 2> idle_ = {};   // memory, as far as a lane uses it
  std::array<bool, 2> in_turn_ = {};  // the last cover of a lane
  double waited_ = 0;                 // the compute lane, for the exchange lane
  std::vector<double> written_;       // a tensor
};

}  // namespace helix::simulated
