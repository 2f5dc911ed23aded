#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "bench/calibrate.h"
#include "bench/pricer.h"
#include "bench/statistics.h"

namespace helix {

namespace {

constexpr double clock_us = 2;  // a shorter time says nothing about a peak
constexpr TaskFactors least = {.fixed_us = 1e-3, .read = 1e-4, .compute = 1e-4, .link = 1e-4};
constexpr TaskFactors most = {.fixed_us = 1e5, .read = 1, .compute = 1, .link = 1};
constexpr TaskFactors expected = {.fixed_us = 1, .read = 0.7, .compute = 0.7, .link = 0.7};

double checked(std::string_view what, double value, double highest) {
  if (!(value > 0) || !(value <= highest))
    throw RunError(
        fmt::format("{} measured as {:.4g}: it must be positive, and {:.4g} at most; "
                    "nothing is written",
                    what, value, highest));
  return value;
}

Json sourced(const Json& value, std::string_view from, const std::string& source) {
  return {{"value", value}, {"from", from}, {"source", source}};
}

double middle(std::vector<double> values) {
  std::ranges::sort(values);
  return nearest_rank(values, 50);
}

// Of tasks of one shape: half of what steps spend in them is spent in those that take no longer.
// Weights stand in caches or do not, by what else a step reads; this is the time of the steps to
// which it matters.
double middle_of_steps(std::vector<const SampledTask*> tasks) {
  std::ranges::sort(tasks, {}, [](const SampledTask* task) { return task->timed.us; });
  double all = 0, so_far = 0;
  for (const SampledTask* task : tasks) all += task->share;
  for (const SampledTask* task : tasks)
    if ((so_far += task->share) >= all / 2) return task->timed.us;
  return tasks.back()->timed.us;
}

double us_of(const SampledTask& task) { return task.timed.us; }

// What is faster than the peak that was measured alone shows a higher peak.
template <class Takes>
double faster(std::vector<SampledTask>& tasks, double TimedTask::*floor, double at_least,
              const Takes& takes) {
  double times = at_least;
  for (const SampledTask& task : tasks)
    if (takes(task) && us_of(task) >= clock_us)
      times = std::max(times, task.timed.*floor / us_of(task));
  for (SampledTask& task : tasks)
    if (takes(task)) task.timed.*floor /= times;
  return times;
}

class MachineFile {
 public:
  explicit MachineFile(const Calibration& calibration)
      : c_(calibration), tasks_(calibration.tasks) {
    for (const SampledTask& task : tasks_)
      checked("a time of " + task.name + " [us]", us_of(task), 1e9);
    if (tasks_.empty()) throw RunError("no task was timed");
    find_peaks();
    find_factors();
    find_steps();
  }
  Json document() const;

 private:
  template <class Takes>
  std::vector<TimedTask> timed(const Takes& takes) const {
    std::vector<TimedTask> found;
    for (const SampledTask& task : tasks_)
      if (takes(task)) found.push_back(task.timed);
    return found;
  }
  void find_peaks();
  void find_factors();
  void find_covers();
  static std::vector<Machine::TimedShape> shapes_of(const std::vector<const SampledTask*>& tasks);
  void find_steps();
  using Rates = std::array<double, std::size(formats)>;
  template <class Takes>
  Rates raised(Rates flops_per_s, const Takes& takes);
  Json rates(const Rates& flops_per_s, std::string_view kernels) const;
  Json peaks() const;
  Json factors() const;
  Json covers() const;
  Json notes() const;

  const Calibration& c_;
  std::vector<SampledTask> tasks_;
  double read_times_ = 1;
  Rates products_per_s_ = {}, attention_per_s_ = {};  // FLOP, by the format of what is read
  double link_gb_per_s_ = 1, network_gb_per_s_ = 1, network_us_ = 0;
  TaskFit products_, attention_, links_;
  double all_reduce_us_ = 0, exchange_us_ = 0;
  double read_ahead_mb_ = 0, launch_ahead_us_ = 0, step_error_ = 0, worst_step_error_ = 0;
  struct Cover {
    TaskFit fit;
    int64_t tasks = 0;
    double spread = 0;
    double scatter = 0;
    std::vector<Machine::TimedShape> shapes;
  };
  std::map<std::string, Cover> covers_;
};

// Each format by its own tasks: it is another kernel.
template <class Takes>
MachineFile::Rates MachineFile::raised(Rates flops_per_s, const Takes& takes) {
  for (size_t i = 0; i < std::size(formats); ++i)
    flops_per_s[i] *= faster(tasks_, &TimedTask::compute_us, 1, [&](const SampledTask& t) {
      return takes(t) && t.shape.value_bytes == formats[i].bytes;
    });
  return flops_per_s;
}

void MachineFile::find_peaks() {
  const auto all = [](const SampledTask&) { return true; };
  const auto attends = [](const SampledTask& t) { return t.attends; };
  const auto multiplies = [](const SampledTask& t) { return t.multiplies && !t.attends; };
  read_times_ = faster(tasks_, &TimedTask::read_us, 1, all);
  attention_per_s_ = raised(c_.peaks.attention_flops_per_s, attends);
  products_per_s_ = raised(c_.peaks.product_flops_per_s, multiplies);
  double near = 0, near_us = 0, far_us = 0;  // messages of nothing
  network_gb_per_s_ = 0;
  for (const MessageTime& m : c_.messages) {
    checked("a message's time [us]", m.us, 1e9);
    const bool leaves = c_.far && (m.far || m.ranks > c_.host_ranks);
    double& rate = leaves ? network_gb_per_s_ : near;
    rate = std::max(rate, m.gb_per_s());
    double& us = leaves ? far_us : near_us;
    if (m.ranks == 2 && (us == 0 || m.us < us)) us = m.us;
  }
  network_us_ = std::max(0.0, far_us - near_us);
  // Messages of a GPU's tasks do not go through MPI's buffers alone; a CPU's do.
  const double at_least = c_.gpu || near == 0 ? 1e-6 : near;
  link_gb_per_s_ = faster(tasks_, &TimedTask::send_us, at_least,
                          [](const SampledTask& t) { return t.communicates; });
}

void MachineFile::find_factors() {
  const auto fit = [&](const auto& takes, const TaskFactors& from, const TaskFactors& low,
                       const TaskFactors& high) {
    const std::vector<TimedTask> found = timed(takes);
    return found.empty() ? TaskFit{.factors = from} : fit_factors(found, from, low, high);
  };
  products_ =
      fit([](const SampledTask& t) { return t.multiplies && !t.attends; }, expected, least, most);
  attention_ = fit([](const SampledTask& t) { return t.attends; }, products_.factors, least, most);
  TaskFactors from = products_.factors;  // messages stand in memory, which is read and written
  from.link = expected.link;
  links_ = fit([](const SampledTask& t) { return t.communicates; }, from, least, most);
  TaskFactors low = least, high = most;
  low.link = high.link = links_.factors.link;
  all_reduce_us_ = fit([](const SampledTask& t) { return t.communicates && t.reduces; },
                       links_.factors, low, high)
                       .factors.fixed_us;
  exchange_us_ = fit([](const SampledTask& t) { return t.communicates && !t.reduces; },
                     links_.factors, low, high)
                     .factors.fixed_us;
  find_covers();
}

// Of each shape once. What an exchange takes is a matter of its ranks as well: factors alone say.
std::vector<Machine::TimedShape> MachineFile::shapes_of(
    const std::vector<const SampledTask*>& tasks) {
  std::map<std::array<double, 4>, std::vector<const SampledTask*>> alike;
  for (const SampledTask* task : tasks)
    if (const Machine::Shape& s = task->shape; !task->communicates && s.bytes > 0 && s.count > 0)
      alike[{s.value_bytes, s.flops_a_byte, s.bytes, s.count}].push_back(task);
  std::vector<Machine::TimedShape> shapes;
  for (const auto& [shape, same] : alike)
    shapes.push_back({{shape[0], shape[1], shape[2], shape[3]}, middle_of_steps(same)});
  return shapes;
}

void MachineFile::find_covers() {
  std::map<std::string, std::vector<const SampledTask*>> named;
  for (const SampledTask& task : tasks_) named[task.name].push_back(&task);
  for (const auto& [name, tasks] : named) {
    Cover& cover = covers_[name];
    std::vector<TimedTask> times;
    std::vector<double> spreads, scatters;
    for (const SampledTask* task : tasks) {
      times.push_back(task->timed);
      spreads.push_back(task->spread);
      scatters.push_back(task->scatter);
    }
    const SampledTask& first = *tasks.front();
    const TaskFactors& near = first.communicates ? links_.factors
                              : first.attends    ? attention_.factors
                                                 : products_.factors;
    TaskFactors low = least, high = most;
    low.link = high.link = links_.factors.link;
    cover.fit = fit_factors(times, near, low, high);
    cover.tasks = std::ssize(times);
    cover.spread = middle(spreads);
    cover.scatter = middle(scatters);
    cover.shapes = shapes_of(tasks);
  }
}

Json MachineFile::rates(const Rates& flops_per_s, std::string_view kernels) const {
  Json values;
  for (size_t i = 0; i < std::size(formats); ++i) {
    const Format neighbour = i == static_cast<size_t>(Format::fp32) ? Format::bf16 : Format::nvfp4;
    const double flops =
        flops_per_s[i] > 0 ? flops_per_s[i] : flops_per_s[static_cast<size_t>(neighbour)];
    values[formats[i].name] =
        checked(fmt::format("{} of {} [TFLOP/s]", kernels, formats[i].name), flops * 1e-12, 1e4);
  }
  return sourced(values, "measured",
                 fmt::format("the fastest of the executor's {} of several shapes; formats without "
                             "one as their neighbour; {}",
                             kernels, c_.place));
}

Json MachineFile::peaks() const {
  const double read =
      checked("reading [GB/s]", c_.peaks.read_bytes_per_s * read_times_ * 1e-9, 1e5);
  const double memory = checked("memory [GB]", c_.peaks.memory_bytes * 1e-9, 1e6);
  const bool linked = std::ranges::any_of(tasks_, &SampledTask::communicates);
  return {{"memory_gb", sourced(memory, "measured", "what a rank finds free; " + c_.place)},
          {"read_gb_per_s",
           sourced(read, "measured",
                   (c_.gpu ? "1 GiB read by a kernel, or the fastest task; "
                           : "1 to 256 MiB read by a rank's threads, in caches too, or the fastest "
                             "task; ") +
                       c_.place)},
          {"link_gb_per_s", linked ? sourced(checked("a link [GB/s]", link_gb_per_s_, 1e5),
                                             "measured", "the fastest exchange; " + c_.place)
                                   : sourced(1, "assumed", "one rank: no exchange was timed")},
          {"network_gb_per_s",
           network_gb_per_s_ > 0
               ? sourced(network_gb_per_s_, "measured", "messages between hosts; " + c_.place)
               : sourced(1, "assumed", "one host: not used")},
          {"product_tflops", rates(products_per_s_, "products")},
          {"attention_tflops", rates(attention_per_s_, "attention kernels")}};
}

Json MachineFile::factors() const {
  const auto measured = [&](double value, const std::string& what) {
    return sourced(value, "measured", what + "; " + c_.place);
  };
  const auto over_exchanges = [&](double value, double otherwise, bool reduce, bool other,
                                  const std::string& what) {
    const bool timed = std::ranges::any_of(tasks_, [&](const SampledTask& t) {
      return t.communicates && (t.reduces ? reduce : other);
    });
    return timed ? measured(value, "least squares over " + what)
                 : sourced(otherwise, "assumed", "none was timed");
  };
  const TaskFactors& p = products_.factors;
  const TaskFactors& a = attention_.factors;
  return {
      {"weight_read_efficiency", measured(p.read, "least squares over products")},
      {"kv_read_efficiency", measured(a.read, "least squares over attention")},
      {"product_efficiency", measured(p.compute, "least squares over products")},
      {"attention_efficiency", measured(a.compute, "least squares over attention")},
      {"link_efficiency", over_exchanges(links_.factors.link, 1, true, true, "exchanges")},
      {"network_efficiency", sourced(1, "assumed", "the peak is what messages reached")},
      {"kernel_us", measured(p.fixed_us, "least squares over products")},
      {"all_reduce_us", over_exchanges(all_reduce_us_, 0, true, false, "all-reduces")},
      {"exchange_us", over_exchanges(exchange_us_, 0, false, true, "the other exchanges")},
      {"network_us", network_gb_per_s_ > 0
                         ? measured(network_us_, "a small message to another host, less one inside")
                         : sourced(0, "assumed", "one host: not used")},
      {"touched_expert_us",
       sourced(0, "assumed", "not told apart from reading the expert's weights")},
      {"read_ahead_mb",
       c_.gpu ? sourced(read_ahead_mb_, "fitted", "TTL of the sampled steps; " + c_.place)
              : sourced(0, "assumed", "the CPU executor reads nothing ahead")},
      {"launch_ahead_us",
       c_.gpu ? sourced(launch_ahead_us_, "fitted", "TTL of the sampled steps; " + c_.place)
              : sourced(0, "assumed", "the CPU executor begins nothing ahead")},
      {"memory_reserve", sourced(0, "assumed", "memory_gb is what was free")}};
}

Json MachineFile::covers() const {
  Json json = Json::object();
  for (const auto& [name, cover] : covers_) {
    Json shapes = Json::array();
    for (const auto& [s, us] : cover.shapes)
      shapes.push_back({s.value_bytes, s.flops_a_byte, s.bytes, s.count, us});
    Json value = {{"fixed_us", cover.fit.factors.fixed_us},
                  {"read_efficiency", cover.fit.factors.read},
                  {"compute_efficiency", cover.fit.factors.compute}};
    if (!shapes.empty()) value["shapes"] = std::move(shapes);
    json[name] = sourced(value, "measured", "least squares over its tasks; " + c_.place);
  }
  return json;
}

Json MachineFile::notes() const {
  Json found = Json::object();
  for (const auto& [name, cover] : covers_)
    found[name] = {{"tasks", cover.tasks},
                   {"worst_error", cover.fit.worst_error},
                   {"spread", cover.spread},
                   {"scatter", cover.scatter}};
  std::set<std::tuple<std::string, int, double>> seen;
  Json exchanges = Json::array();
  for (const SampledTask& task : tasks_)
    if (task.communicates && seen.insert({task.name, task.ranks, task.sent_bytes}).second)
      exchanges.push_back({{"cover", task.name},
                           {"ranks", task.ranks},
                           {"sent_bytes", task.sent_bytes},
                           {"us", task.timed.us}});
  Json messages = Json::array();
  for (const MessageTime& m : c_.messages)
    messages.push_back({{"between", m.far ? "first and last" : "all"},
                        {"ranks", m.ranks},
                        {"bytes", m.bytes},
                        {"us", m.us},
                        {"spread", m.spread}});
  return {{"place", c_.place},
          {"copy_gb_per_s", c_.peaks.copy_bytes_per_s * 1e-9},
          {"node_us", c_.gpu ? Json(c_.peaks.node_us) : Json()},
          {"dependent_node_us", c_.gpu ? Json(c_.peaks.dependent_node_us) : Json()},
          {"covers", std::move(found)},
          {"steps",
           {{"points", c_.steps.size()},
            {"median_error", step_error_},
            {"worst_error", worst_step_error_}}},
          {"exchanges", std::move(exchanges)},
          {"messages", std::move(messages)}};
}

// Whole steps: what is read ahead of its turn, and how well they are met.
void MachineFile::find_steps() {
  if (c_.steps.empty()) return;
  Pricer pricer(parse_machine(parse_json(c_.name, document().dump())));
  pricer.set_fusions(c_.fusions);
  double least_sum = std::numeric_limits<double>::infinity();
  for (const double mb : {0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0})
    for (const double us : {0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0}) {
      if (!c_.gpu && (mb > 0 || us > 0)) continue;
      Machine machine = pricer.machine();
      machine.read_ahead_mb = mb;
      machine.launch_ahead_us = us;
      pricer.set_machine(machine);
      std::vector<double> errors;
      double sum = 0;
      for (const Calibration::Step& step : c_.steps) {
        const Priced& priced =
            step.alone ? pricer.price_alone(step.point, 0, {}) : pricer.price(step.point);
        errors.push_back(std::abs(priced.ttl_us / step.us - 1));
        sum += errors.back();
      }
      if (!(sum < least_sum)) continue;
      least_sum = sum;
      read_ahead_mb_ = mb;
      launch_ahead_us_ = us;
      step_error_ = middle(errors);
      worst_step_error_ = std::ranges::max(errors);
    }
}

Json MachineFile::document() const {
  return {{"schema", "helix-bench/machine/1"},
          {"name", c_.name},
          {"processor", c_.gpu ? "gpu" : "cpu"},
          {"domain_ranks", c_.far ? c_.host_ranks : 4096},
          {"library_rows", c_.peaks.library_rows},
          {"peaks", peaks()},
          {"factors", factors()},
          {"covers", covers()},
          {"calibration", notes()}};
}

}  // namespace

Machine machine_at_peak(const Peaks& peaks, bool gpu) {
  Machine m;
  m.name = "peaks";
  m.gpu = gpu;
  m.domain_ranks = 1 << 20;
  m.memory_gb = peaks.memory_bytes * 1e-9;
  m.read_gb_per_s = checked("reading [GB/s]", peaks.read_bytes_per_s * 1e-9, 1e5);
  m.link_gb_per_s = m.network_gb_per_s = 1;
  for (size_t i = 0; i < std::size(formats); ++i) {
    m.product_tflops[i] = std::max(1e-6, peaks.product_flops_per_s[i] * 1e-12);
    m.attention_tflops[i] = std::max(1e-6, peaks.attention_flops_per_s[i] * 1e-12);
  }
  return m;
}

Json machine_file(const Calibration& calibration) { return MachineFile(calibration).document(); }

}  // namespace helix
