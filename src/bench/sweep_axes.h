// The lists of a sweep as read. Each value knows the place in the file it came from, so that one
// that is legal nowhere can be pointed at.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/point.h"
#include "layout/strategy.h"

namespace helix {

// The values of one key, distinct. A range is one place with many values; a default has none.
template <class T>
struct Axis {
  std::vector<T> values;
  std::vector<int> place;    // of each value, -1: a default
  std::vector<Node> places;  // in order of the file
  bool all = false;          // "all", or left out: every legal value

  bool given() const { return !places.empty(); }
  void add(const T& value, int at) {
    if (std::ranges::find(values, value) != values.end()) return;
    values.push_back(value);
    place.push_back(at);
  }
};

// Widths of a layout, and the ranks of the world.
inline constexpr std::string_view width_names[] = {"pp", "dp", "kvp", "tpa", "tpf", "ep", "ranks"};
inline constexpr size_t width_count = 6;  // without the ranks
inline constexpr size_t ranks_axis = 6;
inline int width_of(const Layout& l, size_t i) {
  const int widths[] = {l.pp, l.dp, l.kvp, l.tpa, l.tpf, l.ep, l.ranks()};
  return widths[i];
}

// Choices of a layout; the value is that of the enumeration, 0 for the strategy's own (ffn: -1).
inline constexpr std::string_view choice_names[] = {"query", "merge", "mla", "ffn", "moe"};
inline constexpr size_t choice_count = 5;
inline int choice_of(const Layout& l, size_t i) {
  const int choices[] = {int(l.query), int(l.merge), int(l.mla), int(l.ffn), int(l.moe)};
  return choices[i];
}

inline constexpr int64_t auto_chunks = 0;

struct Axes {
  Axis<std::shared_ptr<const Model>> model;
  Axis<const Strategy*> strategy;
  Axis<int64_t> width[width_count + 1];
  Axis<int> choice[choice_count];
  Axis<int64_t> batch, chunks, interval;
  Axis<Context> context;
  Axis<bool> hop_b;
  Axis<KvLayout> kv_layout;
  Axis<Precision> precision;
  Axis<std::optional<double>> zipf;
  std::optional<std::pair<int64_t, int64_t>> depths;
  std::shared_ptr<const std::vector<int32_t>> prompt;
  uint64_t seed = 1;
  int64_t steps = 8;
  int64_t warmup = 2;
  NoiseTarget noise;
};

// Loads each model once.
class Models {
 public:
  explicit Models(std::string folder) : folder_(std::move(folder)) {}
  std::shared_ptr<const Model> load(const Node& where);
  std::shared_ptr<const Model> load_published(const Node& where);  // a Hugging Face folder
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
  std::map<std::string, std::shared_ptr<const Model>> loaded_;  // by what the sweep calls it
  std::map<std::string, std::string> names_;  // a model's own name: what it is called
};

// A path of a sweep that stands in `folder`, from the root; as it is where that cannot be found.
std::string from_root(const std::string& folder, const std::string& path);

// Where the values of a key stand: in the object, or, for an explicit point that leaves it out, in
// the sweep around it when that has one value; or nowhere.
struct Source {
  const Node& object;
  const Node* around = nullptr;
  std::optional<Node> find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key).has_value(); }
};
Axes read_axes(const Source& source, Models& models);

// Single lists, also of `exclude`.
Axis<int64_t> read_width(const Node& node, size_t axis);
Axis<int> read_choice(const Node& node, size_t axis);
Axis<const Strategy*> read_strategies(const Node& node);
Axis<std::shared_ptr<const Model>> read_models(const Node& node, Models& models);
Axis<int64_t> read_integers(const Node& node, int64_t low, int64_t high);
Axis<int64_t> read_chunks(const Node& node);
Axis<Context> read_contexts(const Node& node);
Axis<bool> read_booleans(const Node& node);
Axis<KvLayout> read_kv_layouts(const Node& node);
Axis<Precision> read_precisions(const Node& node);
Axis<std::optional<double>> read_routing(const Node& node);

inline constexpr int64_t most_batch = int64_t{1} << 20;
inline constexpr int64_t most_interval = int64_t{1} << 20;

}  // namespace helix
