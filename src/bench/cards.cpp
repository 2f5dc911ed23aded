#include "bench/cards.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

namespace helix {

int local_rank(const World& world) {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"})
    if (const char* text = std::getenv(name); text != nullptr) return std::atoi(text);
  return world.rank_on_this_host();
}

Communicator ranks_of_card(MPI_Comm ranks, const std::string& id) {
  int size = 0;
  int rank = 0;
  HELIX_MPI(MPI_Comm_size(ranks, &size));
  HELIX_MPI(MPI_Comm_rank(ranks, &rank));
  std::array<char, 64> mine{};
  std::copy_n(id.begin(), std::min(id.size(), mine.size()), mine.begin());
  std::vector<std::array<char, 64>> all(static_cast<size_t>(size));
  HELIX_MPI(MPI_Allgather(mine.data(), 64, MPI_CHAR, all.data(), 64, MPI_CHAR, ranks));
  const auto first = std::ranges::find(all, mine) - all.begin();
  return Communicator::split(ranks, static_cast<int>(first), rank);
}

Cards::Cards(World& world) : world_(world) {
  if (const auto failed = world.agree([&] { card_ = open_card(local_rank(world)); }))
    throw InputError(*failed);
  sharing_ = ranks_of_card(world.comm(), card_.id);
  monitor_ = CardMonitor(card_.bus_id);
  free_at_start_ = free_card_bytes();
  // The first rank to look at a card saw it without any of the others.
  double before = card_.free_before_bytes;
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &before, 1, MPI_DOUBLE, MPI_MAX, sharing_.get()));
  if (before > 0) context_bytes_ = std::max(0.0, before - free_at_start_);
}

Cards::Use Cards::use(int ranks) const {
  const bool works = world_.rank() < ranks;
  const double sharing = sum_on_card(works ? 1 : 0);
  const double cards = works ? 1 / sharing : 0;
  double gpus = 0;
  HELIX_MPI(MPI_Allreduce(&cards, &gpus, 1, MPI_DOUBLE, MPI_SUM, world_.comm()));
  return {std::llround(gpus), static_cast<int64_t>(world_.maximum(sharing))};
}

double Cards::sum_on_card(double value) const {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_SUM, sharing_.get()));
  return value;
}

std::string Cards::ipc_refusal() const {
  return world_
      .agree([&] {
        if (const std::string why = helix::ipc_refusal(world_.comm()); !why.empty())
          throw RunError(why);
      })
      .value_or("");
}

bool Cards::windows_reach() const { return helix::windows_reach(world_.comm()); }

namespace {

// SMs that kernels of a shared card take which wait for each other: all its ranks' together.
int waiting_blocks(const ExecutorChoice& how, const Neighbours& there) {
  return there.ranks_per_card == 1 ? 0 : std::max(1, how.exchange_blocks) * there.ranks_per_card;
}

// Do plain loads and stores of a kernel reach the memory of all ranks?
bool reached(const Neighbours& there) {
  return there.windows || (there.one_host && there.ipc.empty());
}

// Where a card runs one rank at a time, an exchange on it takes milliseconds: the host's is no
// slower, and spins for nobody.
ExchangeKind best_exchange(const ExecutorChoice& how, const Neighbours& there) {
  if (there.ranks == 1) return ExchangeKind::mpi;
  const bool together = there.ranks_per_card == 1 || there.mps;
  const bool room = waiting_blocks(how, there) <= there.multiprocessors / 2;
  if (reached(there) && together && room) return ExchangeKind::fused;
  return there.nccl && there.ranks_per_card == 1 ? ExchangeKind::nccl : ExchangeKind::mpi;
}

ExchangeKind exchange_of(const ExecutorChoice& how, const Neighbours& there,
                         const std::string& wanted) {
  if (wanted == "mpi") return ExchangeKind::mpi;
  if (wanted == "auto") return best_exchange(how, there);
  if (wanted == "fused") {
    if (!reached(there) && !there.one_host)
      throw InputError(
          "--exchange fused: the ranks are on several hosts, where it needs a GPU a rank, all of "
          "one NVLink domain, and NCCL 2.28; nccl and mpi do not");
    if (!reached(there))
      throw InputError(fmt::format(
          "--exchange fused: CUDA IPC is refused ({}): containers need one IPC and process "
          "namespace for all ranks (--ipc=host --pid=host); nccl and mpi need no IPC",
          there.ipc));
    return ExchangeKind::fused;
  }
  if (!there.nccl)
    throw InputError(
        "--exchange nccl: this program was built without NCCL (NCCL_HOME); mpi and fused are "
        "there");
  if (there.ranks_per_card > 1)
    throw InputError(
        fmt::format("--exchange nccl: {} ranks share a GPU, and NCCL takes one rank each; mpi and "
                    "fused let ranks share",
                    there.ranks_per_card));
  return ExchangeKind::nccl;
}

}  // namespace

ExecutorChoice choose_exchange(ExecutorChoice how, const Neighbours& there,
                               const std::string& wanted) {
  how.exchange = exchange_of(how, there, wanted);
  how.ranks_per_card = there.ranks_per_card;
  const int half = there.multiprocessors / 2;
  if (how.exchange == ExchangeKind::fused && waiting_blocks(how, there) > half)
    throw InputError(
        fmt::format("--exchange fused: {} ranks share a GPU, with {} blocks each that wait for "
                    "each other: more than half of its {} SMs; --exchange-blocks {} at most",
                    how.ranks_per_card, std::max(1, how.exchange_blocks), there.multiprocessors,
                    half / how.ranks_per_card));
  return how;
}

ExecutorChoice choose_exchange(const ExecutorChoice& how, const Cards& cards, const World& world,
                               const std::string& wanted) {
  Neighbours there{.ranks = world.size(),
                   .ranks_per_card = static_cast<int>(cards.most_ranks_on_a_card()),
                   .one_host = world.maximum(world.size() - world.ranks_on_this_host()) == 0,
                   .mps = cards.mine().mps,
                   .nccl = cards.mine().nccl_built > 0,
                   .multiprocessors = cards.mine().multiprocessors};
  if (wanted == "fused" || wanted == "auto") {
    if (there.one_host) there.ipc = cards.ipc_refusal();
    if (!reached(there) && there.ranks_per_card == 1) there.windows = cards.windows_reach();
  }
  return choose_exchange(how, there, wanted);
}

}  // namespace helix
