#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace helix {

namespace {

struct Character {
  uint32_t code;
  size_t bytes;  // 0: ill-formed
};

bool continues(char byte) { return (static_cast<uint8_t>(byte) & 0xc0) == 0x80; }

// The UTF-8 character at the start of `text`; not empty.
Character decode(std::string_view text) {
  static constexpr uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const auto lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc0 || lead >= 0xf8 || text.size() < bytes) return {lead, 0};
  uint32_t code = lead & (0x7fU >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if (!continues(text[i])) return {lead, 0};
    code = code << 6 | (static_cast<uint8_t>(text[i]) & 0x3fU);
  }
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  if (code < smallest[bytes] || code > 0x10ffff || surrogate) return {lead, 0};
  return {code, bytes};
}

// Breaks a line, moves the cursor, turns the direction of the text or cannot be seen.
bool hidden(uint32_t code) {
  static constexpr uint32_t ranges[][2] = {{0, 0x1f},        {0x7f, 0x9f},      {0xad, 0xad},
                                           {0x61c, 0x61c},   {0x200b, 0x200f},  {0x2028, 0x202e},
                                           {0x2060, 0x206f}, {0xfeff, 0xfeff},  {0xfff9, 0xfffb},
                                           {0xfffe, 0xffff}, {0xe0000, 0xe0fff}};
  return std::ranges::any_of(ranges, [&](auto& r) { return r[0] <= code && code <= r[1]; });
}

std::string escape(std::string_view text, bool quotes) {
  std::string out;
  while (!text.empty()) {
    const Character c = decode(text);
    if (c.bytes == 0) {
      out += fmt::format("\\x{:02x}", c.code);
    } else if (c.code == '\n' || c.code == '\r' || c.code == '\t') {
      out += c.code == '\n' ? "\\n" : c.code == '\r' ? "\\r" : "\\t";
    } else if (hidden(c.code)) {
      out += c.code > 0xffff ? fmt::format("\\U{:08x}", c.code) : fmt::format("\\u{:04x}", c.code);
    } else {
      if (quotes && (c.code == '"' || c.code == '\\')) out += '\\';
      out += text.substr(0, c.bytes);
    }
    text.remove_prefix(std::max<size_t>(c.bytes, 1));
  }
  return out;
}

// Both ends of a long text; a character is not cut.
std::string shorten(std::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t head = limit * 2 / 3;
  size_t tail = text.size() - (limit - head);
  for (int i = 0; i < 3 && head > 0 && continues(text[head]); ++i) --head;
  for (int i = 0; i < 3 && tail < text.size() && continues(text[tail]); ++i) ++tail;
  return fmt::format("{}...{}", text.substr(0, head), text.substr(tail));
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Edits between two words (optimal string alignment).
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1);
  std::vector<size_t> above(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const auto same = [&](size_t x, size_t y) { return lower(a[x - 1]) == lower(b[y - 1]); };
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (same(i, j) ? 0 : 1)});
      if (i > 1 && j > 1 && same(i, j - 1) && same(i - 1, j))
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(above);
    above.swap(row);
  }
  return above[b.size()];
}

}  // namespace

std::string one_line(std::string_view text, size_t limit) {
  return escape(shorten(text, limit), false);
}

std::string in_quotes(std::string_view text, size_t limit) {
  return '"' + escape(shorten(text, limit), true) + '"';
}

std::string listed(std::span<const std::string_view> words) {
  constexpr size_t shown = 40;
  std::string out;
  for (const std::string_view word : words.first(std::min(words.size(), shown)))
    out += (out.empty() ? "" : ", ") + in_quotes(word);
  if (words.size() > shown) out += fmt::format(" and {} more", words.size() - shown);
  return out;
}

std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
  std::string_view best;
  // What begins a candidate is short for it: "gb200" is "gb200-nvl72", not "b200".
  constexpr size_t shortest = 3;
  for (const std::string_view candidate : candidates)
    if (word.size() >= shortest && word.size() <= candidate.size() &&
        distance(word, candidate.substr(0, word.size())) == 0 &&
        (best.empty() || candidate.size() < best.size()))
      best = candidate;
  if (!best.empty()) return best;
  const size_t limit = std::max<size_t>(2, word.size() / 3);
  size_t least = limit + 1;
  for (const std::string_view candidate : candidates) {
    const auto [shorter, longer] = std::minmax({word.size(), candidate.size()});
    // Long words are told apart by their length, so that a hostile one costs nothing.
    if (longer - shorter > limit) continue;
    const size_t edits = distance(word, candidate);
    if (edits >= least || edits >= longer) continue;
    least = edits;
    best = candidate;
  }
  return best;
}

}  // namespace helix
