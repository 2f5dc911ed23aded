#include "bench/cards.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
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
  return {static_cast<int64_t>(gpus + 0.5), static_cast<int64_t>(world_.maximum(sharing))};
}

double Cards::sum_on_card(double value) const {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_SUM, sharing_.get()));
  return value;
}

ExchangeKind choose_exchange(const Cards& cards, const World& world, const std::string& wanted) {
  const int64_t sharing = cards.most_ranks_on_a_card();
  if (wanted == "mpi") return ExchangeKind::mpi;
  if (wanted == "auto")
    return has_nccl() && sharing == 1 && world.size() > 1 ? ExchangeKind::nccl : ExchangeKind::mpi;
  if (!has_nccl())
    throw InputError(
        "--exchange nccl: this program was built without NCCL (NCCL_HOME); mpi is there");
  if (sharing > 1)
    throw InputError(
        fmt::format("--exchange nccl: {} ranks share a GPU, and NCCL takes one rank each; mpi lets "
                    "ranks share",
                    sharing));
  return ExchangeKind::nccl;
}

}  // namespace helix
