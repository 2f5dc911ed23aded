// Files of a results folder: what fails is the user's to mend (a path) or not (a full disk).
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

namespace helix {

// An open descriptor.
class File {
 public:
  File() = default;
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() { close(); }
  File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  File& operator=(File&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  int get() const { return descriptor_; }
  void close() noexcept;

 private:
  int descriptor_ = -1;
};

// "PATH: cannot be written: No space left on device", with errno; an InputError when another path
// or another owner would help, a RunError otherwise.
[[noreturn]] void fail_to_write(const std::string& path);

// Writes all of `text`; false, with errno, when it does not fit. It is there after a crash only
// when synced.
bool write_all(int descriptor, std::string_view text);

// Puts `text` in the place of the file at once: whoever reads sees the old one or the new one.
void replace_file(const std::string& path, std::string_view text);

// The lines of a file of any size, one in memory at a time.
class LineReader {
 public:
  explicit LineReader(const std::string& path);  // a folder: its results.jsonl
  bool next();
  const std::string& line() const { return line_; }
  bool ended() const { return ended_; }  // by a line break
  bool last() { return file_.peek() == std::ifstream::traits_type::eof(); }
  int64_t number() const { return number_; }  // from 1
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::ifstream file_;
  std::string line_;
  int64_t number_ = 0;
  bool ended_ = false;
};

}  // namespace helix
