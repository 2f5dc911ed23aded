// Times of the exchanges, beside NCCL's where each rank has a card of its own.
#pragma once

#include <nccl.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/elementwise.h"
#include "tests/cuda/mpi/exchange_cases.h"

namespace helix::cuda {

// Median microseconds of one of 50 launches in a graph, of the slowest rank: of 20 replays, fewer
// where these take long.
template <class Node>
double node_us(Node&& node) {
  constexpr int nodes = 50;
  constexpr double enough_us = 1e5;
  double spent_us = 0;  // the same on all ranks
  const OwnedGraphExec graph = capture(world.stream.get(), [&] {
    for (int i = 0; i < nodes; ++i) node();
  });
  const OwnedEvent begin = make_event(), end = make_event();
  std::vector<double> times;
  for (int i = 0; i < 23 && (spent_us < enough_us || i < 6); ++i) {
    HELIX_MPI(MPI_Barrier(MPI_COMM_WORLD));
    HELIX_CUDA(cudaEventRecord(begin.get(), world.stream.get()));
    HELIX_CUDA(cudaGraphLaunch(graph.get(), world.stream.get()));
    HELIX_CUDA(cudaEventRecord(end.get(), world.stream.get()));
    HELIX_CUDA(cudaEventSynchronize(end.get()));
    float ms = 0;
    HELIX_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    const double us = worst(ms * 1000);
    spent_us += us;
    if (i >= 3) times.push_back(us / nodes);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

inline void check_nccl(ncclResult_t code, const char* call, int line) {
  if (code != ncclSuccess)
    throw std::runtime_error(std::string(__FILE__) + ":" + std::to_string(line) + ": " + call +
                             ": " + ncclGetErrorString(code));
}
#define HELIX_NCCL(call) check_nccl((call), #call, __LINE__)

class Nccl {
 public:
  Nccl() {
    ncclUniqueId id;
    if (world.leads()) HELIX_NCCL(ncclGetUniqueId(&id));
    HELIX_MPI(MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD));
    HELIX_NCCL(ncclCommInitRank(&comm_, world.size, id, world.rank));
  }
  ~Nccl() { ncclCommDestroy(comm_); }
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;
  void all_to_all(const std::byte* from, std::byte* to, int64_t bytes) const {
    HELIX_NCCL(ncclGroupStart());
    for (int i = 0; i < world.size; ++i) {
      HELIX_NCCL(ncclSend(from + i * bytes, bytes, ncclInt8, i, comm_, world.stream.get()));
      HELIX_NCCL(ncclRecv(to + i * bytes, bytes, ncclInt8, i, comm_, world.stream.get()));
    }
    HELIX_NCCL(ncclGroupEnd());
  }
  void all_reduce(const bf16* from, bf16* to, int64_t count) const {
    HELIX_NCCL(ncclAllReduce(from, to, count, ncclBfloat16, ncclSum, comm_, world.stream.get()));
  }

 private:
  ncclComm_t comm_ = nullptr;
};

struct Fastest {
  double us = infinity;
  int blocks = 0;
};
// Over the blocks that an exchange may have: few beside attention, more where nothing else runs.
template <class Node>
Fastest best_of(const PeerChannel& peers, Node&& node) {
  Fastest best;
  for (const int blocks : {8, 16, 32, 64, 128}) {
    if (!world.own_card && blocks > 8) break;  // 8 ranks may have half the SMs
    const double us = node_us([&] { node(Launch{world.stream.get(), blocks, true}); });
    if (us < best.us) best = {us, blocks};
  }
  peers.check();
  return best;
}

inline void print_time(const std::string& name, int rows, int64_t bytes, const Fastest& best,
                       double nccl_us) {
  if (!world.leads()) return;
  const double us = best.us;
  std::printf(
      "{\"case\": \"%s\", \"ranks\": %d, \"own_card\": %s, \"batch\": %d, "
      "\"bytes_per_peer\": %lld, \"blocks\": %d, \"us\": %.2f",
      name.c_str(), world.size, world.own_card ? "true" : "false", rows,
      static_cast<long long>(bytes), best.blocks, us);
  if (nccl_us > 0)
    std::printf(", \"nccl_us\": %.2f, \"nccl_over_ours\": %.2f", nccl_us, nccl_us / us);
  std::printf("}\n");
  std::fflush(stdout);
}

// Rows and width of what is exchanged: 1 KB to 64 MB, on a shared card to 2 MB.
inline std::vector<std::pair<int, int>> sizes() {
  std::vector<std::pair<int, int>> all = {
      {1, 512},   {1, 2048},  {1, 8192},  {1, 16384},  {8, 2048},   {16, 1024}, {8, 4096},
      {16, 4096}, {8, 16384}, {64, 4096}, {16, 16384}, {32, 16384}, {64, 16384}};
  if (world.own_card) all.insert(all.end(), {{256, 16384}, {2048, 16384}});
  return all;
}
constexpr int64_t longest_in_words = 4 << 20;  // that is worth the time

inline void times() {
  constexpr int value_size = 128;
  const int blocks = world.own_card ? 64 : 8;
  std::unique_ptr<Nccl> nccl;
  if (world.own_card && world.size > 1) nccl = std::make_unique<Nccl>();
  for (const auto& [rows, width] : sizes()) {
    const int heads = std::max(1, width / value_size / world.size);  // of a rank
    const PartialLayout part = part_of<bf16>(rows, heads, value_size);
    const auto data = messages_of<bf16>(part);
    const Buffer<std::byte> messages{std::span<const std::byte>(data)}, inbox(std::ssize(data));
    const Buffer<bf16> out(int64_t{rows} * heads * value_size);
    Fastest chosen;
    for (const Way way : {Way::words, Way::pieces}) {
      if (way == Way::pieces ? part.bytes() % 16 != 0 : part.bytes() > longest_in_words) continue;
      const OwnChannel own(exchange_room(way, part));
      const PeerChannel& peers = *own;
      const Fastest ours = best_of(peers, [&](const Launch& how) {
        exchange_merge(peers.channel(), way, part, messages.data(), out.data(), how);
      });
      print_time("exchange+merge, " + text_of(way), rows, part.bytes(), ours, 0);
      if (way == best_way(blocks, part)) chosen = ours;
    }
    const double nccl_us = !nccl ? 0 : node_us([&] {
      nccl->all_to_all(messages.data(), inbox.data(), part.bytes());
      merge_partials(part, world.size, inbox.data(), out.data(), {world.stream.get(), 132, false});
    });
    print_time("exchange+merge, as chosen", rows, part.bytes(), chosen, nccl_us);
  }
  for (const auto& [rows, width] : sizes()) {
    const int64_t count = int64_t{rows} * width;
    const auto data = normals<bf16>(count), ones = normals<bf16>(width);
    const Buffer<bf16> y{std::span<const bf16>(data)}, hidden{std::span<const bf16>(data)};
    const Buffer<bf16> gains{std::span<const bf16>(ones)}, out(count);
    Fastest chosen;
    for (const Way way : {Way::words, Way::pieces, Way::owners}) {
      if (way == Way::words && count * 2 > longest_in_words) continue;
      const OwnChannel own(all_reduce_room(way, world.size, rows, width, sizeof(bf16)));
      const PeerChannel& peers = *own;
      const Fastest ours = best_of(peers, [&](const Launch& how) {
        all_reduce_norm(peers.channel(), way, rows, width, y.data(), hidden.data(), stored(gains),
                        1e-5F, out.data(), how);
      });
      print_time("all-reduce+norm, " + text_of(way), rows, count * 2, ours, 0);
      if (way == best_way(blocks, world.size, rows, width, sizeof(bf16))) chosen = ours;
    }
    if (!nccl) continue;
    const double nccl_us = node_us([&] {
      nccl->all_reduce(y.data(), out.data(), count);
      add_rms_norm(rows, width, hidden.data(), out.data(), stored(gains), 1e-5F, out.data(),
                   {world.stream.get(), 132, false});
    });
    print_time("all-reduce+norm, as chosen", rows, count * 2, chosen, nccl_us);
  }
}

}  // namespace helix::cuda
