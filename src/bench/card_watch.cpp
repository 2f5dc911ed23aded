#include "bench/card_watch.h"

#include <array>
#include <cmath>
#include <limits>

#include "bench/timing.h"

namespace helix {

namespace {

// The driver counts energy about ten times a second.
constexpr double least_seconds = 1;
constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
constexpr double no_clock = 1e9;

}  // namespace

CardWatch::CardWatch(Cards& cards, MPI_Comm ranks)
    : cards_(cards),
      ranks_(ranks),
      leads_(ranks_of_card(ranks, cards.mine().id).rank() == 0),
      began_(std::chrono::steady_clock::now()),
      energy_before_j_(energy_j()) {
  cards_.monitor().throttled_since();
}

double CardWatch::energy_j() const { return cards_.monitor().energy_j().value_or(unknown); }

CardNotes CardWatch::notes(int64_t tokens) {
  CardMonitor& monitor = cards_.monitor();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began_;
  double energy_j = leads_ ? this->energy_j() - energy_before_j_ : 0;
  uint32_t throttled = monitor.throttled_since();
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &energy_j, 1, MPI_DOUBLE, MPI_SUM, ranks_));
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &throttled, 1, MPI_UINT32_T, MPI_BOR, ranks_));
  const double clock = monitor.sm_clock_mhz().value_or(no_clock);
  const std::vector<double> most = maximum(ranks_, {monitor ? 0.0 : 1.0, -clock, -took.count()});
  CardNotes notes{.known = most[0] == 0, .throttled = throttle_names(throttled)};
  if (most[1] > -no_clock) notes.sm_clock_mhz = static_cast<int>(-most[1]);
  if (-most[2] >= least_seconds && std::isfinite(energy_j))
    notes.energy_j_per_token = energy_j / static_cast<double>(tokens);
  return notes;
}

DeviceBytes device_bytes(const Cards& cards, MPI_Comm ranks, const Executor& executor) {
  const double tensors = executor.allocated().total();
  std::array<double, 2> mine = {tensors, static_cast<double>(held_card_bytes()) - tensors};
  const Communicator sharing = ranks_of_card(ranks, cards.mine().id);
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, mine.data(), 2, MPI_DOUBLE, MPI_SUM, sharing.get()));
  const double used = cards.free_at_start() - free_card_bytes();
  std::array<double, 4> bytes = {mine[0], mine[1], cards.context_bytes().value_or(-1),
                                 used - mine[0] - mine[1]};
  struct {
    double used;
    int rank;
  } fullest{.used = used, .rank = 0};
  HELIX_MPI(MPI_Comm_rank(ranks, &fullest.rank));
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &fullest, 1, MPI_DOUBLE_INT, MPI_MAXLOC, ranks));
  HELIX_MPI(MPI_Bcast(bytes.data(), 4, MPI_DOUBLE, fullest.rank, ranks));
  const auto whole = [&](size_t i) { return static_cast<int64_t>(bytes.at(i)); };
  DeviceBytes found{.tensors = whole(0), .workspaces = whole(1), .libraries = whole(3)};
  if (bytes[2] >= 0) found.context = whole(2);
  return found;
}

}  // namespace helix
