// Each check of `doctor`: fine on a sound machine, and loud when its fault is injected.
#include "bench/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

namespace helix {
namespace {

using testing::HasSubstr;

// Two hosts of four GPUs, a rank each.
Facts sound() {
  Facts facts{.gpu = true,
              .ranks_launched = 8,
              .mpi_built = "4.1.4",
              .mpi_found = "4.1.6",
              .folder = "results",
              .folder_error = "",
              .folder_bytes = 1e12,
              .ranks = {}};
  for (int rank = 0; rank < 8; ++rank) {
    RankFacts r{.host = rank < 4 ? "a" : "b",
                .cores = 16,
                .host_cores = 64,
                .memory_bytes = 5e11,
                .shared_memory_bytes = 1e11,
                .huge_pages = "always",
                .exchange_us = 20};
    r.card = {.toolkit = 13000,
              .driver = 13010,
              .visible = 4,
              .error = "",
              .name = "NVIDIA H100 80GB HBM3",
              .id = "card " + std::to_string(rank),
              .bus_id = "0000:1B:00.0",
              .capability = 90,
              .has_kernels = true,
              .reachable = 3,
              .free_bytes = 79e9,
              .total_bytes = 80e9,
              .nccl_built = 22707,
              .nccl_found = 22809};
    facts.ranks.push_back(r);
  }
  return facts;
}

const Finding* find(const std::vector<Finding>& findings, std::string_view check) {
  const auto at = std::ranges::find(findings, check, &Finding::check);
  return at == findings.end() ? nullptr : &*at;
}

struct Injected {
  const char* check;
  Health health;
  const char* says;  // what was found
  const char* advises;
  std::function<void(Facts&)> inject;
};

void share(Facts& facts) {
  for (RankFacts& rank : facts.ranks) {
    rank.card.visible = 1;
    rank.card.reachable = 0;
    rank.card.id = "card of " + rank.host;
  }
}

const std::vector<Injected>& injected() {
  static const std::vector<Injected> all = {
      {"world", Health::fault, "8 ranks were started", "mpirun of the MPI",
       [](Facts& f) {
         f.ranks.resize(1);
         f.ranks[0].cores = 64;
       }},
      {"world", Health::fault, "the launcher counts 16 ranks, MPI 8", "inside another",
       [](Facts& f) { f.ranks_launched = 16; }},
      {"MPI", Health::fault, "Open MPI 5.0.1 is loaded", "load that one",
       [](Facts& f) { f.mpi_found = "5.0.1"; }},
      {"MPI", Health::warning, "4.0.3", "4.1 or later", [](Facts& f) { f.mpi_found = "4.0.3"; }},
      {"MPI", Health::warning, "no Open MPI", "4.1", [](Facts& f) { f.mpi_built = ""; }},
      {"messages", Health::fault, "rank 5 did not receive", "do not trust",
       [](Facts& f) { f.ranks[5].exchanged = false; }},
      {"messages", Health::warning, "take 9000 us", "yield",
       [](Facts& f) { f.ranks[2].exchange_us = 9000; }},
      {"cores", Health::warning, "a: 4 ranks on 2 cores", "yield",
       [](Facts& f) {
         for (RankFacts& rank : f.ranks) rank.host_cores = 2;
       }},
      {"cores", Health::warning, "b: a rank is bound to 1 of 64 cores", "--bind-to none",
       [](Facts& f) { f.ranks[7].cores = 1; }},
      {"memory", Health::fault, "b: 500 MB free for 4 ranks", "fewer ranks",
       [](Facts& f) {
         for (size_t i = 4; i < 8; ++i) f.ranks[i].memory_bytes = 5e8;
       }},
      {"memory", Health::fault, "ulimit -v", "unlimited",
       [](Facts& f) { f.ranks[3].address_space_bytes = 8e9; }},
      {"memory", Health::warning, "ulimit -v", "unlimited",
       [](Facts& f) {
         f.gpu = false;
         f.ranks[3].address_space_bytes = 8e9;
       }},
      {"locked memory", Health::warning, "ulimit -l", "unlimited",
       [](Facts& f) { f.ranks[6].locked_bytes = 65536; }},
      {"shared memory", Health::warning, "b: 40 MB free in /dev/shm", "--shm-size",
       [](Facts& f) { f.ranks[4].shared_memory_bytes = 4e7; }},
      {"huge pages", Health::warning, "b: transparent huge pages are off", "echo madvise",
       [](Facts& f) {
         f.gpu = false;
         f.ranks[4].huge_pages = "never";
       }},
      {"results folder", Health::fault, "results: /x cannot be written", "-o",
       [](Facts& f) { f.folder_error = "/x cannot be written"; }},
      {"results folder", Health::warning, "1 MB free", "lines take",
       [](Facts& f) { f.folder_bytes = 1e6; }},
      {"driver", Health::fault, "built without CUDA", "make CUDA=1",
       [](Facts& f) { f.ranks[0].card = {}; }},
      {"driver", Health::fault, "rank 6 (b): no GPU can be used here: no driver", "--gpus all",
       [](Facts& f) { f.ranks[6].card = {.toolkit = 13000}; }},
      {"driver", Health::fault,
       "the driver is for CUDA 12.4, older than the toolkit of this program, 13.0",
       "update the driver", [](Facts& f) { f.ranks[0].card.driver = 12040; }},
      {"cards", Health::fault, "no GPU can be used here: none is visible", "CUDA_VISIBLE_DEVICES",
       [](Facts& f) { f.ranks[1].card.visible = 0; }},
      {"cards", Health::fault, "busy or unavailable", "with-mps.sh",
       [](Facts& f) {
         f.ranks[1].card.exclusive = true;
         f.ranks[1].card.error = "CUDA-capable device(s) is/are busy or unavailable";
       }},
      {"kernels", Health::fault, "no kernels for NVIDIA A100 (compute capability 8.0)",
       "NVCC_GENCODE=-gencode=arch=compute_80,code=sm_80",
       [](Facts& f) {
         for (RankFacts& rank : f.ranks) {
           rank.card.name = "NVIDIA A100";
           rank.card.capability = 80;
           rank.card.has_kernels = false;
         }
       }},
      {"sharing", Health::warning, "4 ranks share a card", "with-mps.sh", share},
      {"CUDA IPC", Health::warning, "rank 2 cannot map its neighbour's memory (invalid",
       "--ipc=host", [](Facts& f) { f.ranks[2].ipc = "invalid resource handle"; }},
      {"peer access", Health::warning, "reaches 1 of the 3 other cards", "topo -p2p",
       [](Facts& f) { f.ranks[2].card.reachable = 1; }},
      {"NCCL", Health::warning, "built without NCCL", "mpi and fused",
       [](Facts& f) {
         for (RankFacts& rank : f.ranks) rank.card.nccl_built = 0;
       }},
      {"NCCL", Health::warning, "NCCL 2.18.3 is loaded, older than the 2.27.7", "load that one",
       [](Facts& f) {
         for (RankFacts& rank : f.ranks) rank.card.nccl_found = 21803;
       }},
      {"NCCL", Health::warning, "takes one rank a card, and 4 share one", "mpi and fused", share},
      {"clocks", Health::warning, "is throttled now: power cap, hardware thermal slowdown",
       "not what the card can do", [](Facts& f) { f.ranks[3].throttled = 1 | 1 << 4; }},
      {"clocks", Health::warning, "does not answer", "unnoticed",
       [](Facts& f) { f.ranks[3].nvml = false; }},
      {"device memory", Health::warning, "b: 40.0 GB of 80.0 GB free", "nvidia-smi",
       [](Facts& f) { f.ranks[7].card.free_bytes = 40e9; }},
  };
  return all;
}

TEST(Doctor, ASoundMachineIsSound) {
  const std::vector<Finding> findings = diagnose(sound());
  EXPECT_EQ(findings.size(), 18U);
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.health, Health::ok) << finding.check << ": " << finding.text;
    EXPECT_FALSE(finding.text.empty()) << finding.check;
    EXPECT_EQ(finding.text.find('\n'), std::string::npos) << finding.check;
  }
}

TEST(Doctor, EachInjectedFaultIsFoundByItsCheckAndSaysWhatToDo) {
  for (const Injected& fault : injected()) {
    Facts facts = sound();
    fault.inject(facts);
    const std::vector<Finding> findings = diagnose(facts);
    const Finding* found = find(findings, fault.check);
    ASSERT_NE(found, nullptr) << fault.check;
    EXPECT_EQ(found->health, fault.health) << fault.check << ": " << found->text;
    EXPECT_THAT(found->text, HasSubstr(fault.says)) << fault.check;
    EXPECT_THAT(found->text, HasSubstr(fault.advises)) << fault.check;
    EXPECT_EQ(found->text.find('\n'), std::string::npos) << fault.check;
  }
}

// But for the two that follow from one another: what shares a card has no NCCL.
TEST(Doctor, OtherChecksStayQuiet) {
  for (const Injected& fault : injected()) {
    Facts facts = sound();
    fault.inject(facts);
    for (const Finding& finding : diagnose(facts)) {
      if (finding.check == fault.check) continue;
      const bool follows = finding.check == "NCCL" || finding.check == "sharing";
      EXPECT_TRUE(finding.health == Health::ok || follows)
          << fault.check << " made " << finding.check << " say: " << finding.text;
    }
  }
}

TEST(Doctor, EveryCheckHasAnInjectedFault) {
  std::set<std::string_view> injecting;
  for (const Injected& fault : injected()) injecting.insert(fault.check);
  for (const Finding& finding : diagnose(sound()))
    EXPECT_TRUE(injecting.contains(finding.check)) << finding.check;
}

TEST(Doctor, WithoutGpuRanksNoCardIsLookedAt) {
  Facts facts = sound();
  facts.gpu = false;
  for (RankFacts& rank : facts.ranks) rank.card = {};
  for (const Finding& finding : diagnose(facts)) EXPECT_EQ(finding.health, Health::ok);
}

TEST(Doctor, AFaultOfTheCardEndsTheChecksThatNeedOne) {
  Facts facts = sound();
  facts.ranks[0].card.driver = 12040;
  EXPECT_EQ(diagnose(facts).back().check, "driver");
}

TEST(Doctor, RanksThatShareUnderMpsAreFine) {
  Facts facts = sound();
  share(facts);
  for (RankFacts& rank : facts.ranks) rank.card.mps = true;
  const std::vector<Finding> findings = diagnose(facts);
  EXPECT_EQ(find(findings, "sharing")->health, Health::ok);
  EXPECT_THAT(find(findings, "sharing")->text, HasSubstr("4 ranks share a card under MPS"));
}

TEST(Doctor, VersionsAreSaidAsTheirMakersDo) {
  EXPECT_EQ(cuda_version_text(12080), "12.8");
  EXPECT_EQ(nccl_version_text(22707), "2.27.7");
  EXPECT_EQ(nccl_version_text(2804), "2.8.4");
}

}  // namespace
}  // namespace helix
