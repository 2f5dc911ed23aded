// Tables for the terminal.
#pragma once

#include <string>
#include <vector>

namespace helix {

using Row = std::vector<std::string>;
// Columns as wide as their widest cell; those with numbers are to the right. The first row is the
// header.
std::string table(const std::vector<Row>& rows);

}  // namespace helix
