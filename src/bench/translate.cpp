#include "bench/translate.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "bench/sweep.h"

namespace helix {

namespace {

Sourced filled(const EngineRow& row, const Asked& a) {
  const Layout& l = a.layout;
  return {fmt::format(fmt::runtime(row.text), fmt::arg("replica", l.replica_ranks()),
                      fmt::arg("stage", l.stage_ranks()), fmt::arg("pp", l.pp),
                      fmt::arg("dp", l.dp), fmt::arg("kvp", l.kvp), fmt::arg("tpa", l.tpa),
                      fmt::arg("tpf", l.tpf), fmt::arg("ep", l.ep),
                      fmt::arg("merge", name_of(l.merge)), fmt::arg("interval", a.interval),
                      fmt::arg("kv_heads", a.model.attention.kv_heads)),
          row.source};
}

std::vector<Sourced> filled(std::span<const EngineRow> rows, const Asked& asked) {
  std::vector<Sourced> texts;
  for (const EngineRow& row : rows)
    if (row.applies(asked)) texts.push_back(filled(row, asked));
  return texts;
}

Json to_json(const std::vector<Sourced>& texts) {
  Json list = Json::array();
  for (const Sourced& s : texts) list.push_back({{"text", s.text}, {"source", s.source}});
  return list;
}

void print(const Translation& t, const Engine& engine) {
  if (t.refusal) {
    fmt::print("  {:<12}  cannot: {}\n{:16}({})\n", t.engine, t.refusal->text, "",
               t.refusal->source);
    return;
  }
  fmt::print("  {:<12}  {:<50}  {}\n", t.engine, engine.command, engine.origin);
  for (const Sourced& flag : t.flags) fmt::print("{:16}{:<50}  {}\n", "", flag.text, flag.source);
  for (const Sourced& remark : t.remarks)
    fmt::print("{:16}note: {}  ({})\n", "", remark.text, remark.source);
}

// The options by which it was asked for; one that is not there is refused with the nearest.
std::vector<const Engine*> chosen(const std::string& name) {
  std::vector<const Engine*> found;
  std::vector<std::string_view> names;
  for (const Engine& engine : engines()) {
    names.push_back(engine.name);
    if (name.empty() || engine.name == name) found.push_back(&engine);
  }
  if (found.empty())
    throw InputError(fmt::format("--engine {}: allowed are {}", in_quotes(name), listed(names)));
  return found;
}

// Points that are one question to an engine.
bool same(const Point& a, const Point& b) {
  return a.model == b.model && a.layout == b.layout && a.interval == b.interval &&
         a.hop_b == b.hop_b;
}

}  // namespace

Translation translate(const Engine& engine, const Asked& asked) {
  Translation t;
  t.engine = engine.name;
  const std::vector<Sourced> refusals = filled(engine.limits, asked);
  if (!refusals.empty()) {
    t.refusal = refusals.front();
    return t;
  }
  t.flags = filled(engine.flags, asked);
  t.remarks = filled(engine.remarks, asked);
  return t;
}

int translate(const TranslateOptions& options) {
  const std::vector<const Engine*> wanted = chosen(options.engine);
  const Sweep sweep = read_sweep_or_line(options.sweep, options.from);
  Json lines = Json::array();
  std::vector<const Point*> done;
  for (const Point& point : sweep.points) {
    if (std::ranges::any_of(done, [&](const Point* p) { return same(*p, point); })) continue;
    done.push_back(&point);
    if (!options.json)
      fmt::print("{}, {}{}: {} ranks\n", describe(point.layout), point.model->name,
                 point.hop_b ? ", HOP-B" : "", point.layout.ranks());
    for (const Engine* engine : wanted) {
      const Translation t =
          translate(*engine, {*point.model, point.layout, point.interval, point.hop_b});
      if (!options.json) print(t, *engine);
      else
        lines.push_back({{"model", point.model->name},
                         {"layout", to_json(point.layout)},
                         {"engine", t.engine},
                         {"origin", engine->origin},
                         {"refusal", t.refusal ? Json(t.refusal->text) : Json()},
                         {"source", t.refusal ? Json(t.refusal->source) : Json()},
                         {"command", t.refusal ? Json() : Json(engine->command)},
                         {"flags", to_json(t.flags)},
                         {"remarks", to_json(t.remarks)}});
    }
  }
  if (options.json) fmt::print("{}\n", lines.dump(1));
  return static_cast<int>(Exit::done);
}

}  // namespace helix
