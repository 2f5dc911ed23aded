#include "bench/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "base/error.h"

namespace helix {

namespace {

// A line has kilobytes; one of this size is some other file.
constexpr size_t longest_line = size_t{256} << 20;

bool of_the_path(int code) {
  return code == EACCES || code == EPERM || code == EROFS || code == ENOENT || code == ENOTDIR ||
         code == EISDIR || code == EEXIST || code == ENAMETOOLONG || code == ELOOP ||
         code == EINVAL;
}

[[noreturn]] void fail_to_read(const std::string& path, int code) {
  throw InputError(path, "", "cannot be read: " + std::generic_category().message(code));
}

}  // namespace

void File::close() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

void fail_to_write(const std::string& path) {
  const int code = errno;
  const std::string text = "cannot be written: " + std::generic_category().message(code);
  if (of_the_path(code)) throw InputError(path, "", text);
  throw RunError(path + ": " + text);
}

bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t bytes = write(descriptor, text.data(), text.size());
    if (bytes < 0 && errno != EINTR) return false;
    if (bytes > 0) text.remove_prefix(static_cast<size_t>(bytes));
  }
  return true;
}

void replace_file(const std::string& path, std::string_view text) {
  const std::string next = path + ".new";
  const File file(open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (file.get() >= 0 && write_all(file.get(), text) && fsync(file.get()) == 0 &&
      std::rename(next.c_str(), path.c_str()) == 0)
    return;
  const int code = errno;
  unlink(next.c_str());
  errno = code;
  fail_to_write(path);
}

LineReader::LineReader(const std::string& path) : path_(path) {
  struct stat status {};
  if (path.find('\0') != path.npos || stat(path_.c_str(), &status) != 0)
    fail_to_read(path_, path.find('\0') != path.npos ? EINVAL : errno);
  if (S_ISDIR(status.st_mode)) path_ += path_.ends_with('/') ? "results.jsonl" : "/results.jsonl";
  errno = 0;
  file_.open(path_, std::ios::binary);
  if (!file_ || (stat(path_.c_str(), &status) == 0 && S_ISDIR(status.st_mode)))
    fail_to_read(path_, errno != 0 ? errno : EISDIR);
}

bool LineReader::next() {
  line_.clear();
  ended_ = false;
  ++number_;
  std::array<char, size_t{1} << 16> block;
  while (!ended_) {
    file_.getline(block.data(), block.size());
    const auto bytes = static_cast<size_t>(file_.gcount());
    if (file_.bad()) fail_to_read(path_, EIO);
    // The break is counted, but not stored.
    ended_ = !file_.fail() && !file_.eof();
    line_.append(block.data(), bytes - (ended_ ? 1 : 0));
    if (line_.size() > longest_line)
      throw InputError(path_ + ":" + std::to_string(number_), "", "longer than any result line");
    if (file_.eof()) return !line_.empty();
    file_.clear();
  }
  return true;
}

}  // namespace helix
