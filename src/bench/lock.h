// One run at a time in a folder. The kernel holds the lock, so it ends with its process however
// that ends; the file's text (host, process, Slurm job, start) is for people, and for other hosts
// on file systems where locks are not seen across hosts.
#pragma once

#include <string>

namespace helix {

class FolderLock {
 public:
  // Throws InputError, naming the holder, when another run has the folder.
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  // Of whom the lock was taken over; "" usually.
  const std::string& note() const { return note_; }

 private:
  void open_and_lock();
  void judge_holder();
  void write_holder() const;

  std::string path_;
  std::string note_;
  int file_ = -1;
  bool kernel_ = true;  // the file system has locks
};

}  // namespace helix
