#include "bench/world.h"

#include <omp.h>
#include <sched.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/error.h"
#include "base/heartbeat.h"

namespace helix {

World::World() : comm_(Communicator::duplicate(MPI_COMM_WORLD)), rank_(comm_.rank()), size_(comm_.size()) {
  MPI_Comm host = MPI_COMM_NULL;
  HELIX_MPI(MPI_Comm_split_type(comm_.get(), MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host));
  HELIX_MPI(MPI_Comm_size(host, &local_size_));
  HELIX_MPI(MPI_Comm_free(&host));
}

const Communicator& World::first(int ranks) {
  auto [at, made] = first_.try_emplace(ranks);
  if (made) at->second = Communicator::split(comm_.get(), rank_ < ranks ? 0 : -1, rank_);
  return at->second;
}

void World::meet() const {
  MPI_Request request = MPI_REQUEST_NULL;
  HELIX_MPI(MPI_Ibarrier(comm_.get(), &request));
  auto pause = std::chrono::microseconds(20);
  for (int done = 0; done == 0;) {
    HELIX_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
    if (done != 0) break;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(2000));
  }
}

std::optional<std::string> World::agree(const std::function<void()>& f) const {
  std::string reason;
  bool failed = false;
  try {
    f();
  } catch (const std::exception& error) {
    failed = true;
    reason = error.what();
  }
  int first = failed ? rank_ : size_;
  meet();  // the slowest rank may take long
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm_.get()));
  if (first == size_) return std::nullopt;
  return broadcast(reason, first);
}

std::string World::broadcast(const std::string& text, int root) const {
  auto length = static_cast<uint64_t>(text.size());
  HELIX_MPI(MPI_Bcast(&length, 1, MPI_UINT64_T, root, comm_.get()));
  std::string result = text;
  result.resize(length);
  broadcast_bytes(result.data(), length, root);
  return result;
}

void World::broadcast_bytes(void* data, size_t bytes, int root) const {
  constexpr size_t most = size_t{1} << 30;
  for (size_t at = 0; at < bytes; at += most)
    HELIX_MPI(MPI_Bcast(static_cast<char*>(data) + at, count_of(static_cast<int64_t>(std::min(most, bytes - at))),
                        MPI_BYTE, root, comm_.get()));
}

std::vector<double> World::maximum(std::vector<double> values) const {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, values.data(), count_of(static_cast<int64_t>(values.size())), MPI_DOUBLE,
                          MPI_MAX, comm_.get()));
  return values;
}

int ranks_launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"})
    if (const char* text = std::getenv(name)) {
      // SLURM_NTASKS is also set in a batch script, outside of any step.
      if (std::string(name) == "SLURM_NTASKS" && std::getenv("SLURM_PROCID") == nullptr) continue;
      return std::atoi(text);
    }
  return 0;
}

int allowed_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

int set_threads(const World& world, int asked) {
  int threads = asked;
  if (const char* text = std::getenv("HELIX_BENCH_THREADS"); threads <= 0 && text != nullptr) threads = std::atoi(text);
  if (threads <= 0) threads = std::max(1, allowed_cores() / world.ranks_on_this_host());
  omp_set_num_threads(threads);
  return threads;
}

}  // namespace helix
