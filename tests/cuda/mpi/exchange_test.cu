// The exchanges between ranks' GPUs against their plain twins, and their times. Under mpirun; rank
// i uses card i mod the number of cards. Prints one line a check (rank 0); exit code 1 if any
// failed on any rank. --quick: the checks alone, small. --time: also the times, one JSON line a
// case, beside NCCL's where each rank has a card of its own.
#include <mpi.h>
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "execute/cuda/peers.h"
#include "kernels/cpu/reference.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/elementwise.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {
namespace {

constexpr double patience_s = 20;

struct World {
  int rank = 0, size = 1;
  bool own_card = true;
  int blocks = 16;  // of an exchange
  OwnedStream stream;
  Launch how() const { return {stream.get(), blocks, true}; }
  bool leads() const { return rank == 0; }
} world;

// True only if it is on every rank.
void expect_everywhere(bool passed, const std::string& what) {
  int all = passed ? 1 : 0;
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD));
  ++checks;
  if (all == 0) ++failures;
  if (world.leads()) std::printf("%s  %s\n", all != 0 ? "ok  " : "FAIL", what.c_str());
}
double worst(double value) {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD));
  return value;
}
void expect_below(double error, double tolerance, const std::string& what) {
  const double largest = worst(error == error ? error : infinity);
  char text[64];
  std::snprintf(text, sizeof text, ": error %.2g, tolerance %.2g", largest, tolerance);
  expect_everywhere(error <= tolerance, what + text);
}
void settle() { HELIX_CUDA(cudaStreamSynchronize(world.stream.get())); }

template <class T>
std::vector<T> gathered(const std::vector<T>& mine) {
  std::vector<T> all(mine.size() * static_cast<size_t>(world.size));
  const int bytes = count_of(static_cast<int64_t>(mine.size() * sizeof(T)));
  HELIX_MPI(
      MPI_Allgather(mine.data(), bytes, MPI_BYTE, all.data(), bytes, MPI_BYTE, MPI_COMM_WORLD));
  return all;
}

template <class T>
inline constexpr const char* name_of = std::is_same_v<T, bf16> ? "bf16" : "fp32";
template <class T>
inline constexpr double tolerance_of = std::is_same_v<T, bf16> ? 1.0 / 128 : 2e-6;

// Peaky log-sum-exps, empty shards that hold NaN, one vector that is empty everywhere.
template <class T>
std::vector<std::byte> messages_of(const PartialLayout& part) {
  const int64_t vectors = part.rows * part.heads;
  std::vector<std::byte> bytes(static_cast<size_t>(world.size * part.bytes()));
  for (int p = 0; p < world.size; ++p) {
    auto values = normals<T>(vectors * part.value_size);
    for (int64_t v = 0; v < vectors; ++v) {
      const bool empty = v == 3 || integer(0, 3) == 0;
      const float lse = empty ? -infinity : 6 * normals<float>(1)[0];
      for (int64_t d = 0; empty && d < part.value_size; ++d)
        values[v * part.value_size + d] = from_float<T>(nan);
      std::memcpy(&bytes[p * part.bytes() + part.outputs_bytes() + v * 4], &lse, 4);
    }
    std::memcpy(static_cast<void*>(&bytes[p * part.bytes()]), values.data(), part.outputs_bytes());
  }
  return bytes;
}

// What every rank sends me.
template <class T>
std::vector<T> merged_by_twin(const PartialLayout& part, const std::vector<std::byte>& mine,
                              int senders = world.size) {
  const std::vector<std::byte> all = gathered(mine);
  std::vector<std::byte> inbox;
  for (int from = 0; from < senders; ++from) {
    const auto at = all.begin() + (from * world.size + world.rank) * part.bytes();
    inbox.insert(inbox.end(), at, at + part.bytes());
  }
  std::vector<T> out(static_cast<size_t>(part.rows * part.heads * part.value_size));
  cpu::reference::merge_partials<T>(part, senders, inbox.data(), out.data());
  return out;
}

std::string text_of(const PartialLayout& part) {
  return std::to_string(part.rows) + " x " + std::to_string(part.heads) + " x " +
         std::to_string(part.value_size);
}

template <class T>
PartialLayout part_of(int64_t rows, int64_t heads, int64_t value_size) {
  return {.rows = rows, .heads = heads, .value_size = value_size, .element_bytes = sizeof(T)};
}

template <class T>
void merge_cases(const PeerChannel& peers, bool quick) {
  const std::vector<PartialLayout> parts = {part_of<T>(1, 1, 4), part_of<T>(1, 5, 12),
                                            part_of<T>(3, 3, 16), part_of<T>(2, 7, 128),
                                            part_of<T>(8, 16, quick ? 64 : 512)};
  for (const PartialLayout& part : parts) {
    const auto messages = messages_of<T>(part);
    const Buffer<std::byte> device{std::span<const std::byte>(messages)};
    const Buffer<T> out(part.rows * part.heads * part.value_size);
    exchange_merge(peers.channel(), part, device.data(), out.data(), world.how());
    settle();
    peers.check();
    const std::vector<T> found = out.read();
    expect_below(relative_error(found, merged_by_twin<T>(part, messages)), tolerance_of<T>,
                 std::string("exchange+merge ") + name_of<T> + " " + text_of(part));
    if (part.rows * part.heads > 20 && world.size > 1) {
      const double error = relative_error(found, merged_by_twin<T>(part, messages, world.size - 1));
      expect_everywhere(error > 10 * tolerance_of<T>, "control: one sender's messages left out");
    }
  }
}

// An odd number of exchanges of two sizes in a graph that is replayed on new data.
template <class T>
void graph_case(const PeerChannel& peers) {
  const PartialLayout parts[] = {part_of<T>(2, 4, 64), part_of<T>(5, 4, 128), part_of<T>(1, 3, 64)};
  std::vector<Buffer<std::byte>> messages;
  std::vector<Buffer<T>> outs;
  for (const PartialLayout& part : parts) {
    messages.emplace_back(world.size * part.bytes());
    outs.emplace_back(part.rows * part.heads * part.value_size);
  }
  const OwnedGraphExec graph = capture(world.stream.get(), [&] {
    for (int i = 0; i < 3; ++i)
      exchange_merge(peers.channel(), parts[i], messages[i].data(), outs[i].data(), world.how());
  });
  double error = 0;
  for (int replay = 0; replay < 7; ++replay) {
    std::vector<std::vector<std::byte>> data;
    for (int i = 0; i < 3; ++i) {
      data.push_back(messages_of<T>(parts[i]));
      HELIX_CUDA(cudaMemcpyAsync(messages[i].data(), data[i].data(), data[i].size(),
                                 cudaMemcpyHostToDevice, world.stream.get()));
    }
    HELIX_CUDA(cudaGraphLaunch(graph.get(), world.stream.get()));
    settle();
    peers.check();
    for (int i = 0; i < 3; ++i) {
      const double e = relative_error(outs[i].read(), merged_by_twin<T>(parts[i], data[i]));
      error = e <= error ? error : e;
    }
  }
  expect_below(error, tolerance_of<T>,
               std::string("7 replays of a graph of 3 exchanges, ") + name_of<T>);
}

template <class Weight, class T>
void reduce_case(const PeerChannel& peers, Shots shots, int rows, int width, bool norm) {
  const auto y = normals<T>(int64_t{rows} * width);
  std::mt19937_64 common(static_cast<uint64_t>(rows) * 131 + width);
  std::normal_distribution<float> normal;
  std::vector<T> hidden(y.size());
  std::vector<Weight> gains(static_cast<size_t>(width));
  for (T& h : hidden) h = from_float<T>(normal(common));
  for (Weight& g : gains) g = from_float<Weight>(normal(common));
  const Buffer<T> device_y{std::span<const T>(y)}, device_hidden{std::span<const T>(hidden)};
  const Buffer<Weight> device_gains{std::span<const Weight>(gains)};
  const Buffer<T> out(int64_t{rows} * width);
  all_reduce_norm(peers.channel(), shots, rows, width, device_y.data(),
                  norm ? device_hidden.data() : nullptr, norm ? device_gains.data() : nullptr,
                  1e-5F, out.data(), world.how());
  settle();
  peers.check();
  const std::vector<T> all = gathered(y);
  std::vector<const T*> from;
  for (int i = 0; i < world.size; ++i) from.push_back(all.data() + i * y.size());
  std::vector<T> sum(y.size()), expected(y.size());
  cpu::reference::sum_in_order<T>(world.size, std::ssize(sum), from.data(), sum.data());
  if (norm)
    cpu::reference::add_rms_norm<Weight, T>(rows, width, hidden.data(), sum.data(), gains.data(),
                                            1e-5F, expected.data());
  const std::vector<T> found = out.read();
  const std::string what = std::string("all-reduce ") + (norm ? "+ norm " : "") +
                           (shots == Shots::one ? "one-shot " : "two-shot ") + name_of<T> + " " +
                           std::to_string(rows) + " x " + std::to_string(width);
  expect_below(relative_error(found, norm ? expected : sum), tolerance_of<T>, what);
  if (norm)
    expect_below(relative_error(device_hidden.read(), hidden), tolerance_of<T>, what + ", hidden");
  const std::vector<T> outs = gathered(found);
  bool equal = true;
  for (int i = 1; i < world.size; ++i)
    equal = equal && std::memcmp(static_cast<const void*>(&outs[i * found.size()]), outs.data(),
                                 found.size() * sizeof(T)) == 0;
  expect_everywhere(equal, what + ": the same bits on every rank");
}

template <class Weight, class T>
void reduce_cases(const PeerChannel& peers, bool quick) {
  std::vector<std::pair<int, int>> shapes = {{1, 4}, {3, 96}, {2, 260}, {5, 2048}};
  if (!quick) shapes.insert(shapes.end(), {{1, 7168}, {8, 16384}, {3, 32768}});
  for (const auto& [rows, width] : shapes)
    for (const Shots shots : {Shots::one, Shots::two}) {
      reduce_case<Weight, T>(peers, shots, rows, width, true);
      reduce_case<Weight, T>(peers, shots, rows, width, false);
    }
}

// Several parcels of any length, none, and odd addresses between every two ranks. Rank a's i-th
// parcel for b has a length that both can compute.
void parcel_case(const PeerChannel& peers, int seed) {
  const auto length_of = [&](int from, int to, int i) {
    std::mt19937_64 common(static_cast<uint64_t>(((seed * 64 + from) * 64 + to) * 8 + i));
    return static_cast<int32_t>(common() % 4 == 0 ? common() % 3 : common() % 700);
  };
  constexpr int each = 3, gap = 3;
  const int me = world.rank;
  std::vector<Parcel> parcels;
  int64_t send_bytes = 0, receive_bytes = 0;
  for (int peer = 0; peer < world.size; ++peer) {
    int32_t put_at = 1, take_at = 1;
    for (int i = 0; i < each; ++i) {
      const Parcel p{.from = reinterpret_cast<const std::byte*>(send_bytes),
                     .to = reinterpret_cast<std::byte*>(receive_bytes),
                     .from_bytes = length_of(me, peer, i),
                     .to_bytes = length_of(peer, me, i),
                     .member = peer,
                     .put_at = put_at,
                     .take_at = take_at};
      parcels.push_back(p);
      put_at += parcel_words(p.from_bytes);
      take_at += parcel_words(p.to_bytes);
      send_bytes += p.from_bytes + gap;
      receive_bytes += p.to_bytes + gap;
    }
  }
  const auto letter = [](int from, int to, int i, int at) {
    return static_cast<std::byte>(from * 89 + to * 31 + i * 17 + at * 7 + 1);
  };
  std::vector<std::byte> data(static_cast<size_t>(send_bytes)),
      expected(static_cast<size_t>(receive_bytes));
  for (size_t k = 0; k < parcels.size(); ++k) {
    const int peer = parcels[k].member, i = static_cast<int>(k) % each;
    for (int at = 0; at < parcels[k].from_bytes; ++at)
      data[reinterpret_cast<int64_t>(parcels[k].from) + at] = letter(me, peer, i, at);
    for (int at = 0; at < parcels[k].to_bytes; ++at)
      expected[reinterpret_cast<int64_t>(parcels[k].to) + at] = letter(peer, me, i, at);
  }
  const Buffer<std::byte> from{std::span<const std::byte>(data)}, to(receive_bytes);
  HELIX_CUDA(cudaMemset(to.data(), 0, static_cast<size_t>(receive_bytes)));  // gaps stay 0
  for (Parcel& p : parcels) {
    p.from = from.data() + reinterpret_cast<int64_t>(p.from);
    p.to = to.data() + reinterpret_cast<int64_t>(p.to);
  }
  const Buffer<Parcel> table{std::span<const Parcel>(parcels)};
  exchange_parcels(peers.channel(), static_cast<int>(table.count()), table.data(), world.how());
  settle();
  peers.check();
  expect_everywhere(same_bits(to.read(), expected), "parcels, seed " + std::to_string(seed));
}

// The last rank does not take part: the others must end, and say who it was.
void missing_rank_case() {
  const PartialLayout part = part_of<bf16>(2, 4, 64);
  const PeerChannel peers(MPI_COMM_WORLD, exchange_room(part), world.own_card, 0.3);
  const auto messages = messages_of<bf16>(part);
  const Buffer<std::byte> device{std::span<const std::byte>(messages)};
  const Buffer<bf16> out(part.rows * part.heads * part.value_size);
  std::string said;
  if (world.rank + 1 < world.size) {
    for (int i = 0; i < 3; ++i)
      exchange_merge(peers.channel(), part, device.data(), out.data(), world.how());
    settle();
    try {
      peers.check();
    } catch (const std::exception& error) {
      said = error.what();
    }
  }
  const std::string wanted = "exchange 1: nothing came from rank " + std::to_string(world.size - 1);
  expect_everywhere(world.rank + 1 == world.size || said.find(wanted) != std::string::npos,
                    "a rank that does not come is named, and all end");
}

// Median microseconds of one of 50 launches in a graph, of the slowest rank.
template <class Node>
double node_us(Node&& node) {
  constexpr int nodes = 50;
  const OwnedGraphExec graph = capture(world.stream.get(), [&] {
    for (int i = 0; i < nodes; ++i) node();
  });
  const OwnedEvent begin = make_event(), end = make_event();
  std::vector<double> times;
  for (int i = 0; i < 23; ++i) {
    HELIX_MPI(MPI_Barrier(MPI_COMM_WORLD));
    HELIX_CUDA(cudaEventRecord(begin.get(), world.stream.get()));
    HELIX_CUDA(cudaGraphLaunch(graph.get(), world.stream.get()));
    HELIX_CUDA(cudaEventRecord(end.get(), world.stream.get()));
    HELIX_CUDA(cudaEventSynchronize(end.get()));
    float ms = 0;
    HELIX_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (i >= 3) times.push_back(worst(ms * 1000 / nodes));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void check_nccl(ncclResult_t code, const char* call, int line) {
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

struct Best {
  double us = infinity;
  int blocks = 0;
};
// Over the blocks that an exchange may have: few beside attention, more where nothing else runs.
template <class Node>
Best best_of(const PeerChannel& peers, Node&& node) {
  Best best;
  for (const int blocks : {8, 16, 32, 64, 128}) {
    if (!world.own_card && blocks > 8) break;  // 8 ranks may have half the SMs
    const double us = node_us([&] { node(Launch{world.stream.get(), blocks, true}); });
    if (us < best.us) best = {us, blocks};
  }
  peers.check();
  return best;
}

void print_time(const std::string& name, int rows, int64_t bytes, const Best& best,
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

void times() {
  constexpr int heads = 128, value_size = 128, width = heads * value_size;
  std::unique_ptr<Nccl> nccl;
  if (world.own_card && world.size > 1) nccl = std::make_unique<Nccl>();
  for (const int rows : {1, 8, 32, 64}) {
    const PartialLayout part = part_of<bf16>(rows, heads / world.size, value_size);
    const PeerChannel peers(MPI_COMM_WORLD, exchange_room(part), world.own_card, patience_s);
    const auto data = messages_of<bf16>(part);
    const Buffer<std::byte> messages{std::span<const std::byte>(data)}, inbox(std::ssize(data));
    const Buffer<bf16> out(int64_t{rows} * width / world.size);
    const Best ours = best_of(peers, [&](const Launch& how) {
      exchange_merge(peers.channel(), part, messages.data(), out.data(), how);
    });
    const double nccl_us = !nccl ? 0 : node_us([&] {
      nccl->all_to_all(messages.data(), inbox.data(), part.bytes());
      merge_partials(part, world.size, inbox.data(), out.data(), {world.stream.get(), 132, false});
    });
    print_time("exchange+merge", rows, part.bytes(), ours, nccl_us);
  }
  for (const int rows : {1, 8, 32, 64}) {
    const int64_t count = int64_t{rows} * width;
    const auto data = normals<bf16>(count), ones = normals<bf16>(width);
    const Buffer<bf16> y{std::span<const bf16>(data)}, hidden{std::span<const bf16>(data)};
    const Buffer<bf16> gains{std::span<const bf16>(ones)}, out(count);
    Best best;
    for (const Shots shots : {Shots::one, Shots::two}) {
      const PeerChannel peers(MPI_COMM_WORLD,
                              all_reduce_room(shots, world.size, rows, width, sizeof(bf16)),
                              world.own_card, patience_s);
      const Best ours = best_of(peers, [&](const Launch& how) {
        all_reduce_norm(peers.channel(), shots, rows, width, y.data(), hidden.data(), gains.data(),
                        1e-5F, out.data(), how);
      });
      print_time(shots == Shots::one ? "all-reduce+norm, one-shot" : "all-reduce+norm, two-shot",
                 rows, count * 2, ours, 0);
      if (ours.us < best.us) best = ours;
    }
    if (!nccl) continue;
    const double nccl_us = node_us([&] {
      nccl->all_reduce(y.data(), out.data(), count);
      add_rms_norm(rows, width, hidden.data(), out.data(), gains.data(), 1e-5F, out.data(),
                   {world.stream.get(), 132, false});
    });
    print_time("all-reduce+norm, the better", rows, count * 2, best, nccl_us);
  }
}

void all_cases(bool quick) {
  const int64_t room = std::max(exchange_room(part_of<float>(8, 16, 512)),
                                all_reduce_room(Shots::one, world.size, 8, 32768, 4));
  const PeerChannel peers(MPI_COMM_WORLD, room, world.own_card, patience_s);
  merge_cases<float>(peers, quick);
  merge_cases<bf16>(peers, quick);
  graph_case<float>(peers);
  graph_case<bf16>(peers);
  reduce_cases<float, float>(peers, quick);
  reduce_cases<bf16, float>(peers, quick);
  reduce_cases<bf16, bf16>(peers, quick);
  for (int seed = 0; seed < 6; ++seed) parcel_case(peers, seed);
  if (world.size > 1) missing_rank_case();
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
