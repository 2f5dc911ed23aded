#include "bench/messages.h"

#include <algorithm>
#include <chrono>

#include "base/heartbeat.h"
#include "bench/statistics.h"

namespace helix {

namespace {

constexpr double least_bytes = 8;
constexpr double most_bytes = 4 << 20;
constexpr double step = 8;  // from one size to the next
constexpr double budget_us = 2e4;

// As the executors exchange: all messages under way at once.
class Exchange {
 public:
  Exchange(MPI_Comm ranks, std::vector<int> peers, size_t bytes)
      : ranks_(ranks), peers_(std::move(peers)), bytes_(bytes) {
    from_.resize(peers_.size() * bytes_);
    to_.resize(from_.size());
  }
  double us() {
    const auto began = std::chrono::steady_clock::now();
    const int count = count_of(static_cast<int64_t>(bytes_));
    Pending pending;
    for (size_t i = 0; i < peers_.size(); ++i) {
      HELIX_MPI(MPI_Irecv(to_.data() + i * bytes_, count, MPI_BYTE, peers_[i], 0, ranks_,
                          pending.request()));
      HELIX_MPI(MPI_Isend(from_.data() + i * bytes_, count, MPI_BYTE, peers_[i], 0, ranks_,
                          pending.request()));
    }
    pending.done(true);
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - began)
        .count();
  }

 private:
  MPI_Comm ranks_;
  std::vector<int> peers_;
  size_t bytes_;
  std::vector<std::byte> from_, to_;
};

// Of one size, among ranks that all call it.
MessageTime time_of(MPI_Comm ranks, const std::vector<int>& peers, double bytes) {
  Exchange exchange(ranks, peers, static_cast<size_t>(bytes));
  double first_us = 0;  // decides how many there are, alike on all ranks
  for (int i = 0; i < 3; ++i) first_us = exchange.us();
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &first_us, 1, MPI_DOUBLE, MPI_MAX, ranks));
  const auto count = static_cast<size_t>(std::clamp(budget_us / first_us, 20.0, 1000.0));
  std::vector<double> samples(count);
  for (double& sample : samples) sample = exchange.us();
  std::ranges::sort(samples);
  double times[] = {nearest_rank(samples, 25), nearest_rank(samples, 50)};
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, times, 2, MPI_DOUBLE, MPI_MAX, ranks));
  beat();
  return {.bytes = bytes, .us = times[0], .spread = times[1] / times[0] - 1};
}

}  // namespace

std::vector<MessageTime> measure_messages(World& world) {
  std::vector<MessageTime> times;
  const auto measure = [&](MPI_Comm ranks, bool far, int size) {
    for (double bytes = least_bytes; bytes <= most_bytes; bytes *= step) {
      MessageTime time;
      if (ranks != MPI_COMM_NULL) {
        int me = 0;
        HELIX_MPI(MPI_Comm_rank(ranks, &me));
        std::vector<int> peers;
        for (int peer = 0; peer < size; ++peer)
          if (peer != me) peers.push_back(peer);
        time = time_of(ranks, peers, bytes);
      }
      world.meet();
      time.far = far;
      time.ranks = size;
      time.bytes = bytes;
      times.push_back(time);  // the first rank takes part in all of them
    }
  };
  for (int size = 2; size < 2 * world.size(); size *= 2) {
    const int ranks = std::min(size, world.size());
    measure(world.first(ranks).get(), false, ranks);
  }
  if (world.size() < 2) return times;
  const bool end = world.rank() == 0 || world.rank() == world.size() - 1;
  const Communicator ends = Communicator::split(world.comm(), end ? 0 : -1, world.rank());
  measure(ends.get(), true, 2);
  return times;
}

}  // namespace helix
