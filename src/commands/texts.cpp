#include "commands/texts.h"

#include <fmt/format.h>

#include <charconv>

#include "base/error.h"
#include "base/text.h"

namespace helix {

std::pair<int64_t, int64_t> part_of(const std::string& option, const std::string& text) {
  std::pair<int64_t, int64_t> part = {0, 0};
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, part.first);
  if (first.ec == std::errc{} && first.ptr != end && *first.ptr == '/') {
    const auto second = std::from_chars(first.ptr + 1, end, part.second);
    if (second.ec == std::errc{} && second.ptr == end && part.first >= 1 &&
        part.first <= part.second)
      return part;
  }
  throw InputError(fmt::format("{}: {} is not I/N with 1 <= I <= N", option, in_quotes(text)));
}

Resume resume_of(const std::string& text) {
  if (text == "mixed") return Resume::mixed;
  return text == "yes" ? Resume::yes : Resume::no;
}

}  // namespace helix
