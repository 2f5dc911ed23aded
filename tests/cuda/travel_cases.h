// dp_ep's messages between replicas, all of them on one card: what a rank sends stands where the
// other reads it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/travel.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {

template <class Activation>
class TravelWorld {
 public:
  // Whatever is chosen: experts of one peer, of several, of nobody.
  explicit TravelWorld(int seed) {
    engine.seed(static_cast<uint64_t>(seed));
    peers_ = integer(1, 5);
    chosen_ = integer(1, 4);
    width_ = 4 * integer(1, 80);
    experts_ = peers_ * integer(1, 6);
    ranks_.resize(at(peers_));
    for (Rank& rank : ranks_) {
      rank.rows = integer(0, 200) / (seed % 3 == 0 ? 1 : 25);
      all_ += rank.rows;
      rank.x = normals<Activation>(int64_t{rank.rows} * width_);
      for (int i = 0; i < rank.rows * chosen_; ++i)
        rank.choices.push_back({integer(0, experts_ + 1), normals<float>(1)[0]});
    }
    for (int from = 0; from < peers_; ++from)
      for (int to = 0; to < peers_; ++to)
        messages_.emplace_back(8 + std::max(rank(from).rows, rank(to).rows) *
                                       int64_t{width_ * int{sizeof(Activation)} + 8 * chosen_});
    for (int i = 0; i < peers_; ++i) settle_in(i);
  }

  void leave() {
    for (Rank& rank : ranks_) {
      const Buffer<Activation> x{std::span<const Activation>(rank.x)};
      const Buffer<Choice> choices{std::span<const Choice>(rank.choices)};
      pack_travellers(rank.travel, reinterpret_cast<const std::byte*>(x.data()), choices.data(),
                      how());
      HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    }
    bool rows_equal = true, counts_equal = true;
    for (int i = 0; i < peers_; ++i) {
      const Buffer<Activation> x(int64_t{all_} * width_);
      const Buffer<Choice> choices(int64_t{all_} * chosen_);
      unpack_travellers(rank(i).travel, reinterpret_cast<std::byte*>(x.data()), choices.data(),
                        how());
      HELIX_CUDA(cudaStreamSynchronize(stream.get()));
      rows_equal = rows_equal && came(rank(i), x.read(), choices.read());
      counts_equal = counts_equal && counted(i);
    }
    expect(rows_equal, "tokens to their experts, " + text());
    expect(counts_equal, "how many there were, " + text());
  }

  void come_back() {
    std::vector<Buffer<Activation>> ys;
    for (Rank& rank : ranks_) {
      ys.emplace_back(std::span<const Activation>(rank.y));
      pack_returning(rank.travel, reinterpret_cast<const std::byte*>(ys.back().data()), how());
    }
    bool equal = true;
    for (int i = 0; i < peers_; ++i) {
      const Buffer<Activation> out(int64_t{rank(i).rows} * width_);
      sum_returned(rank(i).travel, ys[at(i)].data(), out.data(), how());
      HELIX_CUDA(cudaStreamSynchronize(stream.get()));
      equal = equal && same_bits(out.read(), returned(i));
    }
    expect(equal, "what the experts send back, " + text());
  }

 private:
  struct Rank {
    int rows = 0;
    std::vector<Activation> x;
    std::vector<Choice> choices;
    std::vector<std::pair<int, int>> arriving;  // (replica, its row), in the order of arrival
    std::vector<Activation> y;                  // of what arrived
    Buffer<int32_t> slots, counts;
    Buffer<int64_t> met;
    Travel travel;
  };
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
  Rank& rank(int i) { return ranks_[at(i)]; }
  std::string text() const {
    return std::string(name_of<Activation>) + ", " + std::to_string(peers_) + " replicas, " +
           std::to_string(all_) + " rows";
  }

  bool goes(const Rank& rank, int row, int peer) const {
    const Slice held = share(experts_, peers_, peer);
    for (int c = 0; c < chosen_; ++c) {
      const int expert = rank.choices[at(row * chosen_ + c)].expert;
      if (expert >= held.first && expert < held.first + held.count) return true;
    }
    return false;
  }

  void settle_in(int i) {
    Rank& mine = rank(i);
    mine.slots = Buffer<int32_t>(int64_t{peers_} * mine.rows);
    mine.counts = Buffer<int32_t>(peers_ + 1);
    mine.met = Buffer<int64_t>(std::vector<int64_t>(3, 0));
    mine.travel = Travel{.peers = peers_,
                         .me = i,
                         .chosen = chosen_,
                         .row_words = width_ * static_cast<int>(sizeof(Activation)) / 4,
                         .slots = mine.slots.data(),
                         .received = mine.counts.data(),
                         .arrived = mine.counts.data() + peers_,
                         .met = mine.met.data()};
    for (int j = 0; j < peers_; ++j) {
      mine.travel.rows[j] = rank(j).rows;
      mine.travel.experts[j] = share(experts_, peers_, j);
      mine.travel.to[j] = messages_[at(i * peers_ + j)].data();
      mine.travel.from[j] = messages_[at(j * peers_ + i)].data();
      for (int row = 0; row < rank(j).rows; ++row)
        if (goes(rank(j), row, i)) mine.arriving.emplace_back(j, row);
    }
    mine.y = normals<Activation>(std::ssize(mine.arriving) * width_);
  }

  bool came(const Rank& here, const std::vector<Activation>& x,
            const std::vector<Choice>& choices) const {
    for (size_t p = 0; p < here.arriving.size(); ++p) {
      const auto& [from, row] = here.arriving[p];
      const Rank& peer = ranks_[at(from)];
      const auto same = [&](const auto& a, const auto& b, int count) {
        return std::memcmp(static_cast<const void*>(&a[p * at(count)]), &b[at(row * count)],
                           at(count) * sizeof(a[0])) == 0;
      };
      if (!same(x, peer.x, width_) || !same(choices, peer.choices, chosen_)) return false;
    }
    return true;
  }
  bool counted(int i) {
    int64_t leaving = 0, returning = 0;
    for (int j = 0; j < peers_; ++j)
      for (int row = 0; row < rank(i).rows && j != i; ++row)
        leaving += goes(rank(i), row, j) ? 1 : 0;
    for (const auto& [from, row] : rank(i).arriving) returning += from == i ? 0 : 1;
    const auto arriving = std::ssize(rank(i).arriving);
    return rank(i).counts.read().back() == arriving &&
           rank(i).met.read() == std::vector<int64_t>{leaving, arriving, returning};
  }

  // As cpu::sum_in_order: in order of the replicas, rounded once.
  std::vector<Activation> returned(int i) {
    std::vector<float> sums(at(int64_t{rank(i).rows} * width_), 0);
    for (const Rank& peer : ranks_)
      for (size_t p = 0; p < peer.arriving.size(); ++p)
        for (int d = 0; d < width_ && peer.arriving[p].first == i; ++d)
          sums[at(peer.arriving[p].second * width_ + d)] +=
              to_float(peer.y[p * at(width_) + at(d)]);
    std::vector<Activation> rounded;
    for (const float sum : sums) rounded.push_back(from_float<Activation>(sum));
    return rounded;
  }

  int peers_ = 1, chosen_ = 1, width_ = 4, experts_ = 1, all_ = 0;
  std::vector<Rank> ranks_;
  std::vector<Buffer<std::byte>> messages_;  // [from][to], there and back
};

template <class Activation>
void travel_cases(bool quick) {
  for (int seed = 0; seed < (quick ? 4 : 12); ++seed) {
    TravelWorld<Activation> world(seed);
    world.leave();
    world.come_back();
  }
}

}  // namespace helix::cuda
