// The frontier in the two forms that leave the program: JSON for analysis/, characters for a
// terminal.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/text.h"
#include "bench/frontier.h"
#include "layout/strategy.h"

namespace helix {

namespace {

constexpr std::array proof_names = {"simulated", "verified", "unverified", "failed"};

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

Json to_json(const Dot& dot) {
  return {{"key", dot.key},
          {"line", dot.line},
          {"strategy", dot.strategy},
          {"label", dot.label},
          {"options", dot.options},
          {"batch", dot.batch},
          {"ranks", dot.ranks},
          {"gpus", or_null(dot.gpus)},
          {"x", dot.x},
          {"y", dot.y},
          {"ttl_us", {{"median", dot.ttl_us}, {"low", dot.ttl_low_us}, {"high", dot.ttl_high_us}}},
          {"repeats", dot.repeats},
          {"floor_share", or_null(dot.floor_share)},
          {"max_rel_err", or_null(dot.max_rel_err)},
          {"tolerance", or_null(dot.tolerance)},
          {"proof", proof_names[static_cast<size_t>(dot.proof)]},
          {"frontier", dot.frontier},
          {"hull", dot.hull},
          {"exchange", dot.exchange},
          {"shard", dot.shard},
          {"point", dot.point}};
}

Json to_json(const AtInteractivity& table) {
  Json best = Json::object();
  for (const auto& [strategy, values] : table.best) {
    best[strategy] = Json::array();
    for (const std::optional<double>& value : values) best[strategy].push_back(or_null(value));
  }
  return {{"levels", table.levels}, {"best", best}};
}

Json to_json(const Panel& panel) {
  Json dots = Json::array();
  for (const Dot& dot : panel.dots) dots.push_back(to_json(dot));
  return {{"model", panel.model},
          {"context", panel.context},
          {"precision", panel.precision},
          {"routing", panel.routing},
          {"kind", panel.kind},
          {"executor", panel.executor},
          {"machine", panel.machine},
          {"hardware", panel.hardware},
          {"unit", panel.unit},
          {"oversubscribed", panel.oversubscribed},
          {"commits", panel.commits},
          {"points", std::move(dots)},
          {"at_interactivity", to_json(at_interactivity(panel))}};
}

// Three digits, and all of them before the point: 0.0123, 1.20, 12.3, 1234.
std::string number(double value) {
  return value >= 99.95 ? fmt::format("{:.0f}", value) : fmt::format("{:#.3g}", value);
}
// A round number, without zeros behind the point.
std::string round_number(double value) {
  return value >= 99.95 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}
template <class Format>
std::string or_dash(const std::optional<double>& value, const Format& format) {
  return value ? format(*value) : "–";
}
std::string percent(double share) { return number(share * 100) + " %"; }
std::string error(double value) { return fmt::format("{:.1e}", value); }

// A terminal's columns: characters, whatever their bytes; all of ours have width one.
size_t width(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

using Row = std::vector<std::string>;

// Columns as wide as their widest cell; the first `left` ones are words, the others numbers.
std::string table(const std::vector<Row>& rows, size_t left) {
  std::vector<size_t> widths;
  for (const Row& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      if (widths.size() <= i) widths.push_back(0);
      widths[i] = std::max(widths[i], width(row[i]));
    }
  std::string text;
  for (const Row& row : rows) {
    std::string line = " ";
    for (size_t i = 0; i < row.size(); ++i) {
      if (widths[i] == 0) continue;  // a column in which nobody has anything to say
      const std::string gap(widths[i] - width(row[i]), ' ');
      line += i < left ? " " + row[i] + gap + " " : " " + gap + row[i] + " ";
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

// Names come out of files: none may carry a line break or an escape sequence to the terminal.
std::string clean(std::string_view text) { return one_line(text, 60); }

Row row_of(const Dot& dot) {
  return {clean(dot.strategy),
          clean(dot.label),
          clean(dot.options),
          fmt::format("{}", dot.batch),
          fmt::format("{}", dot.ranks),
          number(dot.ttl_us / 1000),
          number(dot.x),
          number(dot.y),
          or_dash(dot.floor_share, percent),
          dot.proof == Proof::simulated ? "simulated" : or_dash(dot.max_rel_err, error)};
}

std::string points_text(const Panel& panel) {
  std::vector<Row> rows = {{"strategy", "layout", panel.dots.empty() ? "" : "options", "batch",
                            "ranks", "TTL ms", "tok/s/user", "tok/s/" + panel.unit, "of floor",
                            "max rel err"}};
  const bool plain = std::ranges::all_of(
      panel.dots, [](const Dot& dot) { return !dot.frontier || dot.options.empty(); });
  if (plain) rows[0][2] = "";
  for (const Dot& dot : panel.dots)
    if (dot.frontier) rows.push_back(row_of(dot));
  if (rows.size() == 1) return "  No point of it may stand on a frontier.\n";
  return table(rows, 3);
}

// How many points there are, and those whose logits were wrong.
std::string count_text(const Panel& panel) {
  const auto count = [&](auto member, auto value) {
    return std::ranges::count_if(panel.dots, [&](const Dot& d) { return d.*member == value; });
  };
  std::string text = fmt::format("  {} of {} points on a frontier", count(&Dot::frontier, true),
                                 panel.dots.size());
  if (const auto n = count(&Dot::proof, Proof::unverified); n > 0)
    text += fmt::format("; {} not verified, on none", n);
  const auto wrong = count(&Dot::proof, Proof::failed);
  if (wrong == 0) return text + "\n";
  text += fmt::format("; {} FAILED verification, on none:\n", wrong);
  std::vector<Row> rows;
  for (const Dot& dot : panel.dots)
    if (dot.proof == Proof::failed && rows.size() < 10) rows.push_back(row_of(dot));
  return text + table(rows, 3);
}

std::string interactivity_text(const Panel& panel) {
  const AtInteractivity at = at_interactivity(panel);
  if (at.levels.empty()) return "";
  std::vector<Row> rows = {{"at tok/s/user ≥"}};
  for (const double level : at.levels) rows[0].push_back(round_number(level));
  for (const auto& [strategy, best] : at.best) {
    Row& row = rows.emplace_back(Row{clean(strategy)});
    for (const std::optional<double>& y : best) row.push_back(or_dash(y, number));
  }
  return fmt::format("\n  tok/s/{} that a strategy's frontier gives\n", panel.unit) +
         table(rows, 1);
}

// A logarithmic axis of some cells.
struct Axis {
  double low = 0, high = 0;
  int cells = 1;

  Axis(double from, double to, int count)
      : low(std::log10(from)), high(std::log10(to)), cells(count) {
    const double margin = std::max(0.03 * (high - low), 0.02);
    low -= margin;
    high += margin;
  }
  int cell(double value) const {
    const int at = static_cast<int>((std::log10(value) - low) / (high - low) * cells);
    return std::clamp(at, 0, cells - 1);
  }
  // Round values that fall on the axis, densely enough that there are two.
  std::vector<double> ticks() const {
    for (const auto& steps :
         {std::vector<double>{1}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9}}) {
      std::vector<double> found;
      for (double exponent = std::floor(low); exponent <= high; ++exponent)
        for (const double step : steps)
          if (const double at = std::log10(step) + exponent; at >= low && at <= high)
            found.push_back(std::pow(10, at));
      if (found.size() >= 3) return found;
    }
    return {std::pow(10, (low + high) / 2)};
  }
};

// A capital for each strategy: of its own letters the first that is free.
std::map<std::string, char> letters_of(const Panel& panel) {
  std::map<std::string, char> letters;
  std::string taken = "O";  // a hollow point
  const auto choose = [&](const std::string& strategy) {
    for (const char c : strategy + "abcdefghijklmnpqrstuvwxyz") {
      const char upper = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : '\0';
      if (upper != '\0' && taken.find(upper) == std::string::npos) return upper;
    }
    return '?';
  };
  for (const Dot& dot : panel.dots)
    if (!letters.contains(dot.strategy)) taken += letters[dot.strategy] = choose(dot.strategy);
  return letters;
}

using Canvas = std::vector<std::string>;

// Hollow points first, so that a frontier hides what lies under it; two frontiers in a cell: '*'.
Canvas draw(const Panel& panel, const Axis& x, const Axis& y,
            const std::map<std::string, char>& letters) {
  Canvas canvas(static_cast<size_t>(y.cells), std::string(static_cast<size_t>(x.cells), ' '));
  for (int layer = 0; layer < 3; ++layer)
    for (const Dot& dot : panel.dots) {
      const bool hollow = dot.proof == Proof::unverified || dot.proof == Proof::failed;
      if (layer != (dot.frontier ? 2 : hollow ? 0 : 1)) continue;
      char& cell = canvas[static_cast<size_t>(y.cells - 1 - y.cell(dot.y))]
                         [static_cast<size_t>(x.cell(dot.x))];
      const char letter = letters.at(dot.strategy);
      const bool crossing = cell >= 'A' && cell <= 'Z' && cell != letter;
      cell = hollow ? 'o' : !dot.frontier ? static_cast<char>(letter - 'A' + 'a') : letter;
      if (dot.frontier && crossing) cell = '*';
    }
  return canvas;
}

std::string x_axis(const Axis& x) {
  std::string ruler(static_cast<size_t>(x.cells) + 10, ' ');
  size_t free = 0;
  for (const double tick : x.ticks()) {
    const std::string text = round_number(tick);
    const auto middle = static_cast<size_t>(x.cell(tick));
    const size_t first = middle - std::min(middle, text.size() / 2);
    if (first < free) continue;
    ruler.replace(first, text.size(), text);
    free = first + text.size() + 2;
  }
  return ruler.substr(0, ruler.find_last_not_of(' ') + 1);
}

std::string plot_text(const Panel& panel) {
  const auto [left, right] = std::ranges::minmax(panel.dots, {}, &Dot::x);
  const auto [bottom, top] = std::ranges::minmax(panel.dots, {}, &Dot::y);
  const Axis x(left.x, right.x, 72);
  const Axis y(bottom.y, top.y, 20);
  const auto letters = letters_of(panel);
  std::vector<std::string> labels(static_cast<size_t>(y.cells));
  for (const double tick : y.ticks())
    labels[static_cast<size_t>(y.cells - 1 - y.cell(tick))] = round_number(tick);
  const Canvas canvas = draw(panel, x, y, letters);
  std::string text = fmt::format("\n  {:>8} tok/s/{}\n", "", panel.unit);
  for (size_t i = 0; i < canvas.size(); ++i)
    text += fmt::format("  {:>8} {}{}\n", labels[i], labels[i].empty() ? "|" : "+",
                        canvas[i].substr(0, canvas[i].find_last_not_of(' ') + 1));
  text += fmt::format("  {:>8} +{}\n  {:>8}  {}  tok/s/user\n ", "", std::string(72, '-'), "",
                      x_axis(x));
  for (const auto& [strategy, letter] : letters)
    text += fmt::format(" {} {}", letter, clean(strategy));
  return text + "   capital: on its frontier, small: not, o: unverified, *: several\n";
}

std::string head_text(const Panel& panel) {
  std::string commits;
  for (const std::string& commit : panel.commits)
    commits += (commits.empty() ? "" : ", ") + clean(commit);
  const std::string& machine = panel.machine.empty() ? panel.hardware : panel.machine;
  std::string text = fmt::format("{}, context {}, {}: {} ({}), {}, commit {}\n", clean(panel.model),
                                 clean(panel.context), clean(panel.precision), panel.kind,
                                 clean(panel.executor), clean(machine), commits);
  if (!panel.routing.empty()) text += "  routing " + clean(panel.routing) + "\n";
  if (panel.oversubscribed) text += "  more ranks than cores: an exactness demo, not performance\n";
  return text;
}

}  // namespace

Json to_json(const Frontier& frontier) {
  Json panels = Json::array();
  for (const Panel& panel : frontier.panels) panels.push_back(to_json(panel));
  Json baseline = Json::array();
  for (const Strategy& strategy : strategies())
    if (strategy.baseline) baseline.push_back(strategy.name);
  return {{"schema", "helix-bench/frontier/1"},
          {"baseline", std::move(baseline)},
          {"notes", frontier.notes},
          {"skipped", frontier.skipped},
          {"failed", frontier.failed},
          {"panels", std::move(panels)}};
}

std::string to_text(const Frontier& frontier) {
  std::string text;
  for (const Panel& panel : frontier.panels)
    text += (text.empty() ? "" : "\n") + head_text(panel) + points_text(panel) + count_text(panel) +
            interactivity_text(panel) + plot_text(panel);
  if (frontier.skipped + frontier.failed > 0)
    text += fmt::format("\n{} points skipped, {} failed; their lines say why\n", frontier.skipped,
                        frontier.failed);
  text += "\ntok/s/user = 1e6 / median TTL in µs; tok/s/GPU and tok/s/rank count output tokens\n";
  return text;
}

}  // namespace helix
