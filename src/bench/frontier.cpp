#include "bench/frontier.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <tuple>

#include "base/version.h"
#include "bench/line.h"
#include "bench/results.h"
#include "layout/strategy.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

constexpr double tiny = std::numeric_limits<double>::min();
constexpr double huge = std::numeric_limits<double>::max();
constexpr int64_t most = std::numeric_limits<int64_t>::max();

// What a line of another minor version may not have.
Json optional(const Json& object, const char* name) {
  return object.is_object() ? object.value(name, Json()) : Json();
}
std::string word(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string context_text(const Json& context) {
  const Json ends = optional(context, "uniform");
  if (ends.is_array() && ends.size() == 2)
    return fmt::format("{}–{}", word(ends[0]), word(ends[1]));
  return word(context);
}

// "bf16", or "nvfp4 weights, fp8 kv, bf16 activations".
std::string precision_text(const Json& precision) {
  if (!precision.is_object()) return word(precision);
  std::set<std::string> formats;
  std::string text;
  for (const auto& [part, format] : precision.items()) {
    if (format.is_null()) continue;
    formats.insert(word(format));
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", word(format), part);
  }
  return formats.size() == 1 ? *formats.begin() : text;
}

// What the last line of an identity says.
struct Record {
  std::string status;
  Dot dot;
  Panel panel;
};

Proof proof_of(const Node& line, const std::string& kind, Dot& dot) {
  if (kind == "simulated") return Proof::simulated;
  const Json left_out = optional(line.json(), "not_executed");  // without its exchanges: no TTL
  if (left_out.is_object() && optional(left_out, "priced_on").is_null()) return Proof::unverified;
  const Node verified = line["verified"];
  if (verified.is_null()) return Proof::unverified;
  const Json& error = verified["max_rel_err"].json();
  const Json& tolerance = verified["tolerance"].json();
  if (!error.is_null()) dot.max_rel_err = verified["max_rel_err"].number(0, huge);
  if (!tolerance.is_null()) dot.tolerance = verified["tolerance"].number(0, huge);
  const bool passed = dot.max_rel_err && dot.tolerance && *dot.max_rel_err <= *dot.tolerance;
  return passed ? Proof::verified : Proof::failed;
}

std::string kind_of(const Node& line) {
  if (line["executor"].text() == "simulate") return "simulated";
  const bool part = !line["shard"].is_null() || !optional(line["point"].json(), "depths").is_null();
  return part ? "executed in part" : "executed whole";
}

// Numbers of an ok line.
void read_measurements(const Node& line, Record& record) {
  Dot& dot = record.dot;
  const bool gpu = !line["tokens_per_s_per_gpu"].is_null();
  record.panel.unit = gpu ? "GPU" : "rank";
  dot.x = line["tokens_per_s_per_user"].number(tiny, huge);
  dot.y = line[gpu ? "tokens_per_s_per_gpu" : "tokens_per_s_per_rank"].number(tiny, huge);
  dot.ttl_us = line["ttl_us"]["median"].number(tiny, huge);
  dot.ttl_low_us = dot.ttl_high_us = dot.ttl_us;
  dot.repeats = 1;
  dot.proof = proof_of(line, record.panel.kind, dot);
  if (!line["gpus"].is_null()) dot.gpus = line["gpus"].integer(1, most);
  const Json share = optional(optional(line.json(), "roofline"), "share");
  if (share.is_number()) dot.floor_share = share.get<double>();
}

Record read_record(const Node& line, const Identity& identity) {
  Record record;
  record.status = line["status"].text();
  const Node point = line["point"];
  Dot& dot = record.dot;
  dot.key = identity.key;
  dot.line = line.file();
  dot.strategy = point["layout"]["strategy"].text();
  dot.label = layout_text(point["layout"].json());
  dot.exchange = identity.exchange;
  dot.shard = identity.shard;
  dot.point = point.json();
  dot.batch = point["batch"].integer(1, most);
  dot.ranks = line["ranks"].integer(1, most);
  const Json routing = optional(point.json(), "routing");
  Panel& panel = record.panel;
  panel.model = word(point["model"].json());
  panel.context = context_text(point["context"].json());
  panel.precision = precision_text(point["precision"].json());
  panel.routing = routing.is_null() ? "" : routing.dump();
  panel.kind = kind_of(line);
  panel.executor = identity.executor;
  panel.machine = identity.machine;
  panel.hardware = "unknown";
  panel.oversubscribed = optional(line.json(), "oversubscribed") == true;
  if (record.status == "ok") read_measurements(line, record);
  return record;
}

// The environments beside a results file, by hash.
Json environments_beside(const std::string& path, std::vector<std::string>& notes) {
  const fs::path folder = fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path();
  const std::string file = (folder / "environment.json").string();
  if (!fs::exists(file)) return Json::object();
  try {
    return read_json(file).json();
  } catch (const InputError& error) {
    notes.emplace_back(error.what());
    return Json::object();
  }
}

void add_environment(const Json& environments, const Json& hash, Panel& panel) {
  const Json facts =
      hash.is_string() ? optional(environments, hash.get<std::string>().c_str()) : Json();
  const Json build = optional(facts, "build");
  const Json commit = optional(build, "commit");
  panel.commits.insert(commit.is_string()
                           ? short_commit(word(commit), optional(build, "dirty") == true)
                           : "unknown");
  const Json machine = optional(facts, "machine");
  const Json gpus = optional(machine, "gpus");
  if (panel.unit == "GPU" && gpus.is_array() && !gpus.empty()) {
    panel.hardware = fmt::format("{} x {}", gpus.size(), word(gpus[0]));
  } else if (optional(machine, "cpu").is_string()) {
    panel.hardware =
        fmt::format("{}, {} cores", word(machine["cpu"]), word(optional(machine, "cores")));
  }
}

// The repeats of one point as one dot.
Dot put_together(std::vector<Dot>& repeats) {
  std::ranges::sort(repeats, {}, [](const Dot& d) { return std::tuple(d.ttl_us, d.x, d.y); });
  Dot dot = repeats[(repeats.size() - 1) / 2];
  dot.repeats = static_cast<int64_t>(repeats.size());
  dot.ttl_low_us = repeats.front().ttl_us;
  dot.ttl_high_us = repeats.back().ttl_us;
  for (const Dot& repeat : repeats) {
    // The worst proof and error of any launch: one wrong repeat makes the point wrong.
    dot.proof = std::max(dot.proof, repeat.proof);
    if (repeat.max_rel_err && !(dot.max_rel_err > repeat.max_rel_err))
      dot.max_rel_err = repeat.max_rel_err;
  }
  return dot;
}

// The choices by which two points of a panel can differ, in words; null where one does not apply.
std::vector<std::pair<std::string, Json>> choices_of(const Dot& dot) {
  const Json layout = optional(dot.point, "layout");
  std::vector<std::pair<std::string, Json>> choices;
  for (const char* name : {"query", "merge", "mla", "ffn", "moe"})
    choices.emplace_back(name, optional(layout, name));
  for (const char* name : {"interval", "depths", "query_tokens", "kv_layout", "seed"})
    choices.emplace_back(name, optional(dot.point, name));
  choices.emplace_back("exchange", dot.exchange.empty() ? Json() : Json(dot.exchange));
  choices.emplace_back("shard", dot.shard.empty() ? Json() : Json(dot.shard));
  return choices;
}

void describe_options(std::vector<Dot>& dots) {
  std::map<std::pair<std::string, std::string>, std::set<std::string>> seen;
  for (const Dot& dot : dots)
    for (const auto& [name, value] : choices_of(dot))
      if (!value.is_null()) seen[{dot.strategy, name}].insert(word(value));
  for (Dot& dot : dots) {
    if (optional(dot.point, "hop_b") == true)
      dot.options = "HOP-B " + word(optional(dot.point, "chunks"));
    for (const auto& [name, value] : choices_of(dot))
      if (!value.is_null() && seen[{dot.strategy, name}].size() > 1)
        dot.options += fmt::format("{}{} {}", dot.options.empty() ? "" : ", ", name, word(value));
  }
}

void finish(Panel& panel) {
  std::map<std::string, std::vector<Dot*>> curves;
  std::vector<Dot*> rivals;
  describe_options(panel.dots);
  for (Dot& dot : panel.dots) {
    curves[dot.strategy].push_back(&dot);
    const Strategy* strategy = find_strategy(dot.strategy);
    if (strategy != nullptr && strategy->baseline) rivals.push_back(&dot);
  }
  for (auto& [strategy, curve] : curves) mark_frontier(curve);
  mark_frontier(rivals, &Dot::hull);
  std::ranges::sort(panel.dots, {}, [](const Dot& d) {
    return std::tuple(d.strategy, d.x, d.y, d.label, d.options, d.key);
  });
}

auto order(const Panel& p) {
  return std::tie(p.model, p.context, p.precision, p.routing, p.kind, p.executor, p.machine,
                  p.hardware, p.unit);
}

// (file, identity): the same point in two files is a repeat of it.
using Records = std::map<std::pair<std::string, Identity>, Record>;

void read_file(const std::string& path, Records& records, std::vector<std::string>& notes) {
  const Json environments = environments_beside(path, notes);
  const fs::path file =
      fs::weakly_canonical(fs::is_directory(path) ? path + "/results.jsonl" : path);
  const auto on_line = [&](const Node& line) {
    const Identity identity = identity_of(line);
    Record record = read_record(line, identity);
    add_environment(environments, optional(line.json(), "environment"), record.panel);
    records.insert_or_assign({file.string(), identity}, std::move(record));
  };
  for (std::string& note : read_results(path, on_line)) notes.push_back(std::move(note));
}

std::vector<Panel> panels_of(Records& records) {
  struct Less {
    bool operator()(const Panel& a, const Panel& b) const { return order(a) < order(b); }
  };
  struct Content {
    bool oversubscribed = false;
    std::set<std::string> commits;
    std::map<Identity, std::vector<Dot>> points;
  };
  std::map<Panel, Content, Less> panels;
  for (auto& [where, record] : records) {
    if (record.status != "ok") continue;
    Content& content = panels[record.panel];
    content.oversubscribed |= record.panel.oversubscribed;
    content.commits.insert(record.panel.commits.begin(), record.panel.commits.end());
    Identity point = where.second;
    point.repeat = 1;
    content.points[point].push_back(std::move(record.dot));
  }
  std::vector<Panel> finished;
  for (auto& [head, content] : panels) {
    Panel& panel = finished.emplace_back(head);
    panel.oversubscribed = content.oversubscribed;
    panel.commits = content.commits;
    for (auto& [point, repeats] : content.points) panel.dots.push_back(put_together(repeats));
    finish(panel);
  }
  return finished;
}

// Four to nine round values within [low, high], where it is wide enough to have them.
std::vector<double> round_levels(double low, double high) {
  std::vector<double> found;
  for (const auto& steps : {std::vector<double>{1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 7}}) {
    found.clear();
    for (double decade = std::pow(10, std::floor(std::log10(low))); decade <= high; decade *= 10)
      for (const double step : steps)
        if (step * decade >= low && step * decade <= high) found.push_back(step * decade);
    if (found.size() >= 4) break;
  }
  std::vector<double> levels;
  for (size_t i = 0; i < found.size(); i += found.size() / 10 + 1) levels.push_back(found[i]);
  return levels;
}

}  // namespace

std::string layout_text(const Json& layout) {
  const auto part = [&](std::string& text, const char* knob, const char* shown,
                        const char* before) {
    const Json width = optional(layout, knob);
    if (!width.is_number_integer() || width <= 1) return;
    text += fmt::format("{}{}{}", text.empty() ? "" : before, shown, width.get<int64_t>());
  };
  std::string outer, attention, ffn;
  part(outer, "pp", "PP", "");
  part(outer, "dp", "DP", " ");
  part(attention, "kvp", "KVP", "");
  part(attention, "tpa", "TPA", "×");
  part(ffn, "tpf", "TPF", "");
  part(ffn, "ep", "EP", "×");
  if (attention.empty() && ffn.empty()) return outer.empty() ? "1 rank" : outer;
  if (attention.empty()) attention = "TPA1";
  if (ffn.empty()) ffn = "TPF1";
  return fmt::format("{}{}{}→{}", outer, outer.empty() ? "" : " ", attention, ffn);
}

std::vector<size_t> undominated(const std::vector<At>& points) {
  std::vector<size_t> order(points.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    return std::tie(points[b].x, points[b].y) < std::tie(points[a].x, points[a].y);
  });
  // From the right: a point stays when it is the highest of its x, and higher than all to its
  // right.
  std::vector<size_t> found;
  double right = 0;
  for (size_t i = 0; i < order.size();) {
    const At best = points[order[i]];
    for (; i < order.size() && points[order[i]].x == best.x; ++i)
      if (best.y > right && points[order[i]].y == best.y) found.push_back(order[i]);
    right = std::max(right, best.y);
  }
  std::ranges::reverse(found);
  return found;
}

void mark_frontier(const std::vector<Dot*>& curve, bool Dot::*mark) {
  std::vector<Dot*> proven;
  std::vector<At> at;
  for (Dot* dot : curve) {
    dot->*mark = false;
    if (dot->proof != Proof::verified && dot->proof != Proof::simulated) continue;
    proven.push_back(dot);
    at.push_back({dot->x, dot->y});
  }
  for (const size_t i : undominated(at)) proven[i]->*mark = true;
}

Frontier read_frontier(const std::vector<std::string>& paths) {
  Frontier frontier;
  Records records;
  for (const std::string& path : paths) read_file(path, records, frontier.notes);
  frontier.panels = panels_of(records);
  for (const auto& [where, record] : records) {
    frontier.skipped += record.status == "skipped" ? 1 : 0;
    frontier.failed += record.status != "skipped" && record.status != "ok" ? 1 : 0;
  }
  if (frontier.panels.empty())
    throw InputError(paths.empty() ? "results" : paths.front(), "",
                     fmt::format("no point was measured ({} skipped, {} failed)", frontier.skipped,
                                 frontier.failed));
  return frontier;
}

AtInteractivity at_interactivity(const Panel& panel) {
  AtInteractivity table;
  double low = huge;
  double high = 0;
  for (const Dot& dot : panel.dots) {
    table.best[dot.strategy];
    if (!dot.frontier) continue;
    low = std::min(low, dot.x);
    high = std::max(high, dot.x);
  }
  if (high > 0) table.levels = round_levels(low, high);
  for (auto& [strategy, best] : table.best) {
    best.resize(table.levels.size());
    for (const Dot& dot : panel.dots)
      for (size_t i = 0; dot.frontier && dot.strategy == strategy && i < best.size(); ++i)
        if (dot.x >= table.levels[i]) best[i] = std::max(best[i].value_or(0), dot.y);
  }
  return table;
}

}  // namespace helix
