// Fixed blocks of work on OpenMP threads, while the calling thread keeps communication going.
#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <new>

#include "kernels/cpu/memory.h"

namespace helix::cpu {

// Calls `poll` when asked to by the thread that owns the region (MPI_THREAD_FUNNELED), never by
// another. An exception must not leave a parallel region: the first one ends the polling and is
// thrown by finish().
class Poller {
 public:
  explicit Poller(const std::function<void()>& poll) : poll_(poll) {}
  void operator()() noexcept {
    if (!poll_ || omp_get_thread_num() != 0 || error_) return;
    try {
      poll_();
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  void finish() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const std::function<void()>& poll_;
  std::exception_ptr error_;
};

// Memory that a thread keeps between calls, since fresh pages would cost more than the sums over
// them. On cache lines: a load that crosses two of them costs twice.
class Scratch {
 public:
  template <class T = float>
  T* take(int64_t count) {  // what was in it is lost
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (bytes > bytes_) {
      memory_ = take_memory(static_cast<size_t>(bytes));
      if (!memory_) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  Memory memory_;
  int64_t bytes_ = 0;
};

// Less work than this many multiplications (about 10 us on one core) stays on the calling thread.
inline constexpr int64_t parallel_work = int64_t{1} << 18;

// body(i) for i in [0, count), each by any thread: what it writes may depend on i alone. `work`:
// multiplications. `run`: so many consecutive ones are a thread's, [0, run), [run, 2 run) and on.
template <class Body>
void for_blocks(int64_t count, int64_t work, int64_t run, Poller& poll, Body&& body) {
  if (count < 2 || work < parallel_work || omp_get_max_threads() == 1) {
    for (int64_t i = 0; i < count; ++i) {
      body(i);
      poll();
    }
    return;
  }
#pragma omp parallel for schedule(dynamic, run)
  for (int64_t i = 0; i < count; ++i) {
    body(i);
    poll();
  }
  poll();  // on a busy machine the others may have done it all
}
template <class Body>
void for_blocks(int64_t count, int64_t work, Poller& poll, Body&& body) {
  for_blocks(count, work, 1, poll, body);
}
template <class Body>
void for_blocks(int64_t count, int64_t work, Body&& body) {
  const std::function<void()> none;
  Poller poll(none);
  for_blocks(count, work, poll, body);
}

}  // namespace helix::cpu
