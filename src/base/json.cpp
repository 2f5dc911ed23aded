#include "base/json.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

namespace helix {

namespace {

constexpr size_t deepest = 64;
constexpr size_t largest = size_t{16} << 20;

// One step of a JSON pointer (RFC 6901). A long key is shortened, so that the pointers of a million
// values below it cost little.
std::string pointer_step(std::string_view key) {
  std::string step = "/";
  const auto escape = [&](std::string_view part) {
    for (const char c : part) step += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  };
  if (key.size() <= 200) {
    escape(key);
  } else {
    escape(key.substr(0, 100));
    step += "...";
  }
  return step;
}

// "line 3, column 7" of a byte, counted from 1; columns are characters.
std::string line_and_column(std::string_view text, size_t at) {
  if (text.starts_with("\xef\xbb\xbf") && at >= 3) {
    text.remove_prefix(3);
    at -= 3;
  }
  size_t line = 1;
  size_t column = 1;
  for (const char c : text.substr(0, at)) {
    if (c == '\n') ++line;
    column = c == '\n' ? 1 : column + ((static_cast<uint8_t>(c) & 0xc0) != 0x80);
  }
  return fmt::format("line {}, column {}", line, column);
}

// Hands out the text and says how far it was read.
struct Cursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** read;

  reference operator*() const { return *at; }
  Cursor& operator++() {
    *read = ++at;
    return *this;
  }
  Cursor operator++(int) {
    const Cursor old = *this;
    ++*this;
    return old;
  }
  bool operator==(const Cursor& other) const { return at == other.at; }
  bool operator!=(const Cursor& other) const { return at != other.at; }
};

// Builds the document from the parser's events, and refuses what the parser would let pass.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view file, std::string_view text)
      : file_(file), text_(text), read_(text.data()) {}

  Json build() {
    const char* end = text_.data() + text_.size();
    if (const size_t zero = text_.find('\0'); zero != std::string_view::npos)
      fail(zero, "a zero byte in the text");
    Json::sax_parse(Cursor{text_.data(), &read_}, Cursor{end, &read_}, this);
    return std::move(root_);
  }

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(int64_t value) override { return add(value) != nullptr; }
  bool number_unsigned(uint64_t value) override { return add(value) != nullptr; }
  bool number_float(double value, const std::string&) override { return add(value) != nullptr; }
  bool string(std::string& value) override { return add(std::move(value)) != nullptr; }
  bool binary(Json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override;
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) override;

 private:
  struct Open {
    Json* value;
    std::set<std::string, std::less<>> keys;
  };

  Json* add(Json value);
  bool open(Json value);
  bool close() {
    open_.pop_back();
    return true;
  }
  // Where the reader stands: each container's newest element.
  std::string pointer() const;
  size_t word_start(size_t at) const;
  [[noreturn]] void fail(size_t at, const std::string& text) const {
    throw InputError(file_, line_and_column(text_, at), text);
  }

  std::string_view file_;
  std::string_view text_;
  const char* read_;
  Json root_;
  std::vector<Open> open_;
};

Json* Builder::add(Json value) {
  if (open_.empty()) {
    root_ = std::move(value);
    return &root_;
  }
  Json& container = *open_.back().value;
  if (container.is_array()) {
    container.push_back(std::move(value));
    return &container.back();
  }
  Json& member = container.get_ref<Json::object_t&>().back().second;
  member = std::move(value);
  return &member;
}

bool Builder::open(Json value) {
  if (open_.size() == deepest)
    fail(static_cast<size_t>(read_ - text_.data()) - 1,
         fmt::format("nested over {} levels deep", deepest));
  open_.push_back({add(std::move(value)), {}});
  return true;
}

// Appends without looking for the key among the others, which ordered_map would do one by one.
bool Builder::key(std::string& name) {
  Open& object = open_.back();
  const bool added = object.keys.insert(name).second;
  object.value->get_ref<Json::object_t&>().emplace_back(name, nullptr);
  if (added) return true;
  size_t quote = static_cast<size_t>(read_ - text_.data()) - 2;
  const auto escaped = [&] {
    size_t backslashes = 0;
    while (text_[quote - 1 - backslashes] == '\\') ++backslashes;
    return backslashes % 2 == 1;
  };
  while (text_[quote] != '"' || escaped()) --quote;
  throw InputError(
      file_, pointer(),
      fmt::format("duplicate key {} ({})", in_quotes(name), line_and_column(text_, quote)));
}

std::string Builder::pointer() const {
  std::string path;
  for (const Open& container : open_) {
    const Json& value = *container.value;
    path += value.is_array() ? fmt::format("/{}", value.size() - 1)
                             : pointer_step(value.get_ref<const Json::object_t&>().back().first);
  }
  return path;
}

size_t Builder::word_start(size_t at) const {
  while (at > 0 && std::isalpha(static_cast<uint8_t>(text_[at - 1]))) --at;
  return at;
}

// The parser stands behind the token it did not expect, or behind the byte that broke a token; the
// message says where the token begins. A token with a control character never gets so far.
bool Builder::parse_error(size_t position, const std::string& token,
                          const nlohmann::detail::exception& error) {
  if (dynamic_cast<const nlohmann::detail::out_of_range*>(&error) != nullptr)
    fail(position - token.size(), fmt::format("number {} overflows", one_line(token, 40)));
  const std::string_view what = error.what();
  std::string_view reason = what.substr(what.find(" - ") + 3);
  reason = reason.substr(0, reason.find("; last read: "));
  const auto is = [&](std::string_view words) { return reason.starts_with(words); };

  size_t at = std::min(position - 1, text_.size());
  if (is("unexpected string") || is("unexpected number")) at = position - token.size();
  if (is("invalid string: missing closing")) at -= token.size();
  if (is("unexpected true") || is("unexpected false") || is("unexpected null")) at = word_start(at);
  if (reason.ends_with("expected ']'") || reason.ends_with("expected '}'"))
    fail(at, fmt::format("{}',' or {}", reason.substr(0, reason.size() - 3),
                         reason.substr(reason.size() - 3)));
  if (!is("invalid literal")) fail(at, std::string(reason));
  at = word_start(at);
  const size_t end = std::min(text_.size(), text_.find_first_of(" \t\r\n,:[]{}\"", at + 1));
  fail(at, fmt::format("{} is not JSON", in_quotes(text_.substr(at, end - at), 30)));
}

std::string describe(const Json& value) {
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  if (value.is_object()) return "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  return value.dump();
}

std::string shown(double value) {
  std::string text = fmt::format("{}", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

// "integers from 1 to 8", without the ends that are no limits.
template <typename Number>
std::string range(const std::string& kind, Number low, Number high) {
  using Limits = std::numeric_limits<Number>;
  const auto show = [](Number value) {
    if constexpr (std::is_floating_point_v<Number>) return shown(value);
    return fmt::format("{}", value);
  };
  const bool floor =
      low != Limits::lowest() && (!Limits::has_infinity || low != -Limits::infinity());
  const bool ceiling =
      high != Limits::max() && (!Limits::has_infinity || high != Limits::infinity());
  std::string text = kind;
  if (floor) text += " from " + show(low);
  if (ceiling) text += (floor ? " to " : " up to ") + show(high);
  return text;
}

// The integer that a number is, if it is one and fits.
std::optional<int64_t> exact_integer(const Json& value) {
  constexpr double end = 0x1p63;
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (number != std::trunc(number) || number < -end || number >= end) return std::nullopt;
  return static_cast<int64_t>(number);
}

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

[[noreturn]] void fail_to_read(const std::string& path, int code) {
  throw InputError(path, "", "cannot be read: " + std::generic_category().message(code));
}

[[noreturn]] void refuse_size(const std::string& path, const std::string& size) {
  throw InputError(path, "", fmt::format("{}, allowed are 16 MiB", size));
}

std::string read_text(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw InputError(path, "", "no path has a zero byte");
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  struct stat status {};
  if (!file || fstat(fileno(file.get()), &status) != 0) fail_to_read(path, errno);
  if (S_ISDIR(status.st_mode)) fail_to_read(path, EISDIR);
  if (S_ISREG(status.st_mode) && static_cast<uint64_t>(status.st_size) > largest)
    refuse_size(path, fmt::format("has {:.1f} MiB", static_cast<double>(status.st_size) / 0x1p20));
  std::string text;
  char block[1 << 16];
  while (const size_t bytes = std::fread(block, 1, sizeof block, file.get())) {
    text.append(block, bytes);
    if (text.size() > largest) refuse_size(path, "has over 16 MiB");
  }
  if (std::ferror(file.get())) fail_to_read(path, errno);
  return text;
}

}  // namespace

void Node::fail(const std::string& text) const { throw InputError(*file_, pointer_, text); }

Node Node::child(const Json& value, const std::string& step) const {
  return {document_, &value, file_, pointer_ + pointer_step(step)};
}

void Node::refuse(std::string_view allowed) const {
  fail(fmt::format("found {}, allowed {}", describe(*value_), allowed));
}

bool Node::has(std::string_view key) const {
  if (!is_object()) refuse("is an object");
  const auto& members = value_->get_ref<const Json::object_t&>();
  return std::ranges::any_of(members, [&](const auto& member) { return member.first == key; });
}

Node Node::operator[](std::string_view key) const {
  if (!is_object()) refuse("is an object");
  const auto& members = value_->get_ref<const Json::object_t&>();
  for (const auto& [name, value] : members)
    if (name == key) return child(value, name);
  std::vector<std::string_view> names;
  for (const auto& member : members) names.push_back(member.first);
  fail(fmt::format("key {} is missing, found {}", in_quotes(key),
                   names.empty() ? "an empty object" : "are " + listed(names)));
}

void Node::only(std::span<const std::string_view> known) const {
  if (!is_object()) refuse("is an object");
  for (const auto& [name, value] : value_->get_ref<const Json::object_t&>()) {
    if (std::ranges::find(known, name) != known.end()) continue;
    const std::string_view near = nearest(name, known);
    child(value, name)
        .fail(fmt::format("unknown key {}, {}", in_quotes(name),
                          near.empty() ? "known are " + listed(known)
                                       : fmt::format("did you mean {}?", in_quotes(near))));
  }
}

std::vector<std::pair<std::string_view, Node>> Node::members() const {
  if (!is_object()) refuse("is an object");
  std::vector<std::pair<std::string_view, Node>> nodes;
  for (const auto& [name, value] : value_->get_ref<const Json::object_t&>())
    nodes.emplace_back(name, child(value, name));
  return nodes;
}

std::vector<Node> Node::items() const {
  if (!is_array()) return {*this};
  if (value_->empty()) refuse("are one value or more");
  std::vector<Node> nodes;
  nodes.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i)
    nodes.push_back(child((*value_)[i], fmt::format("{}", i)));
  return nodes;
}

int64_t Node::integer(int64_t low, int64_t high) const {
  const std::optional<int64_t> value = exact_integer(*value_);
  if (!value || *value < low || *value > high) refuse("are " + range("integers", low, high));
  return *value;
}

double Node::number(double low, double high) const {
  const double value = is_number() ? value_->get<double>() : std::nan("");
  if (!(value >= low && value <= high)) refuse("are " + range("numbers", low, high));
  return value;
}

bool Node::boolean() const {
  if (!value_->is_boolean()) refuse("are true and false");
  return value_->get<bool>();
}

const std::string& Node::text() const {
  if (!is_string()) refuse("is a string");
  return value_->get_ref<const std::string&>();
}

size_t Node::choice(std::span<const std::string_view> allowed) const {
  const std::string* word = value_->get_ptr<const std::string*>();
  if (word != nullptr)
    if (const auto found = std::ranges::find(allowed, *word); found != allowed.end())
      return static_cast<size_t>(found - allowed.begin());
  const std::string all = (allowed.size() == 1 ? "is " : "are ") + listed(allowed);
  const std::string_view near = word != nullptr ? nearest(*word, allowed) : "";
  if (near.empty() || allowed.size() == 1) refuse(all);
  refuse(fmt::format("{}; did you mean {}?", all, in_quotes(near)));
}

Node parse_json(std::string file, std::string_view text) {
  auto document = std::make_shared<const Json>(Builder(file, text).build());
  const Json* root = document.get();
  return {std::move(document), root, std::make_shared<const std::string>(std::move(file)), ""};
}

Node read_json(const std::string& path) { return parse_json(path, read_text(path)); }

}  // namespace helix
