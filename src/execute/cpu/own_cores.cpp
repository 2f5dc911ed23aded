#include "execute/cpu/own_cores.h"

#include "base/heartbeat.h"

namespace helix::cpu {

namespace {

using Clock = std::chrono::steady_clock;

double us_since(Clock::time_point began) {
  return std::chrono::duration<double, std::micro>(Clock::now() - began).count();
}

}  // namespace

bool Patience::over(double waiting_us) const {
  return waited_us_ + waiting_us >= first_us_ + share_ * us_since(began_);
}

Patience& Patience::of_process() {
  static Patience patience(2.5e5, 1.0 / 3);
  return patience;
}

void OwnCores::wait(const Exchange& exchange) {
  const auto began = Clock::now();
  double waited_us = 0;
  bool own = core_.now();
  while (!exchange.stage_agrees(own || patience_.over(waited_us))) {
    beat();
    own = core_.now();
    waited_us = us_since(began);
  }
  patience_.waited(waited_us);
  notes_.waited_us += waited_us;
  ++notes_.runs;
  notes_.shared += own ? 0 : 1;
}

}  // namespace helix::cpu
