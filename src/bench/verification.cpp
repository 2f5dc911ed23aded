#include "bench/verification.h"

#include <cmath>
#include <limits>
#include <optional>

#include "base/heartbeat.h"
#include "bench/hashes.h"
#include "layout/requests.h"

namespace helix {

namespace {

std::string text_of(const Precision& p) {
  std::string text;
  for (const Format format : {p.weights, p.kv, p.activations, p.attention, p.experts, p.lm_head})
    text += std::string(name_of(format)) + "/";
  return text;
}

Verdict verdict_of(const std::vector<JudgeStep>& steps, const Experts& experts) {
  Verdict v;
  for (const JudgeStep& step : steps) {
    v.tokens.push_back(step.token);
    v.margins.push_back(step.margin);
    v.logits.insert(v.logits.end(), step.logits.begin(), step.logits.end());
    for (JudgeRouting routing : step.routing) {
      routing.experts.resize(static_cast<size_t>(experts.chosen), -1);
      routing.logits.resize(static_cast<size_t>(experts.count));
      v.experts.insert(v.experts.end(), routing.experts.begin(), routing.experts.end());
      v.router_logits.insert(v.router_logits.end(), routing.logits.begin(), routing.logits.end());
    }
    for (const std::vector<std::byte>& codes : step.codes)
      v.codes.insert(v.codes.end(), codes.begin(), codes.end());
  }
  return v;
}

// Of one layer's newest token in a quantised KV cache; 0 where it is not quantised.
size_t code_bytes(const Model& model, Format kv) {
  if (!quantised(kv)) return 0;
  const Attention& a = model.attention;
  const int64_t values = a.kv_heads * (a.head_size + (a.mla() ? 0 : a.value_size));
  return static_cast<size_t>(static_cast<double>(values) * bytes_of(kv));
}

}  // namespace

// Weights that the judge generates and uses for one step: about a minute on two cores.
constexpr double most_judged = 2e10;
// That bf16 activations go through: what they round off grows with layers, not with width. The 16
// of llama-3.2-1b leave 1.0e-2, the 27 of deepseek-v2-lite 3.6e-2, and a step is allowed 2.5e-2.
constexpr int most_rounded_layers = 16;

Scope scope_of(Scope wanted, const Assignment& work) {
  if (wanted != Scope::automatic) return wanted;
  if (work.shard) return Scope::tasks;
  const double judged = static_cast<double>(work.lengths.size()) *
                        static_cast<double>(active_parameters(*work.model));
  if (!work.prompt.empty()) return Scope::step;
  const bool rounds_off =
      work.precision.activations == Format::bf16 && work.model->layers > most_rounded_layers;
  return judged > most_judged || rounds_off ? Scope::tasks : Scope::step;
}

// A judge and the model that it refers to.
struct Judges::Kept {
  Model model;
  Judge judge;
  explicit Kept(const Assignment& work)
      : model(*work.model),
        judge(Generator(model, work.precision, work.seed, work.zipf), {.progress = beat}) {}
};

Judges::Values Judges::values(const Assignment& work) {
  return {work.model->name,        work.model->layers, work.model->checkpoint.get(),
          text_of(work.precision), work.seed,          work.zipf};
}

Judges::Key Judges::key(const Assignment& work, int64_t request, int64_t steps) {
  return {values(work), request, work.lengths[static_cast<size_t>(request)], steps, work.prompt};
}

const Judge& Judges::judge_of(const Assignment& work) {
  const Values wanted = values(work);
  const auto model = [](const Values& v) { return std::tuple(get<0>(v), get<1>(v), get<2>(v)); };
  std::erase_if(judges_, [&](const auto& entry) { return model(entry.first) != model(wanted); });
  std::shared_ptr<const Kept>& kept = judges_[wanted];
  if (!kept) kept = std::make_shared<Kept>(work);
  return kept->judge;
}

std::vector<const Verdict*> Judges::judge(const Assignment& work, int64_t steps) {
  prepare({&work, 1}, steps);
  std::vector<const Verdict*> all;
  for (size_t i = 0; i < work.lengths.size(); ++i)
    all.push_back(&verdicts_.at(key(work, static_cast<int64_t>(i), steps)));
  return all;
}

// By key, so that requests with the same weights are neighbours, and a rank meets few of them.
void Judges::prepare(std::span<const Assignment> all, int64_t steps) {
  std::map<Key, std::pair<const Assignment*, int64_t>> missing;
  for (const Assignment& work : all)
    for (int64_t i = 0; i < std::ssize(work.lengths); ++i)
      if (Key k = key(work, i, steps); !verdicts_.contains(k)) missing[std::move(k)] = {&work, i};
  if (missing.empty()) return;
  std::vector<int64_t> lengths;
  for (const auto& [k, request] : missing)
    lengths.push_back(request.first->lengths[static_cast<size_t>(request.second)]);
  const std::vector<Slice> ranks = cut(lengths, world_->size());
  const Slice mine = ranks[static_cast<size_t>(world_->rank())];
  const auto failed = world_->agree([&] {
    auto at = std::next(missing.begin(), mine.first);
    for (int64_t i = 0; i < mine.count; ++i, ++at) {
      const auto& [work, request] = at->second;
      verdicts_[at->first] =
          verdict_of(judge_of(*work).decode(request, work->lengths[static_cast<size_t>(request)],
                                            steps, {}, work->prompt),
                     work->model->experts);
    }
  });
  if (failed) {
    for (const auto& [k, request] : missing) verdicts_.erase(k);
    throw RunError("the judge: " + *failed);
  }
  auto at = missing.begin();
  for (int root = 0; root < world_->size(); ++root)
    for (int64_t i = 0; i < ranks[static_cast<size_t>(root)].count; ++i, ++at)
      share_out(verdicts_[at->first], *at->second.first, steps, root);
}

void Judges::share_out(Verdict& v, const Assignment& work, int64_t steps, int root) const {
  const Model& model = *work.model;
  v.tokens.resize(static_cast<size_t>(steps));
  v.margins.resize(static_cast<size_t>(steps));
  v.logits.resize(static_cast<size_t>(steps * model.vocabulary));
  v.experts.resize(static_cast<size_t>(steps * model.layers * model.experts.chosen));
  v.router_logits.resize(static_cast<size_t>(steps * model.layers * model.experts.count));
  v.codes.resize(static_cast<size_t>(steps * model.layers) * code_bytes(model, work.precision.kv));
  world_->broadcast(v.tokens, root);
  world_->broadcast(v.margins, root);
  world_->broadcast(v.logits, root);
  world_->broadcast(v.experts, root);
  world_->broadcast(v.router_logits, root);
  world_->broadcast(v.codes, root);
}

double tolerance(const Precision& p) {
  if (p.activations == Format::bf16) return 2.5e-2;
  // Weights are exact as stored, and quantised newest tokens are the judge's; bf16 ones may be
  // rounded to neighbours.
  return p.kv == Format::bf16 ? 5e-3 : 1e-5;
}

double routing_share(Format activations) { return activations == Format::fp32 ? 1e-3 : 3e-2; }
double code_share(Format activations) { return activations == Format::fp32 ? 1e-3 : 0.3; }
double code_beyond(Format activations) { return activations == Format::fp32 ? 1e-5 : 5e-2; }

namespace {

double largest_of(std::span<const float> logits) {
  double largest = 0;
  for (const float logit : logits) largest = std::max(largest, std::abs(double{logit}));
  return largest;
}

// The worst relative error of this rank's part of one step's logits.
double worst_error(const Executor& executor, const std::vector<const Verdict*>& verdicts,
                   int64_t step) {
  const Schedule& s = executor.schedule();
  const Layout& l = s.place.l;
  const std::vector<float> mine = executor.logits();
  if (mine.empty()) return 0;  // no LM head in this stage
  const auto vocabulary =
      static_cast<int64_t>(verdicts.front()->logits.size() / verdicts.front()->tokens.size());
  const Slice words = rows_of(vocabulary, l.stage_ranks(), s.place.in_stage());
  double worst = 0;
  for (size_t row = 0; row < verdicts.size(); ++row) {
    const float* judged = verdicts[row]->logits.data() + step * vocabulary;
    const double largest = largest_of({judged, static_cast<size_t>(vocabulary)});
    double difference = 0;
    for (int64_t i = 0; i < words.count; ++i) {
      const double d =
          std::abs(static_cast<double>(
                       mine[row * static_cast<size_t>(words.count) + static_cast<size_t>(i)]) -
                   judged[words.first + i]);
      if (!(d <= difference))
        difference = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
    }
    worst = std::max(worst, difference / largest);
  }
  return worst;
}

// Has the executor go on with the judge's choices while this lives.
class Forced {
 public:
  Forced(Executor& executor, const Assignment& work, const std::vector<const Verdict*>& verdicts)
      : routing_(executor.hooks().routing), codes_(executor.hooks().codes), check_(work, verdicts) {
    const Model& model = executor.model();
    routing_ = {};
    codes_ = {};
    if (!verdicts.front()->codes.empty())
      codes_.judged = [&verdicts, &model](int64_t step, int layer, int64_t request) {
        const Verdict& v = *verdicts[static_cast<size_t>(request)];
        if (step >= std::ssize(v.tokens)) return std::span<const std::byte>();
        const size_t bytes = v.codes.size() / (v.tokens.size() * static_cast<size_t>(model.layers));
        return std::span(v.codes).subspan(static_cast<size_t>(step * model.layers + layer) * bytes,
                                          bytes);
      };
    if (model.experts.count == 0) return;
    routing_.judged = [this](int64_t step, int layer, int64_t request) {
      return check_.judged(step, layer, request);
    };
    routing_.own = [this](int64_t step, int layer, int64_t request, std::span<const float> logits,
                          std::span<const int32_t> choice) {
      check_.note(step, layer, request, logits, choice);
    };
  }
  ~Forced() {
    routing_ = {};
    codes_.judged = {};
  }
  Forced(const Forced&) = delete;
  Forced& operator=(const Forced&) = delete;
  void count_in(Comparison& result) const {
    result.routers = check_.met();
    result.codes = codes_.codes;
    result.codes_differing = codes_.differing;
    result.beyond = codes_.beyond;
  }

 private:
  ForcedRouting& routing_;
  ForcedCodes& codes_;
  RouterCheck check_;
};

// Sampled tokens that are not the judge's, though its margin leaves no doubt. `error`: of all
// ranks, for the words of any of them may have won.
int64_t wrong_tokens(const Executor& executor, const std::vector<const Verdict*>& verdicts,
                     int64_t step, double error) {
  const auto sampled = executor.sampled();
  int64_t wrong = 0;
  for (size_t row = 0; row < sampled.size(); ++row) {
    const Verdict& v = *verdicts[row];
    const auto vocabulary = v.logits.size() / v.tokens.size();
    const int32_t judged = v.tokens[static_cast<size_t>(step)];
    const double largest =
        largest_of(std::span(v.logits).subspan(static_cast<size_t>(step) * vocabulary, vocabulary));
    wrong += sampled[row] != judged && v.margins[static_cast<size_t>(step)] > 2 * error * largest;
  }
  return wrong;
}

}  // namespace

Comparison compare_steps(MPI_Comm ranks, Executor& executor, const Assignment& work,
                         const std::vector<const Verdict*>& verdicts, int64_t steps) {
  Comparison result;
  result.allowed_router_error = tolerance(work.precision);
  result.allowed_beyond = code_beyond(work.precision.activations);
  std::optional<Hashes> hashes;
  Forced forced(executor, work, verdicts);
  for (int64_t step = 0; step < steps; ++step) {
    // Every other step is carried out as it is when nobody looks.
    hashes.reset();
    if (!executor.replays() || step % 2 == 0) hashes.emplace(executor);
    std::vector<int32_t> teacher;
    teacher.reserve(verdicts.size());
    for (const Verdict* v : verdicts) teacher.push_back(v->tokens[static_cast<size_t>(step)]);
    executor.teach(teacher);
    executor.step();
    result.max_rel_err = std::max(result.max_rel_err, worst_error(executor, verdicts, step));
    HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &result.max_rel_err, 1, MPI_DOUBLE, MPI_MAX, ranks));
    result.tokens_differing += wrong_tokens(executor, verdicts, step, result.max_rel_err);
    if (hashes)
      result.hashes_differing += count_differing(ranks, executor.schedule().place, hashes->take());
  }
  forced.count_in(result);
  for (double* value : {&result.routers.error, &result.beyond})
    HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, value, 1, MPI_DOUBLE, MPI_MAX, ranks));
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &result.tokens_differing, 1, MPI_INT64_T, MPI_MAX, ranks));
  for (int64_t* count : {&result.routers.choices, &result.routers.differing, &result.routers.wrong,
                         &result.codes, &result.codes_differing})
    HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, count, 1, MPI_INT64_T, MPI_SUM, ranks));
  return result;
}

}  // namespace helix
