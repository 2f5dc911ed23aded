// Timed tasks begin when every rank's cores work for it alone, and count where they still do at the
// end.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include "execute/cpu/exchange.h"
#include "execute/executor.h"
#include "machine/own_core.h"

namespace helix::cpu {

// How long waits may be, all together: a first part, and a share of the time since then. On a host
// that is always shared, tasks are timed as they are then, and no run takes much longer for it.
class Patience {
 public:
  Patience(double first_us, double share) : first_us_(first_us), share_(share) {}
  bool over(double waiting_us) const;
  void waited(double us) { waited_us_ += us; }

  static Patience& of_process();

 private:
  double first_us_, share_;
  double waited_us_ = 0;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

// Runs of a cover, a layer each.
class Runs {
 public:
  void add(double us, bool own) {
    (own ? own_ : shared_).us += us;
    ++(own ? own_ : shared_).count;
  }
  // All of them together, each as long as those on cores that were still their own at the end; as
  // measured where there are none.
  double us() const {
    return own_.count == 0 ? shared_.us : own_.us * (1 + shared_.count / own_.count);
  }

 private:
  struct {
    double us = 0, count = 0;
  } own_, shared_;
};

class OwnCores {
 public:
  explicit OwnCores(std::function<double()> rate = additions_per_s,
                    Patience& patience = Patience::of_process())
      : core_(std::move(rate)), patience_(patience) {}

  // Collective over the stage, and a barrier of it.
  void wait(const Exchange& exchange);
  bool own() { return core_.now(); }
  const SharedCores& notes() const { return notes_; }

 private:
  // Of the thread that calls. To ask the others would cost a parallel region each time, which on a
  // busy host takes longer than what is timed.
  OwnCore core_;
  Patience& patience_;
  SharedCores notes_;
};

}  // namespace helix::cpu
