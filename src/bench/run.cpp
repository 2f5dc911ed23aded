#include "bench/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "bench/file.h"
#include "bench/point_run.h"
#include "bench/progress.h"
#include "bench/slices.h"
#include "bench/sweep.h"
#include "bench/watchdog.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

// Rank 0 reads, so that one file and one error speak for all.
Sweep read_together(const World& world, const RunOptions& options) {
  std::string text;
  world.lead([&] {
    text = (options.from.empty() ? read_json(options.sweep).json() : sweep_from(options.from))
               .dump(-1, ' ', false, Json::error_handler_t::replace);
  });
  text = world.broadcast(text);
  const std::string file = options.from.empty() ? options.sweep : options.from;
  const std::string folder =
      options.from.empty() ? fs::path(options.sweep).parent_path().string() : "";
  std::optional<Sweep> sweep;
  const auto read = [&] { sweep = read_sweep(parse_json(file, text), folder); };
  world.lead(read);
  // What only another rank cannot read is a model file.
  if (const auto failed = world.agree([&] {
        if (!world.leads()) read();
      }))
    throw InputError(*failed);
  for (Point& point : sweep->points) {
    point.steps = options.steps.value_or(point.steps);
    point.warmup = options.warmup.value_or(point.warmup);
    if (options.noise.percent > 0) point.noise = options.noise;
  }
  if (options.steps) sweep->resolved["steps"] = *options.steps;
  if (options.warmup) sweep->resolved["warmup"] = *options.warmup;
  if (options.noise.percent > 0) sweep->resolved["noise"] = to_json(options.noise);
  return std::move(*sweep);
}

// Why this launch cannot run a point, as far as all ranks know by themselves.
std::string refusal(const World& world, const RunOptions& options, const ExecutorChoice& how,
                    const Point& point) {
  if (!options.shard && point.layout.ranks() > world.size())
    return fmt::format("needs {} ranks, {} {} started", point.layout.ranks(), world.size(),
                       world.size() == 1 ? "was" : "were");
  return refusal(how, point.precision);
}

std::string folder_of(const RunOptions& options, const Sweep& sweep) {
  if (!options.folder.empty()) return options.folder;
  const auto [part, parts] = options.slice;
  return "results/" + sweep.name + (parts > 1 ? fmt::format("-{}-of-{}", part, parts) : "");
}

class Launch {
 public:
  Launch(World& world, const RunOptions& options, Sweep sweep)
      : world_(world),
        options_(options),
        sweep_(std::move(sweep)),
        stop_(options.time_limit_s),
        how_(options.how) {
    Estimator estimate(options.machine);
    const std::vector<int64_t> slice_of = deal(estimate, sweep_.points, options.slice.second);
    for (size_t i = 0; i < sweep_.points.size(); ++i)
      if (slice_of[i] == options.slice.first) mine_.push_back(i);
  }
  int dry_run() const;
  int run();

 private:
  void open_cards();
  void open(const Environment& now);
  void find_done();
  HostRates measure_rates();
  void run_points();
  void run_point(size_t index);
  void count(Status status);
  void write(const PointResult& result);
  int finish();
  std::string summary() const;

  World& world_;
  const RunOptions& options_;
  Sweep sweep_;
  Stop stop_;
  std::vector<size_t> mine_;   // of this slice, in order of the sweep
  std::vector<uint8_t> done_;  // of mine_: earlier launches have run it
  Setting setting_;
  ExecutorChoice how_;
  std::optional<Cards> cards_;
  std::optional<Machine> prices_;  // of a shard's exchanges
  std::unique_ptr<PointRunner> runner_;
  std::unique_ptr<ResultsFolder> folder_;  // these two on rank 0 alone
  std::unique_ptr<Progress> progress_;
  int64_t earlier_ = 0, ok_ = 0, wrong_ = 0, skipped_ = 0, failed_ = 0;
  bool stopped_ = false;
  bool trace_wanted_ = !options_.trace.empty();
};

int Launch::dry_run() const {
  if (!world_.leads()) return 0;
  for (const size_t index : mine_) {
    const Point& point = sweep_.points[index];
    const std::string reason = refusal(world_, options_, how_, point);
    fmt::print("{:>5} {} {}: {}\n", index + 1, key_of(point), describe(point),
               reason.empty() ? "runs" : "skipped, " + reason);
  }
  std::fflush(stdout);
  return 0;
}

void Launch::open(const Environment& now) {
  const fs::path trace = options_.trace;
  const fs::path beside = trace.has_parent_path() ? trace.parent_path() : ".";
  if (trace_wanted_ && (fs::is_directory(trace) || access(beside.c_str(), W_OK) != 0))
    throw InputError(options_.trace, "", "--trace cannot be written there");
  folder_ = std::make_unique<ResultsFolder>(folder_of(options_, sweep_), sweep_.resolved, now,
                                            options_.resume, 1, options_.lock_wait_s);
}

void Launch::find_done() {
  done_.resize(mine_.size());
  if (folder_)
    for (size_t i = 0; i < mine_.size(); ++i)
      done_[i] = folder_->done(identity_of(sweep_.points[mine_[i]], setting_)) ? 1 : 0;
  world_.broadcast(done_, 0);
  for (const uint8_t done : done_) earlier_ += done;
}

void Launch::open_cards() {
  if (how_.kind != ExecutorKind::cuda) return;
  cards_.emplace(world_);
  how_ = choose_exchange(how_, *cards_, world_, options_.exchange);
}

int Launch::run() {
  open_cards();
  const Fault fault = wanted_fault();
  Environment now;
  if (world_.leads())
    now = environment(static_cast<int>(options_.command.size()), options_.command.data());
  world_.lead([&] { open(now); });
  setting_.executor = name_of(how_.kind);
  setting_.exchange = options_.shard ? "" : name_of(how_.exchange);
  if (options_.shard) setting_.shard = text_of(*options_.shard);
  if (options_.shard && !options_.machine.empty()) prices_ = read_machine(options_.machine);
  if (prices_) setting_.machine = prices_->name;
  setting_.repeat = options_.repeat;
  setting_.threads = set_threads(world_, options_.threads);
  setting_.oversubscribed = world_.maximum(world_.ranks_on_this_host() * setting_.threads >
                                           world_.cores_on_this_host()) > 0;
  setting_.environment = now.hash;
  find_done();
  const HostRates rates = measure_rates();
  runner_ = std::make_unique<PointRunner>(
      world_, stop_,
      PointRunner::Settings{setting_, options_.scope, fault, rates, how_,
                            cards_ ? &*cards_ : nullptr, options_.shard, prices_});
  if (world_.leads()) {
    progress_ = std::make_unique<Progress>(earlier_, static_cast<int64_t>(mine_.size()));
    for (const std::string& note : folder_->notes()) progress_->note(note);
  }
  run_points();
  return finish();
}

// Those of the host, or card, that is fastest: a floor must stay one.
HostRates Launch::measure_rates() {
  HostRates rates;
  if (cards_) {
    rates.read_bytes_per_s.fill(cards_->mine().read_bytes_per_s);
    rates.flops_per_s = rates.bf16_flops_per_s = cards_->mine().flops_per_s;
  } else if (earlier_ < static_cast<int64_t>(mine_.size()) && world_.leads_on_this_host()) {
    rates = measure_host(world_.cores_on_this_host());
  }
  world_.meet();
  for (double& rate : rates.read_bytes_per_s) rate = world_.maximum(rate);
  rates.flops_per_s = world_.maximum(rates.flops_per_s);
  rates.bf16_flops_per_s = world_.maximum(rates.bf16_flops_per_s);
  return rates;
}

void Launch::run_points() {
  for (size_t i = 0; i < mine_.size(); ++i) {
    if (done_[i] != 0) continue;
    if (stop_.agreed(world_.comm())) stopped_ = true;
    if (stopped_) return;
    run_point(mine_[i]);
  }
}

void Launch::run_point(size_t index) {
  const Point& point = sweep_.points[index];
  if (progress_) progress_->begin(point);
  PointResult result;
  if (const std::string reason = refusal(world_, options_, how_, point); !reason.empty())
    result = {Status::skipped, skipped_line(point, setting_, reason), ""};
  else result = runner_->run(point, static_cast<int64_t>(index) + 1, trace_wanted_);
  std::vector<Status> status = {result.status};
  world_.broadcast(status, 0);
  result.status = status.front();
  count(result.status);
  if (result.status == Status::dropped) return;
  world_.lead([&] { write(result); });
}

void Launch::count(Status status) {
  switch (status) {
    case Status::ok: ++ok_; break;
    case Status::unverified: ++wrong_; break;
    case Status::skipped: ++skipped_; break;
    case Status::failed: ++failed_; break;
    case Status::dropped: stopped_ = true; break;
  }
  if (status == Status::ok || status == Status::unverified) trace_wanted_ = false;
}

void Launch::write(const PointResult& result) {
  doing("writing results");
  folder_->append(result.line);
  if (!result.trace.empty()) replace_file(options_.trace, result.trace);
  progress_->end(result.line);
}

std::string Launch::summary() const {
  std::string text = fmt::format("{} of {} points ok", earlier_ + ok_, mine_.size());
  for (const auto& [what, number] :
       {std::pair{"failed their verification", wrong_}, {"skipped", skipped_}, {"failed", failed_}})
    if (number > 0) text += fmt::format(", {} {}", number, what);
  if (stopped_) text += fmt::format("; stopped by {}: --resume goes on", stop_.cause());
  return text + "; " + folder_->path();
}

int Launch::finish() {
  // Only all ranks together know the cause.
  if (stopped_) stop_.agreed(world_.comm());
  world_.lead([&] {
    progress_.reset();
    folder_->close();
    const std::string line = "helix-bench: " + summary() + "\n";
    static_cast<void>(write_all(STDERR_FILENO, line));
  });
  Exit code = Exit::done;
  if (stopped_) code = Exit::stopped;
  if (failed_ > 0 || (!stopped_ && earlier_ + ok_ + wrong_ == 0)) code = Exit::failed;
  if (wrong_ > 0) code = Exit::unverified;
  return static_cast<int>(code);
}

// Ranks that do not know of each other would each run all points, over each other's results.
void check_world(const World& world) {
  if (world.size() > 1 || ranks_launched() <= 1) return;
  throw InputError(fmt::format(
      "{} ranks were started, but each is a world of its own: start them with the mpirun of the "
      "MPI this program was built with (helix-bench --version), or with srun --mpi=pmix",
      ranks_launched()));
}

// A shard is one process's, exchanges nothing, and has no step that a judge could decode.
void check_shard(const World& world, const RunOptions& options, const Sweep& sweep) {
  const std::string shard = "--shard " + text_of(*options.shard);
  if (world.size() > 1)
    throw InputError(
        fmt::format("{}: one rank alone is one process; {} were started", shard, world.size()));
  if (options.exchange != "auto")
    throw InputError(
        fmt::format("{}: --exchange {}: nothing is exchanged", shard, options.exchange));
  if (options.scope == Scope::step)
    throw InputError(
        fmt::format("{}: --scope step: a whole step needs all ranks; tasks (or auto) "
                    "is what one rank can be held against",
                    shard));
  check_shard(*options.shard, sweep.points);
}

}  // namespace

int run(World& world, const RunOptions& options) {
  check_world(world);
  Sweep sweep = read_together(world, options);
  if (options.shard) check_shard(world, options, sweep);
  Launch launch(world, options, std::move(sweep));
  return options.dry_run ? launch.dry_run() : launch.run();
}

}  // namespace helix
