#include "bench/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "bench/results.h"
#include "bench/sweep_product.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

// A key, and what stands for it when it is left out; null: nothing does.
struct Key {
  std::string_view name;
  const char* otherwise;
};
constexpr Key keys[] = {
    {"schema", nullptr},
    {"name", nullptr},
    {"model", nullptr},
    {"weights", nullptr},
    {"strategy", R"("all")"},
    {"ranks", nullptr},
    {"pp", "1"},
    {"dp", "1"},
    {"kvp", R"("all")"},
    {"tpa", R"("all")"},
    {"tpf", R"("all")"},
    {"ep", R"("all")"},
    {"query", "null"},
    {"merge", "null"},
    {"mla", "null"},
    {"ffn", "null"},
    {"moe", "null"},
    {"batch", nullptr},
    {"context", nullptr},
    {"prompt", nullptr},
    {"hop_b", "false"},
    {"chunks", R"("auto")"},
    {"precision", R"({"weights": "bf16", "kv": "bf16", "activations": "bf16"})"},
    {"interval", "32"},
    {"depths", "null"},
    {"routing", "null"},
    {"query_tokens", "1"},
    {"kv_layout", R"("dense")"},
    {"seed", "1"},
    {"steps", "8"},
    {"warmup", "2"},
    {"noise", "null"},
    {"exclude", "[]"},
    {"points", "[]"}};

// What people look for here and will not find.
struct Unsupported {
  std::string_view part;  // of a key
  std::string_view name;
};
constexpr Unsupported unsupported[] = {
    {"prefill", "prefill"},         {"sliding", "sliding windows"}, {"window", "sliding windows"},
    {"sparse", "sparse attention"}, {"adapter", "adapters"},        {"lora", "adapters"},
    {"encoder", "encoder models"},  {"train", "training"}};

void check_keys(const Node& document) {
  if (document.is_object())
    for (const auto& [key, value] : document.json().get_ref<const Json::object_t&>())
      for (const Unsupported& other : unsupported)
        if (key.find(other.part) != std::string::npos)
          document[key].fail(
              fmt::format("not supported: {} (only decode steps of whole models)", other.name));
  document.only(sweep_keys());
  document["schema"].choice({"helix-bench/sweep/1"});
}

std::string read_name(const Node& node) {
  const std::string& name = node.text();
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.' ||
           c == '_' || c == '-';
  };
  if (name.empty() || name.size() > 100 || name.front() == '.' || !std::ranges::all_of(name, plain))
    node.fail(
        "found " + in_quotes(name) +
        ", allowed are 1 to 100 letters, digits, '.', '_' and '-', no path and no '.' in front");
  return name;
}

// Model files are named from the root, so that the resolved sweep can be run where it is written.
void find_models(Json& object, const std::string& folder) {
  if (!object.is_object()) return;
  const auto locate = [&](Json& name) { name = from_root(folder, name.get<std::string>()); };
  if (object.contains("weights") && object["weights"].is_string()) locate(object["weights"]);
  if (!object.contains("model")) return;
  const auto find = [&](Json& model) {
    const auto name = model.get<std::string>();
    if (name.find('/') != std::string::npos || name.ends_with(".json")) locate(model);
  };
  Json& models = object["model"];
  if (models.is_string()) return find(models);
  for (Json& model : models) find(model);
}

Json resolve(const Node& document, const std::string& folder) {
  Json resolved = Json::object();
  for (const Key& key : keys)
    if (document.has(key.name)) resolved[std::string(key.name)] = document[key.name].json();
    else if (key.otherwise != nullptr) resolved[std::string(key.name)] = Json::parse(key.otherwise);
  find_models(resolved, folder);
  for (const char* list : {"exclude", "points"})
    for (Json& object : resolved[list]) find_models(object, folder);
  return resolved;
}

std::vector<Point> read_points(const Node& document, Models& models) {
  std::vector<Point> points;
  if (!document.has("points")) return points;
  const Node list = document["points"];
  if (!list.is_array()) list.fail("allowed is a list of objects");
  if (list.json().empty()) return points;
  if (list.json().size() > 10'000) list.fail("allowed are 10000 points");
  for (const Node& entry : list.items()) points.push_back(explicit_point(entry, document, models));
  return points;
}

void add_product(const Node& document, const std::vector<Exclusion>& exclusions, Models& models,
                 Sweep& sweep) {
  if (!document.has("ranks")) (void)document["ranks"];  // said before what it holds is asked for
  const Axes axes = read_axes({document}, models);
  LayoutList list(axes, document);
  list.check_used();
  sweep.left_out = list.left_out();
  add_points(list.families(), axes, exclusions, document, sweep.points);
}

}  // namespace

std::span<const std::string_view> sweep_keys() {
  static const auto names = [] {
    std::vector<std::string_view> all;
    for (const Key& key : keys) all.push_back(key.name);
    return all;
  }();
  return names;
}

Sweep read_sweep(const Node& document, const std::string& folder) {
  check_keys(document);
  Sweep sweep;
  sweep.name = read_name(document["name"]);
  Models models(folder);
  const std::vector<Point> explicit_points = read_points(document, models);
  std::vector<Exclusion> exclusions;
  if (document.has("exclude")) exclusions = read_exclusions(document["exclude"], models);
  if (explicit_points.empty() || document.has("ranks"))
    add_product(document, exclusions, models, sweep);
  if (!explicit_points.empty()) {
    sweep.points.insert(sweep.points.end(), explicit_points.begin(), explicit_points.end());
    make_distinct(sweep.points);
  }
  if (sweep.points.empty())
    (exclusions.empty() ? document : document["exclude"]).fail("no legal point is left");
  sweep.resolved = resolve(document, folder);
  return sweep;
}

Sweep read_sweep(const std::string& path) {
  return read_sweep(read_json(path), fs::path(path).parent_path().string());
}

Json sweep_of(const Node& point, const std::string& name, int64_t steps, int64_t warmup) {
  const Json& from = point.json();
  const Json& layout = point["layout"].json();
  Json sweep = {{"schema", "helix-bench/sweep/1"}, {"name", name}};
  int64_t ranks = 1;
  for (const char* width : {"pp", "dp", "kvp", "tpa"})
    ranks *= point["layout"][width].integer(1, 4096);
  for (const Key& key : keys) {
    const std::string knob(key.name);
    if (from.contains(knob)) sweep[knob] = from[knob];
    if (layout.contains(knob)) sweep[knob] = layout[knob];
  }
  if (sweep.contains("weights")) sweep.erase("model");
  if (sweep.contains("prompt")) sweep.erase("context");
  sweep["ranks"] = ranks;
  sweep["steps"] = steps;
  sweep["warmup"] = warmup;
  return sweep;
}

namespace {

Json sweep_of_line(const Node& line, const std::string& name) {
  Json sweep = sweep_of(line["point"], name, line["steps"].integer(1, 1'000'000),
                        line["warmup"].integer(0, 1'000'000));
  if (!line.has("noise") || line["noise"].is_null()) return sweep;
  sweep["noise"] = line["noise"].json();
  sweep["noise"].erase("reached_percent");
  return sweep;
}

}  // namespace

Json sweep_from(const std::string& from) {
  const size_t hash = from.rfind('#');
  if (hash == std::string::npos || hash == 0 || hash + 1 == from.size())
    throw InputError("--from " + in_quotes(from) + " is not RESULTS#KEY");
  const std::string key = from.substr(hash + 1);
  return sweep_of_line(lines_of(from.substr(0, hash), key).back(), key);
}

Point point_of(const Node& line) {
  const Json sweep = sweep_of_line(line, line["key"].text());
  return read_sweep(parse_json(line.file(), sweep.dump()), "").points.front();
}

Sweep read_sweep_or_line(const std::string& path, const std::string& from) {
  return from.empty() ? read_sweep(path)
                      : read_sweep(parse_json(from, sweep_from(from).dump()), "");
}

}  // namespace helix
