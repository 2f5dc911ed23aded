#include "machine/machine.h"

#include <algorithm>
#include <filesystem>

#include "model/model.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view bases[] = {"data_sheet", "measured", "fitted", "assumed"};

constexpr double least = 1e-6;  // of what divides
constexpr double most = 1e9;
constexpr double longest_us = 1e6;

constexpr MachineNumber numbers[] = {
    {"memory_gb", &Machine::memory_gb, least, most, true},
    {"read_gb_per_s", &Machine::read_gb_per_s, least, most, true},
    {"link_gb_per_s", &Machine::link_gb_per_s, least, most, true},
    {"network_gb_per_s", &Machine::network_gb_per_s, least, most, true},
    {"weight_read_efficiency", &Machine::weight_read_efficiency, least, 1, false},
    {"kv_read_efficiency", &Machine::kv_read_efficiency, least, 1, false},
    {"product_efficiency", &Machine::product_efficiency, least, 1, false},
    {"attention_efficiency", &Machine::attention_efficiency, least, 1, false},
    {"link_efficiency", &Machine::link_efficiency, least, 1, false},
    {"network_efficiency", &Machine::network_efficiency, least, 1, false},
    {"kernel_us", &Machine::kernel_us, 0, longest_us, false},
    {"all_reduce_us", &Machine::all_reduce_us, 0, longest_us, false},
    {"exchange_us", &Machine::exchange_us, 0, longest_us, false},
    {"network_us", &Machine::network_us, 0, longest_us, false},
    {"touched_expert_us", &Machine::touched_expert_us, 0, longest_us, false},
    {"read_ahead_mb", &Machine::read_ahead_mb, 0, most, false},
    {"launch_ahead_us", &Machine::launch_ahead_us, 0, longest_us, false},
    {"memory_reserve", &Machine::memory_reserve, 0, 1 - least, false},
};

// {"value":, "from":, "source":}: returns the value's node.
Node value_of(const Node& part, std::string_view key, Machine& machine) {
  const Node node = part[key];
  node.only({"value", "from", "source"});
  const auto basis = static_cast<Basis>(node["from"].choice(bases));
  if (node["source"].text().empty()) node["source"].fail("must say where the number comes from");
  machine.provenance[std::string(key)] = {basis, node["source"].text()};
  return node["value"];
}

Machine::Rates read_rates(const Node& node) {
  std::vector<std::string_view> names;
  for (const FormatRow& format : formats) names.push_back(format.name);
  node.only(names);
  Machine::Rates rates;
  for (size_t i = 0; i < rates.size(); ++i) rates[i] = node[names[i]].number(least, most);
  return rates;
}

void read_numbers(const Node& node, bool peaks, std::vector<std::string_view> others,
                  Machine& machine) {
  for (const MachineNumber& number : numbers)
    if (number.peak == peaks) others.push_back(number.key);
  node.only(others);
  for (const MachineNumber& number : numbers)
    if (number.peak == peaks)
      machine.*number.value = value_of(node, number.key, machine).number(number.low, number.high);
}

// Each [value_bytes, flops_a_byte, bytes, count, us].
std::vector<Machine::TimedShape> read_shapes(const Node& cover) {
  std::vector<Machine::TimedShape> shapes;
  if (!cover.has("shapes")) return shapes;
  for (const Node& shape : cover["shapes"].items()) {
    const std::vector<Node> numbers = shape.items();
    if (numbers.size() != 5) shape.fail("must be [value_bytes, flops_a_byte, bytes, count, us]");
    shapes.push_back({{.value_bytes = numbers[0].number(0, 8),
                       .flops_a_byte = numbers[1].number(0, most),
                       .bytes = numbers[2].number(least, 1e15),
                       .count = numbers[3].number(least, most)},
                      numbers[4].number(least, most)});
  }
  return shapes;
}

void read_covers(const Node& node, Machine& machine) {
  for (const auto& [name, json] : node.json().items()) {
    const Node cover = value_of(node, name, machine);
    cover.only({"fixed_us", "read_efficiency", "compute_efficiency", "shapes"});
    machine.covers[name] = {.fixed_us = cover["fixed_us"].number(0, longest_us),
                            .read_efficiency = cover["read_efficiency"].number(least, 1),
                            .compute_efficiency = cover["compute_efficiency"].number(least, 1),
                            .shapes = read_shapes(cover)};
  }
}

}  // namespace

std::string_view name_of(Basis basis) { return bases[static_cast<size_t>(basis)]; }

std::span<const MachineNumber> machine_numbers() { return numbers; }

Machine parse_machine(const Node& document) {
  document.only({"schema", "name", "processor", "domain_ranks", "library_rows", "peaks", "factors",
                 "covers", "calibration"});
  document["schema"].choice({"helix-bench/machine/1"});
  Machine m;
  m.document = document.json();
  m.name = document["name"].text();
  m.gpu = document["processor"].choice({"gpu", "cpu"}) == 0;
  m.domain_ranks = document["domain_ranks"].integer(1, 1 << 20);
  if (document.has("library_rows")) m.library_rows = document["library_rows"].integer(0, 1 << 20);
  const Node peaks = document["peaks"];
  read_numbers(peaks, true, {"product_tflops", "attention_tflops"}, m);
  m.product_tflops = read_rates(value_of(peaks, "product_tflops", m));
  m.attention_tflops = read_rates(value_of(peaks, "attention_tflops", m));
  read_numbers(document["factors"], false, {}, m);
  if (document.has("covers")) read_covers(document["covers"], m);
  return m;
}

std::vector<std::string> machine_names() {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(configs_folder() + "/machines", none))
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem());
  std::ranges::sort(names);
  return names;
}

Machine read_machine(const std::string& name) {
  if (name.find('/') != std::string::npos || name.ends_with(".json"))
    return parse_machine(read_json(name));
  const std::vector<std::string> names = machine_names();
  if (std::ranges::find(names, name) != names.end())
    return parse_machine(read_json(configs_folder() + "/machines/" + name + ".json"));
  const std::vector<std::string_view> known(names.begin(), names.end());
  const std::string_view near = nearest(name, known);
  throw InputError("no machine " + in_quotes(name) +
                   (near.empty() ? "" : ", did you mean " + in_quotes(near) + "?") + " Known are " +
                   listed(known) + "; or give the path of a file");
}

}  // namespace helix
