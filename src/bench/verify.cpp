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
#include "bench/verification.h"
#include "bench/verify_cases.h"
#include "execute/factory.h"
#include "layout/strategy.h"

namespace helix {

namespace {

struct Choices {  // of routers
  int64_t made = 0;
  int64_t differing = 0;  // not the judge's
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
  std::map<Format, Choices> choices;  // a format of activations

  void add(const Outcome& other) {
    cases += other.cases;
    failed += other.failed;
    controls += other.controls;
    missed.insert(missed.end(), other.missed.begin(), other.missed.end());
    for (const auto& [format, c] : other.choices) {
      choices[format].made += c.made;
      choices[format].differing += c.differing;
    }
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
  void layout(const Model& model, const Layout& layout, const std::vector<Trial>& cases);
  Comparison execute(const Assignment& work, int64_t count, const Control* control);
  void check(const Assignment& work, std::string_view precision, Outcome& outcome);
  void run_controls(const Model& model, const Layout& layout, Outcome& outcome);
  bool mine(uint64_t index) const {  // dealt by seed, so that each part sees all layouts and axes
    return combine(options_.seed, index) % static_cast<uint64_t>(options_.parts) ==
           static_cast<uint64_t>(options_.part - 1);
  }
  void print_row(const Layout& layout, const Outcome& outcome) const;
  void print_coverage(const Model& model, const CaseDealer& dealer) const;
  bool few_differ() const;
  int finish();

  World& world_;
  const VerifyOptions& options_;
  Judges judges_;
  Outcome total_;
  uint64_t index_ = 0;
  std::vector<Trial> run_;  // of the model in hand
  std::set<std::pair<std::string_view, int>>
      controlled_;  // strategies and ranks whose controls were run
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

std::string error_text(double error) { return fmt::format("{:.1e}", error); }

Comparison Verifier::execute(const Assignment& work, int64_t count, const Control* control) {
  const auto verdicts = judges_.judge(work, count);
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
    result = compare_steps(ranks.get(), *executor, verdicts, count);
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
  if (result.choices > 0) {
    Choices& choices = outcome.choices[work.precision.activations];
    choices.made += result.choices;
    choices.differing += result.choices_differing;
  }
  if (!world_.leads() || result.passed(tolerance(work.precision))) return;
  ++outcome.failed;
  fmt::print(
      "FAILED {} {}: {}, chunks {}, interval {}, batch {}: error {} above {}, tokens {}, layers "
      "unequal {}, choices of experts {} short\n",
      work.model->name, describe(work.layout), precision, work.chunks, work.interval,
      work.lengths.size(), error_text(result.max_rel_err), error_text(tolerance(work.precision)),
      result.tokens_differing, result.hashes_differing, error_text(result.shortfall));
}

void Verifier::run_controls(const Model& model, const Layout& layout, Outcome& outcome) {
  for (const Control& control : controls()) {
    if (!control.applies(model, layout) || !mine(index_++)) continue;
    const Assignment work = control_assignment(model, control.changed(layout));
    const Comparison result = execute(work, 2, &control);
    ++outcome.controls;
    if (!(result.max_rel_err >= 10 * tolerance(work.precision)))
      outcome.missed.push_back(
          fmt::format("{} ({})", control.name, error_text(result.max_rel_err)));
  }
}

void Verifier::layout(const Model& model, const Layout& layout, const std::vector<Trial>& cases) {
  Outcome outcome;
  for (const Trial& c : cases) {
    if (!mine(index_++)) continue;
    run_.push_back(c);
    check(assignment_of(model, layout, c), verified_precisions()[static_cast<size_t>(c[0])].name,
          outcome);
  }
  if (controlled_.emplace(layout.strategy, layout.ranks()).second)
    run_controls(model, layout, outcome);
  if (outcome.cases + outcome.controls > 0 && world_.leads()) print_row(layout, outcome);
  total_.add(outcome);
}

void Verifier::print_row(const Layout& layout, const Outcome& outcome) const {
  const auto worst = [&](size_t i) {
    const auto at = outcome.worst.find(verified_precisions()[i].name);
    return at == outcome.worst.end() ? std::string("-") : error_text(at->second);
  };
  fmt::print(
      "{:<52} {:>5} {:>6} {:>9} {:>9} {:>9}   {}{}\n", describe(layout), layout.ranks(),
      outcome.cases, worst(0), worst(1), worst(2),
      outcome.controls == 0 ? "-"
                            : fmt::format("{} of {}", outcome.controls - std::ssize(outcome.missed),
                                          outcome.controls),
      outcome.missed.empty() ? ""
                             : "  MISSED: " + fmt::format("{}", fmt::join(outcome.missed, ", ")));
  std::fflush(stdout);
}

std::string text_of(const std::map<Format, Choices>& choices) {
  std::string text;
  for (const auto& [format, c] : choices)
    text += fmt::format(
        " Routing so far, {} activations: {} of {} choices were not the judge's ({:.2g} %, "
        "at most {:.2g} %).",
        name_of(format), c.differing, c.made, 100 * c.share(), 100 * routing_bounds(format).share);
  return text;
}

void Verifier::print_coverage(const Model& model, const CaseDealer& dealer) const {
  const PairCoverage pairs = pair_coverage(run_, dealer.possible());
  fmt::print("{}: {} of {} pairs of values met. Cases:", model.name, pairs.covered, pairs.possible);
  const std::vector<CaseAxis>& axes = case_axes();
  for (size_t axis = 0; axis < axes.size(); ++axis) {
    fmt::print("{} {}", axis == 0 ? "" : ";", axes[axis].name);
    for (size_t level = 0; level < axes[axis].levels.size(); ++level)
      fmt::print("{} {} ({})", level == 0 ? "" : ",", axes[axis].levels[level],
                 std::ranges::count_if(
                     run_, [&](const Trial& c) { return c[axis] == static_cast<int>(level); }));
  }
  fmt::print(".{}\n\n", text_of(total_.choices));
}

void Verifier::model(const Model& model) {
  CaseDealer dealer(model, options_.seed, options_.full);
  run_.clear();
  controlled_.clear();
  if (world_.leads())
    fmt::print(
        "{}: {} steps a case, tolerance {} (fp32), {} (bf16), {} (bf16, activations fp32)\n{:<52} "
        "{:>5} {:>6} {:>9} {:>9} {:>9}   {}\n",
        model.name, verified_steps, error_text(tolerance(verified_precisions()[0].precision)),
        error_text(tolerance(verified_precisions()[1].precision)),
        error_text(tolerance(verified_precisions()[2].precision)), "layout", "ranks", "cases",
        "err fp32", "err bf16", "err mixed", "controls caught");
  int64_t not_executed = 0;
  for (const Strategy& strategy : strategies()) {
    LayoutQuery query;  // all choices, not the strategy's own alone
    query.pp = query.dp = {};
    query.query = strategy.query;
    query.merge = strategy.merge;
    if (model.attention.mla()) query.mla = {Mla::latent, Mla::value};
    for (int64_t ranks = 1; ranks <= world_.size(); ++ranks)
      for (const Layout& l :
           layouts(model, verified_precisions()[0].precision, strategy, ranks, query)) {
        if (!refusal(options_.how, l, verified_precisions()[0].precision).empty()) {
          ++not_executed;
          continue;
        }
        if (describe(l).find(options_.only) == std::string::npos) continue;
        layout(model, l, dealer.deal(l));
      }
  }
  if (!world_.leads()) return;
  if (not_executed > 0)
    fmt::print("{} layouts are not executed by the {} executor yet.\n", not_executed,
               name_of(options_.how.kind));
  print_coverage(model, dealer);
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
    if (point.layout.ranks() > world_.size() ||
        !refusal(options_.how, point.layout, point.precision).empty())
      continue;
    Outcome outcome;
    Assignment work = assignment_of(point);
    work.steps = std::min<int64_t>(point.steps, verified_steps);
    check(work, "point", outcome);
    if (world_.leads())
      fmt::print("{:<52} batch {:>4} error {} tolerance {}\n", describe(point.layout), point.batch,
                 error_text(outcome.worst["point"]), error_text(tolerance(point.precision)));
    total_.add(outcome);
  }
  return finish();
}

// Single choices may fall otherwise near a tie; many that do are an error.
bool Verifier::few_differ() const {
  return std::ranges::all_of(total_.choices, [](const auto& entry) {
    return entry.second.share() <= routing_bounds(entry.first).share;
  });
}

int Verifier::finish() {
  if (world_.leads() && !few_differ())
    fmt::print("FAILED too many choices of experts differ.{}\n", text_of(total_.choices));
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
    options.how.exchange = choose_exchange(*cards, world, options.exchange);
    const int64_t gpus = cards->use(world.size()).gpus;
    if (world.leads())
      fmt::print("{} x {}, {} exchange, {}\n", gpus, cards->mine().name,
                 name_of(options.how.exchange), options.how.graph ? "graphs" : "no graphs");
  }
  Verifier verifier(world, options);
  return options.sweep ? verifier.sweep(*options.sweep) : verifier.all_layouts();
}

}  // namespace helix
