#include "base/text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace helix {
namespace {

constexpr int rounds = 500;

struct Draw {
  std::mt19937_64 engine;
  size_t below(size_t end) { return static_cast<size_t>(engine() % end); }
  bool one_in(size_t n) { return below(n) == 0; }
};

void expect_one_line(const std::string& text) {
  EXPECT_TRUE(std::ranges::none_of(text, [](char c) { return c >= 0 && c < 0x20; })) << text;
  EXPECT_NO_THROW(static_cast<void>(nlohmann::json(text).dump())) << "not UTF-8";
}

TEST(Errors, AreOneLine) {
  EXPECT_EQ(std::string(InputError("a\n.json", "/b\r", "c\x1b[2J").what()),
            "a\\n.json: /b\\r: c\\u001b[2J");
  EXPECT_EQ(std::string(InputError("a.json", "", "no").what()), "a.json: no");
  EXPECT_LT(std::string(InputError(std::string(1 << 20, '\xff')).what()).size(), 20000U);
  errno = ENOSPC;
  EXPECT_THROW(
      try { throw_errno("cannot write a.jsonl"); } catch (const RunError& error) {
        EXPECT_STREQ(error.what(), "cannot write a.jsonl: No space left on device");
        throw;
      },
      RunError);
}

TEST(Text, IsOneShortLine) {
  Draw draw{std::mt19937_64(7)};
  for (int i = 0; i < rounds; ++i) {
    std::string text;
    for (size_t n = draw.below(200); n > 0; --n)
      text += draw.one_in(3) ? "\u00e9" : std::string(1, static_cast<char>(draw.engine()));
    const size_t limit = 3 + draw.below(100);
    expect_one_line(one_line(text, limit));
    expect_one_line(in_quotes(text, limit));
    EXPECT_LE(one_line(text, limit).size(), 6 * limit + 3);
    const std::string once = one_line(text, text.size());
    EXPECT_EQ(one_line(once, once.size()), once);
  }
  EXPECT_EQ(one_line("caf\u00e9 \u202e\U000e0001\x7f\xc0\x80"),
            "caf\u00e9 \\u202e\\U000e0001\\u007f\\xc0\\x80");
  EXPECT_EQ(in_quotes("a\"\\b"), R"("a\"\\b")");
  EXPECT_EQ(one_line("\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9", 6), "\u00e9\u00e9...\u00e9");
}

TEST(Text, ListsAreCut) {
  const std::vector<std::string_view> words(50, "a");
  EXPECT_TRUE(listed(words).ends_with("\"a\" and 10 more"));
  EXPECT_EQ(listed(std::span(words).first(2)), "\"a\", \"a\"");
}

std::string one_edit(std::string text, Draw& draw) {
  const size_t at = draw.below(text.size());
  const char letter = static_cast<char>('a' + draw.below(26));
  switch (draw.below(4)) {
    case 0: return text.erase(at, 1);
    case 1: return text.insert(at, 1, letter);
    case 2: text[at] = letter; return text;
    default: std::swap(text[at], text[at == 0 ? 1 : at - 1]); return text;
  }
}

TEST(Text, NearestFindsASlip) {
  const std::vector<std::string_view> keys = {"strategy",  "ranks",    "batch", "context",
                                              "precision", "interval", "steps", "warmup"};
  Draw draw{std::mt19937_64(8)};
  for (int i = 0; i < rounds; ++i) {
    const std::string_view key = keys[draw.below(keys.size())];
    EXPECT_EQ(nearest(key, keys), key);
    EXPECT_EQ(nearest(one_edit(std::string(key), draw), keys), key);
  }
  EXPECT_EQ(nearest("BATCH", keys), "batch");
  const std::vector<std::string_view> machines = {"b200", "gb200-nvl72", "h100-sxm", "h200-sxm"};
  EXPECT_EQ(nearest("gb200", machines), "gb200-nvl72");
  EXPECT_EQ(nearest("H100", machines), "h100-sxm");
  EXPECT_EQ(nearest("b200x", machines), "b200");
  EXPECT_EQ(nearest("temperature", keys), "");
  EXPECT_EQ(nearest("pp", {{"x", "dp"}}), "dp");
  EXPECT_EQ(nearest("x", {{"dp"}}), "");
  EXPECT_EQ(nearest(std::string(1 << 20, 'a'), keys), "");
  EXPECT_EQ(nearest("batch", {}), "");
}

}  // namespace
}  // namespace helix
