// The exchanges between ranks' GPUs against their plain twins, and their times. Under mpirun; rank
// i uses card i mod the number of cards. Prints one line a check (rank 0); exit code 1 if any
// failed on any rank. --quick: the checks alone, small. --time: also the times, one JSON line a
// case.
#include <cstdlib>

#include "tests/cuda/mpi/exchange_cases.h"
#include "tests/cuda/mpi/exchange_times.h"
#include "tests/cuda/mpi/place_cases.h"

namespace helix::cuda {
namespace {

void all_cases(bool quick) {
  const auto all = part_of<float>(13, 12, 512);
  Room room = larger(exchange_room(Way::words, all), exchange_room(Way::pieces, all));
  for (const Way way : {Way::words, Way::pieces, Way::owners})
    room = larger(room, all_reduce_room(way, world.size, 131, 7168, 4));
  const OwnChannel own(room);
  const PeerChannel& peers = *own;
  if (world.leads()) std::printf("peers' memory by %s\n", std::string(own.memory().name()).c_str());
  merge_cases<float>(peers, quick);
  merge_cases<bf16>(peers, quick);
  graph_case<float>(peers);
  graph_case<bf16>(peers);
  reduce_cases<float, float>(peers, quick);
  reduce_cases<bf16, float>(peers, quick);
  reduce_cases<bf16, bf16>(peers, quick);
  for (int seed = 0; seed < 6; ++seed) parcel_case(peers, seed);
  if (world.size == 1) return;
  place_case(peers);
  for (const Way way : {Way::words, Way::pieces, Way::owners}) missing_rank_case(way);
}

void find_place(int blocks) {
  HELIX_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &world.rank));
  HELIX_MPI(MPI_Comm_size(MPI_COMM_WORLD, &world.size));
  int cards = 0;
  HELIX_CUDA(cudaGetDeviceCount(&cards));
  HELIX_CUDA(cudaSetDevice(world.rank % cards));
  world.own_card = world.size <= cards;
  world.blocks = blocks > 0 ? blocks : world.own_card ? 32 : 8;
  world.stream = make_stream();
  engine.seed(static_cast<uint64_t>(world.rank) + 1);
}

}  // namespace
}  // namespace helix::cuda

int main(int count, char** words) {
  using namespace helix::cuda;
  const auto has = [&](const char* word) {
    return std::any_of(words + 1, words + count,
                       [&](const char* w) { return word == std::string(w); });
  };
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // as open_card does
  MPI_Init(&count, &words);
  try {
    find_place(0);
    all_cases(has("--quick"));
    if (has("--time")) times();
    world.stream = {};
  } catch (const std::exception& error) {
    std::printf("FAIL  rank %d: %s\n", world.rank, error.what());
    std::fflush(stdout);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  if (world.leads()) std::printf("%d checks, %d failed\n", checks, failures);
  MPI_Finalize();
  return failures == 0 ? 0 : 1;
}
