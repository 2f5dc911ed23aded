// How steps, and the tasks of one step, are timed and traced.
#include <algorithm>
#include <chrono>

#include "execute/cuda/executor.h"
#include "execute/cuda/range.h"

namespace helix::cuda {

namespace {

constexpr int stamps_in_a_row = 16;

}  // namespace

// A queue of a few steps: the card does not wait for the host, and the host shows that it lives.
void CudaExecutor::mark() {
  constexpr size_t ahead = 4;
  if (marked_ == marks_.size()) marks_.push_back(make_event());
  HELIX_CUDA(cudaEventRecord(marks_[marked_++].get(), stream(Lane::compute)));
  if (marked_ > ahead) HELIX_CUDA(cudaEventSynchronize(marks_[marked_ - 1 - ahead].get()));
  exchange_->check();  // after a wait that ran out of time all others are left out
}

std::vector<double> CudaExecutor::take_intervals_us() {
  synchronise();
  std::vector<double> intervals;
  for (size_t i = 1; i < marked_; ++i) {
    float ms = 0;
    HELIX_CUDA(cudaEventElapsedTime(&ms, marks_[i - 1].get(), marks_[i].get()));
    intervals.push_back(1e3 * static_cast<double>(ms));
  }
  marked_ = 0;
  return intervals;
}

// The intervals of one passage between kernels that note the time. What such a kernel takes itself,
// as a row of them shows, is taken off. Kernels follow each other as they do without early reads.
// What the host has a part in is timed by the host's clock, after a barrier.
std::vector<double> CudaExecutor::watched_us(Watch what) {
  const auto [at, made] = watched_passages_.try_emplace({what, store_.now_index()});
  Watched& watched = at->second;
  watched_ = &watched;
  if (made) {
    watched.what = what;
    int64_t tasks = 0;
    for (const Segment& segment : schedule_.segments)
      tasks += int64_t{segment.layers} * (segment.end - segment.begin);
    watched.stamps = Buffer<int64_t>((tasks + 1) * (stamps_in_a_row + 2));  // each in its own graph
    watched.pieces = record();
  }
  exchange_->stage_barrier();
  std::vector<double> us(schedule_.tasks.size(), 0);
  for (const Piece& piece : watched.pieces) {
    if (piece.task == nullptr)
      HELIX_CUDA(cudaGraphLaunch(piece.graph.get(), stream(Lane::compute)));
    else us[static_cast<size_t>(piece.task - schedule_.tasks.data())] += time_on_host(*piece.task);
  }
  watched_ = nullptr;
  synchronise();
  const std::vector<int64_t> ns = watched.stamps.read();
  double stamps_us = 0;
  double count = 0;
  for (size_t i = 0; i < watched.ends.size(); ++i)
    if (watched.ends[i] == Watched::stamp) {
      stamps_us += 1e-3 * static_cast<double>(ns[i] - ns[i - 1]);
      ++count;
    }
  for (size_t i = 0; i < watched.ends.size(); ++i)
    if (watched.ends[i] >= 0)
      us[static_cast<size_t>(watched.ends[i])] +=
          std::max(0.0, 1e-3 * static_cast<double>(ns[i] - ns[i - 1]) - stamps_us / count);
  return us;
}

double CudaExecutor::time_on_host(const Task& task) {
  synchronise();
  exchange_->stage_barrier();
  const auto began = std::chrono::steady_clock::now();
  issue(task, layer_);
  synchronise();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - began)
      .count();
}

void CudaExecutor::stamp(int ends) {
  lanes_[0].after_kernel = false;
  cuda::stamp(watched_->stamps.data() + watched_->ends.size(),
              {stream(Lane::compute), blocks_, false});
  watched_->ends.push_back(ends);
}

void CudaExecutor::stamp_stamps() {
  stamp(Watched::nothing);
  for (int i = 0; i < stamps_in_a_row; ++i) stamp(Watched::stamp);
}

double CudaExecutor::exchanges_us() {
  exchanges_sum_us_ = 0;
  rewind();
  step();
  return *std::exchange(exchanges_sum_us_, std::nullopt);
}

// A shard has none.
bool CudaExecutor::leave_out_exchanges(bool out) {
  if (work_.shard) return false;
  left_out_ = out;
  record_missing();
  return true;
}

std::vector<Span> CudaExecutor::traced_step() {
  fill();
  exchange_->barrier();
  std::vector<Span> spans;
  traced_.clear();
  const OwnedEvent origin = make_event();
  HELIX_CUDA(cudaEventRecord(origin.get(), stream(Lane::compute)));
  spans_ = &spans;
  step();
  spans_ = nullptr;
  synchronise();
  for (auto& [span, timed] : traced_) {
    float begin_ms = 0;
    float end_ms = 0;
    HELIX_CUDA(cudaEventElapsedTime(&begin_ms, origin.get(), timed.begin.get()));
    HELIX_CUDA(cudaEventElapsedTime(&end_ms, origin.get(), timed.end.get()));
    span.begin_us = 1e3 * static_cast<double>(begin_ms);
    span.end_us = 1e3 * static_cast<double>(end_ms);
    spans.push_back(span);
  }
  traced_.clear();
  return spans;
}

}  // namespace helix::cuda
