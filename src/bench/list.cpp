#include "bench/list.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "bench/table.h"
#include "layout/strategy.h"
#include "machine/machine.h"
#include "model/weights.h"

namespace helix {

namespace {

std::string count_or_dash(int64_t n) { return n == 0 ? "-" : std::to_string(n); }

// "671.0B", "1.2M"
std::string short_count(int64_t n) {
  const auto value = static_cast<double>(n);
  if (n >= 1'000'000'000) return fmt::format("{:.1f}B", value / 1e9);
  return n >= 1'000'000 ? fmt::format("{:.1f}M", value / 1e6) : fmt::format("{:.0f}k", value / 1e3);
}

Row row_of(const Model& m) {
  const Attention& a = m.attention;
  return {m.name,
          short_count(parameters(m)),
          short_count(active_parameters(m)),
          std::to_string(m.layers),
          std::to_string(m.hidden),
          a.mla() ? "MLA" : "GQA",
          std::to_string(a.query_heads),
          std::to_string(a.kv_heads),
          std::to_string(a.head_size),
          count_or_dash(m.ffn),
          count_or_dash(m.experts.count),
          count_or_dash(m.experts.chosen),
          count_or_dash(m.experts.width),
          count_or_dash(m.experts.shared)};
}

template <class T>
std::string names(const std::vector<T>& choices) {
  std::string all;
  for (const T choice : choices)
    if (choice != T{}) (all += all.empty() ? "" : ", ") += name_of(choice);
  return all.empty() ? "-" : all;
}

}  // namespace

int list(const std::string& what) {
  constexpr std::string_view tables[] = {"models", "machines", "layouts"};
  std::string text;
  if (what == tables[0]) text = list_models();
  else if (what == tables[1]) text = list_machines();
  else if (what == tables[2]) text = list_layouts();
  else throw InputError(fmt::format("list {}: allowed are {}", in_quotes(what), listed(tables)));
  fmt::print("{}", text);
  return static_cast<int>(Exit::done);
}

std::string list_models() {
  std::vector<Row> rows = {{"model", "parameters", "active", "L", "H", "kind", "Q", "K", "D", "F",
                            "E", "k", "M", "shared"}};
  for (const std::string& name : preset_names())
    rows.push_back(row_of(read_model(preset_path(name))));
  return table(rows);
}

std::string list_machines() {
  std::vector<Row> rows = {{"machine", "memory GB", "read GB/s", "link GB/s", "network GB/s",
                            "domain ranks", "bf16 TFLOP/s", "fp8", "nvfp4", "kernel us",
                            "factors"}};
  for (const std::string& name : machine_names()) {
    const Machine m = read_machine(name);
    std::array<int, 4> bases = {};
    for (const MachineNumber& number : machine_numbers())
      if (!number.peak) ++bases[static_cast<size_t>(m.provenance.find(number.key)->second.basis)];
    std::string factors;
    for (const Basis basis : {Basis::measured, Basis::fitted, Basis::assumed, Basis::data_sheet})
      if (const int count = bases[static_cast<size_t>(basis)]; count > 0)
        factors += fmt::format("{}{} {}", factors.empty() ? "" : ", ", count, name_of(basis));
    const auto rate = [&](Format format) {
      return fmt::format("{}", m.product_tflops[static_cast<size_t>(format)]);
    };
    rows.push_back({m.name, fmt::format("{}", m.memory_gb), fmt::format("{}", m.read_gb_per_s),
                    fmt::format("{}", m.link_gb_per_s), fmt::format("{}", m.network_gb_per_s),
                    std::to_string(m.domain_ranks), rate(Format::bf16), rate(Format::fp8),
                    rate(Format::nvfp4), fmt::format("{}", m.kernel_us), factors});
  }
  return table(rows);
}

std::string list_layouts() {
  std::vector<Row> rows = {{"strategy", "query", "merge", "ffn", "moe", "what"}};
  for (const Strategy& s : strategies())
    rows.push_back({std::string(s.name), names(s.query), names(s.merge),
                    std::string(name_of(s.ffn)), names(s.moe), std::string(s.what)});
  return table(rows);
}

std::string list_layouts(const Model& model, const Precision& precision, int64_t ranks) {
  std::string text;
  for (const Strategy& strategy : strategies())
    for (const Layout& l : layouts(model, precision, strategy, ranks)) text += describe(l) + "\n";
  return text.empty() ? fmt::format("no legal layout of {} on {} ranks\n", model.name, ranks)
                      : text;
}

}  // namespace helix
