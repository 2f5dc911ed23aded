// Text for messages: whatever a file holds, a message stays one readable line.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace helix {

// `text` without line breaks: control, invisible and ill-formed characters are escaped (\n, \u202e,
// \xff), and what is longer than `limit` bytes loses its middle.
std::string one_line(std::string_view text, size_t limit = 2000);

// The same in double quotes, with quotes and backslashes escaped as JSON does.
std::string in_quotes(std::string_view text, size_t limit = 60);

// `"a", "b", "c"`; of a long list the first ones and how many more there are.
std::string listed(std::span<const std::string_view> words);

// The candidate with the smallest edit distance to `word` (a swap of neighbours is one edit, case
// is none); empty when none is near (over a third of its length, at least 2).
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace helix
