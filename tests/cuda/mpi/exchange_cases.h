// The exchanges against their plain twins on what all ranks sent.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu/reference.h"
#include "tests/cuda/mpi/world.h"

namespace helix::cuda {

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

inline std::string text_of(Way way) {
  return way == Way::words ? "words" : way == Way::pieces ? "pieces" : "pieces by owners";
}
inline std::string text_of(const PartialLayout& part) {
  return std::to_string(part.rows) + " x " + std::to_string(part.heads) + " x " +
         std::to_string(part.value_size);
}

template <class T>
PartialLayout part_of(int64_t rows, int64_t heads, int64_t value_size) {
  return {.rows = rows, .heads = heads, .value_size = value_size, .element_bytes = sizeof(T)};
}

template <class T>
void merge_case(const PeerChannel& peers, Way way, const PartialLayout& part) {
  const auto messages = messages_of<T>(part);
  const Buffer<std::byte> device{std::span<const std::byte>(messages)};
  const Buffer<T> out(part.rows * part.heads * part.value_size);
  exchange_merge(peers.channel(), way, part, device.data(), out.data(), world.how());
  settle();
  peers.check();
  const std::vector<T> found = out.read();
  expect_below(
      relative_error(found, merged_by_twin<T>(part, messages)), tolerance_of<T>,
      std::string("exchange+merge in ") + text_of(way) + ", " + name_of<T> + " " + text_of(part));
  if (part.rows * part.heads > 20 && world.size > 1) {
    const double error = relative_error(found, merged_by_twin<T>(part, messages, world.size - 1));
    expect_everywhere(error > 10 * tolerance_of<T>, "control: one sender's messages left out");
  }
}

// Of a piece's vectors some, all, and some of the next; then as many as best_way chooses from.
template <class T>
void merge_cases(const PeerChannel& peers, bool quick) {
  for (const PartialLayout& part : {part_of<T>(1, 1, 4), part_of<T>(1, 5, 12), part_of<T>(3, 3, 16),
                                    part_of<T>(2, 7, 128), part_of<T>(8, 16, quick ? 64 : 512)})
    merge_case<T>(peers, Way::words, part);
  for (const PartialLayout& part :
       {part_of<T>(1, 4, 8), part_of<T>(3, 4, 24), part_of<T>(5, 4, 128), part_of<T>(16, 4, 128),
        part_of<T>(13, 12, quick ? 64 : 512)})
    merge_case<T>(peers, Way::pieces, part);
  if (quick) return;
  // On both sides of what best_way chooses.
  for (const int64_t rows : {300, 310, 630, 640}) {
    const auto part = part_of<T>(rows, 2, 128);
    merge_case<T>(peers, best_way(16, part), part);
  }
  expect_everywhere(best_way(16, part_of<T>(1, 4, 128)) == Way::words, "few go in words");
  expect_everywhere(best_way(16, part_of<T>(9999, 4, 128)) == Way::pieces, "many in pieces");
}

// An odd number of exchanges of several sizes and numbers of blocks, in words and pieces, in a
// graph that is replayed on new data.
template <class T>
void graph_case(const PeerChannel& peers) {
  const PartialLayout parts[] = {part_of<T>(7, 12, 64), part_of<T>(5, 4, 128),
                                 part_of<T>(5, 7, 64)};
  std::vector<Buffer<std::byte>> messages;
  std::vector<Buffer<T>> outs;
  for (const PartialLayout& part : parts) {
    messages.emplace_back(world.size * part.bytes());
    outs.emplace_back(part.rows * part.heads * part.value_size);
  }
  const OwnedGraphExec graph = capture(world.stream.get(), [&] {
    for (int i = 0; i < 3; ++i)
      exchange_merge(peers.channel(), i == 1 ? Way::pieces : Way::words, parts[i],
                     messages[i].data(), outs[i].data(),
                     Launch{world.stream.get(), 3 * i + 3, true});
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
void reduce_case(const PeerChannel& peers, Way way, int rows, int width, bool norm) {
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
  all_reduce_norm(peers.channel(), way, rows, width, device_y.data(),
                  norm ? device_hidden.data() : nullptr, stored(device_gains), 1e-5F, out.data(),
                  world.how());
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
  const std::string what = std::string("all-reduce ") + (norm ? "+ norm " : "") + "in " +
                           text_of(way) + ", " + name_of<T> + " " + std::to_string(rows) + " x " +
                           std::to_string(width);
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
    for (const bool norm : {true, false})
      reduce_case<Weight, T>(peers, Way::words, rows, width, norm);
  // Fewer rows than members and than blocks, more, no multiple of either.
  shapes = {{1, 2048}, {3, 200}, {37, 520}};
  if (!quick) shapes.insert(shapes.end(), {{5, 32768}, {131, 1544}, {29, 7168}});
  for (const auto& [rows, width] : shapes)
    for (const Way way : {Way::pieces, Way::owners})
      for (const bool norm : {true, false}) reduce_case<Weight, T>(peers, way, rows, width, norm);
  if (quick) return;
  // On both sides of what best_way chooses.
  const auto way_of = [](int64_t rows, int64_t width) {
    return best_way(64, world.size, rows, width, sizeof(T));
  };
  for (const auto& [rows, width] : {std::pair(1, 8192), {8, 4096}, {9, 4096}, {8, 32768}})
    reduce_case<Weight, T>(peers, way_of(rows, width), rows, width, true);
  expect_everywhere(way_of(1, 4096) == Way::words, "a row goes in words");
  expect_everywhere(way_of(9, 4096) == Way::pieces, "rows in pieces");
  expect_everywhere(way_of(9999, 4096) == (world.size > 2 ? Way::owners : Way::pieces),
                    "many by their owners");
}

// Several parcels of any length, none, and odd addresses between every two ranks. Rank a's i-th
// parcel for b has a length that both can compute.
inline void parcel_case(const PeerChannel& peers, int seed) {
  const auto length_of = [&](int from, int to, int i) {
    std::mt19937_64 common(static_cast<uint64_t>(((seed * 64 + from) * 64 + to) * 8 + i));
    return static_cast<int32_t>(common() % 4 == 0 ? common() % 3 : common() % 3000);
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
  HELIX_CUDA(cudaStreamSynchronize(nullptr));
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
inline void missing_rank_case(Way way) {
  const PartialLayout part = part_of<bf16>(2, 4, 64);
  constexpr int rows = 9;
  constexpr int width = 512;
  const OwnChannel own(larger(exchange_room(way == Way::owners ? Way::pieces : way, part),
                              all_reduce_room(way, world.size, rows, width, sizeof(bf16))),
                       0.3);
  const PeerChannel& peers = *own;
  const auto messages = messages_of<bf16>(part);
  const Buffer<std::byte> device{std::span<const std::byte>(messages)};
  const Buffer<bf16> out(part.rows * part.heads * part.value_size);
  const Buffer<bf16> y(rows * width), sum(rows * width);
  HELIX_CUDA(cudaMemset(y.data(), 0, static_cast<size_t>(y.bytes())));
  std::string said;
  if (world.rank + 1 < world.size) {
    for (int i = 0; i < 2; ++i) {
      all_reduce_norm<bf16>(peers.channel(), way, rows, width, y.data(), nullptr, {}, 0, sum.data(),
                            world.how());
      if (way != Way::owners)
        exchange_merge(peers.channel(), way, part, device.data(), out.data(), world.how());
    }
    settle();
    try {
      peers.check();
    } catch (const std::exception& error) {
      said = error.what();
    }
  }
  const std::string wanted = "exchange 1: nothing came from rank " + std::to_string(world.size - 1);
  expect_everywhere(world.rank + 1 == world.size || said.find(wanted) != std::string::npos,
                    "a rank that does not come is named, and all end: " + text_of(way));
}

}  // namespace helix::cuda
