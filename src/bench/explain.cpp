#include "bench/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "bench/plan.h"
#include "bench/progress.h"
#include "bench/sweep.h"
#include "bench/table.h"
#include "execute/factory.h"

namespace helix {

namespace {

double number_or(const Json& object, const std::string& name, double none) {
  return object.is_object() && object.contains(name) && object[name].is_number()
             ? object[name].get<double>()
             : none;
}

// Bytes, FLOPs and messages of a step, of the stage that has most of each.
void count(const Point& point, std::span<const Fusion> fusions, std::vector<ExplainedTask>& tasks) {
  Planner planner;
  const StepState state = planner.load(point);
  for (const auto& stage : planner.stages(point, 0)) {
    std::map<std::string, Cost> sums;
    std::map<std::string, bool> messages;
    for (const Cover& cover : covers_of(*stage, fusions)) {
      const int times = layers_of(*stage, cover) * point.layout.pp;
      Cost& sum = sums[name_of(*stage, cover)];
      const Cost one = cost(*stage, cover, state);
      for (double Cost::*part : {&Cost::early, &Cost::late, &Cost::flops, &Cost::sent})
        sum.*part += one.*part * times;
      messages[name_of(*stage, cover)] |= communicates(*stage, cover);
    }
    for (ExplainedTask& task : tasks) {
      const Cost& sum = sums[task.name];
      task.bytes = std::max(task.bytes, sum.early + sum.late);
      task.flops = std::max(task.flops, sum.flops);
      task.sent_bytes = std::max(task.sent_bytes, sum.sent);
      task.communicates |= messages[task.name];
    }
  }
}

std::vector<ExplainedTask> tasks_of(const Node& line) {
  const Json& roofline = line["roofline"].json();
  const Json floors = roofline.is_object() ? roofline.value("tasks_us", Json()) : Json();
  const Json computing =
      roofline.is_object() ? roofline.value("computing", Json::array()) : Json::array();
  std::vector<ExplainedTask> tasks;
  for (const auto& [name, us] : line["tasks_us"].members())
    tasks.push_back({.name = std::string(name),
                     .us = us.number(0, 1e15),
                     .floor_us = number_or(floors, std::string(name), 0),
                     .computes = std::ranges::find(computing, Json(name)) != computing.end()});
  count(point_of(line), fusions_of(line), tasks);
  return tasks;
}

// Where the tasks' time goes.
struct Part {
  double us = 0;
  const ExplainedTask* largest = nullptr;
  double largest_us = 0;
  void add(const ExplainedTask& task, double more_us) {
    us += more_us;
    if (largest != nullptr && !(more_us > largest_us)) return;
    largest = &task;
    largest_us = more_us;
  }
};

std::string limit_of(const std::vector<ExplainedTask>& tasks, double exposed_us) {
  enum { exchange, reading, computing, above, kinds };
  std::array<Part, kinds> parts;
  double sum_us = 0;
  for (const ExplainedTask& task : tasks) {
    sum_us += task.us;
    if (task.communicates) {
      parts[exchange].add(task, task.us);
      continue;
    }
    parts[task.computes ? computing : reading].add(task, std::min(task.us, task.floor_us));
    parts[above].add(task, task.above_us());
  }
  parts[exchange].us = std::min(parts[exchange].us, exposed_us);
  const auto most = std::ranges::max_element(parts, {}, &Part::us);
  if (!(most->us > 0)) return "nothing: no task of it was timed";
  const ExplainedTask& task = *most->largest;
  const auto share = [&](double us) { return fmt::format("{:.0f} %", 100 * us / sum_us); };
  const std::string all = share(most->us) + " of the tasks' time";
  switch (most - parts.begin()) {
    case exchange:
      return fmt::format("waiting for messages, {}; the longest is {}, {}", all, task.name,
                         share(task.us));
    case above:
      return fmt::format(
          "time above the floors, {}; most of it in {}, which takes {}", all, task.name,
          task.floor_us > 0 ? fmt::format("{:.1f} times its floor", task.us / task.floor_us)
                            : "some, but moves and computes nothing");
    default:
      return fmt::format("{}, {} at their floors; most of it {}, {}",
                         most - parts.begin() == computing ? "computing" : "reading memory", all,
                         task.name, share(task.us));
  }
}

// A word for the shell, whatever a file holds.
std::string quoted(const std::string& word) {
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("_@%+=:,./#-").find(c) != std::string_view::npos;
  };
  if (!word.empty() && word.front() != '#' && std::ranges::all_of(word, plain)) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string command_of(const Node& line, const std::string& path) {
  const std::string key = line["key"].text();
  const std::string from =
      fmt::format("--from {} -o results/again-{}", quoted(path + "#" + key), quoted(key));
  const std::string executor = line["executor"].text();
  if (executor == "simulate") {
    const std::string machine = line["machine"].text();  // "gb200-nvl72, HOP-B as in the paper"
    const size_t comma = machine.find(", ");
    return fmt::format("build/helix-bench simulate {} --machine {}{}", from,
                       quoted(machine.substr(0, comma)),
                       comma == std::string::npos ? "" : " --accounting paper");
  }
  std::string text = fmt::format("tests/mpirun.sh -n {} build/helix-bench run {} --threads {}",
                                 line["shard"].is_null() ? line["ranks"].json().dump() : "1", from,
                                 line["threads"].json().dump());
  if (executor != "cpu") text += " --executor " + executor;
  if (executor != "cpu" && line["shard"].is_null())
    text += " --exchange " + line["exchange"].text();
  if (!line["shard"].is_null()) text += " --shard " + line["shard"].text();
  if (!line["machine"].is_null()) text += " --machine " + quoted(line["machine"].text());
  return text;
}

std::string header_of(const Node& line) {
  const std::string executor = line["executor"].text();
  std::string text = describe(point_of(line)) + "\n";
  text += "key " + line["key"].text();
  if (executor == "simulate") text += ", priced on " + line["machine"].text();
  else
    text += fmt::format(", executed by {} on {}{}", executor,
                        line["shard"].is_null()
                            ? fmt::format("{} ranks, exchange by {}", line["ranks"].json().dump(),
                                          line["exchange"].text())
                            : fmt::format("rank {} alone, nothing exchanged", line["shard"].text()),
                        line["oversubscribed"].boolean() ? ", more ranks than cores" : "");
  return text + "\n";
}

std::string times_of(const Node& line) {
  const Node ttl = line["ttl_us"];
  const double median = ttl["median"].number(0, 1e15);
  std::string text = fmt::format("TTL {:.1f} us", median);
  if (line["executor"].text() != "simulate")
    text += fmt::format(" ({:.1f} to {:.1f} in {} steps)", ttl["min"].number(0, 1e15),
                        ttl["max"].number(0, 1e15), line["steps"].json().dump());
  if (const double floor = number_or(line["roofline"].json(), "floor_us", 0); floor > 0)
    text += fmt::format(", its floor {:.1f} us: {:.0f} % of it", floor, 100 * floor / median);
  const Json& exchange = line["exchange_us"].json();
  if (number_or(exchange, "alone", 0) > 0)
    text += fmt::format("\nexchange {:.1f} us alone, {:.1f} us exposed, {:.1f} us hidden",
                        number_or(exchange, "alone", 0), number_or(exchange, "exposed", 0),
                        number_or(exchange, "hidden", 0));
  if (!line.has("not_executed") || line["not_executed"].is_null()) return text + "\n";
  const Node left_out = line["not_executed"];
  text +=
      fmt::format("\nmeasured {:.1f} us without exchanges", left_out["step_us"].number(0, 1e15));
  if (!left_out["priced_on"].is_null())
    text += fmt::format(", which {} is priced at {:.1f} us exposed, {:.1f} us hidden for",
                        left_out["priced_on"].text(), left_out["exposed_us"].number(0, 1e15),
                        left_out["hidden_us"].number(0, 1e15));
  return text + "\n";
}

std::string table_of(const Explanation& found, bool known_floors) {
  double sum_us = 0;
  for (const ExplainedTask& task : found.tasks) sum_us += task.us;
  std::vector<Row> rows = {{"task", "us", "of tasks", "floor us", "over floor", "floor of",
                            "read MB", "MFLOP", "sent kB"}};
  for (const ExplainedTask& task : found.tasks)
    rows.push_back(
        {task.name, fmt::format("{:.1f}", task.us), fmt::format("{:.0f} %", 100 * task.us / sum_us),
         fmt::format("{:.1f}", task.floor_us),
         task.floor_us > 0 ? fmt::format("{:.1f}", task.us / task.floor_us) : "",
         !known_floors   ? ""
         : task.computes ? "FLOPs"
                         : "bytes",
         fmt::format("{:.3f}", task.bytes / 1e6), fmt::format("{:.2f}", task.flops / 1e6),
         fmt::format("{:.1f}", task.sent_bytes / 1e3)});
  return table(rows);
}

std::string text_of(const Node& line, const std::string& path) {
  const std::string again = "to run it again: ";
  if (line["status"].text() != "ok")
    return fmt::format("{}{}: {}\n{}{}\n", header_of(line), line["status"].text(),
                       line["reason"].text(), again, command_of(line, path));
  const Explanation found = explain(line, path);
  const Json& roofline = line["roofline"].json();
  return fmt::format("{}{}\n{}\nwhat limits it: {}\n{}{}\n", header_of(line), times_of(line),
                     table_of(found, roofline.is_object() && roofline.contains("computing")),
                     found.limit, again, found.command);
}

}  // namespace

Explanation explain(const Node& line, const std::string& path) {
  Explanation found;
  found.tasks = tasks_of(line);
  found.limit = limit_of(found.tasks, number_or(line["exchange_us"].json(), "exposed", 1e300));
  found.command = command_of(line, path);
  return found;
}

int explain_key(const std::string& path, const std::string& key) {
  std::string_view between;
  for (const Node& line : lines_of(path, key)) {
    fmt::print("{}{}", between, text_of(line, path));
    between = "\n";
  }
  return static_cast<int>(Exit::done);
}

}  // namespace helix
