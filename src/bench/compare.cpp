#include "bench/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "bench/progress.h"
#include "bench/results.h"
#include "bench/sweep.h"
#include "bench/table.h"

namespace helix {

namespace {

using Models = std::map<std::string, std::shared_ptr<const Model>>;

Point point_of(const Node& line, Models& models) {
  Point point = point_of(line);
  point.model = models.try_emplace(point.model->name, point.model).first->second;
  return point;
}

// What a shard's line says of the exchanges that it was priced with.
std::vector<std::pair<std::string, double>> exchanges_of(const Node& line) {
  std::vector<std::pair<std::string, double>> exchanges;
  for (const auto& [name, us] : line["not_executed"]["tasks_us"].members())
    exchanges.emplace_back(name, us.is_null() ? 0 : us.number(0, 1e15));
  return exchanges;
}

ComparedPoint compare_line(const Node& line, Models& models, Pricer& pricer) {
  Point point = point_of(line, models);
  pricer.set_fusions(fusions_of(line));
  ComparedPoint compared{.key = line["key"].text(),
                         .text = describe(point),
                         .measured_us = line["ttl_us"]["median"].number(0, 1e15),
                         .oversubscribed = line["oversubscribed"].boolean(),
                         .covers = {}};
  point.depths.reset();  // what they were measured for is the whole model
  const bool alone = !line["shard"].is_null();
  if (alone) compared.shard = line["shard"].text();
  const Priced& priced =
      alone ? pricer.price_alone(point, shard_of(compared.shard).rank, exchanges_of(line))
            : pricer.price(point);
  compared.simulated_us = priced.ttl_us;
  if (alone) {
    compared.measured_us = line["not_executed"]["step_us"].number(0, 1e15);
    compared.simulated_us -= priced.exchange.exposed;
  }
  const Node tasks = line["tasks_us"];
  for (const auto& [name, us] : tasks.json().items()) {
    const auto cover = std::ranges::find(priced.covers, name, &CoverPrice::name);
    if (cover == priced.covers.end())
      tasks.fail(fmt::format("{} has no task {}: it is no such processor", pricer.machine().name,
                             in_quotes(name)));
    compared.covers.push_back({.name = name,
                               .measured_us = us.get<double>(),
                               .simulated_us = cover->us,
                               .bound = cover->bound,
                               .communicates = cover->communicates});
  }
  return compared;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// The launches of one point (`run --repeat`) as one: the median of each of its times.
ComparedPoint median_of(const std::vector<ComparedPoint>& launches) {
  const auto over_launches = [&](auto&& time) {
    std::vector<double> times;
    for (const ComparedPoint& launch : launches) times.push_back(time(launch));
    return median(std::move(times));
  };
  ComparedPoint point = launches.front();
  point.measured_us = over_launches([](const ComparedPoint& p) { return p.measured_us; });
  double sum_us = 0;
  for (size_t i = 0; i < point.covers.size(); ++i) {
    point.covers[i].measured_us =
        over_launches([i](const ComparedPoint& p) { return p.covers.at(i).measured_us; });
    sum_us += point.covers[i].measured_us;
  }
  for (ComparedCover& cover : point.covers) cover.share = cover.measured_us / sum_us;
  for (const ComparedPoint& launch : launches) point.oversubscribed |= launch.oversubscribed;
  return point;
}

// The large covers of a name, over the points that count.
struct Together {
  std::vector<double> ratios;  // measured / simulated
  std::map<simulated::Bound, int> bounds;
  bool communicates = false;
  double worst() const {
    double most = 0;
    for (const double ratio : ratios) most = std::max(most, std::abs(1 / ratio - 1));
    return most;
  }
  simulated::Bound bound() const {
    return std::ranges::max_element(bounds, {}, [](const auto& b) { return b.second; })->first;
  }
};

std::vector<std::pair<std::string, Together>> together(const CoverComparison& comparison) {
  std::vector<std::pair<std::string, Together>> covers;
  for (const ComparedPoint& point : comparison.points)
    for (const ComparedCover& cover : point.covers) {
      if (point.oversubscribed || !(cover.share >= least_share)) continue;
      auto known = std::ranges::find(covers, cover.name, [](const auto& c) { return c.first; });
      if (known == covers.end()) known = covers.insert(known, {cover.name, {}});
      known->second.ratios.push_back(cover.measured_us / cover.simulated_us);
      ++known->second.bounds[cover.bound];
      known->second.communicates |= cover.communicates;
    }
  return covers;
}

// The factor that decides what a cover takes.
std::string_view factor_of(const std::string& name, const Together& cover) {
  const bool attention = name.find("attention") == 0;
  const bool reduces = name.find("reduce") == 0;
  switch (cover.bound()) {
    case simulated::Bound::read: return attention ? "kv_read_efficiency" : "weight_read_efficiency";
    case simulated::Bound::compute:
      return attention ? "attention_efficiency" : "product_efficiency";
    case simulated::Bound::link: return "link_efficiency";
    case simulated::Bound::fixed:
      return !cover.communicates ? "kernel_us" : reduces ? "all_reduce_us" : "exchange_us";
  }
  return "";
}

std::string advice(const std::string& name, const Together& cover, const Machine& machine) {
  const double ratio = median(cover.ratios);
  const std::string_view factor = factor_of(name, cover);
  const auto number = std::ranges::find(machine_numbers(), factor, &MachineNumber::key);
  const double is = machine.*number->value;
  const bool time = factor.ends_with("_us");
  const double should = time ? is * ratio : is / ratio;
  std::string text = fmt::format("{} takes {:.2g} times what is simulated, most of it {}: ", name,
                                 ratio, name_of(cover.bound()));
  if (machine.covers.contains(name))
    return text + fmt::format("scale /covers/{} of the machine file", name);
  if (should > number->high) return text + fmt::format("the peaks behind {} are too low", factor);
  return text + fmt::format(
                    "{} {:.3g} -> {:.3g}, or an entry in the machine file's covers where "
                    "other covers agree with it",
                    factor, is, should);
}

Json to_json(const ComparedCover& cover) {
  return {{"name", cover.name},
          {"measured_us", cover.measured_us},
          {"simulated_us", cover.simulated_us},
          {"error", cover.error()},
          {"share", cover.share},
          {"bound", name_of(cover.bound)}};
}

}  // namespace

CoverComparison compare(const std::vector<std::string>& results, const Machine& machine) {
  CoverComparison comparison{.machine = machine.name, .points = {}, .notes = {}};
  Pricer pricer(machine);
  Models models;
  std::vector<std::vector<ComparedPoint>> points;  // of each its launches
  for (const std::string& path : results)
    for (const std::string& note : read_results(path, [&](const Node& line) {
           if (line["status"].text() != "ok" || line["executor"].text() == "simulate") return;
           if ((line["executor"].text() == "cpu") == machine.gpu)
             line["executor"].fail(fmt::format("found {}, but {} is a {}",
                                               in_quotes(line["executor"].text()), machine.name,
                                               machine.gpu ? "GPU" : "CPU"));
           ComparedPoint launch = compare_line(line, models, pricer);
           const auto same = [&](const std::vector<ComparedPoint>& known) {
             return known.front().key == launch.key && known.front().shard == launch.shard &&
                    std::ranges::equal(known.front().covers, launch.covers, {},
                                       &ComparedCover::name, &ComparedCover::name);
           };
           const auto known = std::ranges::find_if(points, same);
           if (known == points.end()) points.push_back({std::move(launch)});
           else known->push_back(std::move(launch));
         }))
      comparison.notes.push_back(note);
  for (const auto& launches : points) comparison.points.push_back(median_of(launches));
  if (comparison.points.empty())
    throw InputError(results.front(), "", "holds no executed line to compare with");
  return comparison;
}

double error_allowed(const Machine& machine) {
  return machine.document.contains("calibration") ? 0.2 : 0.25;
}

std::string to_text(const CoverComparison& comparison, const Machine& machine) {
  const double allowed = error_allowed(machine);
  std::string text;
  int64_t left_out = 0;
  for (const ComparedPoint& point : comparison.points) {
    left_out += point.oversubscribed ? 1 : 0;
    text += fmt::format("{}{}{}\n", point.text,
                        point.shard.empty() ? "" : ", rank " + point.shard + " alone",
                        point.oversubscribed ? " (more ranks than cores: not in the sums)" : "");
    std::vector<Row> rows = {
        {"cover", "measured us", "of step", "simulated us", "error", "most of it"}};
    rows.push_back(
        {point.shard.empty() ? "TTL" : "step, nothing exchanged",
         fmt::format("{:.1f}", point.measured_us), "", fmt::format("{:.1f}", point.simulated_us),
         fmt::format("{:+.0f} %", 100 * (point.simulated_us / point.measured_us - 1)), ""});
    for (const ComparedCover& cover : point.covers)
      if (cover.share >= least_share)
        rows.push_back(
            {cover.name, fmt::format("{:.1f}", cover.measured_us),
             fmt::format("{:.0f} %", 100 * cover.share), fmt::format("{:.1f}", cover.simulated_us),
             fmt::format("{:+.0f} %", 100 * cover.error()), std::string(name_of(cover.bound))});
    text += table(rows) + "\n";
  }
  std::vector<Row> rows = {
      {"cover of 5 % of a step or more", "points", "measured/simulated", "worst error"}};
  std::string advised;
  for (const auto& [name, cover] : together(comparison)) {
    rows.push_back({name, std::to_string(cover.ratios.size()),
                    fmt::format("{:.2f}", median(cover.ratios)),
                    fmt::format("{:.0f} %", 100 * cover.worst())});
    if (!(cover.worst() <= allowed)) advised += "  " + advice(name, cover, machine) + "\n";
  }
  if (rows.size() > 1) text += table(rows);
  if (left_out > 0)
    text += fmt::format("{} of {} points ran with more ranks than cores and count for nothing\n",
                        left_out, comparison.points.size());
  if (rows.size() == 1) return text + "what next: run with no more ranks than cores\n";
  if (advised.empty())
    return text +
           fmt::format("all of them within {:.0f} %: {} can be trusted for layouts like these\n",
                       100 * allowed, comparison.machine);
  return text + fmt::format("what next, for covers over {:.0f} % off:\n{}", 100 * allowed, advised);
}

Json to_json(const CoverComparison& comparison) {
  Json json = {{"schema", "helix-bench/compare/1"},
               {"machine", comparison.machine},
               {"points", Json::array()}};
  for (const ComparedPoint& point : comparison.points) {
    Json covers = Json::array();
    for (const ComparedCover& cover : point.covers) covers.push_back(to_json(cover));
    json["points"].push_back({{"key", point.key},
                              {"shard", point.shard.empty() ? Json() : Json(point.shard)},
                              {"measured_us", point.measured_us},
                              {"simulated_us", point.simulated_us},
                              {"oversubscribed", point.oversubscribed},
                              {"covers", std::move(covers)}});
  }
  return json;
}

}  // namespace helix
