// Strict reading of JSON files: every value knows the file and the JSON pointer it came from, so
// that wrong input gets one clear line. Keys nobody asked for are errors, with the nearest known
// key.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace helix {

using Json = nlohmann::ordered_json;

// A value in a document. Cheap to copy; keeps the document alive.
class Node {
 public:
  const Json& json() const { return *value_; }
  const std::string& file() const { return *file_; }
  // For messages: keys of more than 200 bytes are shortened in it.
  const std::string& pointer() const { return pointer_; }

  // "FILE: /pointer: text", as an InputError.
  [[noreturn]] void fail(const std::string& text) const;

  bool is_null() const { return value_->is_null(); }
  bool is_array() const { return value_->is_array(); }
  bool is_object() const { return value_->is_object(); }
  bool is_string() const { return value_->is_string(); }
  bool is_number() const { return value_->is_number(); }

  // Members of an object. `operator[]` fails on a missing key, naming the object's keys.
  bool has(std::string_view key) const;
  Node operator[](std::string_view key) const;
  // Fails unless every key of this object is one of `known` ("unknown key 'batches', did you mean
  // 'batch'?").
  void only(std::span<const std::string_view> known) const;
  void only(std::initializer_list<std::string_view> known) const {
    only(std::span(known.begin(), known.size()));
  }

  // Members of an object, in the file's order.
  std::vector<std::pair<std::string_view, Node>> members() const;

  // Elements of an array; `items` of a scalar or an object is that one value ("a scalar is a list
  // of one"). An empty array fails.
  std::vector<Node> items() const;

  // Typed values; they fail on another type and outside [low, high], saying what is allowed.
  // An integer may be written 8 or 8.0 or 1e6, but not 8.5; out of int64 is out of range.
  int64_t integer(int64_t low, int64_t high) const;
  double number(double low, double high) const;
  bool boolean() const;
  const std::string& text() const;
  // A string out of a list; returns its index, fails with the nearest one.
  size_t choice(std::span<const std::string_view> allowed) const;
  size_t choice(std::initializer_list<std::string_view> allowed) const {
    return choice(std::span(allowed.begin(), allowed.size()));
  }

 private:
  friend Node parse_json(std::string file, std::string_view text);
  Node(std::shared_ptr<const Json> document, const Json* value,
       std::shared_ptr<const std::string> file, std::string pointer)
      : document_(std::move(document)),
        value_(value),
        file_(std::move(file)),
        pointer_(std::move(pointer)) {}
  Node child(const Json& value, const std::string& step) const;
  [[noreturn]] void refuse(std::string_view allowed) const;

  std::shared_ptr<const Json> document_;
  const Json* value_;
  std::shared_ptr<const std::string> file_;
  std::string pointer_;
};

// Parses one document. Refused, as an InputError: not JSON (line and column), duplicate keys
// (pointer and key), nesting over 64 levels, numbers that overflow, text that is not UTF-8. `file`
// is for the messages.
Node parse_json(std::string file, std::string_view text);

// Reads and parses a file. Refused besides: missing, unreadable, a folder, over 16 MiB (said with
// its size; not read into memory).
Node read_json(const std::string& path);

}  // namespace helix
