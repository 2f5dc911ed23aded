#include "base/json.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace helix {
namespace {

namespace fs = std::filesystem;

constexpr int rounds = 500;
constexpr int64_t most = std::numeric_limits<int64_t>::max();

struct Draw {
  std::mt19937_64 engine;
  size_t below(size_t end) { return static_cast<size_t>(engine() % end); }
  bool one_in(size_t n) { return below(n) == 0; }
};

std::string word(Draw& draw) {
  static constexpr std::string_view letters[] = {"a", "b", "c", "d",  "e", "f",      "g",
                                                 "h", "~", "/", "\"", " ", "\u00e9", "\\"};
  std::string text;
  for (size_t i = draw.below(8); i > 0; --i) text += letters[draw.below(std::size(letters))];
  return text;
}

Json scalar(Draw& draw) {
  switch (draw.below(6)) {
    case 0: return nullptr;
    case 1: return draw.one_in(2);
    case 2: return static_cast<int64_t>(draw.engine());
    case 3: return static_cast<uint64_t>(draw.engine());
    case 4:
      return std::ldexp(static_cast<double>(draw.engine()), static_cast<int>(draw.below(200)) - 99);
    default: return word(draw);
  }
}

Json value(Draw& draw, int depth) {
  if (depth == 0 || draw.one_in(3)) return scalar(draw);
  Json container = draw.one_in(2) ? Json::array() : Json::object();
  for (size_t i = draw.below(5); i > 0; --i)
    if (container.is_array()) container.push_back(value(draw, depth - 1));
    else container[word(draw)] = value(draw, depth - 1);
  return container;
}

template <typename Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

std::string refusal_of(std::string_view text) {
  return refusal([&] { parse_json("a.json", text); });
}

void expect_one_line(const std::string& text) {
  EXPECT_TRUE(std::ranges::none_of(text, [](char c) { return c >= 0 && c < 0x20; })) << text;
  EXPECT_NO_THROW(static_cast<void>(Json(text).dump())) << "not UTF-8";
}

TEST(Json, ReadsWhatIsWritten) {
  Draw draw{std::mt19937_64(1)};
  for (int i = 0; i < rounds; ++i) {
    const Json written = value(draw, 5);
    EXPECT_EQ(parse_json("a.json", written.dump(draw.one_in(2) ? -1 : 2)).json(), written);
  }
}

void expect_pointers(const Node& node, const Json& root) {
  EXPECT_EQ(&root.at(Json::json_pointer(node.pointer())), &node.json());
  if (node.is_array() && !node.json().empty())
    for (const Node& item : node.items()) expect_pointers(item, root);
  if (node.is_object())
    for (const auto& [key, child] : node.json().items()) expect_pointers(node[key], root);
}

TEST(Json, PointersLeadBack) {
  Draw draw{std::mt19937_64(2)};
  for (int i = 0; i < rounds; ++i) {
    const Node node = parse_json("a.json", value(draw, 5).dump());
    expect_pointers(node, node.json());
  }
}

TEST(Json, NodesKeepTheDocument) {
  const Node inner = parse_json("a.json", R"({"a": [{"b": 3}]})")["a"].items()[0]["b"];
  EXPECT_EQ(inner.integer(0, 9), 3);
  EXPECT_EQ(inner.pointer(), "/a/0/b");
}

// Where a stray character is a token of its own: not in a string, not behind a word.
std::vector<size_t> gaps(std::string_view text) {
  std::vector<size_t> places;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool quote = text[i] == '"';
    const bool behind_word = i > 0 && std::isalpha(static_cast<unsigned char>(text[i - 1]));
    if (!in_string && !behind_word &&
        (quote || std::string_view("[]{},:").find(text[i]) != text.npos))
      places.push_back(i);
    if (in_string && text[i] == '\\') ++i;
    if (quote) in_string = !in_string;
  }
  return places;
}

TEST(Json, SaysLineAndColumn) {
  Draw draw{std::mt19937_64(3)};
  for (int i = 0; i < rounds; ++i) {
    std::string text = Json::array({value(draw, 5)}).dump(2);
    const std::vector<size_t> places = gaps(text);
    const size_t at = places[draw.below(places.size())];
    text.insert(at, "@");
    const std::string before = text.substr(0, at);
    const size_t line = 1 + std::ranges::count(before, '\n');
    const std::string row = before.substr(before.rfind('\n') + 1);
    const size_t column = 1 + std::ranges::count_if(row, [](char c) { return (c & 0xc0) != 0x80; });
    const std::string where = "a.json: line " + std::to_string(line) + ", column ";
    EXPECT_TRUE(refusal_of(text).starts_with(where + std::to_string(column) + ": \"@"))
        << refusal_of(text) << '\n'
        << text;
  }
}

TEST(Json, SyntaxErrors) {
  const std::pair<std::string_view, std::string> cases[] = {
      {"", "line 1, column 1: unexpected end of input; expected '[', '{', or a literal"},
      {"{\n  \"a\": tru]", "line 2, column 8: \"tru\" is not JSON"},
      {"{\"a\":1,}", "line 1, column 8: unexpected '}'; expected string literal"},
      {"{\"a\" \"b\"}", "line 1, column 6: unexpected string literal; expected ':'"},
      {"[1 22]", "line 1, column 4: unexpected number literal; expected ',' or ']'"},
      {"[1, truefalse]", "line 1, column 5: unexpected false literal; expected ',' or ']'"},
      {"[\"\u00e9\", \"abc", "line 1, column 7: invalid string: missing closing quote"},
      {"{} // no", "line 1, column 4: \"//\" is not JSON"},
      {"\xef\xbb\xbf[NaN]", "line 1, column 2: \"NaN\" is not JSON"},
      {"[\"\xff\"]", "line 1, column 3: invalid string: ill-formed UTF-8 byte"},
      {"[\n1e999]", "line 2, column 1: number 1e999 overflows"},
      {std::string_view("{}\0[", 4), "line 1, column 3: a zero byte in the text"},
  };
  for (const auto& [text, message] : cases) EXPECT_EQ(refusal_of(text), "a.json: " + message);
}

TEST(Json, DuplicateKeysAreFound) {
  Draw draw{std::mt19937_64(4)};
  for (int i = 0; i < rounds; ++i) {
    const std::string key = word(draw);
    const std::string quoted_key = Json(key).dump();
    const std::string text = fmt::format("[0, {{{0}: {1}, \"other key\": 1,\n{0}: 2}}]", quoted_key,
                                         value(draw, 3).dump());
    const std::string message = refusal_of(text);
    EXPECT_NE(message.find("duplicate key " + quoted_key + " (line 2, column 1)"), message.npos)
        << message << '\n'
        << text;
    EXPECT_TRUE(message.starts_with("a.json: /1/")) << message;
  }
  EXPECT_EQ(refusal_of(R"({"a/b": [{}, {"c": 1, "c": 2}]})"),
            "a.json: /a~1b/1/c: duplicate key \"c\" (line 1, column 23)");
}

TEST(Json, NestingEndsAt64) {
  const auto nested = [](std::string_view open, std::string_view close, int levels) {
    std::string text = "[";
    for (int i = 1; i < levels; ++i) text += open;
    text += "0";
    for (int i = 1; i < levels; ++i) text += close;
    return text + "]";
  };
  for (const auto& [open, close] : {std::pair("[", "]"), std::pair("{\"a\":", "}")}) {
    EXPECT_EQ(refusal_of(nested(open, close, 64)), "accepted");
    EXPECT_TRUE(refusal_of(nested(open, close, 65)).ends_with(": nested over 64 levels deep"));
  }
  EXPECT_EQ(refusal_of(std::string(1 << 20, '[')),
            "a.json: line 1, column 65: nested over 64 levels deep");
}

TEST(Json, ManyKeysTakeNoTime) {
  std::string text = "{";
  for (int i = 0; i < 300'000; ++i) text += "\"" + std::to_string(i) + "\":0,";
  const std::string accepted = text + "\"batches\":0}";
  const Node node = parse_json("a.json", accepted);
  EXPECT_EQ(refusal([&] {
              node.only({"0", "batch"});
            }),
            "a.json: /1: unknown key \"1\", known are \"0\", \"batch\"");
  EXPECT_LT(refusal([&] { node["batch"]; }).size(), 1000U);
}

TEST(Json, BrokenBytesGiveOneLine) {
  Draw draw{std::mt19937_64(5)};
  for (int i = 0; i < rounds; ++i) {
    std::string text = value(draw, 5).dump(1);
    for (size_t n = 1 + draw.below(4); n > 0; --n)
      text[draw.below(text.size())] =
          static_cast<char>(draw.one_in(2) ? draw.below(256) : "[]{},:\"\\0"[draw.below(9)]);
    const std::string message = refusal_of(text);
    expect_one_line(message);
    if (Json::accept(text)) continue;
    EXPECT_TRUE(message.starts_with("a.json: ")) << message;
  }
}

TEST(Json, Integers) {
  const auto read = [](const std::string& text, int64_t low = -most - 1, int64_t high = most) {
    return parse_json("a.json", text).integer(low, high);
  };
  EXPECT_EQ(read("8.0"), 8);
  EXPECT_EQ(read("1e6"), 1000000);
  EXPECT_EQ(read("-0.0"), 0);
  EXPECT_EQ(read("-9223372036854775808"), -most - 1);
  EXPECT_EQ(read("9223372036854775807"), most);
  for (const std::string text : {"8.5", "9223372036854775808", "18446744073709551616", "1e300",
                                 "-9223372036854775809e1", "\"8\"", "null", "true", "[]", "{}"})
    EXPECT_TRUE(refusal([&] { read(text); }).ends_with("allowed are integers")) << text;
  EXPECT_EQ(refusal([&] { read("0", 1, 65536); }),
            "a.json: found 0, allowed are integers from 1 to 65536");
  EXPECT_EQ(refusal([&] { read("0", 1); }), "a.json: found 0, allowed are integers from 1");
  EXPECT_EQ(refusal([&] { read("9", -most - 1, 8); }),
            "a.json: found 9, allowed are integers up to 8");
}

TEST(Json, IntegersKeepTheirRange) {
  Draw draw{std::mt19937_64(6)};
  for (int i = 0; i < rounds; ++i) {
    const int64_t number = static_cast<int64_t>(draw.engine()) >> draw.below(63);
    int64_t low = static_cast<int64_t>(draw.engine()) >> draw.below(63);
    int64_t high = static_cast<int64_t>(draw.engine()) >> draw.below(63);
    if (low > high) std::swap(low, high);
    const Node node = parse_json("a.json", std::to_string(number));
    const bool accepted =
        refusal([&] { EXPECT_EQ(node.integer(low, high), number); }) == "accepted";
    EXPECT_EQ(accepted, low <= number && number <= high);
  }
}

TEST(Json, Numbers) {
  const Node node = parse_json("a.json", R"([1, 0.25, "1", -1e-3])");
  const std::vector<Node> items = node.items();
  EXPECT_EQ(items[0].number(0, 1), 1);
  EXPECT_EQ(items[1].number(0, 1), 0.25);
  EXPECT_EQ(refusal([&] { items[2].number(0, 1); }),
            "a.json: /2: found \"1\", allowed are numbers from 0 to 1");
  EXPECT_EQ(refusal([&] { items[3].number(0.5, 1e6); }),
            "a.json: /3: found -0.001, allowed are numbers from 0.5 to 1000000");
}

TEST(Json, KeysAndChoices) {
  const Node node =
      parse_json("a.json", R"({"batches": 8, "s": "Helx", "e": [], "o": {"hop-b": 1}})");
  EXPECT_EQ(refusal([&] {
              node.only({"batch", "s", "e", "o"});
            }),
            "a.json: /batches: unknown key \"batches\", did you mean \"batch\"?");
  EXPECT_EQ(refusal([&] {
              node["o"].only({"hop_b", "pp"});
            }),
            "a.json: /o/hop-b: unknown key \"hop-b\", did you mean \"hop_b\"?");
  EXPECT_EQ(refusal([&] { node["o"]["ranks"]; }),
            "a.json: /o: key \"ranks\" is missing, found are \"hop-b\"");
  EXPECT_EQ(refusal([&] {
              node["s"].choice({"tp", "helix"});
            }),
            "a.json: /s: found \"Helx\", allowed are \"tp\", \"helix\"; did you mean \"helix\"?");
  EXPECT_EQ(refusal([&] { node["batches"].choice({"tp"}); }),
            "a.json: /batches: found 8, allowed is \"tp\"");
  EXPECT_EQ(refusal([&] { node["e"].items(); }),
            "a.json: /e: found an empty list, allowed are one value or more");
  EXPECT_EQ(refusal([&] { node["s"].has("a"); }),
            "a.json: /s: found \"Helx\", allowed is an object");
  EXPECT_EQ(refusal([&] { node["o"].text(); }), "a.json: /o: found an object, allowed is a string");
  EXPECT_EQ(refusal([&] { node["s"].boolean(); }),
            "a.json: /s: found \"Helx\", allowed are true and false");
  EXPECT_EQ(node["s"].choice({"tp", "Helx"}), 1U);
  EXPECT_EQ(node["batches"].items().size(), 1U);
  EXPECT_EQ(node["o"].items()[0].pointer(), "/o");
}

class Files : public testing::Test {
 protected:
  Files() : folder_(testing::TempDir() + "helix_json_" + std::to_string(getpid())) {
    fs::create_directories(folder_);
  }
  ~Files() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  static std::string refused(const std::string& path) {
    return refusal([&] { read_json(path); });
  }

 private:
  fs::path folder_;
};

TEST_F(Files, AreReadWhole) {
  std::ofstream(path("a.json")) << "[" << std::string(200'000, ' ') << "7]";
  EXPECT_EQ(read_json(path("a.json")).items()[0].integer(0, 9), 7);
  EXPECT_EQ(read_json(path("a.json")).file(), path("a.json"));
}

TEST_F(Files, AreRefused) {
  const std::string no = ": cannot be read: ";
  EXPECT_EQ(refused(path("missing")), path("missing") + no + "No such file or directory");
  EXPECT_EQ(refused(path(".")), path(".") + no + "Is a directory");
  EXPECT_EQ(refused("/dev/zero"), "/dev/zero: has over 16 MiB, allowed are 16 MiB");
  EXPECT_EQ(refused(std::string("a\0b", 3)), "a\\u0000b: no path has a zero byte");
  EXPECT_NE(refused(path("a\nb")).find("a\\nb: cannot be read"), std::string::npos);
  std::ofstream(path("big.json")) << "{}";
  fs::resize_file(path("big.json"), 100 << 20);
  EXPECT_EQ(refused(path("big.json")), path("big.json") + ": has 100.0 MiB, allowed are 16 MiB");
  EXPECT_EQ(refused("/proc/self/mem"), "/proc/self/mem" + no + "Input/output error");
  if (geteuid() == 0) return;  // root reads every file
  std::ofstream(path("closed.json")) << "{}";
  chmod(path("closed.json").c_str(), 0);
  EXPECT_EQ(refused(path("closed.json")), path("closed.json") + no + "Permission denied");
}

}  // namespace
}  // namespace helix
