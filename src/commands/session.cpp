#include "commands/session.h"

#include <fmt/format.h>
#include <mpi.h>

#include <chrono>
#include <thread>

#include "bench/watchdog.h"

namespace helix {

int refuse(const std::string& reason, Exit code) {
  if (rank_launched() == 0) fmt::print(stderr, "helix-bench: {}\n", reason);
  else  // a launcher kills the others as soon as one has failed
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  return static_cast<int>(code);
}

namespace {

class Session {
 public:
  Session() {
    int provided = 0;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread",
              __FILE__, __LINE__);
  }
  ~Session() { MPI_Finalize(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
};

}  // namespace

// What all ranks know of ends in order; anything else would leave ranks waiting for each other.
int in_world(double silence_s, const std::function<int(World&)>& command) {
  const Session session;
  World world;
  const Watchdog watchdog(world.rank(), silence_s);
  try {
    return command(world);
  } catch (const InputError& error) {
    return world.leads() ? refuse(error.what(), Exit::bad_input) : 2;
  } catch (const AgreedError& error) {
    return world.leads() ? refuse(error.what(), Exit::failed) : 3;
  } catch (const std::exception& error) {
    end_all_ranks(world.rank(), fmt::format("{}, while {}", error.what(), what_was_done()));
  }
}

}  // namespace helix
