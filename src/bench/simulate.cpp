#include "bench/simulate.h"

#include <fmt/format.h>

#include "bench/sweep.h"

namespace helix {

namespace {

// Lines that a crash may cost; `run` syncs each, but these cost nothing to make again.
constexpr int64_t lines_a_sync = 1000;

}  // namespace

Setting setting_of(const Machine& machine, Accounting accounting, const Point& point) {
  Setting setting{.executor = "simulate", .exchange = "", .machine = machine.name};
  if (accounting == Accounting::paper) setting.machine += ", HOP-B as in the paper";
  if (machine.gpu) {
    setting.gpus = point.layout.ranks();
    setting.ranks_per_gpu = 1;
  }
  return setting;
}

Json line_of(const Point& point, const Setting& setting, const Priced& priced) {
  if (!priced.fits()) return skipped_line(point, setting, priced.why_not);
  Measured m;
  m.samples_us = {priced.ttl_us};
  for (const CoverPrice& cover : priced.covers)
    m.tasks_us.emplace_back(std::string(cover.name), cover.us);
  m.exchange = priced.exchange;
  m.exchange->back_to_back = std::numeric_limits<double>::quiet_NaN();  // not priced
  m.weight_bytes = static_cast<int64_t>(priced.memory.weights);
  m.kv_bytes = static_cast<int64_t>(priced.memory.kv);
  m.buffer_bytes = static_cast<int64_t>(priced.memory.buffers);
  if (priced.experts.busiest > 0)
    m.experts_touched = {{"mean", priced.experts.mean}, {"busiest", priced.experts.busiest}};
  m.roofline = priced.roofline;
  for (const CoverPrice& cover : priced.covers)
    m.roofline->tasks.push_back({std::string(cover.name), cover.floor_us, cover.computes});
  return ok_line(point, setting, m);
}

int simulate(const SimulateOptions& options) {
  const Machine machine = read_machine(options.machine);
  const Sweep sweep = read_sweep_or_line(options.sweep, options.from);
  const Json priced_as = {{"machine", machine.document},
                          {"hop_b", options.accounting == Accounting::paper ? "paper" : "chunks"}};
  const Environment now =
      environment(static_cast<int>(options.command.size()), options.command.data(), priced_as);
  ResultsFolder folder(options.folder.empty()
                           ? fmt::format("results/{}-{}", sweep.name, machine.name)
                           : options.folder,
                       sweep.resolved, now, options.resume, lines_a_sync);
  for (const std::string& note : folder.notes()) fmt::print(stderr, "helix-bench: {}\n", note);
  Pricer pricer(machine, options.accounting);
  int64_t priced = 0, skipped = 0;
  for (const Point& point : sweep.points) {
    Setting setting = setting_of(machine, options.accounting, point);
    setting.environment = now.hash;
    if (folder.done(identity_of(point, setting))) {
      ++priced;
      continue;
    }
    const Json line = point.depths ? skipped_line(point, setting, "depths are not simulated")
                                   : line_of(point, setting, pricer.price(point));
    ++(line["status"] == "ok" ? priced : skipped);
    folder.append(line);
  }
  folder.close();
  fmt::print(stderr, "helix-bench: {} of {} points priced on {}{}; {}\n", priced,
             sweep.points.size(), machine.name,
             skipped > 0 ? fmt::format(", {} skipped", skipped) : "", folder.path());
  return static_cast<int>(priced > 0 ? Exit::done : Exit::failed);
}

}  // namespace helix
