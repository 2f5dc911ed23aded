// One run at a time in a folder. The kernel holds the lock, so it ends with its process however
// that ends; the file's text (host, process, Slurm job, start) is for people, and for other hosts
// on file systems where locks are not seen across hosts.
#pragma once

#include <string>

namespace helix {

class FolderLock {
 public:
  // Throws InputError, naming the holder, when another run still has the folder after `wait_s`.
  explicit FolderLock(const std::string& folder, double wait_s = 0);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  // Before each write. Throws RunError when another run has taken the folder over: on file systems
  // where locks are not seen across hosts, Slurm may start a job anew while its first start lives
  // on with a node that was lost.
  void check_held() const;
  // Of whom the lock was taken over; "" usually.
  const std::string& note() const { return note_; }

 private:
  void open_and_lock(double wait_s);
  void judge_holder();
  void write_holder();
  bool held() const;

  std::string path_;
  std::string note_;
  std::string text_;  // that says it is ours
  int file_ = -1;
  bool kernel_ = true;  // the file system has locks
};

}  // namespace helix
