#include "schedule/print.h"

#include <fmt/format.h>

#include <algorithm>

namespace helix {

namespace {

std::string_view symbol(Fill fill) {
  switch (fill) {
    case Fill::rows: return "rows";
    case Fill::stage_rows: return "stage rows";
    case Fill::history: return "history";
    case Fill::newest: return "newest";
    case Fill::touched: return "touched";
    case Fill::routed: return "routed";
    case Fill::arrived: return "arrived";
    case Fill::fixed:
    case Fill::absent: break;
  }
  return "";
}

template <class List>
std::string shapes(const Schedule& s, const List& ids) {
  std::string text;
  for (const Id id : ids) (text += text.empty() ? "" : ", ") += shape_of(s[id]);
  return text;
}

using Row = std::vector<std::string>;

Row numbers(const Cost& c) {
  const auto number = [](double value) { return value == 0 ? "0" : fmt::format("{:.4g}", value); };
  return {number(c.early / 1e6), number(c.late / 1e6), number(c.flops / 1e9), number(c.messages),
          number(c.sent / 1e3)};
}

Row row_of(const Schedule& s, const Task& task, const Cost& c) {
  Row row = {task.lane == Lane::compute ? "compute" : "exchange",
             task.chunk == all_chunks ? "all" : std::to_string(task.chunk), std::string(task.name)};
  for (std::string& text : numbers(c)) row.push_back(std::move(text));
  row.push_back(shapes(s, task.reads) + " -> " + shapes(s, task.writes));
  return row;
}

std::string title(const Segment& g) {
  if (g.kind == "prologue" || g.kind == "epilogue") return fmt::format("{}\n", g.kind);
  return fmt::format("{}: {} layers from layer {}; one of them\n", g.kind, g.layers, g.first_layer);
}

// Words to the left, the five columns of numbers to the right, shapes last.
std::string line_of(const Row& row, const std::vector<size_t>& widths) {
  std::string line;
  for (size_t i = 0; i + 1 < row.size(); ++i)
    line += i < 3 ? fmt::format("{:<{}}  ", row[i], widths[i])
                  : fmt::format("{:>{}}  ", row[i], widths[i]);
  return line + row.back() + "\n";
}

}  // namespace

std::string shape_of(const Tensor& tensor) {
  std::string text;
  for (const Dim& d : tensor.dims) {
    if (d.fill == Fill::absent) continue;
    if (!text.empty()) text += ", ";
    text += d.fill == Fill::fixed ? std::to_string(d.mine.count) : std::string(symbol(d.fill));
  }
  return fmt::format("{}[{}]", tensor.name, text);
}

std::string print_schedule(const Schedule& s, const StepState& state) {
  const Row head = {"lane",         "chunk",    "task",      "early [MB]",     "late [MB]",
                    "work [GFLOP]", "messages", "sent [kB]", "reads -> writes"};
  std::vector<std::vector<Row>> tables;
  for (const Segment& g : s.segments) {
    Cost sum;
    std::vector<Row>& rows = tables.emplace_back();
    for (int i = g.begin; i < g.end; ++i) {
      const Task& task = s.tasks[static_cast<size_t>(i)];
      const Cost c = cost(s, task, state);
      sum += c;
      rows.push_back(row_of(s, task, c));
    }
    Row last = {"", "", "together"};
    for (std::string& text : numbers(sum)) last.push_back(std::move(text));
    last.emplace_back();
    rows.push_back(last);
  }
  std::vector<size_t> widths(head.size());
  for (size_t i = 0; i < head.size(); ++i) widths[i] = head[i].size();
  for (const auto& rows : tables)
    for (const Row& row : rows)
      for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (size_t g = 0; g < tables.size(); ++g) {
    text += (g > 0 ? "\n" : "") + title(s.segments[g]) + line_of(head, widths);
    for (const Row& row : tables[g]) text += line_of(row, widths);
  }
  return text;
}

}  // namespace helix
