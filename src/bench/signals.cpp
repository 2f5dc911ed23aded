#include "bench/signals.h"

#include <algorithm>
#include <atomic>
#include <csignal>

#include "execute/exchange/mpi.h"

namespace helix {

namespace {

constexpr int time_limit = 1 << 16;  // no signal's number

std::atomic<int> signalled{0};
static_assert(std::atomic<int>::is_always_lock_free);  // a handler may set it

void note(int number) { signalled = number; }

}  // namespace

void hear_signals() {
  struct sigaction action {};
  action.sa_handler = note;
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGTERM, SIGINT, SIGUSR1}) sigaction(number, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGXFSZ, &action, nullptr);
}

bool asked_to_stop() { return signalled != 0; }

Stop::Stop(std::optional<double> limit_s) {
  using Clock = std::chrono::steady_clock;
  if (limit_s)
    limit_ = Clock::now() +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(*limit_s));
}

bool Stop::agreed(MPI_Comm ranks) {
  int mine = signalled;
  if (limit_ && std::chrono::steady_clock::now() >= *limit_) mine = std::max(mine, time_limit);
  int any = 0;
  HELIX_MPI(MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, ranks));
  cause_ = std::max(cause_, any);
  return cause_ != 0;
}

std::string Stop::cause() const {
  switch (cause_) {
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    case SIGUSR1: return "SIGUSR1";
    default: return "the time limit";
  }
}

}  // namespace helix
