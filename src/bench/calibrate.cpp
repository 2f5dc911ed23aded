#include "bench/calibrate.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

#include "base/version.h"
#include "bench/cards.h"
#include "bench/environment.h"
#include "bench/file.h"
#include "bench/plan.h"
#include "bench/point_run.h"
#include "bench/progress.h"
#include "bench/sweep.h"
#include "bench/watchdog.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

constexpr double share_of_memory = 0.8;
// The same bytes elsewhere in memory take another time, and so do they while other guests of the
// host read more: a run gets any of both.
constexpr int cpu_rounds = 3;
constexpr double noisy = 0.2;  // spread from which a time is no longer this machine's alone

class Calibrator {
 public:
  Calibrator(World& world, const CalibrateOptions& options)
      : world_(world), options_(options), how_(options.how) {
    if (how_.kind == ExecutorKind::cuda) {
      cards_.emplace(world);
      how_ = choose_exchange(how_, *cards_, world, options.exchange);
    }
    threads_ = set_threads(world, options.threads);
  }
  int run();

 private:
  std::vector<Point> points() const;
  void measure_peaks();
  void sample();
  void describe_place();
  void write() const;

  World& world_;
  const CalibrateOptions& options_;
  ExecutorChoice how_;
  std::optional<Cards> cards_;
  int threads_ = 1;
  Calibration found_;
};

// Those that this launch has memory for, and whose tasks are one passage's.
std::vector<Point> Calibrator::points() const {
  std::string path = options_.sweep;
  if (path.empty())
    path = configs_folder() +
           (found_.gpu ? "/sweeps/calibrate-gpu.json" : "/sweeps/calibrate-cpu.json");
  Planner planner;
  const double room = share_of_memory * found_.peaks.memory_bytes;
  std::vector<Point> chosen;
  for (Point& point : read_sweep(path).points)
    if (point.layout.pp == 1 && refusal(how_, point.precision).empty() &&
        planner.widest_rank(point).total() <= room)
      chosen.push_back(std::move(point));
  if (chosen.empty())
    throw InputError(path, "",
                     "has no point that can be sampled: at PP 1, and with memory for a rank");
  return chosen;
}

// The best of the ranks: a peak must stay one.
void Calibrator::measure_peaks() {
  doing("measuring what kernels reach");
  world_.meet();
  Peaks& peaks = found_.peaks;
  peaks = helix::measure_peaks(how_.kind, threads_);
  for (double* rate : {&peaks.read_bytes_per_s, &peaks.copy_bytes_per_s})
    *rate = world_.maximum(*rate);
  for (auto* rates : {&peaks.product_flops_per_s, &peaks.attention_flops_per_s})
    for (double& rate : *rates) rate = world_.maximum(rate);
  const double sharing = cards_ ? cards_->sum_on_card(1) : world_.ranks_on_this_host();
  peaks.memory_bytes = -world_.maximum(-peaks.memory_bytes / sharing);
  doing("measuring messages");
  found_.messages = measure_messages(world_);
}

void Calibrator::sample() {
  const Machine peaks = machine_at_peak(found_.peaks, found_.gpu);
  std::vector<Point> all;
  world_.lead([&] { all = points(); });
  if (!world_.leads()) all = points();
  std::vector<std::vector<SampledPoint>> sampled(all.size());  // a round each
  const int rounds = found_.gpu ? 1 : cpu_rounds;
  for (int round = 1; round <= rounds; ++round)
    for (size_t i = 0; i < all.size(); ++i) {
      doing("timing tasks", describe(all[i]));
      if (world_.leads())
        fmt::print(stderr, "helix-bench: timing the tasks of {}, round {} of {}\n",
                   describe(all[i]), round, rounds);
      sampled[i].push_back(sample_point(world_, how_, peaks, all[i]));
    }
  for (size_t i = 0; world_.leads() && i < all.size(); ++i) {
    const SampledPoint point = median_of(sampled[i]);
    found_.tasks.insert(found_.tasks.end(), point.tasks.begin(), point.tasks.end());
    found_.steps.push_back({.point = all[i], .alone = point.alone, .us = point.ttl_us});
    found_.steps.back().point.model = executed_model(all[i]);
    found_.steps.back().point.depths.reset();
  }
}

void Calibrator::describe_place() {
  const Json facts = environment(0, nullptr).facts["machine"];
  const std::string processor = cards_ ? cards_->mine().name : facts["cpu"].get<std::string>();
  found_.place = fmt::format(
      "helix-bench calibrate at {}, {} ({}), {} rank{} of {} thread{}{}, {}",
      short_commit(version().commit, version().dirty), facts["host"].get<std::string>(), processor,
      world_.size(), world_.size() == 1 ? "" : "s", threads_, threads_ == 1 ? "" : "s",
      cards_ ? fmt::format(", exchange by {}", name_of(how_.exchange)) : "", utc_now());
}

// Arrays of numbers alone, which are long, on a line each.
std::string with_rows(const std::string& indented) {
  std::string text;
  for (size_t at = 0; at < indented.size(); ++at) {
    text += indented[at];
    const size_t end = indented[at] == '[' ? indented.find_first_of("[]{}\"", at + 1) : at;
    if (end == at || end == std::string::npos || indented[end] != ']') continue;
    bool space = false;
    for (++at; at < end; ++at) {
      if (indented[at] != ' ' && indented[at] != '\n') {
        if (space && text.back() == ',') text += ' ';
        text += indented[at];
        space = false;
      } else {
        space = true;
      }
    }
    text += ']';
  }
  return text;
}

void Calibrator::write() const {
  const Json file = machine_file(found_);
  parse_machine(parse_json(options_.output, file.dump()));  // as its readers will
  replace_file(options_.output, with_rows(file.dump(2)) + "\n");
  fmt::print("{}", to_text(file));
  std::string disturbed;
  for (const auto& [name, cover] : file["calibration"]["covers"].items())
    if (cover["spread"].get<double>() > noisy) disturbed += (disturbed.empty() ? "" : ", ") + name;
  if (!disturbed.empty())
    fmt::print(stderr, "helix-bench: disturbed, with a spread over {:.0f} %: {}\n", 100 * noisy,
               disturbed);
  fmt::print(stderr, "helix-bench: {} tasks of {} covers timed; {}\n", found_.tasks.size(),
             file["covers"].size(), options_.output);
}

int Calibrator::run() {
  found_.gpu = how_.kind == ExecutorKind::cuda;
  found_.fusions = fusions_of(how_.kind, how_.exchange);
  found_.name = fs::path(options_.output).stem().string();
  found_.host_ranks = world_.ranks_on_this_host();
  found_.far = world_.maximum(world_.size() - world_.ranks_on_this_host()) > 0;
  measure_peaks();
  sample();
  world_.lead([&] {
    describe_place();
    write();
  });
  return static_cast<int>(Exit::done);
}

}  // namespace

int calibrate(World& world, const CalibrateOptions& options) {
  if (world.maximum(world.ranks_on_this_host()) > world.cores_on_this_host())
    throw InputError(
        fmt::format("calibrate: {} ranks share {} cores, and with more ranks than cores no time is "
                    "a task's own",
                    world.ranks_on_this_host(), world.cores_on_this_host()));
  world.lead([&] {  // now, and not after all is measured
    const fs::path folder = fs::path(options.output).parent_path();
    if (access(folder.empty() ? "." : folder.c_str(), W_OK) != 0) fail_to_write(options.output);
  });
  return Calibrator(world, options).run();
}

}  // namespace helix
