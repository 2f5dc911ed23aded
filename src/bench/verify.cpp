#include "bench/verify.h"

#include <fmt/format.h>

#include <chrono>
#include <map>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "bench/controls.h"
#include "bench/covering.h"
#include "bench/sweep.h"
#include "bench/verification.h"
#include "execute/cpu/executor.h"
#include "layout/strategy.h"

namespace helix {

namespace {

// The axes that are crossed with layouts. Chunks 1 is HOP-B off.
constexpr int64_t steps = 8;
struct NamedPrecision {
  std::string_view name;
  Precision precision;
};
constexpr Precision all_of(Format f) { return {f, f, f, f, f, f}; }
constexpr Precision mixed = {Format::bf16, Format::bf16, Format::fp32,
                             Format::bf16, Format::bf16, Format::bf16};
constexpr NamedPrecision precisions[] = {{"fp32", all_of(Format::fp32)},
                                         {"bf16", all_of(Format::bf16)},
                                         {"bf16, activations fp32", mixed}};
constexpr int chunk_counts[] = {1, 2, 3, 8};
constexpr int64_t intervals[] = {1, 16, 32};
constexpr int64_t batches[] = {1, 3, 8};
const std::vector<int> axis_levels = {3, 4, 3, 3};
constexpr std::string_view axis_names[] = {"precision", "chunks", "interval", "batch"};

std::string level_name(size_t axis, int level) {
  const auto i = static_cast<size_t>(level);
  if (axis == 0) return std::string(precisions[i].name);
  return std::to_string(axis == 1 ? chunk_counts[i] : axis == 2 ? intervals[i] : batches[i]);
}

// All lengths at which something was got wrong before: nothing, one token, around an interval and a
// round, and a history so short that ranks stay empty.
std::vector<int64_t> ragged_lengths(int64_t batch, int64_t interval, int kvp) {
  const int64_t round = interval * kvp;
  const std::vector<int64_t> all = {round + 1,    0,        700,   1,
                                    interval - 1, interval, round, interval * (kvp - 1) + 1};
  if (batch == 1) return {700};
  return {all.begin(), all.begin() + batch};
}

Assignment assignment(const Model& model, const Layout& layout, const Trial& c) {
  Assignment work;
  work.model = &model;
  work.layout = layout;
  work.precision = precisions[static_cast<size_t>(c[0])].precision;
  work.chunks = chunk_counts[static_cast<size_t>(c[1])];
  work.interval = intervals[static_cast<size_t>(c[2])];
  work.lengths = ragged_lengths(batches[static_cast<size_t>(c[3])], work.interval, layout.kvp);
  work.steps = steps;
  return work;
}

// A replica must have a request for each chunk; without an exchange there is nothing to overlap.
bool allowed(const Layout& layout, const Trial& c) {
  const int chunks = chunk_counts[static_cast<size_t>(c[1])];
  const int64_t requests = batches[static_cast<size_t>(c[3])] / (layout.dp * layout.pp);
  return chunks == 1 || (layout.kvp > 1 && chunks <= requests);
}

struct Outcome {
  int64_t cases = 0;
  int64_t failed = 0;
  std::map<std::string_view, double> worst;  // a precision
  int64_t controls = 0;
  std::vector<std::string> missed;
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
  std::vector<Trial> cases_for(const Model& model, const Layout& layout);
  Comparison execute(const Assignment& work, int64_t count, const Control* control);
  void check(const Assignment& work, std::string_view precision, Outcome& outcome);
  void run_controls(const Model& model, const Layout& layout, Outcome& outcome);
  bool mine(uint64_t index) const {  // dealt by seed, so that each part sees all layouts and axes
    return combine(options_.seed, index) % static_cast<uint64_t>(options_.parts) ==
           static_cast<uint64_t>(options_.part - 1);
  }
  void print_row(const Layout& layout, const Outcome& outcome) const;
  void print_coverage(const Model& model) const;
  int finish();

  World& world_;
  const VerifyOptions& options_;
  Judges judges_;
  Outcome total_;
  uint64_t index_ = 0;
  std::map<int, std::pair<std::vector<Trial>, size_t>>
      decks_;                          // by axes that a layout allows: cases, next to deal
  std::vector<Trial> run_, possible_;  // of the model in hand
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
    if (ranks) executor = std::make_unique<cpu::CpuExecutor>(ranks.get(), work);
  });
  if (failed) throw RunError(describe(work.layout) + ": " + *failed);
  Comparison result;
  if (executor) {
    if (control != nullptr) control->inject(*executor);
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
  if (!world_.leads() || result.passed(tolerance(work.precision))) return;
  ++outcome.failed;
  fmt::print(
      "FAILED {} {}: {}, chunks {}, interval {}, batch {}: error {} above {}, tokens {}, layers "
      "unequal {}\n",
      work.model->name, describe(work.layout), precision, work.chunks, work.interval,
      work.lengths.size(), error_text(result.max_rel_err), error_text(tolerance(work.precision)),
      result.tokens_differing, result.hashes_differing);
}

void Verifier::run_controls(const Model& model, const Layout& layout, Outcome& outcome) {
  for (const Control& control : controls()) {
    if (!control.applies(model, layout) || !mine(index_++)) continue;
    Assignment work =
        assignment(model, layout, {0, 0, 1, 1});  // fp32, one chunk, interval 16, batch 3
    work.lengths = {700, 300, 33};
    work.steps = 2 + extra_steps(layout, work.interval);
    const Comparison result = execute(work, 2, &control);
    ++outcome.controls;
    if (!(result.max_rel_err >= 10 * tolerance(work.precision)))
      outcome.missed.push_back(
          fmt::format("{} ({})", control.name, error_text(result.max_rel_err)));
  }
}

std::vector<Trial> Verifier::cases_for(const Model& model, const Layout& layout) {
  const auto fits = [&](const Trial& c) { return allowed(layout, c); };
  const std::vector<Trial> all = full_product(axis_levels, fits);
  possible_.insert(possible_.end(), all.begin(), all.end());
  if (options_.full) return all;
  // What a layout allows depends on its exchange and on how requests are divided.
  const int kind = (layout.kvp > 1 ? 1000 : 0) + layout.dp * layout.pp;
  auto [deck, made] = decks_.try_emplace(kind);
  if (made) deck->second = {covering_array(axis_levels, fits, options_.seed), 0};
  auto& [cards, next] = deck->second;
  const bool spine = model.experts.count == 0 && layout.dp == 1 && layout.pp == 1 &&
                     (layout.strategy == "helix" || layout.strategy == "tp");
  const size_t count = spine ? cards.size() : 2;
  std::vector<Trial> dealt;
  for (size_t i = 0; i < count; ++i) dealt.push_back(cards[next++ % cards.size()]);
  return dealt;
}

void Verifier::layout(const Model& model, const Layout& layout, const std::vector<Trial>& cases) {
  Outcome outcome;
  for (const Trial& c : cases) {
    if (!mine(index_++)) continue;
    run_.push_back(c);
    check(assignment(model, layout, c), precisions[static_cast<size_t>(c[0])].name, outcome);
  }
  if (controlled_.emplace(layout.strategy, layout.ranks()).second)
    run_controls(model, layout, outcome);
  if (outcome.cases + outcome.controls > 0 && world_.leads()) print_row(layout, outcome);
  total_.cases += outcome.cases;
  total_.failed += outcome.failed;
  total_.controls += outcome.controls;
  total_.missed.insert(total_.missed.end(), outcome.missed.begin(), outcome.missed.end());
}

void Verifier::print_row(const Layout& layout, const Outcome& outcome) const {
  const auto worst = [&](size_t i) {
    const auto at = outcome.worst.find(precisions[i].name);
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

void Verifier::print_coverage(const Model& model) const {
  const PairCoverage pairs = pair_coverage(run_, possible_);
  fmt::print("{}: {} of {} pairs of values met.", model.name, pairs.covered, pairs.possible);
  for (size_t axis = 0; axis < axis_levels.size(); ++axis) {
    fmt::print("{} {}", axis == 0 ? " Cases:" : ";", axis_names[axis]);
    for (int level = 0; level < axis_levels[axis]; ++level)
      fmt::print("{} {} ({})", level == 0 ? "" : ",", level_name(axis, level),
                 std::count_if(run_.begin(), run_.end(),
                               [&](const Trial& c) { return c[axis] == level; }));
  }
  fmt::print("\n\n");
}

void Verifier::model(const Model& model) {
  run_.clear();
  possible_.clear();
  controlled_.clear();
  if (world_.leads())
    fmt::print(
        "{}: {} steps a case, tolerance {} (fp32), {} (bf16), {} (bf16, activations fp32)\n{:<52} "
        "{:>5} {:>6} {:>9} {:>9} {:>9}   {}\n",
        model.name, steps, error_text(tolerance(precisions[0].precision)),
        error_text(tolerance(precisions[1].precision)),
        error_text(tolerance(precisions[2].precision)), "layout", "ranks", "cases", "err fp32",
        "err bf16", "err mixed", "controls caught");
  LayoutQuery query;
  query.pp = query.dp = {};
  int64_t not_executed = 0;
  for (const Strategy& strategy : strategies())
    for (int64_t ranks = 1; ranks <= world_.size(); ++ranks)
      for (const Layout& l : layouts(model, precisions[0].precision, strategy, ranks, query)) {
        if (!cpu::CpuExecutor::refusal(l, precisions[0].precision).empty()) {
          ++not_executed;
          continue;
        }
        layout(model, l, cases_for(model, l));
      }
  if (!world_.leads()) return;
  if (not_executed > 0)
    fmt::print("{} layouts are not executed by the CPU executor yet.\n", not_executed);
  print_coverage(model);
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
        !cpu::CpuExecutor::refusal(point.layout, point.precision).empty())
      continue;
    Outcome outcome;
    Assignment work{point.model.get(),
                    point.layout,
                    point.precision,
                    static_cast<int>(point.chunks),
                    point.interval,
                    lengths_of(point),
                    std::min<int64_t>(point.steps, steps),
                    point.seed};
    check(work, "point", outcome);
    if (world_.leads())
      fmt::print("{:<52} batch {:>4} error {} tolerance {}\n", describe(point.layout), point.batch,
                 error_text(outcome.worst["point"]), error_text(tolerance(point.precision)));
    total_.cases += outcome.cases;
    total_.failed += outcome.failed;
  }
  return finish();
}

int Verifier::finish() {
  const bool good = total_.failed == 0 && total_.missed.empty() && total_.cases > 0;
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

int verify(World& world, const VerifyOptions& options) {
  Verifier verifier(world, options);
  return options.sweep ? verifier.sweep(*options.sweep) : verifier.all_layouts();
}

}  // namespace helix
