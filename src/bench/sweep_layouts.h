// The legal layouts among the lists of a sweep, and what was refused on the way.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bench/sweep_axes.h"

namespace helix {

// Layouts of one model in one precision.
struct Family {
  std::shared_ptr<const Model> model;
  Precision precision;
  std::vector<Layout> layouts;
};

// A layout that is not legal, and why.
struct Illegal {
  const Model* model = nullptr;
  Precision precision;
  Layout layout;
  const Rule* rule = nullptr;  // null: no rule, it does not fill the ranks
  int64_t ranks = 0;
};
// "nearest legal layout: helix KVP 4 x TPA 2 -> TPF 8 (8 ranks)"
std::string nearest_text(const Illegal& illegal);
std::string rule_text(const Illegal& illegal);

class LayoutList {
 public:
  // Fails at `where` when there is too much to look at.
  LayoutList(const Axes& axes, const Node& where);

  std::vector<Family>& families() { return families_; }
  // Of what was refused, the one that kept most rules.
  const std::optional<Illegal>& nearly() const { return nearly_; }
  // Combinations of listed values that are in no legal layout, by reason.
  std::map<std::string, int64_t> left_out() const;
  // Fails at a listed value that stands in no legal layout.
  void check_used() const;

 private:
  // For each place of a list: whether it stands in a legal layout, and an example of why not.
  struct Usage {
    std::vector<char> used;
    std::vector<std::optional<Illegal>> example;
    Usage() = default;
    template <class T>
    explicit Usage(const Axis<T>& axis) : used(axis.places.size(), 1), example(used.size()) {
      for (const int place : axis.place)  // a place whose values all stood before has none
        if (place >= 0) used[static_cast<size_t>(place)] = 0;
    }
    void use(int place) {
      if (place >= 0) used[static_cast<size_t>(place)] = 1;
    }
    // A better example breaks a rule of the knob itself, or else a later rule.
    void explain(int place, const Illegal& illegal, std::string_view knob);
  };
  struct Reason {
    const Rule* rule;
    std::string text;
  };

  void prepare();
  void add_family(const std::shared_ptr<const Model>& model, size_t model_at);
  bool enumerate(Family& family, int64_t ranks, const Strategy& strategy);
  int place_of(size_t width, int64_t value) const;
  uint64_t combination(const Layout& layout, const Strategy& strategy) const;
  void note_legal(const Layout& layout, const Strategy& strategy);
  void note_illegal(const Layout& layout, const Strategy& strategy, const Rule& rule);
  void count_unfilled(const Strategy& strategy, int64_t ranks);
  bool takes(size_t width) const;
  void check_width(size_t width) const;
  void check_choice(size_t choice) const;
  [[noreturn]] void fail_unused(const Node& node, std::string_view what, const Illegal& why,
                                const std::string& legal) const;
  std::string legal_values(size_t width) const;
  Illegal stand_in(size_t width, int64_t value) const;

  const Axes& axes_;
  LayoutQuery query_;
  std::vector<Family> families_;
  std::optional<Illegal> nearly_;
  std::unordered_set<uint64_t> legal_;              // combinations of listed values
  std::unordered_map<uint64_t, Reason> not_legal_;  // and why, by the last rule that was broken
  int64_t unfilled_ = 0;
  std::vector<std::pair<int64_t, int>> sorted_[width_count + 1];  // value and place
  Usage width_[width_count + 1], choice_[choice_count], strategy_, precision_, model_;
  bool chosen_[choice_count] = {};  // whether the choice applies to some legal layout
};

}  // namespace helix
