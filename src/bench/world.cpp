#include "bench/world.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <initializer_list>
#include <string_view>
#include <thread>

#include "base/heartbeat.h"

namespace helix {

namespace {

cpu_set_t allowed_set() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) CPU_SET(0, &set);
  return set;
}

}  // namespace

World::World()
    : comm_(Communicator::duplicate(MPI_COMM_WORLD)),
      host_(Communicator::of_host(comm_.get())),
      rank_(comm_.rank()),
      size_(comm_.size()),
      local_size_(host_.size()) {
  cpu_set_t cores = allowed_set();
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &cores, sizeof cores, MPI_BYTE, MPI_BOR, host_.get()));
  cores_ = CPU_COUNT(&cores);
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
    beat();  // the watchdogs of those who work watch over them
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

void World::lead(const std::function<void()>& f) const {
  enum : int { fine, input, failure };
  std::string reason;
  int kind = fine;
  try {
    if (leads()) f();
  } catch (const InputError& error) {
    kind = input;
    reason = error.what();
  } catch (const std::exception& error) {
    kind = failure;
    reason = error.what();
  }
  meet();  // it may have waited for a disk
  HELIX_MPI(MPI_Bcast(&kind, 1, MPI_INT, 0, comm_.get()));
  if (kind == fine) return;
  reason = broadcast(reason);
  if (kind == input) throw InputError(reason);
  throw AgreedError(reason);
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
    HELIX_MPI(MPI_Bcast(static_cast<char*>(data) + at,
                        count_of(static_cast<int64_t>(std::min(most, bytes - at))), MPI_BYTE, root,
                        comm_.get()));
}

std::vector<double> World::maximum(std::vector<double> values) const {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, values.data(),
                          count_of(static_cast<int64_t>(values.size())), MPI_DOUBLE, MPI_MAX,
                          comm_.get()));
  return values;
}

double World::sum_on_this_host(double value) const {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_SUM, host_.get()));
  return value;
}

namespace {

int number_in(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    // SLURM_NTASKS is also set in a batch script, outside of any step.
    if (text == nullptr ||
        (std::string_view(name).starts_with("SLURM_") &&
         (std::getenv("SLURM_STEP_ID") == nullptr || std::getenv("SLURM_PROCID") == nullptr)))
      continue;
    return std::atoi(text);
  }
  return 0;
}

}  // namespace

int ranks_launched() {
  return number_in({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"});
}

int rank_launched() { return number_in({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}); }

int allowed_cores() {
  const cpu_set_t set = allowed_set();
  return CPU_COUNT(&set);
}

int set_threads(const World& world, int asked) {
  int threads = asked;
  if (const char* text = std::getenv("HELIX_BENCH_THREADS"); threads <= 0 && text != nullptr)
    threads = std::atoi(text);
  if (threads <= 0)
    threads = std::clamp(world.cores_on_this_host() / world.ranks_on_this_host(), 1,
                         std::max(1, allowed_cores()));
  omp_set_num_threads(threads);
  return threads;
}

}  // namespace helix
