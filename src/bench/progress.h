// What a person sees of a run, on stderr of rank 0: a terminal a bar in one line, a file or batch
// log one line a point.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "bench/point.h"

namespace helix {

// "tiny-llama helix KVP 4 x TPA 2 -> TPF 8, batch 8, context 4096, HOP-B 4, bf16".
std::string describe(const Point& point);

class Progress {
 public:
  // `first` points of `total` are done already.
  Progress(int64_t first, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void begin(const Point& point);
  void end(const Json& line);  // of the point that began last
  void note(const std::string& text);

 private:
  void draw() const;
  std::string time_left() const;

  bool terminal_;
  int64_t first_, done_, total_;
  std::string point_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

}  // namespace helix
