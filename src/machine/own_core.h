// Does a core work for this thread alone?
//
// Its other hardware thread may run something else, on a virtual machine another guest's work: for
// some hundredths of a second, or for whole ones, and no clock and no counter of this guest shows
// it. What is bound by arithmetic then takes 1.25 to 1.6 times as long. Independent additions show
// it: alone they fill the core's integer units in every cycle.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

namespace helix {

// The best of a few microseconds.
double additions_per_s();

class OwnCore {
 public:
  // `calm`: once shared, a core is its own when it was seen as such for so long; what shares it
  // comes and goes.
  explicit OwnCore(std::function<double()> rate = additions_per_s,
                   std::chrono::microseconds calm = std::chrono::milliseconds(1))
      : rate_(std::move(rate)), calm_(calm) {}

  // Is its rate near the best that was seen? Of a core that was shared from the first call on, the
  // best is too low until it once is not.
  bool now();

 private:
  std::function<double()> rate_;
  std::chrono::microseconds calm_;
  double best_ = 0;
  std::chrono::steady_clock::time_point own_from_;  // if nothing comes
};

}  // namespace helix
