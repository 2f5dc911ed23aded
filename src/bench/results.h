// A run's folder: results/NAME/ with sweep.json, results.jsonl, environment.json, plots/ and a
// lock. Rank 0 alone uses it. Nothing in it is overwritten, and a finished line stays whole
// whatever happens after it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "bench/environment.h"
#include "bench/file.h"
#include "bench/line.h"
#include "bench/lock.h"

namespace helix {

enum class Resume : uint8_t {
  no,
  yes,
  mixed
};  // mixed: whatever commit and hardware made the lines

class ResultsFolder {
 public:
  // Makes the folder, or takes up the one that is there. Throws InputError, and writes nothing: not
  // a folder of ours, not writable, locked by a living run, of another sweep, holding lines without
  // `resume`, or made by another commit or hardware without `mixed`.
  // `lines_a_sync`: how many lines a crash of the host may cost.
  ResultsFolder(const std::string& folder, const Json& resolved_sweep, const Environment& now,
                Resume resume, int64_t lines_a_sync = 1, double lock_wait_s = 0);

  // What a reader of stderr should know, a line each: a lock taken over, a torn line cut off.
  const std::vector<std::string>& notes() const { return notes_; }

  // Whether the point need not run again: its line is ok and did not fail its verification. Lines
  // that were skipped or failed are redone: their reason may be gone.
  bool done(const Identity& identity) const;

  // Writes the line with one write(), and syncs it when it is one of `lines_a_sync`. Throws
  // RunError, the file as it was before, when it does not fit. A point that is skipped or fails
  // again for the same reason is not written twice.
  void append(const Json& line);

  // Drops lines that a later one of the same identity replaces, and gives the lock back. Called at
  // the end of a run; the destructor only does the latter.
  void close();

  std::string path() const { return folder_ + "/results.jsonl"; }
  std::string folder() const { return folder_; }

 private:
  struct State {
    int64_t line = 0;  // the number of its last line
    bool done = false;
    std::string outcome;  // status and reason
  };
  void check_sweep(const Json& resolved) const;
  Json environments(const Environment& now, Resume resume) const;
  void take_up_lines();
  void open_lines();
  void note_line(const Node& line);
  void drop_replaced();

  std::string folder_;
  std::vector<std::string> notes_;
  std::optional<FolderLock> lock_;
  std::map<Identity, State> states_;
  int64_t lines_ = 0;
  int64_t replaced_ = 0;
  int64_t size_ = 0;  // of the whole lines, in bytes
  int64_t lines_a_sync_;
  File file_;
};

// Hears each line of a results file (or of the folder that holds one), in order, one in memory at a
// time; file() of the node is "FILE:LINE". Unknown fields stay. Returns notes: a torn last line is
// left out. Throws InputError, with the line: not a results file, or of a newer major version.
std::vector<std::string> read_results(const std::string& path,
                                      const std::function<void(const Node&)>& on_line);
// Those of one key, the last of those that differ in their repeat alone. Throws InputError, with
// the nearest key, where there is none.
std::vector<Node> lines_of(const std::string& path, const std::string& key);

}  // namespace helix
