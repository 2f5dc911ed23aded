#include "bench/point_run.h"

#include <fmt/format.h>

#include <array>
#include <limits>

#include "bench/card_watch.h"
#include "bench/depths.h"
#include "bench/environment.h"
#include "bench/noise.h"
#include "bench/progress.h"
#include "bench/tasks/compare.h"
#include "bench/timing.h"
#include "bench/trace.h"
#include "bench/watchdog.h"
#include "execute/factory.h"
#include "machine/measure.h"

namespace helix {

namespace {

Verified verified_by(Scope scope, const Comparison& comparison, double tolerance) {
  Verified verified{.scope = scope == Scope::tasks ? "tasks" : "step",
                    .max_rel_err = comparison.max_rel_err,
                    .tolerance = tolerance};
  if (comparison.routers.choices + comparison.codes > 0)
    verified.forced = {{"choices", comparison.routers.choices},
                       {"differing", comparison.routers.differing},
                       {"codes", comparison.codes},
                       {"codes_differing", comparison.codes_differing}};
  // Whatever the logits say, other tokens or ranks that disagree are wrong.
  if (!comparison.passed(tolerance) && verified.passed())
    verified.max_rel_err = std::numeric_limits<double>::infinity();
  return verified;
}

}  // namespace

std::shared_ptr<const Model> executed_model(const Point& point) {
  return point.depths ? std::make_shared<const Model>(at_depth(*point.model, point.depths->second))
                      : point.model;
}

Assignment assignment_of(const Point& point, const Model& executed) {
  return {.model = &executed,
          .layout = point.layout,
          .precision = point.precision,
          .chunks = point.hop_b ? static_cast<int>(point.chunks) : 1,
          .interval = point.interval,
          .lengths = lengths_of(point),
          .kv_layout = point.kv_layout,
          .steps = point.steps,
          .seed = point.seed,
          .zipf = point.zipf.value_or(0),
          .prompt = point.prompt ? *point.prompt : std::vector<int32_t>()};
}

struct PointRunner::Work {
  const Point& point;
  bool traced;
  std::shared_ptr<const Model> model;  // as executed
  Assignment assignment;
  MPI_Comm ranks;  // null on a rank without work
  Setting setting;
  double sharing = 1;  // ranks that work on what this one works on: its host, or its card
  Scope scope = Scope::step;
  std::vector<const Verdict*> verdicts = {};
  std::unique_ptr<Executor> executor = {};
  Measured measured = {};
  std::string trace = {};
  std::string failure = {};
  bool dropped = false;
  bool no_room = false;  // for it on a card
};

PointRunner::PointRunner(World& world, Stop& stop, Settings settings)
    : world_(world), stop_(stop), settings_(std::move(settings)), judges_(world) {}

bool PointRunner::fault_now(FaultKind kind) const {
  const Fault& fault = settings_.fault;
  return fault.kind == kind && fault.rank == world_.rank() && fault.point == number_;
}

PointResult PointRunner::run(const Point& point, int64_t number, bool trace) {
  number_ = number;
  doing("preparing", fmt::format("point {}: {}", number, describe(point)));
  const std::shared_ptr<const Model> model = executed_model(point);
  Work work{.point = point,
            .traced = trace,
            .model = model,
            .assignment = assignment_of(point, *model),
            .ranks = world_.first(processes(point)).get(),
            .setting = setting_of(point)};
  work.assignment.weights = weights_;
  if (settings_.shard) {
    work.assignment.shard = settings_.shard->rank;
    work.assignment.choices = busiest_choices(work.assignment);
  }
  if (work.ranks == MPI_COMM_NULL) weights_->clear();
  work.scope = scope_of(settings_.scope, work.assignment);
  work.measured.started = utc_now();
  if (const std::string reason = cannot_hold(work); !reason.empty())
    return {Status::skipped, skipped_line(point, work.setting, reason), ""};
  reset_peak_resident();
  if (load(work)) decode(work);
  return result(work);
}

Setting PointRunner::setting_of(const Point& point) const {
  Setting setting = settings_.setting;
  if (settings_.cards == nullptr) return setting;
  const auto [gpus, ranks_per_gpu] = settings_.cards->use(processes(point));
  setting.gpus = settings_.shard ? settings_.shard->ranks : gpus;
  setting.ranks_per_gpu = ranks_per_gpu;
  return setting;
}

Memory PointRunner::planned(const Point& point) {
  return settings_.shard ? Planner::of_rank(point, settings_.shard->rank)
                         : planner_.widest_rank(point);
}

// Each host, or card, adds up what its ranks may take; the reason is the same on all ranks.
std::string PointRunner::cannot_hold(Work& work) {
  const Cards* cards = settings_.cards;
  const auto sum = [&](double value) {
    return cards != nullptr ? cards->sum_on_card(value) : world_.sum_on_this_host(value);
  };
  const bool works = work.ranks != MPI_COMM_NULL;
  work.sharing = std::max(1.0, sum(works ? 1 : 0));
  // What is held is used again, or freed first.
  const double needed = sum((works ? planned(work.point).total() : 0) - weights_->bytes());
  const double room = cards != nullptr ? free_card_bytes() : available_memory();
  const auto reason = world_.agree([&] {
    if (needed > room && cards != nullptr)
      throw RunError(
          fmt::format("needs {:.0f} bytes of memory on a GPU that has {:.0f} free", needed, room));
    if (needed > room)
      throw RunError(fmt::format("needs {:.1f} GB of memory on a host that has {:.1f} GB left",
                                 needed / 1e9, room / 1e9));
  });
  return reason.value_or("");
}

// False: no rank has an executor; why is in `work`.
bool PointRunner::load(Work& work) {
  doing("judging");
  try {
    if (work.scope == Scope::step) work.verdicts = judges_.judge(work.assignment, 1);
  } catch (const RunError& error) {  // of one rank, thrown on all
    work.failure = error.what();
    return false;
  }
  if ((work.dropped = stop_.agreed(world_.comm()))) return false;
  doing("loading");
  // Apart from the executor's, whose ranks talk to each other while they load.
  auto failure = world_.agree([&] {
    if (fault_now(FaultKind::throw_load)) throw RunError("HELIX_BENCH_FAULT throws while loading");
  });
  if (!failure)
    failure = world_.agree([&] {
      try {
        if (work.ranks != MPI_COMM_NULL)
          work.executor = make_executor(settings_.how, work.ranks, work.assignment);
        if (fault_now(FaultKind::no_room))
          throw OutOfMemory("HELIX_BENCH_FAULT: 1000 bytes wanted, 10 free");
      } catch (const OutOfMemory&) {
        work.no_room = true;
        throw;
      }
    });
  if (failure) {
    work.failure = *failure;
    work.no_room = world_.maximum(work.no_room ? 1 : 0) > 0;
    work.executor.reset();
    weights_->clear();
  }
  return !failure;
}

// On the ranks that work; the others wait for them at the end.
void PointRunner::decode(Work& work) {
  if (work.executor) {
    decode_phases(work);
    doing("freeing");
    work.executor.reset();
  }
  doing("waiting for the ranks that work");
  world_.meet();
}

void PointRunner::decode_phases(Work& work) {
  const auto stopped = [&] { return work.dropped = stop_.agreed(work.ranks); };
  if (stopped()) return;
  doing("reading the prompt");
  work.executor->read_prompt();
  if (stopped()) return;
  verify(work);
  std::vector<Measured> measured;
  const auto& depths = work.point.depths;
  for (const int64_t layers :
       depths ? std::vector{depths->first, depths->second} : std::vector{work.model->layers}) {
    std::optional<Measured> here = measure_at(work, layers);
    if (!here) return;
    measured.push_back(std::move(*here));
  }
  try {
    work.measured = depths
                        ? whole_model(measured[0], measured[1], *depths, work.point.model->layers)
                        : std::move(measured.front());
  } catch (const RunError& error) {  // on all ranks: they have the same times
    work.failure = error.what();
  }
  if (!work.traced) return;
  doing("tracing a step");
  work.trace = trace_step(work.ranks, *work.executor, key_of(work.point));
}

// Nothing: it was stopped.
std::optional<Measured> PointRunner::measure_at(Work& work, int64_t layers) {
  const auto stopped = [&] { return work.dropped = stop_.agreed(work.ranks); };
  if (stopped()) return std::nullopt;
  doing("warming up");
  if (work.point.depths) work.executor->set_depth(layers);
  warm_up(*work.executor, work.point.warmup, work.point.steps);
  if (stopped()) return std::nullopt;
  Measured m = work.measured;  // what is known so far
  measure_steps(work, m);
  if (stopped()) return std::nullopt;
  measure_tasks(work, m);
  return m;
}

void PointRunner::measure_tasks(Work& work, Measured& m) {
  doing("timing each task");
  TaskTimes tasks = helix::measure_tasks(work.ranks, *work.executor);
  m.tasks_us = std::move(tasks.tasks_us);
  m.shared_cores = tasks.shared_cores;
  // What a step takes longer for them, or what it was seen to wait; the rest is hidden.
  const double seen = tasks.exchanges_on_compute_us + m.exchange->exposed;
  m.exchange->alone = tasks.exchanges_us;
  m.exchange->back_to_back = tasks.back_to_back_us;
  m.exchange->exposed =
      exchanges_exposed_us(work.ranks, *work.executor, m.samples_us).value_or(seen);
  m.exchange->hidden = std::max(0.0, m.exchange->alone - m.exchange->exposed);
  if (settings_.shard)
    leave_out_exchanges(m, *work.executor, settings_.prices ? &*settings_.prices : nullptr);
}

void PointRunner::verify(Work& work) {
  if (work.scope == Scope::none) return;
  doing("verifying the first step");
  const auto newest = work.executor->hooks().newest;
  if (fault_now(FaultKind::wrong)) work.executor->hooks().newest = Newest::by_nobody;
  const bool tasks = work.scope == Scope::tasks;
  const Precision& precision = work.point.precision;
  const Comparison comparison =
      tasks ? compare_tasks(work.ranks, *work.executor, work.assignment)
            : compare_steps(work.ranks, *work.executor, work.assignment, work.verdicts, 1);
  work.executor->hooks().newest = newest;
  work.measured.verified = verified_by(work.scope, comparison,
                                       tasks ? tasks_tolerance(precision) : tolerance(precision));
}

// The mean of the rounds' waits for the exchange lane; no samples where the run was stopped.
void PointRunner::measure_steps(Work& work, Measured& m) {
  doing("measuring steps");
  const auto strike_now = [&] {
    for (const FaultKind kind : {FaultKind::kill, FaultKind::failure, FaultKind::hang})
      if (fault_now(kind)) strike(kind);
  };
  std::optional<CardWatch> watch;
  if (settings_.cards != nullptr) watch.emplace(*settings_.cards, work.ranks);
  double waited_us = 0;
  m.samples_us = measure_until_quiet(work.point.noise, work.point.steps, [&](int64_t steps) {
    if (work.dropped = stop_.agreed(work.ranks); work.dropped) return std::vector<double>();
    StepTimes round = helix::measure_steps(work.ranks, *work.executor, steps, strike_now);
    waited_us += round.waited_us * static_cast<double>(steps);
    return std::move(round.samples_us);
  });
  if (work.dropped) return;
  m.exchange = ExchangeTimes{.exposed = waited_us / static_cast<double>(m.samples_us.size())};
  if (watch) {
    m.card = watch->notes(std::ssize(m.samples_us) * work.point.batch);
    if (work.point.depths || settings_.shard)  // of fewer layers, or of one of the cards
      m.card->energy_j_per_token.reset();
    m.device_bytes = device_bytes(*settings_.cards, work.ranks, *work.executor);
    m.peer_memory = work.executor->peer_memory();
  }
  note_memory(work, m);
  m.experts_touched = experts_touched(work.ranks, *work.executor);
  work.executor->rewind();
  const double with_a_core = static_cast<double>(world_.cores_on_this_host()) /
                             static_cast<double>(settings_.setting.threads);
  m.roofline = roofline(
      work.ranks, *work.executor, work.point.precision.activations, settings_.rates, work.sharing,
      settings_.cards != nullptr ? work.sharing : std::clamp(with_a_core, 1.0, work.sharing));
}

// Nothing is allocated that `plan` does not know.
void PointRunner::note_memory(Work& work, Measured& m) {
  const Memory mine = work.executor->allocated();
  struct {
    double total;
    int rank;
  } fullest{.total = mine.total(), .rank = world_.rank()};
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &fullest, 1, MPI_DOUBLE_INT, MPI_MAXLOC, work.ranks));
  std::array<double, 3> bytes = {mine.weights, mine.kv, mine.buffers};
  HELIX_MPI(MPI_Bcast(bytes.data(), 3, MPI_DOUBLE, fullest.rank, work.ranks));
  m.weight_bytes = static_cast<int64_t>(bytes[0]);
  m.kv_bytes = static_cast<int64_t>(bytes[1]);
  m.buffer_bytes = static_cast<int64_t>(bytes[2]);
  const Memory plan = planned(work.point);
  if (bytes != std::array<double, 3>{plan.weights, plan.kv, plan.buffers})
    work.failure = fmt::format(
        "a rank holds {:.0f} bytes of weights, {:.0f} of KV and {:.0f} of buffers, and planned are "
        "{:.0f}, {:.0f} and {:.0f}",
        bytes[0], bytes[1], bytes[2], plan.weights, plan.kv, plan.buffers);
  m.peak_resident_bytes = static_cast<int64_t>(
      maximum(work.ranks, {static_cast<double>(peak_resident_bytes())}).front());
}

// Rank 0 works on every point, so that it knows.
PointResult PointRunner::result(Work& work) const {
  PointResult result;
  if (!world_.leads()) return result;
  const Measured& m = work.measured;
  if (work.dropped) return {Status::dropped, Json(), ""};
  if (work.no_room)
    return {Status::skipped, skipped_line(work.point, work.setting, work.failure), ""};
  if (!work.failure.empty())
    return {Status::failed, failed_line(work.point, work.setting, work.failure, m.started), ""};
  result.status = m.verified && !m.verified->passed() ? Status::unverified : Status::ok;
  result.line = ok_line(work.point, work.setting, m);
  result.trace = std::move(work.trace);
  return result;
}

}  // namespace helix
