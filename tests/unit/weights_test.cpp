// Weights stay for the next executor as far as it needs them, and are freed before it takes memory.
#include "execute/weights.h"

#include <gtest/gtest.h>

#include <set>

#include "execute/store.h"

namespace helix {
namespace {

struct Counted {  // memory that is alive, and the most at any time
  double alive = 0, most = 0;
  Block operator()(size_t bytes) {
    alive += static_cast<double>(bytes);
    most = std::max(most, alive);
    return {new std::byte[bytes + 1](), [this, bytes](std::byte* p) {
              alive -= static_cast<double>(bytes);
              delete[] p;
            }};
  }
};

class Weights : public testing::Test {
 protected:
  // How many parts of weights an executor of such a point has to fill.
  int64_t filled(const Layout& layout, int64_t batch, Format format = Format::bf16,
                 uint64_t seed = 1) {
    const Precision precision{format, format, Format::fp32, format, format, format};
    const Assignment work{.model = &model_,
                          .layout = layout,
                          .precision = precision,
                          .lengths = std::vector<int64_t>(static_cast<size_t>(batch), 100),
                          .seed = seed,
                          .weights = held_};
    const Schedule schedule = build_schedule({&model_, layout, precision, 1}, 0);
    const Store store(schedule, work, [&](size_t bytes) { return memory_(bytes); });
    EXPECT_LE(store.allocated().weights, held_->bytes());
    int64_t parts = 0;
    store.for_each_weight([&](const WeightPart& part) {
      ++parts;
      *part.data = std::byte{1};
    });
    for (const Task& task : schedule.tasks)
      for (const Id id : task.reads) {
        const bool is_filled =
            schedule[id].kind != Kind::weight || *store.weight(id, 0) == std::byte{1};
        EXPECT_TRUE(is_filled) << schedule[id].name;
      }
    return parts;
  }
  const Layout kvp_{
      .strategy = "helix", .kvp = 2, .tpf = 2, .query = Query::replicate, .merge = Merge::a2a};
  const Layout tpa_{.strategy = "tp", .tpa = 2, .tpf = 2};
  Model model_ = [] {
    Model m = read_model(preset_path("tiny-llama"));
    m.layers = m.dense_layers = 1;
    return m;
  }();
  Counted memory_;
  std::shared_ptr<HeldWeights> held_ = std::make_shared<HeldWeights>();
};

TEST_F(Weights, StayForAPointWithTheSameOnes) {
  EXPECT_GT(filled(kvp_, 1), 0);
  EXPECT_EQ(filled(kvp_, 4), 0);
}

// FFN, norms, embedding and W_O are cut the same way in both: only the projections of heads are
// not.
TEST_F(Weights, StayAsFarAsALayoutSharesThem) {
  const int64_t all = filled(kvp_, 1);
  EXPECT_EQ(filled(tpa_, 1), 2);
  EXPECT_GT(all, 4);
}

TEST_F(Weights, OtherValuesAreOtherWeights) {
  const int64_t all = filled(kvp_, 1);
  EXPECT_EQ(filled(kvp_, 1, Format::fp32), all);
  EXPECT_EQ(filled(kvp_, 1, Format::fp32, 2), all);
}

TEST_F(Weights, AreFreedBeforeOthersAreTaken) {
  filled(kvp_, 1);
  const double one = memory_.most;
  filled(kvp_, 1, Format::bf16, 2);
  EXPECT_EQ(memory_.most, one);
  held_->clear();
  EXPECT_EQ(memory_.alive, 0);
}

TEST_F(Weights, MayStayForAPointAfterTheNext) {
  const int64_t all = filled(kvp_, 1);
  const double one = held_->bytes();
  held_ = std::make_shared<HeldWeights>(3 * one);
  EXPECT_EQ(filled(kvp_, 1), all);
  EXPECT_EQ(filled(kvp_, 1, Format::bf16, 2), all);
  EXPECT_EQ(filled(kvp_, 1), 0);
  EXPECT_EQ(filled(tpa_, 1), 2);
  EXPECT_EQ(filled(kvp_, 1, Format::bf16, 2), 0);
  // Beyond that all else goes.
  held_ = std::make_shared<HeldWeights>(one / 2);
  filled(kvp_, 1);
  EXPECT_EQ(filled(kvp_, 1, Format::bf16, 2), all);
  EXPECT_EQ(filled(kvp_, 1), all);
}

}  // namespace
}  // namespace helix
