#include "bench/hashes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/random.h"
#include "execute/exchange/mpi.h"

namespace helix {

Hashes::Hashes(Executor& executor) : executor_(executor), before_(executor.hooks().after) {
  executor.hooks().after = [this](const Task& task, int layer) {
    if (before_) before_(task, layer);
    if (task.op == Op::add_norm) add(task.writes[1]);
    if (task.op == Op::route) add(task.writes[0]);
  };
}

std::vector<uint64_t> Hashes::take() { return std::exchange(hashes_, {}); }

void Hashes::add(Id tensor) {
  const TensorView view = executor_.view(tensor, all_chunks);
  const auto bytes =
      static_cast<int64_t>(executor_.schedule()[tensor].bytes) * view.rows * view.values;
  uint64_t hash = 0;
  for (int64_t i = 0; i < bytes; i += 8) {
    uint64_t part = 0;
    std::memcpy(&part, view.data + i, static_cast<size_t>(std::min<int64_t>(8, bytes - i)));
    hash = combine(hash, part);
  }
  hashes_.push_back(hash);
}

int64_t count_differing(MPI_Comm ranks, const Place& place, std::vector<uint64_t> hashes) {
  int size = 0;
  HELIX_MPI(MPI_Comm_size(ranks, &size));
  auto most = static_cast<int64_t>(hashes.size());
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_INT64_T, MPI_MAX, ranks));
  hashes.resize(static_cast<size_t>(most), 0);
  std::vector<uint64_t> all(hashes.size() * static_cast<size_t>(size));
  const int count = count_of(static_cast<int64_t>(hashes.size()));
  HELIX_MPI(
      MPI_Allgather(hashes.data(), count, MPI_UINT64_T, all.data(), count, MPI_UINT64_T, ranks));
  int64_t differing = 0;
  const int replica = place.l.replica_ranks();
  for (int rank = 0; rank < size; ++rank)
    for (size_t i = 0; i < hashes.size(); ++i)
      differing += all[static_cast<size_t>(rank) * hashes.size() + i] !=
                   all[static_cast<size_t>(rank / replica * replica) * hashes.size() + i];
  return differing;
}

}  // namespace helix
