#include "bench/cards.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

namespace helix {

namespace {

// Ranks of one host are dealt its cards in turn: as the launcher counts them, else as MPI does.
int local_rank(const World& world) {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"})
    if (const char* text = std::getenv(name); text != nullptr) return std::atoi(text);
  return world.rank_on_this_host();
}

// The lowest rank of the world that has the same card.
int first_with(const World& world, const std::string& id) {
  std::array<char, 64> mine{};
  std::copy_n(id.begin(), std::min(id.size(), mine.size()), mine.begin());
  std::vector<std::array<char, 64>> all(static_cast<size_t>(world.size()));
  HELIX_MPI(MPI_Allgather(mine.data(), 64, MPI_CHAR, all.data(), 64, MPI_CHAR, world.comm()));
  return static_cast<int>(std::ranges::find(all, mine) - all.begin());
}

}  // namespace

Cards::Cards(World& world) : world_(world) {
  if (const auto failed = world.agree([&] { card_ = open_card(local_rank(world)); }))
    throw InputError(*failed);
  sharing_ = Communicator::split(world.comm(), first_with(world, card_.id), world.rank());
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

namespace {

ExchangeKind exchange_of(const Cards& cards, const World& world, const std::string& wanted) {
  const int64_t sharing = cards.most_ranks_on_a_card();
  const bool one_host = world.maximum(world.size() - world.sum_on_this_host(1)) == 0;
  if (wanted == "mpi") return ExchangeKind::mpi;
  if (wanted == "auto") {
    // On a shared card kernels that wait for each other are for those who ask for them.
    if (world.size() == 1 || sharing > 1) return ExchangeKind::mpi;
    if (one_host) return ExchangeKind::fused;
    return has_nccl() ? ExchangeKind::nccl : ExchangeKind::mpi;
  }
  if (wanted == "fused") {
    if (!one_host)
      throw InputError(
          "--exchange fused: the ranks are on several hosts, and CUDA IPC needs one; nccl and mpi "
          "do not");
    return ExchangeKind::fused;
  }
  if (!has_nccl())
    throw InputError(
        "--exchange nccl: this program was built without NCCL (NCCL_HOME); mpi and fused are "
        "there");
  if (sharing > 1)
    throw InputError(
        fmt::format("--exchange nccl: {} ranks share a GPU, and NCCL takes one rank each; mpi and "
                    "fused let ranks share",
                    sharing));
  return ExchangeKind::nccl;
}

}  // namespace

ExecutorChoice choose_exchange(ExecutorChoice how, const Cards& cards, const World& world,
                               const std::string& wanted) {
  how.exchange = exchange_of(cards, world, wanted);
  how.ranks_per_card = static_cast<int>(cards.most_ranks_on_a_card());
  const int half = cards.mine().multiprocessors / 2;
  const int asked = std::max(1, how.exchange_blocks) * how.ranks_per_card;
  if (how.exchange == ExchangeKind::fused && how.ranks_per_card > 1 && asked > half)
    throw InputError(
        fmt::format("--exchange fused: {} ranks share a GPU, with {} blocks each that wait for "
                    "each other: more "
                    "than half of its {} SMs; --exchange-blocks {} at most",
                    how.ranks_per_card, std::max(1, how.exchange_blocks),
                    cards.mine().multiprocessors, half / how.ranks_per_card));
  return how;
}

}  // namespace helix
