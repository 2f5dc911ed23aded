#include "bench/sweep_axes.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>
#include <unordered_set>

#include "model/published.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

constexpr int64_t most_values = 1'000'000;
constexpr int64_t most_context = (int64_t{1} << 32) - 1;
constexpr int64_t most_width = 4096;

bool is_range(const Node& node) { return node.is_object() && node.has("from"); }

// An integer, or all of a range.
template <class Add>
void read_value(const Node& node, int64_t low, int64_t high, Add add) {
  if (!is_range(node)) return add(node.integer(low, high));
  node.only({"from", "to", "times", "step"});
  const int64_t from = node["from"].integer(low, high);
  const int64_t to = node["to"].integer(from, high);
  if (node.has("times") == node.has("step")) node.fail("a range has either times or step");
  const int64_t times = node.has("times") ? node["times"].integer(2, high) : 1;
  const int64_t step = node.has("step") ? node["step"].integer(1, high) : 0;
  if (step > 0 && (to - from) / step >= most_values)
    node.fail(fmt::format("the range has over {} values", most_values));
  for (int64_t value = from;;) {
    add(value);
    if (times > 1 ? value > to / times : value > to - step) return;
    value = times > 1 ? value * times : value + step;
  }
}

// Reads each item of a list into an axis; `read` hands values to its second argument.
template <class T, class Read>
Axis<T> read_list(const Node& node, Read read) {
  Axis<T> axis;
  if (node.json().size() > 10'000) node.fail("the list has over 10000 values");
  for (Node& item : node.items()) {
    const int at = static_cast<int>(axis.places.size());
    axis.places.push_back(std::move(item));
    read(axis.places.back(), [&](const T& value) { axis.add(value, at); });
  }
  return axis;
}

// The same for integers, of which there may be many.
template <class T, class Read>
Axis<T> read_many(const Node& node, Read read) {
  Axis<T> axis;
  std::unordered_set<uint64_t> seen;
  for (Node& item : node.items()) {
    const int at = static_cast<int>(axis.places.size());
    axis.places.push_back(std::move(item));
    read(axis.places.back(), [&](uint64_t identity, const T& value) {
      if (!seen.insert(identity).second) return;
      axis.values.push_back(value);
      axis.place.push_back(at);
    });
    if (static_cast<int64_t>(seen.size()) > most_values)
      axis.places.back().fail(fmt::format("the list has over {} values", most_values));
  }
  return axis;
}

template <class T>
Axis<T> by_default(T value) {
  Axis<T> axis;
  axis.add(value, -1);
  return axis;
}

std::vector<std::string_view> strategy_names() {
  std::vector<std::string_view> names;
  for (const Strategy& strategy : strategies()) names.push_back(strategy.name);
  return names;
}

bool is_all(const Node& node) { return node.is_string() && node.text() == "all"; }

}  // namespace

Axis<int64_t> read_integers(const Node& node, int64_t low, int64_t high) {
  return read_many<int64_t>(node, [&](const Node& item, const auto& add) {
    read_value(item, low, high, [&](int64_t value) { add(static_cast<uint64_t>(value), value); });
  });
}

Axis<int64_t> read_width(const Node& node, size_t axis) {
  const std::vector<Node> items = node.items();
  if (axis != ranks_axis && items.size() == 1 && is_all(items.front())) {
    Axis<int64_t> all;
    all.all = true;
    return all;
  }
  for (const Node& item : items)
    if (item.is_string() && axis != ranks_axis)
      item.fail(
          fmt::format("found {}, allowed are integers from 1 to {}, a range, or \"all\" alone",
                      in_quotes(item.text()), most_width));
  return read_integers(node, 1, most_width);
}

Axis<int> read_choice(const Node& node, size_t axis) {
  static const std::vector<std::string_view> names[choice_count] = {{"replicate", "gather"},
                                                                    {"a2a", "ag_rs", "all_reduce"},
                                                                    {"latent", "value"},
                                                                    {"all", "replica"},
                                                                    {"gather", "dispatch"}};
  const int first = choice_names[axis] == "ffn" ? 0 : 1;
  return read_list<int>(node, [&](const Node& item, const auto& add) {
    if (item.is_null()) return add(first - 1);
    if (is_all(item) && first == 1)
      for (size_t i = 0; i < names[axis].size(); ++i) add(static_cast<int>(i) + 1);
    else add(static_cast<int>(item.choice(names[axis])) + first);
  });
}

Axis<const Strategy*> read_strategies(const Node& node) {
  static const std::vector<std::string_view> names = strategy_names();
  const std::vector<Node> items = node.items();
  if (items.size() == 1 && is_all(items.front())) {
    Axis<const Strategy*> axis;
    for (const Strategy& strategy : strategies()) axis.add(&strategy, -1);
    axis.all = true;
    return axis;
  }
  return read_list<const Strategy*>(
      node, [](const Node& item, const auto& add) { add(&strategies()[item.choice(names)]); });
}

Axis<std::shared_ptr<const Model>> read_models(const Node& node, Models& models) {
  return read_list<std::shared_ptr<const Model>>(
      node, [&](const Node& item, const auto& add) { add(models.load(item)); });
}

Axis<int64_t> read_chunks(const Node& node) {
  return read_many<int64_t>(node, [](const Node& item, const auto& add) {
    if (is_all(item) || (item.is_string() && item.text() != "auto"))
      item.fail("found " + in_quotes(item.text()) + ", allowed are \"auto\" and integers from 1");
    if (item.is_string()) return add(0, auto_chunks);
    read_value(item, 1, most_batch, [&](int64_t n) { add(static_cast<uint64_t>(n), n); });
  });
}

Axis<Context> read_contexts(const Node& node) {
  const auto identity = [](int64_t low, int64_t high) {
    return static_cast<uint64_t>(low) << 32 | static_cast<uint64_t>(high);
  };
  return read_many<Context>(node, [&](const Node& item, const auto& add) {
    if (!item.is_object() || is_range(item))
      return read_value(item, 1, most_context, [&](int64_t n) {
        add(identity(n, n), Context{n, n});
      });
    item.only({"uniform"});
    const Node ends = item["uniform"];
    const std::vector<Node> items = ends.items();
    if (!ends.is_array() || items.size() != 2)
      ends.fail("allowed is [shortest, longest], in tokens");
    const int64_t low = items[0].integer(0, most_context);
    const int64_t high = items[1].integer(std::max<int64_t>(low, 1), most_context);
    add(identity(low, high), Context{low, high});
  });
}

Axis<bool> read_booleans(const Node& node) {
  Axis<bool> axis;
  for (const Node& item : node.items()) {
    const int at = static_cast<int>(axis.places.size());
    axis.places.push_back(item);
    const bool value = item.boolean();
    if (std::ranges::find(axis.values, value) != axis.values.end()) continue;
    axis.values.push_back(value);
    axis.place.push_back(at);
  }
  return axis;
}

Axis<KvLayout> read_kv_layouts(const Node& node) {
  return read_list<KvLayout>(node, [&](const Node& item, const auto& add) {
    add(item.choice({name_of(KvLayout::dense), name_of(KvLayout::paged)}) == 0 ? KvLayout::dense
                                                                               : KvLayout::paged);
  });
}

Axis<Precision> read_precisions(const Node& node) {
  return read_list<Precision>(node,
                              [](const Node& item, const auto& add) { add(read_precision(item)); });
}

Axis<std::optional<double>> read_routing(const Node& node) {
  return read_list<std::optional<double>>(node, [](const Node& item, const auto& add) {
    if (item.is_null()) return add(std::nullopt);
    item.only({"zipf"});
    add(item["zipf"].number(0, 16));
  });
}

std::shared_ptr<const Model> Models::load(const Node& where) {
  const std::string& called = where.text();
  if (const auto known = loaded_.find(called); known != loaded_.end()) return known->second;
  auto model = std::make_shared<const Model>(load_model(where, folder_));
  std::error_code error;
  const bool file = called.find('/') != std::string::npos || called.ends_with(".json");
  const fs::path path = file ? fs::path(folder_) / called : fs::path(preset_path(called));
  const std::string real = fs::weakly_canonical(path, error).string();
  const fs::path preset = fs::weakly_canonical(preset_path(model->name), error);
  if (preset.string() != real && fs::exists(preset, error))
    where.fail("its model is called " + in_quotes(model->name) + ", which is a preset");
  const auto [name, added] = names_.try_emplace(model->name, real);
  if (!added && name->second != real)
    where.fail("another model of this sweep is called " + in_quotes(model->name) + " too");
  if (!added)  // one file under two names
    for (const auto& [other, same] : loaded_)
      if (same->name == model->name) model = same;
  return loaded_[called] = std::move(model);
}

std::string from_root(const std::string& folder, const std::string& path) {
  std::error_code error;
  const fs::path whole = fs::absolute(fs::path(folder) / path, error).lexically_normal();
  return error ? path : whole.string();
}

std::shared_ptr<const Model> Models::load_published(const Node& where) {
  const std::string path = from_root(folder_, where.text());
  auto& model = loaded_["weights " + path];
  if (model) return model;
  model = std::make_shared<const Model>(read_published(path));
  const auto [name, added] = names_.try_emplace(model->name, path);
  if (!added && name->second != path)
    where.fail("another model of this sweep is called " + in_quotes(model->name) + " too");
  return model;
}

std::optional<Node> Source::find(std::string_view key) const {
  if (object.has(key)) return object[key];
  if (around == nullptr || !around->has(key)) return std::nullopt;
  const Node value = (*around)[key];
  if (key == "depths" || key == "prompt") return value;
  const std::vector<Node> items = value.items();
  if (items.size() != 1 || is_range(items.front()) || is_all(items.front())) return std::nullopt;
  return items.front();
}

namespace {

using Depths = std::optional<std::pair<int64_t, int64_t>>;
Depths read_depths(const std::optional<Node>& node, const Axes& axes) {
  if (!node || node->is_null()) return std::nullopt;
  if (!node->is_array() || node->json().size() != 2)
    node->fail("allowed are null and [a, b], two numbers of layers, a < b");
  const std::vector<Node> items = node->items();
  const int64_t a = items[0].integer(1, 10000);
  const int64_t b = items[1].integer(a + 1, 10001);
  for (const auto& model : axes.model.values) {
    if (model->checkpoint) node->fail("a checkpoint is decoded whole");
    // The layers that repeat are those behind the leading dense ones.
    const int64_t lead = model->experts.count > 0 ? model->dense_layers : 0;
    if (a < lead)
      items[0].fail(fmt::format("{} begins with {} dense layers, allowed are {} or more",
                                model->name, lead, lead));
    if (b > model->layers)
      items[1].fail(fmt::format("{} has {} layers", model->name, model->layers));
  }
  return std::pair(a, b);
}

// What there is only one of so far.
void check_fixed(const Source& source) {
  if (const auto node = source.find("query_tokens"); node && node->integer(1, 1 << 20) != 1)
    node->fail("not supported: each request decodes 1 token a step");
}

Node required(const Source& source, std::string_view key) {
  if (const auto node = source.find(key)) return *node;
  if (source.around != nullptr)
    source.object.fail(
        fmt::format("key {} is missing, and the sweep has no single value of it", in_quotes(key)));
  return source.object[key];
}

// Weights that a folder gives stand for the model that is generated.
Axis<std::shared_ptr<const Model>> read_models(const Source& source, Models& models) {
  const Node& object = source.object;
  const bool generated = object.has("model");
  const auto weights = generated && !object.has("weights") ? std::nullopt : source.find("weights");
  if (!weights || weights->is_null()) return read_models(required(source, "model"), models);
  if (generated) weights->fail("takes the place of \"model\": give one of both");
  Axis<std::shared_ptr<const Model>> axis;
  axis.places.push_back(*weights);
  axis.add(models.load_published(*weights), 0);
  return axis;
}

// What a checkpoint holds is rounded to these. Its own fp8 has a scale a block, ours one a tensor.
void check_stored_formats(const Source& source, const Axes& axes) {
  const auto has_checkpoint = [](const auto& model) { return model->checkpoint != nullptr; };
  if (std::ranges::none_of(axes.model.values, has_checkpoint)) return;
  for (const Precision& p : axes.precision.values)
    for (const Format format : {p.weights, p.attention, p.experts, p.lm_head})
      if (format == Format::fp8)
        source.find("precision")
            ->fail(fmt::format("a checkpoint's weights are not executed in {}, allowed are fp32, "
                               "bf16 and nvfp4",
                               name_of(format)));
}

std::shared_ptr<const std::vector<int32_t>> read_prompt(const Node& node, const Axes& axes) {
  if (!node.is_array()) node.fail("allowed is a list of token ids");
  int64_t words = std::numeric_limits<int32_t>::max(), positions = most_context;
  for (const auto& model : axes.model.values) {
    words = std::min(words, model->vocabulary);
    positions = std::min(positions, model->max_positions);
  }
  if (std::ssize(node.json()) + axes.steps > positions)
    node.fail(fmt::format("{} tokens and {} steps are more than the model's {} positions",
                          node.json().size(), axes.steps, positions));
  std::vector<int32_t> tokens;
  for (const Node& item : node.items())
    tokens.push_back(static_cast<int32_t>(item.integer(0, words - 1)));
  return std::make_shared<const std::vector<int32_t>>(std::move(tokens));
}

// The tokens of history, and what they are.
void read_histories(const Source& source, Axes& axes) {
  const auto prompt = source.find("prompt");
  if (!prompt || prompt->is_null()) {
    axes.context = read_contexts(required(source, "context"));
    return;
  }
  if (const auto context = source.find("context"))
    context->fail("is said by the prompt: give one of both");
  axes.prompt = read_prompt(*prompt, axes);
  const auto length = std::ssize(*axes.prompt) - 1;
  axes.context = by_default(Context{length, length});
}

}  // namespace

Axes read_axes(const Source& source, Models& models) {
  Axes axes;
  const auto with = [&](std::string_view key, auto& axis, auto read, auto otherwise) {
    const auto node = source.find(key);
    axis = node ? read(*node) : otherwise;
  };
  axes.model = read_models(source, models);
  with("strategy", axes.strategy, read_strategies, Axis<const Strategy*>{});
  if (axes.strategy.values.empty()) {
    for (const Strategy& strategy : strategies()) axes.strategy.add(&strategy, -1);
    axes.strategy.all = true;
  }
  for (size_t i = 0; i <= width_count; ++i) {
    Axis<int64_t> otherwise = i < 2 ? by_default<int64_t>(1) : Axis<int64_t>{};
    otherwise.all = i >= 2;
    with(
        width_names[i], axes.width[i], [&](const Node& n) { return read_width(n, i); }, otherwise);
  }
  for (size_t i = 0; i < choice_count; ++i)
    with(
        choice_names[i], axes.choice[i], [&](const Node& n) { return read_choice(n, i); },
        Axis<int>{});
  axes.batch = read_integers(required(source, "batch"), 1, most_batch);
  const auto intervals = [](const Node& n) { return read_integers(n, 1, most_interval); };
  with("interval", axes.interval, intervals, by_default<int64_t>(32));
  with("kv_layout", axes.kv_layout, read_kv_layouts, by_default(KvLayout::dense));
  with("hop_b", axes.hop_b, read_booleans, by_default(false));
  with("chunks", axes.chunks, read_chunks, by_default(auto_chunks));
  with("precision", axes.precision, read_precisions, by_default(Precision{}));
  with("routing", axes.zipf, read_routing, by_default(std::optional<double>{}));
  axes.depths = read_depths(source.find("depths"), axes);
  check_fixed(source);
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  if (const auto node = source.find("seed"))
    axes.seed = static_cast<uint64_t>(node->integer(0, most));
  if (const auto node = source.find("steps")) axes.steps = node->integer(1, 1'000'000);
  if (const auto node = source.find("warmup")) axes.warmup = node->integer(0, 1'000'000);
  if (const auto node = source.find("noise")) axes.noise = read_noise(*node);
  read_histories(source, axes);
  check_stored_formats(source, axes);
  return axes;
}

}  // namespace helix
