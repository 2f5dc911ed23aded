// Which exchange a launch gets, and in which words it is refused one: no card is needed.
#include "bench/cards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace helix {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// Four ranks of one host, an H100 each.
Neighbours four() { return {.ranks = 4, .nccl = true, .multiprocessors = 132}; }

ExchangeKind chosen(const Neighbours& there, const std::string& wanted) {
  return choose_exchange({.kind = ExecutorKind::cuda}, there, wanted).exchange;
}
std::string refused(const Neighbours& there, const std::string& wanted, int blocks = 0) {
  try {
    choose_exchange({.kind = ExecutorKind::cuda, .exchange_blocks = blocks}, there, wanted);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

// How sites show a node's cards to its ranks: all to all, or each rank its own, or so many to each.
std::vector<int> shown(int rank, int cards, int each) {
  std::vector<int> numbers;
  for (int i = 0; i < each; ++i) numbers.push_back((rank * each + i) % cards);
  return numbers;
}

TEST(CardOfRank, EachRankHasACardOfItsOwnHoweverTheyAreShown) {
  for (int cards = 1; cards <= 8; ++cards)
    for (const int each : {cards, 1, 2}) {
      const int ranks = each == cards ? cards : cards / each;
      std::set<int> taken;
      for (int rank = 0; rank < ranks; ++rank) {
        const std::vector<int> visible = shown(each == cards ? 0 : rank, cards, each);
        taken.insert(visible.at(static_cast<size_t>(card_of_rank(rank, each))));
      }
      EXPECT_EQ(std::ssize(taken), ranks) << cards << " cards, " << each << " shown to each rank";
    }
}

TEST(CardOfRank, RanksThatOutnumberCardsShareThemEvenly) {
  for (int cards = 1; cards <= 8; ++cards)
    for (int ranks = 1; ranks <= 32; ++ranks) {
      std::vector<int> load(static_cast<size_t>(cards));
      for (int rank = 0; rank < ranks; ++rank)
        ++load.at(static_cast<size_t>(card_of_rank(rank, cards)));
      EXPECT_LE(std::ranges::max(load) - std::ranges::min(load), 1);
    }
}

TEST(Exchange, WhatIsWantedIsHadWhereItCan) {
  EXPECT_EQ(chosen(four(), "mpi"), ExchangeKind::mpi);
  EXPECT_EQ(chosen(four(), "nccl"), ExchangeKind::nccl);
  EXPECT_EQ(chosen(four(), "fused"), ExchangeKind::fused);
}

TEST(Exchange, AutoTakesTheBestThatWorks) {
  EXPECT_EQ(chosen(four(), "auto"), ExchangeKind::fused);
  Neighbours far = four();
  far.one_host = false;
  EXPECT_EQ(chosen(far, "auto"), ExchangeKind::nccl);
  far.windows = true;
  EXPECT_EQ(chosen(far, "auto"), ExchangeKind::fused);
  Neighbours contained = four();
  contained.ipc = "invalid resource handle";
  EXPECT_EQ(chosen(contained, "auto"), ExchangeKind::nccl);
  contained.nccl = false;
  EXPECT_EQ(chosen(contained, "auto"), ExchangeKind::mpi);
  Neighbours shared = four();
  shared.ranks_per_card = 4;
  EXPECT_EQ(chosen(shared, "auto"), ExchangeKind::mpi);  // one at a time
  shared.mps = true;
  EXPECT_EQ(chosen(shared, "auto"), ExchangeKind::fused);
  shared.ipc = "invalid resource handle";
  EXPECT_EQ(chosen(shared, "auto"), ExchangeKind::mpi);
  Neighbours crowded = four();
  crowded.ranks = crowded.ranks_per_card = 67;  // more than half of 132 SMs
  crowded.mps = true;
  EXPECT_EQ(chosen(crowded, "auto"), ExchangeKind::mpi);
  EXPECT_EQ(chosen({.ranks = 1, .nccl = true}, "auto"), ExchangeKind::mpi);
}

TEST(Exchange, NcclTakesOneRankACard) {
  Neighbours shared = four();
  shared.ranks_per_card = 2;
  EXPECT_THAT(refused(shared, "nccl"),
              AllOf(HasSubstr("--exchange nccl: 2 ranks share a GPU"), HasSubstr("mpi and fused")));
  Neighbours without = four();
  without.nccl = false;
  EXPECT_THAT(refused(without, "nccl"), HasSubstr("NCCL_HOME"));
}

TEST(Exchange, FusedNeedsWindowsOrOneHostAndIpc) {
  Neighbours far = four();
  far.one_host = false;
  EXPECT_THAT(refused(far, "fused"), AllOf(HasSubstr("several hosts"), HasSubstr("nccl and mpi")));
  Neighbours contained = four();
  contained.ipc = "invalid resource handle";
  EXPECT_THAT(
      refused(contained, "fused"),
      AllOf(HasSubstr("CUDA IPC is refused (invalid resource handle)"), HasSubstr("--ipc=host")));
  EXPECT_EQ(refused(contained, "mpi"), "");
  far.windows = contained.windows = true;
  EXPECT_EQ(chosen(far, "fused"), ExchangeKind::fused);
  EXPECT_EQ(chosen(contained, "fused"), ExchangeKind::fused);
}

TEST(Exchange, RanksThatShareACardTakeAtMostHalfOfItForKernelsThatWait) {
  Neighbours shared = four();
  shared.ranks_per_card = 4;
  EXPECT_EQ(refused(shared, "fused", 16), "");
  EXPECT_THAT(refused(shared, "fused", 17), HasSubstr("--exchange-blocks 16 at most"));
  EXPECT_EQ(refused(four(), "fused", 100), "");
}

}  // namespace
}  // namespace helix
