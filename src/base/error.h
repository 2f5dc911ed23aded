// What can go wrong, by the exit code it leads to.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace helix {

// Exit codes where our code decides (README.md, "Exit codes").
enum class Exit : int { done = 0, unverified = 1, bad_input = 2, failed = 3, stopped = 75 };

// The user's input cannot be used: one line that says where, what was found and what is allowed.
// `pointer` is a JSON pointer ("" is the whole document); for a broken text it is "line 3, column
// 7". Line breaks and control characters are escaped, long text is shortened.
class InputError : public std::runtime_error {
 public:
  explicit InputError(const std::string& text);
  InputError(std::string_view file, std::string_view pointer, std::string_view text);
};

// Something failed while running that no input explains.
class RunError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Memory that was wanted and is not there.
class OutOfMemory : public RunError {
 public:
  using RunError::RunError;
};

// The last error of the operating system in words: "cannot write results/a.jsonl: No space left".
[[noreturn]] void throw_errno(const std::string& what);

}  // namespace helix
