// What the figures of the paper are drawn from.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "bench/frontier.h"
#include "bench/paper.h"
#include "layout/strategy.h"

namespace helix {

namespace {

double rounded(double value) {  // to what a figure shows, so that files stay small
  const double scale = std::pow(10, 5 - std::ceil(std::log10(std::abs(value))));
  return value == 0 ? 0 : std::round(value * scale) / scale;
}

Json dot_of(const Sweep& sweep, const Offer& offer) {
  const Point& point = sweep.points[offer.point];
  return {{"x", rounded(offer.per_user())},
          {"y", rounded(offer.per_gpu())},
          {"ttl_us", rounded(offer.ttl_us)},
          {"batch", offer.batch},
          {"gpus", offer.gpus},
          {"chunks", point.chunks},
          {"label", layout_text(to_json(point.layout))}};
}

Json curve_of(const Sweep& sweep, const std::vector<Offer>& frontier) {
  Json dots = Json::array();
  for (const Offer& offer : frontier) {
    Json dot = dot_of(sweep, offer);
    // Layouts that tie are one dot.
    if (dots.empty() || dots.back()["x"] != dot["x"] || dots.back()["y"] != dot["y"])
      dots.push_back(std::move(dot));
  }
  return dots;
}

// One dot for each cell of a fine grid in which some point lies.
Json cloud_of(const std::vector<Offer>& offers) {
  constexpr double cells_a_decade = 60;
  std::set<std::pair<int, int>> cells;
  for (const Offer& offer : offers)
    cells.emplace(static_cast<int>(std::floor(std::log10(offer.per_user()) * cells_a_decade)),
                  static_cast<int>(std::floor(std::log10(offer.per_gpu()) * cells_a_decade)));
  Json dots = Json::array();
  for (const auto& [x, y] : cells)
    dots.push_back({rounded(std::pow(10, (x + 0.5) / cells_a_decade)),
                    rounded(std::pow(10, (y + 0.5) / cells_a_decade))});
  return dots;
}

Json head_of(const Market& market, const char* kind) {
  const Point& first = market.sweep.points.front();
  std::pair<int, int> gpus = {first.layout.ranks(), first.layout.ranks()};
  for (const Point& point : market.sweep.points) {
    gpus.first = std::min(gpus.first, point.layout.ranks());
    gpus.second = std::max(gpus.second, point.layout.ranks());
  }
  return {{"kind", kind},
          {"name", market.sweep.name},
          {"model", first.model->name},
          {"precision", to_json(first.precision)},
          {"gpus", {gpus.first, gpus.second}},
          {"points", market.sweep.points.size()},
          {"fit", market.offers.size()}};
}

Json frontier_figure(const Market& market) {
  Json figure = head_of(market, "frontier");
  figure["context"] = market.sweep.points.front().context.low;
  Json& curves = figure["curves"] = Json::object();
  for (const Strategy& strategy : strategies()) {
    const auto mine = [&](const Point& p) { return p.layout.strategy == strategy.name; };
    const std::vector<Offer> offers = those(market.sweep, market.offers, mine);
    if (!offers.empty())
      curves[std::string(strategy.name)] = curve_of(market.sweep, frontier_of(offers));
  }
  figure["baseline"] =
      curve_of(market.sweep, frontier_of(those(market.sweep, market.offers, is_baseline)));
  figure["cloud"] = cloud_of(market.offers);
  Json& hop_b = figure["hop_b"] = Json::object();
  for (const bool paper : {true, false}) {
    const Ablation ablation = hop_b_ablation(market, paper);
    hop_b[paper ? "paper" : "chunks"] = {{"on", curve_of(market.sweep, ablation.on)},
                                         {"off", curve_of(market.sweep, ablation.off)}};
  }
  return figure;
}

Json crossover_figure(const Market& market) {
  using Cell = std::pair<int64_t, int64_t>;  // context, batch
  std::map<Cell, std::map<std::string_view, Offer>> cells;
  for (const Point& point : market.sweep.points) cells[{point.context.low, point.batch}];
  for (const Offer& offer : market.offers) {
    const Point& point = market.sweep.points[offer.point];
    auto& best = cells[{point.context.low, point.batch}];
    const auto [at, added] = best.try_emplace(point.layout.strategy, offer);
    if (!added && offer.ttl_us < at->second.ttl_us) at->second = offer;
  }
  Json figure = head_of(market, "crossover");
  Json& list = figure["cells"] = Json::array();
  for (const auto& [cell, best] : cells) {
    std::vector<std::pair<double, std::string_view>> order;
    Json ttl_us = Json::object();
    for (const auto& [strategy, offer] : best) {
      order.emplace_back(offer.ttl_us, strategy);
      ttl_us[std::string(strategy)] = rounded(offer.ttl_us);
    }
    std::ranges::sort(order);
    Json entry = {{"context", cell.first}, {"batch", cell.second}, {"ttl_us", ttl_us}};
    entry["winner"] = order.empty() ? Json() : Json(order[0].second);
    entry["margin"] = order.size() < 2 ? Json() : Json(rounded(order[1].first / order[0].first));
    entry["label"] =
        order.empty() ? Json()
                      : Json(layout_text(
                            to_json(market.sweep.points[best.at(order[0].second).point].layout)));
    list.push_back(std::move(entry));
  }
  return figure;
}

Json roofline_figure(const Market& market, const Machine& machine) {
  Json figure = head_of(market, "roofline");
  figure["read_gb_per_s"] = machine.read_gb_per_s;
  Json& list = figure["layouts"] = Json::array();
  for (const Point& point : market.sweep.points) {
    const LayerReads reads = layer_reads(point, machine);
    list.push_back({{"label", layout_text(to_json(point.layout))},
                    {"strategy", point.layout.strategy},
                    {"kvp", point.layout.kvp},
                    {"tpa", point.layout.tpa},
                    {"gpus", point.layout.ranks()},
                    {"batch", point.batch},
                    {"context", point.context.low},
                    {"kv_us", rounded(reads.kv_us)},
                    {"weights_us", rounded(reads.weights_us)},
                    {"weights_formula_us", rounded(reads.weights_formula_us)}});
  }
  return figure;
}

}  // namespace

LayerReads layer_reads(const Point& point, const Machine& machine) {
  Planner planner;
  const Schedule& schedule = planner.schedule(point);
  const StepState state = planner.load(point);
  const auto layer = std::ranges::find_if(
      schedule.segments, [](const Segment& s) { return s.kind == "dense" || s.kind == "moe"; });
  LayerReads reads;
  for (int t = layer->begin; t < layer->end; ++t) {
    const Task& task = schedule.tasks[static_cast<size_t>(t)];
    const double us = cost(schedule, task, state).early / (machine.read_gb_per_s * 1e3);
    if (task.op == Op::attend) reads.kv_us += us;
    if (row_of(task.op).work != Work::product) continue;
    reads.weights_us += us;
    const bool output = std::ranges::any_of(task.reads, [&](Id id) {
      return schedule[id].kind == Kind::weight && schedule[id].weight == W::o;
    });
    reads.weights_formula_us += us * (output ? point.layout.kvp : 1);
  }
  return reads;
}

Json figure_of(const Market& market, const Machine& machine) {
  const std::vector<Point>& points = market.sweep.points;
  if (points.front().model->name == "figure1") return roofline_figure(market, machine);
  const auto differs = [&](const Point& p) { return p.context != points.front().context; };
  return std::ranges::any_of(points, differs) ? crossover_figure(market) : frontier_figure(market);
}

}  // namespace helix
