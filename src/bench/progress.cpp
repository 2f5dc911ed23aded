#include "bench/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>

namespace helix {

namespace {

// mpirun gives ranks a pipe and passes on what comes out of it: what counts is where its own stderr
// goes.
bool ends_at_terminal() {
  if (isatty(STDERR_FILENO) != 0) return true;
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) return false;
  std::error_code none;
  const auto launcher = std::filesystem::path("/proc") / std::to_string(getppid());
  if (std::filesystem::read_symlink(launcher / "exe", none).filename() != "orterun" &&
      std::filesystem::read_symlink(launcher / "exe", none).filename() != "prterun")
    return false;
  const std::string target = std::filesystem::read_symlink(launcher / "fd/2", none);
  return target.starts_with("/dev/pts/") || target.starts_with("/dev/tty");
}

size_t terminal_width() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void say(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

std::string precision_text(const Precision& p) {
  std::string text(name_of(p.weights));
  if (p.kv != p.weights) text += fmt::format(", KV {}", name_of(p.kv));
  if (p.activations != p.weights) text += fmt::format(", activations {}", name_of(p.activations));
  return text;
}

std::string outcome(const Json& line) {
  if (line["status"] != "ok")
    return fmt::format("{}: {}", line["status"].get<std::string>(),
                       line["reason"].get<std::string>());
  std::string text = fmt::format("{:.0f} us", line["ttl_us"]["median"].get<double>());
  const Json& verified = line["verified"];
  if (verified.is_null()) return text + ", not verified";
  const double error = verified["max_rel_err"].is_number()
                           ? verified["max_rel_err"].get<double>()
                           : std::numeric_limits<double>::infinity();
  const double tolerance = verified["tolerance"].get<double>();
  return text + (error <= tolerance
                     ? fmt::format(", verified to {:.1e}", error)
                     : fmt::format(", WRONG: error {:.1e} above {:.1e}", error, tolerance));
}

std::string clock_text(double seconds) {
  const int64_t whole = std::llround(seconds);
  if (whole >= 3600)
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

}  // namespace

std::string describe(const Point& p) {
  std::string text = fmt::format("{} {}, batch {}, context {}", p.model->name, describe(p.layout),
                                 p.batch, p.context.low);
  if (p.context.high != p.context.low) text += fmt::format("-{}", p.context.high);
  if (p.hop_b) text += fmt::format(", HOP-B {}", p.chunks);
  if (p.kv_layout == KvLayout::paged) text += ", paged KV";
  return text + ", " + precision_text(p.precision);
}

Progress::Progress(int64_t first, int64_t total)
    : terminal_(ends_at_terminal()), first_(first), done_(first), total_(total) {}

Progress::~Progress() {
  if (terminal_) say("\r\x1b[K");
}

void Progress::begin(const Point& point) {
  point_ = describe(point);
  if (terminal_) draw();
}

void Progress::end(const Json& line) {
  ++done_;
  if (terminal_) return draw();
  say(fmt::format("{}/{} {}: {}\n", done_, total_, point_, outcome(line)));
}

void Progress::note(const std::string& text) {
  say(fmt::format("{}helix-bench: {}\n", terminal_ ? "\r\x1b[K" : "", text));
  if (terminal_ && !point_.empty()) draw();
}

void Progress::draw() const {
  constexpr int64_t width = 20;
  const int64_t full = total_ == 0 ? width : width * done_ / total_;
  std::string line = fmt::format("[{:#<{}}{:.<{}}] {}/{} {} left  {}", "", full, "", width - full,
                                 done_, total_, time_left(), point_);
  line.resize(std::min(line.size(), terminal_width() - 1));
  say("\r" + line + "\x1b[K");
}

std::string Progress::time_left() const {
  if (done_ == first_) return "-:--";
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - began_;
  return clock_text(spent.count() / static_cast<double>(done_ - first_) *
                    static_cast<double>(total_ - done_));
}

}  // namespace helix
