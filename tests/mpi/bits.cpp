// ranks: 4 timeout: 120
// The same bits from run to run, with one and with two threads a rank, and through pages.
#include <gtest/gtest.h>
#include <omp.h>

#include "bench/world.h"
#include "execute/cpu/executor.h"

namespace helix {
namespace {

std::vector<std::vector<float>> decode(MPI_Comm ranks, const Assignment& work, int threads) {
  omp_set_num_threads(threads);
  cpu::CpuExecutor executor(ranks, work);
  std::vector<std::vector<float>> logits;
  for (int64_t step = 0; step < work.steps; ++step) {
    executor.step();
    logits.push_back(executor.logits());
  }
  return logits;
}

TEST(Bits, AreEqualFromRunToRunAndForAnyNumberOfThreads) {
  World world;
  for (const char* name : {"tiny-llama", "tiny-deepseek"}) {
    const Model model = read_model(preset_path(name));
    for (const Format f : {Format::fp32, Format::bf16})
      for (const int chunks : {1, 3}) {
        Assignment work;
        work.model = &model;
        work.layout = {.strategy = "helix",
                       .kvp = 2,
                       .tpa = 2,
                       .tpf = 4,
                       .query = Query::replicate,
                       .merge = Merge::a2a};
        if (model.attention.mla()) work.layout.mla = Mla::latent;
        work.precision = {f, f, f, f, f, f};
        work.chunks = chunks;
        // Long enough that each rank cuts its tokens into blocks for several threads.
        work.lengths = {6000, 1, 3000, 0, 5000, 17, 4000, 2500};
        work.steps = 3;
        const auto once = decode(world.comm(), work, 1);
        EXPECT_FALSE(once.front().empty());
        EXPECT_EQ(once, decode(world.comm(), work, 1)) << name << " again";
        EXPECT_EQ(once, decode(world.comm(), work, 2)) << name << " with two threads";
        // The comparison can fail: another history is another result.
        work.lengths[2] += 1;
        EXPECT_NE(once, decode(world.comm(), work, 1)) << name;
      }
  }
}

// Tiles of tokens are whole pages, so that a page table moves no sum.
TEST(Bits, AreThoseOfADenseCacheThroughAnyPageTable) {
  World world;
  for (const char* name : {"tiny-llama", "tiny-deepseek"}) {
    const Model model = read_model(preset_path(name));
    for (const Format f : {Format::fp32, Format::bf16, Format::fp8, Format::nvfp4})
      for (const int64_t interval : {1, 48, 160}) {
        Assignment work;
        work.model = &model;
        work.layout = {.strategy = "helix",
                       .kvp = 4,
                       .tpf = 4,
                       .query = Query::replicate,
                       .merge = Merge::a2a};
        if (model.attention.mla()) work.layout.mla = Mla::latent;
        work.precision = {Format::bf16, f, Format::fp32, Format::bf16, Format::bf16, Format::bf16};
        work.chunks = interval == 48 ? 2 : 1;
        work.interval = interval;
        work.lengths = {1021, 1, 300, 0, 765};  // a step or two before ranks begin a page
        work.steps = 4;
        const auto dense = decode(world.comm(), work, 1);
        work.kv_layout = KvLayout::paged;
        EXPECT_EQ(dense, decode(world.comm(), work, 1))
            << name << ", " << name_of(f) << ", interval " << interval;
      }
  }
}

}  // namespace
}  // namespace helix
