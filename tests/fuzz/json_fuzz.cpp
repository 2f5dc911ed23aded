// Any bytes are a document that the reader's own rules hold for, or one clear line.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>

#include "base/json.h"

namespace json_fuzz {

using helix::InputError;
using helix::Json;
using helix::Node;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "json_fuzz: %s\n", what);
  std::abort();
}

inline void check_line(std::string_view line) {
  require(line.starts_with("fuzz.json: "), "the message names the file");
  require(line.size() < 20000, "the message is short");
  const auto control = [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; };
  require(std::ranges::none_of(line, control), "the message is one line");
}

// Whether `read` refuses the value; a refusal is checked.
template <typename Read>
bool refuses(Read read) {
  try {
    read();
  } catch (const InputError& error) {
    check_line(error.what());
    return true;
  }
  return false;
}

inline void check_number(const Node& node) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  int64_t integer = 0;
  if (refuses([&] { integer = node.integer(-most - 1, most); })) return;
  require(integer == node.integer(integer, integer), "an integer lies in its own range");
  require(node.number(-infinity, infinity) == static_cast<double>(integer), "8 is 8.0");
  if (integer > -most) require(refuses([&] { node.integer(-most - 1, integer - 1); }), "too large");
}

// A duplicate key would lead to another's value.
inline void check_members(const Node& node) {
  if (!node.is_object()) return;
  for (const auto& [key, value] : node.json().get_ref<const Json::object_t&>()) {
    require(node.has(key), "an object has its keys");
    require(&node[key].json() == &value, "a key leads to its value");
  }
}

// Asks a value for everything, as a reader that expects something else would.
inline void check_value(const Node& node) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  require(refuses([&] { node.text(); }) != node.is_string(), "only strings are text");
  require(refuses([&] { node.boolean(); }) != node.json().is_boolean(),
          "only booleans are boolean");
  require(refuses([&] { node.number(-infinity, infinity); }) != node.is_number(), "numbers");
  require(refuses([&] { node.only({"batch", "kv_heads"}); }) || node.is_object(), "objects");
  require(refuses([&] { node["batch"]; }) || node.has("batch"), "members");
  refuses([&] { node.choice({"helix", "tp", "medha"}); });
  check_number(node);
  check_members(node);
}

inline void walk(const Node& node, const Json& document, int depth) {
  require(depth <= 64 || (!node.is_array() && !node.is_object()), "no deeper than 64");
  check_value(node);
  if (!document.empty() && node.pointer().find("...") == std::string::npos)
    require(&document.at(Json::json_pointer(node.pointer())) == &node.json(), "pointers lead back");
  if (node.is_array() && !refuses([&] { node.items(); }))
    for (const Node& item : node.items()) walk(item, document, depth + 1);
  if (!node.is_object()) return;
  for (const auto& member : node.json().get_ref<const Json::object_t&>())
    walk(node[member.first], document, depth + 1);
}

}  // namespace json_fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace json_fuzz;
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const Node document = helix::parse_json("fuzz.json", text);
    require(Json::accept(text), "what we read is JSON");
    require(text.find('\0') == text.npos, "nlohmann's parser ends at a zero byte, ours does not");
    walk(document, document.json(), 1);
    const std::string dumped = document.json().dump();
    require(helix::parse_json("fuzz.json", dumped).json() == document.json(), "read, write, read");
  } catch (const InputError& error) {
    const std::string_view line = error.what();
    check_line(line);
    const bool ours = line.find("duplicate key") != line.npos || line.find(" deep") != line.npos ||
                      line.find("zero byte") != line.npos;
    require(ours || !Json::accept(text), "JSON is refused for a reason of ours");
  }
  return 0;
}
