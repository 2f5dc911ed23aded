#include "bench/sweep_exclude.h"

#include <algorithm>
#include <set>

namespace helix {

namespace {

// Whether what `field` gives of a point is one of the axis's values.
template <class T, class Field>
auto one_of(const Axis<T>& axis, Field field) {
  return [values = axis.values, field](const Point& point) {
    return std::ranges::find(values, field(point)) != values.end();
  };
}
// The same for integers, of which a range may have many.
template <class Field>
auto one_of(const Axis<int64_t>& axis, Field field) {
  std::vector<int64_t> sorted = axis.values;
  std::ranges::sort(sorted);
  return [values = std::move(sorted), field](const Point& point) {
    return std::ranges::binary_search(values, int64_t{field(point)});
  };
}

}  // namespace

Exclusion::Exclusion(const Node& object, Models& models) {
  object.only({"model",     "strategy", "ranks",     "pp",      "dp",    "kvp",
               "tpa",       "tpf",      "ep",        "query",   "merge", "mla",
               "ffn",       "moe",      "batch",     "context", "hop_b", "chunks",
               "precision", "interval", "kv_layout", "routing"});
  if (object.json().empty()) object.fail("an empty object would exclude every point");
  add_layout_tests(object, models);
  add_load_tests(object);
}

void Exclusion::add_layout_tests(const Node& object, Models& models) {
  if (object.has("model"))
    layout_.emplace_back(
        one_of(read_models(object["model"], models), [](const Point& p) { return p.model; }));
  if (object.has("strategy"))
    layout_.emplace_back(one_of(read_strategies(object["strategy"]),
                                [](const Point& p) { return find_strategy(p.layout.strategy); }));
  if (object.has("precision"))
    layout_.emplace_back(
        one_of(read_precisions(object["precision"]), [](const Point& p) { return p.precision; }));
  for (size_t i = 0; i <= width_count; ++i) {
    if (!object.has(width_names[i])) continue;
    const Node node = object[width_names[i]];
    const Axis<int64_t> axis = read_width(node, i);
    if (axis.all) node.fail("\"all\" excludes nothing in particular");
    layout_.emplace_back(one_of(axis, [i](const Point& p) { return width_of(p.layout, i); }));
  }
  for (size_t i = 0; i < choice_count; ++i)
    if (object.has(choice_names[i]))
      layout_.emplace_back(one_of(read_choice(object[choice_names[i]], i),
                                  [i](const Point& p) { return choice_of(p.layout, i); }));
}

void Exclusion::add_load_tests(const Node& object) {
  if (object.has("batch"))
    load_.emplace_back(one_of(read_integers(object["batch"], 1, most_batch),
                              [](const Point& p) { return p.batch; }));
  if (object.has("context"))
    load_.emplace_back(
        one_of(read_contexts(object["context"]), [](const Point& p) { return p.context; }));
  if (object.has("hop_b"))
    load_.emplace_back(
        one_of(read_booleans(object["hop_b"]), [](const Point& p) { return p.hop_b; }));
  if (object.has("chunks"))
    load_.emplace_back(one_of(read_integers(object["chunks"], 1, most_batch),
                              [](const Point& p) { return p.chunks; }));
  if (object.has("interval"))
    load_.emplace_back(one_of(read_integers(object["interval"], 1, most_interval),
                              [](const Point& p) { return p.interval; }));
  if (object.has("kv_layout"))
    load_.emplace_back(
        one_of(read_kv_layouts(object["kv_layout"]), [](const Point& p) { return p.kv_layout; }));
  if (object.has("routing"))
    load_.emplace_back(
        one_of(read_routing(object["routing"]), [](const Point& p) { return p.zipf; }));
}

std::vector<Exclusion> read_exclusions(const Node& list, Models& models) {
  if (!list.is_array()) list.fail("allowed is a list of objects");
  std::vector<Exclusion> exclusions;
  if (list.json().empty()) return exclusions;
  if (list.json().size() > 1000) list.fail("allowed are 1000 objects");
  for (const Node& object : list.items()) exclusions.emplace_back(object, models);
  return exclusions;
}

}  // namespace helix
