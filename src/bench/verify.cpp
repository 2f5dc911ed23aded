#include "bench/verify.h"

#include <fmt/format.h>

#include <chrono>
#include <map>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "bench/cards.h"
#include "bench/controls.h"
#include "bench/point_run.h"
#include "bench/sweep.h"
#include "bench/tasks/compare.h"
#include "bench/verification.h"
#include "bench/verify_cases.h"
#include "execute/factory.h"
#include "execute/weights.h"
#include "layout/strategy.h"

namespace helix {

namespace {

// Weights that a rank keeps for other layouts: of a tiny model, all shards in all formats.
constexpr double spare_weight_bytes = 1 << 28;

struct Choices {  // of experts or codes
  int64_t made = 0;
  int64_t differing = 0;  // not the judge's
  double worst = 0;       // how far off, relative to what is allowed
  void add(const Choices& other) {
    made += other.made;
    differing += other.differing;
    worst = std::max(worst, other.worst);
  }
  double share() const {
    return made == 0 ? 0 : static_cast<double>(differing) / static_cast<double>(made);
  }
};

struct Outcome {
  int64_t cases = 0;
  int64_t failed = 0;
  std::map<std::string_view, double> worst;  // a precision
  int64_t controls = 0;
  std::vector<std::string> missed;
  std::map<Format, Choices> choices;  // a format of activations: of routers
  std::map<Format, Choices> codes;    // of quantised KV caches

  void add(const Outcome& other) {
    cases += other.cases;
    failed += other.failed;
    controls += other.controls;
    missed.insert(missed.end(), other.missed.begin(), other.missed.end());
    for (const auto& [format, c] : other.choices) choices[format].add(c);
    for (const auto& [format, c] : other.codes) codes[format].add(c);
  }
};

class Verifier {
 public:
  Verifier(World& world, const VerifyOptions& options)
      : world_(world), options_(options), judges_(world) {}
  int all_layouts();
  int sweep(const std::string& path);

 private:
  void model(const Model& model);
  struct Dealt {  // to one layout, as far as they are this part's
    Layout layout;
    std::vector<Trial> cases;
    std::vector<const Control*> controls;
  };
  std::vector<Dealt> deal(const Model& model, CaseDealer& dealer);
  Dealt deal(const Model& model, const Layout& layout, const std::vector<Trial>& cases);
  void layout(const Model& model, const Dealt& dealt);
  Comparison execute(const Assignment& asked, int64_t count, const Control* control);
  void check(const Assignment& work, std::string_view precision, Outcome& outcome);
  void check(const Control& control, const Model& model, const Layout& layout, Outcome& outcome);
  bool mine(uint64_t index) const {  // dealt by seed, so that each part sees all layouts and axes
    return combine(options_.seed, index) % static_cast<uint64_t>(options_.parts) ==
           static_cast<uint64_t>(options_.part - 1);
  }
  void print_row(const Layout& layout, const Outcome& outcome) const;
  void print_coverage(const Model& model, const std::vector<Trial>& run,
                      const CaseDealer& dealer) const;
  bool few_differ() const;
  int finish();
  double tolerance_of(const Precision& precision) const {
    return options_.scope == Scope::tasks ? tasks_tolerance(precision) : tolerance(precision);
  }

  World& world_;
  const VerifyOptions& options_;
  Judges judges_;
  Outcome total_;
  std::shared_ptr<HeldWeights> weights_ = std::make_shared<HeldWeights>(spare_weight_bytes);
  uint64_t index_ = 0;
  std::set<std::pair<std::string_view, int>>
      controlled_;  // strategies and ranks of the model in hand whose controls are dealt
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

std::string error_text(double error) { return fmt::format("{:.1e}", error); }

Comparison Verifier::execute(const Assignment& asked, int64_t count, const Control* control) {
  Assignment work = asked;
  work.weights = weights_;
  const bool tasks = options_.scope == Scope::tasks;
  const auto verdicts = tasks ? std::vector<const Verdict*>() : judges_.judge(work, count);
  const Communicator& ranks = world_.first(work.layout.ranks());
  std::unique_ptr<Executor> executor;
  const auto failed = world_.agree([&] {
    if (ranks) executor = make_executor(options_.how, ranks.get(), work);
  });
  if (failed) throw RunError(describe(work.layout) + ": " + *failed);
  Comparison result;
  if (executor) {
    executor->read_prompt();
    if (control != nullptr) control->inject(*executor, work);
    result = tasks ? compare_tasks(ranks.get(), *executor, work)
                   : compare_steps(ranks.get(), *executor, work, verdicts, count);
    executor.reset();  // frees communicators together
  }
  world_.meet();
  return result;
}

void Verifier::check(const Assignment& work, std::string_view precision, Outcome& outcome) {
  const Comparison result = execute(work, work.steps, nullptr);
  ++outcome.cases;
  double& worst = outcome.worst[precision];
  worst = std::max(worst, result.max_rel_err);
  const auto note = [&](std::map<Format, Choices>& all, const Choices& met) {
    if (met.made > 0) all[work.precision.activations].add(met);
  };
  note(outcome.choices, {result.routers.choices, result.routers.differing,
                         result.routers.error / result.allowed_router_error});
  note(outcome.codes,
       {result.codes, result.codes_differing, result.beyond / result.allowed_beyond});
  if (!world_.leads() || result.passed(tolerance_of(work.precision))) return;
  ++outcome.failed;
  fmt::print(
      "FAILED {} {}: {}, chunks {}, interval {}, {} KV, batch {}: error {} above {}, tokens {}, "
      "layers unequal {}, router logits {}, wrong choices {}, codes {} beyond the next\n",
      work.model->name, describe(work.layout), precision, work.chunks, work.interval,
      name_of(work.kv_layout), work.lengths.size(), error_text(result.max_rel_err),
      error_text(tolerance_of(work.precision)), result.tokens_differing, result.hashes_differing,
      error_text(result.routers.error), result.routers.wrong, error_text(result.beyond));
}

void Verifier::check(const Control& control, const Model& model, const Layout& layout,
                     Outcome& outcome) {
  const Assignment work = control_assignment(model, control.changed(layout));
  const Comparison result = execute(work, 2, &control);
  ++outcome.controls;
  if (!(result.max_rel_err >= 10 * tolerance_of(work.precision)))
    outcome.missed.push_back(fmt::format("{} ({})", control.name, error_text(result.max_rel_err)));
}

Verifier::Dealt Verifier::deal(const Model& model, const Layout& layout,
                               const std::vector<Trial>& cases) {
  Dealt dealt{layout, {}, {}};
  for (const Trial& c : cases)
    if (mine(index_++)) dealt.cases.push_back(c);
  if (!refuse(model, verified_precisions().front().precision, layout) &&
      controlled_.emplace(layout.strategy, layout.ranks()).second)
    for (const Control& control : controls())
      if (control.applies(model, layout) && mine(index_++)) dealt.controls.push_back(&control);
  return dealt;
}

void Verifier::layout(const Model& model, const Dealt& dealt) {
  Outcome outcome;
  for (const Trial& c : dealt.cases)
    check(assignment_of(model, dealt.layout, c),
          verified_precisions()[static_cast<size_t>(c[0])].name, outcome);
  for (const Control* control : dealt.controls) check(*control, model, dealt.layout, outcome);
  if (outcome.cases + outcome.controls > 0 && world_.leads()) print_row(dealt.layout, outcome);
  total_.add(outcome);
}

void Verifier::print_row(const Layout& layout, const Outcome& outcome) const {
  const auto worst = [&](bool quantised_too, Format activations, Format weights) {
    double most = -1;
    for (const auto& [name, p] : verified_precisions())
      if (const auto at = outcome.worst.find(name);
          at != outcome.worst.end() && p.activations == activations &&
          (quantised_too ? quantised(p.kv) : p.weights == weights && p.kv == weights))
        most = std::max(most, at->second);
    return most < 0 ? std::string("-") : error_text(most);
  };
  using enum Format;
  fmt::print(
      "{:<52} {:>5} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9}   {}{}\n", describe(layout), layout.ranks(),
      outcome.cases, worst(false, fp32, fp32), worst(false, bf16, bf16), worst(false, fp32, bf16),
      worst(true, fp32, fp8), worst(true, bf16, fp8),
      outcome.controls == 0 ? "-"
                            : fmt::format("{} of {}", outcome.controls - std::ssize(outcome.missed),
                                          outcome.controls),
      outcome.missed.empty() ? ""
                             : "  MISSED: " + fmt::format("{}", fmt::join(outcome.missed, ", ")));
  std::fflush(stdout);
}

using ShareOf = double(Format);
std::string text_of(std::string_view what, std::string_view off,
                    const std::map<Format, Choices>& choices, ShareOf* allowed) {
  std::string text;
  for (const auto& [format, c] : choices)
    text += fmt::format(
        " {} so far, {} activations: {} of {} were not the judge's ({:.2g} %, at most {:.2g} %), "
        "{} at most {:.2f} of what is allowed.",
        what, name_of(format), c.differing, c.made, 100 * c.share(), 100 * allowed(format), off,
        c.worst);
  return text;
}
std::string text_of(const Outcome& outcome) {
  return text_of("Choices of experts", "router logits off by", outcome.choices, routing_share) +
         text_of("KV codes", "beyond the next by", outcome.codes, code_share);
}

void Verifier::print_coverage(const Model& model, const std::vector<Trial>& run,
                              const CaseDealer& dealer) const {
  const PairCoverage pairs = pair_coverage(run, dealer.possible());
  fmt::print("{}: {} of {} pairs of values met. Cases:", model.name, pairs.covered, pairs.possible);
  const std::vector<CaseAxis>& axes = case_axes();
  for (size_t axis = 0; axis < axes.size(); ++axis) {
    fmt::print("{} {}", axis == 0 ? "" : ";", axes[axis].name);
    for (size_t level = 0; level < axes[axis].levels.size(); ++level)
      fmt::print("{} {} ({})", level == 0 ? "" : ",", axes[axis].levels[level],
                 std::ranges::count_if(
                     run, [&](const Trial& c) { return c[axis] == static_cast<int>(level); }));
  }
  fmt::print(".{}\n\n", text_of(total_));
}

// Those of plain formats, then those that only nvfp4 cuts so.
std::vector<Layout> legal_layouts(const Model& model, const Strategy& strategy, int64_t ranks,
                                  const LayoutQuery& query) {
  std::vector<Layout> all =
      layouts(model, verified_precisions().front().precision, strategy, ranks, query);
  for (const Layout& l :
       layouts(model, verified_precisions().back().precision, strategy, ranks, query))
    if (std::ranges::find(all, l) == all.end()) all.push_back(l);
  return all;
}

std::vector<Verifier::Dealt> Verifier::deal(const Model& model, CaseDealer& dealer) {
  std::vector<Dealt> all;
  controlled_.clear();
  for (const Strategy& strategy : strategies()) {
    LayoutQuery query;  // all choices, not the strategy's own alone
    query.pp = query.dp = {};
    query.query = strategy.query;
    query.merge = strategy.merge;
    if (model.attention.mla()) query.mla = {Mla::latent, Mla::value};
    for (int64_t ranks = 1; ranks <= world_.size(); ++ranks)
      for (const Layout& l : legal_layouts(model, strategy, ranks, query))
        if (describe(l).find(options_.only) != std::string::npos)
          all.push_back(deal(model, l, dealer.deal(l)));
  }
  for (const auto& [l, c] : dealer.deal_rest()) all.push_back(deal(model, l, {c}));
  return all;
}

void Verifier::model(const Model& model) {
  CaseDealer dealer(model, options_.seed, options_.full);
  const std::vector<Dealt> all = deal(model, dealer);
  std::vector<Trial> run;
  std::vector<Assignment> works;
  for (const Dealt& dealt : all)
    for (const Trial& c : dealt.cases) {
      run.push_back(c);
      works.push_back(assignment_of(model, dealt.layout, c));
    }
  if (world_.leads())
    fmt::print(
        "{}: {} steps a case, tolerance {} (fp32), {} (bf16), {} (bf16, activations fp32), {} "
        "(quantised KV, activations fp32)\n{:<52} {:>5} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9}   "
        "{}\n",
        model.name, verified_steps, error_text(tolerance_of(verified_precisions()[0].precision)),
        error_text(tolerance_of(verified_precisions()[1].precision)),
        error_text(tolerance_of(verified_precisions()[2].precision)),
        error_text(tolerance_of(verified_precisions()[4].precision)), "layout", "ranks", "cases",
        "err fp32", "err bf16", "err mixed", "fp8/4 f32", "fp8/4 b16", "controls caught");
  if (options_.scope == Scope::step) judges_.prepare(works, verified_steps);
  for (const Dealt& dealt : all) layout(model, dealt);
  if (world_.leads()) print_coverage(model, run, dealer);
}

int Verifier::all_layouts() {
  for (const std::string& name : preset_names())
    if (name.starts_with("tiny-")) {
      const Model m = read_model(preset_path(name));
      model(m);
    }
  return finish();
}

// The points of a sweep, each as it will be run.
int Verifier::sweep(const std::string& path) {
  for (const Point& point : read_sweep(path).points) {
    if (point.layout.ranks() > world_.size() || !refusal(options_.how, point.precision).empty())
      continue;
    Outcome outcome;
    const std::shared_ptr<const Model> model = executed_model(point);
    Assignment work = assignment_of(point, *model);
    work.steps = std::min<int64_t>(point.steps, verified_steps);
    check(work, "point", outcome);
    if (world_.leads())
      fmt::print("{:<52} batch {:>4} error {} tolerance {}\n", describe(point.layout), point.batch,
                 error_text(outcome.worst["point"]), error_text(tolerance_of(point.precision)));
    total_.add(outcome);
  }
  return finish();
}

// Single choices may fall otherwise near a tie; many that do are an error.
bool Verifier::few_differ() const {
  const auto few = [](const std::map<Format, Choices>& choices, ShareOf* allowed) {
    return std::ranges::all_of(
        choices, [&](const auto& entry) { return entry.second.share() <= allowed(entry.first); });
  };
  return few(total_.choices, routing_share) && few(total_.codes, code_share);
}

int Verifier::finish() {
  if (world_.leads() && !few_differ())
    fmt::print("FAILED too many choices differ.{}\n", text_of(total_));
  const bool good = total_.failed == 0 && total_.missed.empty() && total_.cases > 0 && few_differ();
  if (world_.leads())
    fmt::print("{}: {} cases, {} failed; {} negative controls, {} missed; {:.0f} s on {} ranks\n",
               good ? "VERIFIED" : "NOT VERIFIED", total_.cases, total_.failed, total_.controls,
               total_.missed.size(),
               std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count(),
               world_.size());
  int code = good ? static_cast<int>(Exit::done) : static_cast<int>(Exit::unverified);
  HELIX_MPI(MPI_Bcast(&code, 1, MPI_INT, 0, world_.comm()));
  return code;
}

}  // namespace

int verify(World& world, const VerifyOptions& asked) {
  VerifyOptions options = asked;
  std::optional<Cards> cards;
  if (options.how.kind == ExecutorKind::cuda) {
    cards.emplace(world);
    options.how = choose_exchange(options.how, *cards, world, options.exchange);
    const int64_t gpus = cards->use(world.size()).gpus;
    if (world.leads())
      fmt::print("{} x {}, {} exchange, {}\n", gpus, cards->mine().name,
                 name_of(options.how.exchange), options.how.graph ? "graphs" : "no graphs");
  }
  Verifier verifier(world, options);
  return options.sweep ? verifier.sweep(*options.sweep) : verifier.all_layouts();
}

}  // namespace helix
