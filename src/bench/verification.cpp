#include "bench/verification.h"

#include <cmath>
#include <limits>

#include "base/heartbeat.h"
#include "base/random.h"

namespace helix {

namespace {

std::string text_of(const Precision& p) {
  std::string text;
  for (const Format format : {p.weights, p.kv, p.activations, p.attention, p.experts, p.lm_head})
    text += std::string(name_of(format)) + "/";
  return text;
}

Verdict verdict_of(const std::vector<JudgeStep>& steps) {
  Verdict v;
  for (const JudgeStep& step : steps) {
    v.tokens.push_back(step.token);
    v.margins.push_back(step.margin);
    v.logits.insert(v.logits.end(), step.logits.begin(), step.logits.end());
  }
  return v;
}

}  // namespace

Judges::Key Judges::key(const Assignment& work, int64_t request, int64_t steps) {
  return {work.model->name, text_of(work.precision), work.seed, request, work.lengths[static_cast<size_t>(request)], steps};
}

std::vector<const Verdict*> Judges::judge(const Assignment& work, int64_t steps) {
  std::vector<int64_t> missing;
  for (size_t i = 0; i < work.lengths.size(); ++i)
    if (!verdicts_.contains(key(work, static_cast<int64_t>(i), steps))) missing.push_back(static_cast<int64_t>(i));
  const Generator generator(*work.model, work.precision, work.seed);
  std::map<int64_t, Verdict> mine;
  const auto failed = world_->agree([&] {
    const Judge judge(generator, {.progress = beat});
    for (size_t i = static_cast<size_t>(world_->rank()); i < missing.size(); i += static_cast<size_t>(world_->size()))
      mine[missing[i]] = verdict_of(judge.decode(missing[i], work.lengths[static_cast<size_t>(missing[i])], steps));
  });
  if (failed) throw RunError("the judge: " + *failed);
  for (size_t i = 0; i < missing.size(); ++i) {
    Verdict v = std::move(mine[missing[i]]);
    v.tokens.resize(static_cast<size_t>(steps));
    v.margins.resize(static_cast<size_t>(steps));
    v.logits.resize(static_cast<size_t>(steps * work.model->vocabulary));
    const int root = static_cast<int>(i % static_cast<size_t>(world_->size()));
    world_->broadcast(v.tokens, root);
    world_->broadcast(v.margins, root);
    world_->broadcast(v.logits, root);
    verdicts_[key(work, missing[i], steps)] = std::move(v);
  }
  std::vector<const Verdict*> all;
  for (size_t i = 0; i < work.lengths.size(); ++i) all.push_back(&verdicts_.at(key(work, static_cast<int64_t>(i), steps)));
  return all;
}

double tolerance(const Precision& p) {
  const bool exact = p.weights == Format::fp32 && p.attention == Format::fp32 && p.experts == Format::fp32 &&
                     p.lm_head == Format::fp32 && p.kv == Format::fp32;
  if (p.activations == Format::bf16) return 2.5e-2;
  return exact ? 1e-5 : 5e-3;
}

namespace {

// Hashes of the hidden state after each layer, of one rank.
class Hashes {
 public:
  Hashes(Executor& executor) : executor_(executor), before_(executor.hooks().after) {
    const Schedule& s = executor.schedule();
    const auto bytes = static_cast<int64_t>(s[s.tasks.front().writes[0]].bytes);
    static_cast<void>(bytes);
    executor.hooks().after = [this](const Task& task, int layer) {
      if (before_) before_(task, layer);
      if (task.op == Op::add_norm) add(task);
    };
  }
  ~Hashes() { executor_.hooks().after = before_; }
  Hashes(const Hashes&) = delete;
  Hashes& operator=(const Hashes&) = delete;

  std::vector<uint64_t> take() { return std::exchange(hashes_, {}); }

 private:
  void add(const Task& task) {
    const TensorView hidden = executor_.view(task.writes[1], all_chunks);
    const auto bytes = static_cast<int64_t>(executor_.schedule()[task.writes[1]].bytes) * hidden.rows * hidden.values;
    uint64_t hash = 0;
    for (int64_t i = 0; i < bytes; i += 2) {
      uint16_t part = 0;
      std::memcpy(&part, hidden.data + i, sizeof part);
      hash = combine(hash, part);
    }
    hashes_.push_back(hash);
  }

  Executor& executor_;
  std::function<void(const Task&, int)> before_;
  std::vector<uint64_t> hashes_;
};

// The worst relative error of this rank's part of one step's logits.
double worst_error(const Executor& executor, const std::vector<const Verdict*>& verdicts, int64_t step) {
  const Schedule& s = executor.schedule();
  const Layout& l = s.place.l;
  const std::vector<float> mine = executor.logits();
  const auto vocabulary = static_cast<int64_t>(verdicts.front()->logits.size() / verdicts.front()->tokens.size());
  const Slice words = rows_of(vocabulary, l.stage_ranks(), s.place.in_stage());
  double worst = 0;
  for (size_t row = 0; row < verdicts.size(); ++row) {
    const float* judged = verdicts[row]->logits.data() + step * vocabulary;
    double largest = 0;
    double difference = 0;
    for (int64_t i = 0; i < vocabulary; ++i) largest = std::max(largest, std::abs(static_cast<double>(judged[i])));
    for (int64_t i = 0; i < words.count; ++i) {
      const double d = std::abs(static_cast<double>(mine[row * static_cast<size_t>(words.count) + static_cast<size_t>(i)]) -
                                judged[words.first + i]);
      if (!(d <= difference)) difference = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
    }
    worst = std::max(worst, difference / largest);
  }
  return worst;
}

// How many layers' hashes are not those of the lowest rank of the replica.
int64_t count_differing(MPI_Comm ranks, const Place& place, const std::vector<uint64_t>& hashes) {
  int size = 0;
  HELIX_MPI(MPI_Comm_size(ranks, &size));
  std::vector<uint64_t> all(hashes.size() * static_cast<size_t>(size));
  const int count = count_of(static_cast<int64_t>(hashes.size()));
  HELIX_MPI(MPI_Allgather(hashes.data(), count, MPI_UINT64_T, all.data(), count, MPI_UINT64_T, ranks));
  int64_t differing = 0;
  const int replica = place.l.replica_ranks();
  for (int rank = 0; rank < size; ++rank)
    for (size_t i = 0; i < hashes.size(); ++i)
      differing += all[static_cast<size_t>(rank) * hashes.size() + i] !=
                   all[static_cast<size_t>(rank / replica * replica) * hashes.size() + i];
  return differing;
}

}  // namespace

Comparison compare_steps(MPI_Comm ranks, Executor& executor, const std::vector<const Verdict*>& verdicts, int64_t steps) {
  Comparison result;
  Hashes hashes(executor);
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<int32_t> teacher;
    for (const Verdict* v : verdicts) teacher.push_back(v->tokens[static_cast<size_t>(step)]);
    executor.teach(teacher);
    executor.step();
    const double worst = worst_error(executor, verdicts, step);
    result.max_rel_err = std::max(result.max_rel_err, worst);
    const auto sampled = executor.sampled();
    for (size_t row = 0; row < verdicts.size(); ++row) {
      const float* judged = verdicts[row]->logits.data() + static_cast<size_t>(step) * (verdicts[row]->logits.size() / verdicts[row]->tokens.size());
      const double scale = std::abs(judged[teacher[row]]);
      if (sampled[row] != teacher[row] && verdicts[row]->margins[static_cast<size_t>(step)] > 2 * result.max_rel_err * scale)
        ++result.tokens_differing;
    }
    result.hashes_differing += count_differing(ranks, executor.schedule().place, hashes.take());
  }
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &result.max_rel_err, 1, MPI_DOUBLE, MPI_MAX, ranks));
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &result.tokens_differing, 1, MPI_INT64_T, MPI_MAX, ranks));
  return result;
}

}  // namespace helix
