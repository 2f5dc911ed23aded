#include "bench/table.h"

#include <algorithm>

namespace helix {

namespace {

bool is_number(const std::string& cell) {
  const size_t sign = cell.starts_with('-') || cell.starts_with('+') ? 1 : 0;
  return cell.size() > sign && cell[sign] >= '0' && cell[sign] <= '9';
}

}  // namespace

std::string table(const std::vector<Row>& rows) {
  std::vector<size_t> widths(rows.front().size());
  std::vector<char> numbers(widths.size());
  for (const Row& row : rows)
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
      if (i > 0 && is_number(row[i])) numbers[i] = 1;
    }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i > 0 ? "  " : "";
      const std::string pad(widths[i] - row[i].size(), ' ');
      line += numbers[i] ? pad + row[i] : row[i] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace helix
