// ranks: 1 timeout: 120
// How far bf16 activations may be off is no matter of taste: an executor rounds what its tasks
// write, and nothing else. One whose activations are fp32, with each tensor rounded once it is
// written, is as far from the judge. A sum kept too short, or a tensor rounded once more, shows
// here long before it comes near a tolerance.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>

#include "bench/verification.h"
#include "bench/world.h"
#include "execute/cpu/executor.h"
#include "kernels/cpu/elementwise.h"

namespace helix {
namespace {

constexpr int64_t steps = 3;
constexpr double as_far = 0.05;  // that two roundings of the same values differ by in the mean

const Layout one_rank = {.strategy = "tp"};
constexpr Precision bf16_but_activations(Format activations) {
  using enum Format;
  return {bf16, bf16, activations, bf16, bf16, bf16};
}

class Rounding : public testing::TestWithParam<const char*> {
 protected:
  // Root mean squares of what all logits, and all logits of routers, are off by.
  struct Errors {
    double logits = 0;
    double routers = 0;
  };
  using After = std::function<void(Executor&, const Task&, int layer)>;

  Rounding() {
    work_.model = &model_;
    work_.layout = one_rank;
    work_.precision = bf16_but_activations(Format::bf16);
    work_.steps = steps;
    for (int64_t i = 0; i < 32; ++i) work_.lengths.push_back(100 + 7 * i);
    verdicts_ = judges_.judge(work_, steps);
  }

  Errors errors(Format activations, const After& after) {
    Assignment work = work_;
    work.precision.activations = activations;
    cpu::CpuExecutor executor(world_.comm(), work);
    const RouterCheck right(work, verdicts_);
    Sum logits, routers;
    Hooks& hooks = executor.hooks();
    if (model_.experts.count > 0) {
      hooks.routing.judged = [&](int64_t step, int layer, int64_t request) {
        return right.judged(step, layer, request);
      };
      hooks.routing.own = [&](int64_t step, int layer, int64_t request,
                              std::span<const float> found, std::span<const int32_t>) {
        routers.add(found, verdict(request).router_logits, step * model_.layers + layer);
      };
    }
    hooks.after = [&](const Task& task, int layer) { after(executor, task, layer); };
    for (int64_t step = 0; step < steps; ++step) {
      std::vector<int32_t> teacher;
      for (const Verdict* v : verdicts_) teacher.push_back(v->tokens[static_cast<size_t>(step)]);
      executor.teach(teacher);
      executor.step();
      const std::vector<float> found = executor.logits();
      const auto words = static_cast<size_t>(model_.vocabulary);
      for (int64_t i = 0; i < std::ssize(verdicts_); ++i)
        logits.add(std::span(found).subspan(static_cast<size_t>(i) * words, words),
                   verdict(i).logits, step);
    }
    return {logits.root_of_mean(), routers.root_of_mean()};
  }

  // What a task has written as bf16 would hold it, `coarser` bits less.
  void round(Executor& executor, const Task& task, int layer, int coarser = 0) {
    for (const Id id : task.writes)
      if (executor.schedule()[id].kind == Kind::activation && rounded(id))
        round(executor.view(id, task.chunk), coarser);
    // The norm reads what was rounded.
    if (task.op != Op::add_norm) return;
    const TensorView hidden = executor.view(task.writes[1], task.chunk);
    const TensorView normed = executor.view(task.writes[0], task.chunk);
    const Tensor& w = executor.schedule()[task.reads[2]];
    std::vector<float> weights(static_cast<size_t>(model_.hidden));
    Generator(model_, work_.precision, work_.seed)
        .weights(w.weight, layer + w.layer_offset,
                 {whole(model_.hidden), whole(1), whole(1), whole(1)}, weights.data());
    cpu::rms_norm(hidden.rows, hidden.values, hidden.values, hidden.values,
                  reinterpret_cast<const float*>(hidden.data), weights.data(),
                  static_cast<float>(model_.norm_eps), reinterpret_cast<float*>(normed.data));
    round(normed, coarser);
  }

 private:
  class Sum {  // of squares
   public:
    void add(std::span<const float> found, const std::vector<float>& right, int64_t block) {
      const float* judged = right.data() + block * std::ssize(found);
      for (const float value : found) {
        const double off = double{value} - *judged++;
        squares_ += off * off;
      }
      count_ += std::ssize(found);
    }
    double root_of_mean() const {
      return count_ == 0 ? 0 : std::sqrt(squares_ / static_cast<double>(count_));
    }

   private:
    double squares_ = 0;
    int64_t count_ = 0;
  };
  const Verdict& verdict(int64_t request) const { return *verdicts_[static_cast<size_t>(request)]; }
  // In an executor of bf16 activations.
  bool rounded(Id id) const { return narrow_[id].bytes == 2; }
  static void round(const TensorView& view, int coarser) {
    const auto bits = 16 + coarser;
    const uint32_t half = (1U << (bits - 1)) - 1;
    for (int part = 0; part < view.parts; ++part) {
      auto* values = reinterpret_cast<float*>(view.data + part * view.part_stride);
      for (int64_t i = 0; i < view.rows * view.values; ++i) {
        auto as_bits = std::bit_cast<uint32_t>(values[i]);
        as_bits += half + (as_bits >> bits & 1U);
        values[i] = std::bit_cast<float>(as_bits >> bits << bits);
      }
    }
  }

  World world_;
  Judges judges_{world_};
  Model model_ = read_model(preset_path(GetParam()));
  Assignment work_;
  std::vector<const Verdict*> verdicts_;
  Schedule narrow_ = build_schedule({&model_, one_rank, bf16_but_activations(Format::bf16)}, 0);
};

void nothing(Executor&, const Task&, int) {}

TEST_P(Rounding, IsOfWhatTasksWriteAndOfNothingElse) {
  const Errors found = errors(Format::bf16, nothing);
  const Errors derived = errors(Format::fp32, [&](Executor& executor, const Task& task, int layer) {
    round(executor, task, layer);
  });
  EXPECT_GT(derived.logits, 1e-3);
  EXPECT_NEAR(found.logits, derived.logits, as_far * derived.logits);
  EXPECT_NEAR(found.routers, derived.routers, as_far * derived.routers);
  // The comparison can fail: of all tensors the residual alone and its norm have a bit less.
  const Errors coarser = errors(Format::fp32, [&](Executor& executor, const Task& task, int layer) {
    round(executor, task, layer, task.op == Op::add_norm ? 1 : 0);
  });
  EXPECT_GT(coarser.logits, (1 + as_far) * derived.logits);
  EXPECT_GE(coarser.routers, (1 + as_far) * derived.routers);
}

INSTANTIATE_TEST_SUITE_P(All, Rounding,
                         testing::Values("tiny-llama", "tiny-deepseek", "tiny-qwen3-moe",
                                         "tiny-v2-lite"));

}  // namespace
}  // namespace helix
