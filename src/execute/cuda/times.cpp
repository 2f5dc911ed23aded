// How steps, and the tasks of one step, are timed and traced.
#include <chrono>

#include "execute/cuda/executor.h"
#include "execute/cuda/range.h"

namespace helix::cuda {

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

// Timed on the card, launched behind a pause that is longer than the launches take; an exchange
// that the host has a part in by the host's clock, after a barrier.
void CudaExecutor::pass_timed(std::vector<double>& times) {
  begin_passage();
  for (const Segment& segment : schedule_.segments)
    for (int layer = segment.first_layer; layer < segment.first_layer + segment.layers; ++layer) {
      layer_ = layer;
      std::vector<const Task*> run;
      for (int i = segment.begin; i < segment.end; ++i) {
        const Task& task = schedule_.tasks[static_cast<size_t>(i)];
        if (!communicates(task.op)) {
          if (!folded(task)) run.push_back(&task);
          continue;
        }
        time_run(run, layer, times);
        run.clear();
        times[cover_of(i)] += time_exchange(task, layer);
      }
      time_run(run, layer, times);
    }
}

double CudaExecutor::time_exchange(const Task& task, int layer) {
  const cudaStream_t lane = stream(task.lane);
  const bool on_card = exchange_->captures(task);
  const OwnedEvent begin = make_event();
  const OwnedEvent end = make_event();
  lanes_.at(static_cast<size_t>(task.lane)).after_kernel = false;
  exchange_->stage_barrier();
  const auto began = std::chrono::steady_clock::now();
  if (on_card) pause(30, {lane, blocks_, false});
  HELIX_CUDA(cudaEventRecord(begin.get(), lane));
  exchange(task, layer);
  HELIX_CUDA(cudaEventRecord(end.get(), lane));
  synchronise();
  if (!on_card)
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - began)
        .count();
  float ms = 0;
  HELIX_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
  return 1e3 * static_cast<double>(ms);
}

void CudaExecutor::time_run(const std::vector<const Task*>& run, int layer,
                            std::vector<double>& times) {
  if (run.empty()) return;
  const cudaStream_t compute = stream(Lane::compute);
  pause(30 * static_cast<int>(run.size()), {compute, blocks_, false});
  std::vector<OwnedEvent> events;
  const auto note = [&] {
    HELIX_CUDA(cudaEventRecord(events.emplace_back(make_event()).get(), compute));
  };
  note();
  for (const Task* task : run) {
    Task alone = *task;  // merges of the exchange lane too
    alone.lane = Lane::compute;
    lanes_[0].after_kernel = false;
    const Range range(task->name);
    launch(alone, layer);
    note();
  }
  synchronise();
  for (size_t i = 0; i < run.size(); ++i) {
    float ms = 0;
    HELIX_CUDA(cudaEventElapsedTime(&ms, events[i].get(), events[i + 1].get()));
    times[cover_of(static_cast<int>(run[i] - schedule_.tasks.data()))] +=
        1e3 * static_cast<double>(ms);
  }
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
