#include "bench/lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/heartbeat.h"
#include "base/json.h"
#include "bench/environment.h"
#include "bench/file.h"
#include "bench/signals.h"

namespace helix {

namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

struct Holder {
  std::string host;
  int64_t pid = 0;
  std::string job, restart, since;
};

Holder me() {
  return {host_name(), getpid(), variable("SLURM_JOB_ID"), variable("SLURM_RESTART_COUNT"),
          utc_now()};
}

std::string text_of(int file) {
  std::array<char, 4096> text{};
  const ssize_t bytes = pread(file, text.data(), text.size(), 0);
  return {text.data(), static_cast<size_t>(std::max<ssize_t>(bytes, 0))};
}

// Whether this file is the one that stands at the path.
bool stands_at(int file, const std::string& path) {
  struct stat mine {};
  struct stat there {};
  return fstat(file, &mine) == 0 && stat(path.c_str(), &there) == 0 &&
         mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
}

// Whatever a lock file holds; half of a text is that of nobody.
Holder read_holder(int file) {
  const Json json = Json::parse(text_of(file), nullptr, false);
  const auto member = [&](const char* name) {
    const bool there = json.is_object() && json.contains(name) && json[name].is_string();
    return there ? json[name].get<std::string>() : "";
  };
  Holder holder{member("host"), 0, member("job"), member("restart"), member("since")};
  if (json.is_object() && json.contains("pid") && json["pid"].is_number_integer())
    holder.pid = json["pid"].get<int64_t>();
  return holder;
}

std::string described(const Holder& holder) {
  if (holder.host.empty()) return "a run that is just starting";
  std::string text = fmt::format("process {} on {}", holder.pid, holder.host);
  if (!holder.job.empty()) text += fmt::format(" (Slurm job {})", holder.job);
  return text + " since " + holder.since;
}

// Slurm has put this very job in the queue again, so that its earlier start is over.
bool requeued(const Holder& before, const Holder& now) {
  return !now.job.empty() && before.job == now.job && before.restart != now.restart;
}

}  // namespace

FolderLock::FolderLock(const std::string& folder, double wait_s) : path_(folder + "/lock") {
  try {
    open_and_lock(wait_s);
    judge_holder();
    write_holder();
  } catch (...) {
    if (file_ >= 0) close(file_);
    throw;
  }
}

FolderLock::~FolderLock() {
  if (file_ < 0) return;
  if (held()) unlink(path_.c_str());
  close(file_);
}

void FolderLock::open_and_lock(double wait_s) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  while (true) {
    file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (file_ < 0) fail_to_write(path_);
    kernel_ = flock(file_, LOCK_EX | LOCK_NB) == 0;
    const bool taken = !kernel_ && errno == EWOULDBLOCK;
    if (taken && !asked_to_stop() &&
        std::chrono::duration<double>(Clock::now() - begin).count() < wait_s) {
      beat();
      close(file_);
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      continue;
    }
    if (taken)
      throw InputError(path_, "",
                       fmt::format("locked by {}; wait for its end, or give another "
                                   "folder with -o",
                                   described(read_holder(file_))));
    // The holder may have removed the file between the two calls: then this is a lock on nothing.
    if (stands_at(file_, path_)) return;
    close(file_);
  }
}

// The text of a run that ended without giving the lock back, or of one that the kernel does not
// see.
void FolderLock::judge_holder() {
  const Holder before = read_holder(file_);
  if (before.host.empty()) return;
  const Holder now = me();
  const bool here = before.host == now.host;
  const bool living = !kernel_ && before.pid > 0 && kill(static_cast<pid_t>(before.pid), 0) == 0;
  if (requeued(before, now) || (here && !living)) {
    note_ = fmt::format("{}: taken over from {}, which is gone", path_, described(before));
    return;
  }
  throw InputError(
      path_, "", fmt::format("locked by {}; if that run is gone: rm {}", described(before), path_));
}

void FolderLock::write_holder() {
  const Holder now = me();
  const Json json = {{"host", now.host},
                     {"pid", now.pid},
                     {"job", now.job},
                     {"restart", now.restart},
                     {"since", now.since}};
  text_ = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (ftruncate(file_, 0) == 0 && lseek(file_, 0, SEEK_SET) == 0 && write_all(file_, text_)) return;
  const int code = errno;
  unlink(path_.c_str());
  errno = code;
  fail_to_write(path_);
}

bool FolderLock::held() const { return stands_at(file_, path_) && text_of(file_) == text_; }

void FolderLock::check_held() const {
  if (held()) return;
  const int there = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  const std::string by = there < 0 ? "removed" : "taken over by " + described(read_holder(there));
  if (there >= 0) close(there);
  throw RunError(fmt::format("{}: the lock of this run was {}", path_, by));
}

}  // namespace helix
