// Ends a run that has gone silent: a rank that waits for ever waits for one that is gone or stuck.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace helix {

// What this rank is doing, for last words; `phase` outlives the program (a literal).
void doing(const char* phase);
void doing(const char* phase, std::string point);
std::string what_was_done();

// Says why on stderr, in one write, and ends all ranks at once, whatever state MPI is in.
[[noreturn]] void end_all_ranks(int rank, const std::string& reason);

// Watches base/heartbeat.h from a thread of its own.
class Watchdog {
 public:
  Watchdog(int rank, double silence_s);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void watch(int rank, double silence_s);

  std::mutex mutex_;
  std::condition_variable over_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace helix
