#include "bench/watchdog.h"

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "base/error.h"
#include "base/heartbeat.h"
#include "base/text.h"
#include "bench/file.h"

namespace helix {

namespace {

std::mutex words_mutex;
const char* current_phase = "starting";
std::string current_point;

}  // namespace

void doing(const char* phase) {
  const std::lock_guard lock(words_mutex);
  current_phase = phase;
}

void doing(const char* phase, std::string point) {
  const std::lock_guard lock(words_mutex);
  current_phase = phase;
  current_point = std::move(point);
}

std::string what_was_done() {
  const std::lock_guard lock(words_mutex);
  return current_point.empty() ? current_phase
                               : fmt::format("{} ({})", current_phase, current_point);
}

void end_all_ranks(int rank, const std::string& reason) {
  const std::string line = fmt::format("helix-bench: rank {}: {}\n", rank, one_line(reason, 4000));
  static_cast<void>(write_all(STDERR_FILENO, line));
  // MPI_Abort may itself wait for a lock that the stuck thread holds.
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::seconds(5));
    std::_Exit(static_cast<int>(Exit::failed));
  }).detach();
  int up = 0;
  int down = 0;
  MPI_Initialized(&up);
  MPI_Finalized(&down);
  if (up != 0 && down == 0) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(Exit::failed));
  std::_Exit(static_cast<int>(Exit::failed));
}

Watchdog::Watchdog(int rank, double silence_s)
    : thread_([this, rank, silence_s] { watch(rank, silence_s); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  over_.notify_all();
  thread_.join();
}

void Watchdog::watch(int rank, double silence_s) {
  using Clock = std::chrono::steady_clock;
  uint64_t last = heartbeats;
  Clock::time_point heard = Clock::now();
  const std::chrono::duration<double> period(std::min(silence_s / 4, 1.0));
  std::unique_lock lock(mutex_);
  while (!over_.wait_for(lock, period, [this] { return ended_; })) {
    const uint64_t now = heartbeats;
    if (now != last) {
      last = now;
      heard = Clock::now();
    } else if (std::chrono::duration<double>(Clock::now() - heard).count() >= silence_s) {
      end_all_ranks(rank, fmt::format("no task was finished in {} s (-T), while {}", silence_s,
                                      what_was_done()));
    }
  }
}

}  // namespace helix
