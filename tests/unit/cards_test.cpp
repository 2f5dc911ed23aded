// Which exchange a launch gets, and in which words it is refused one: no card is needed.
#include "bench/cards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  Neighbours contained = four();
  contained.ipc = "invalid resource handle";
  EXPECT_EQ(chosen(contained, "auto"), ExchangeKind::nccl);
  contained.nccl = false;
  EXPECT_EQ(chosen(contained, "auto"), ExchangeKind::mpi);
  Neighbours shared = four();
  shared.ranks_per_card = 4;
  EXPECT_EQ(chosen(shared, "auto"), ExchangeKind::mpi);
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

TEST(Exchange, FusedNeedsOneHostAndIpc) {
  Neighbours far = four();
  far.one_host = false;
  EXPECT_THAT(refused(far, "fused"), AllOf(HasSubstr("several hosts"), HasSubstr("nccl and mpi")));
  Neighbours contained = four();
  contained.ipc = "invalid resource handle";
  EXPECT_THAT(
      refused(contained, "fused"),
      AllOf(HasSubstr("CUDA IPC is refused (invalid resource handle)"), HasSubstr("--ipc=host")));
  EXPECT_EQ(refused(contained, "mpi"), "");
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
