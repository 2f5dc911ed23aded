#include "bench/controls.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace helix {

namespace {

bool always(const Model&, const Layout&) { return true; }
bool sharded(const Model&, const Layout& layout) { return layout.kvp > 1; }

// Calls `change(values of a row of one part, count)` on a tensor of each task of one kind, after
// the task.
template <class Change>
void after(Executor& executor, Op op, int written, Change change) {
  executor.hooks().after = [&executor, op, written, change](const Task& task, int) {
    if (task.op != op) return;
    const TensorView view = executor.view(task.writes[written], task.chunk);
    const auto bytes = static_cast<int64_t>(executor.schedule()[task.writes[written]].bytes);
    for (int part = 0; part < view.parts; ++part)
      for (int64_t row = 0; row < view.rows; ++row)
        change(view.data + part * view.part_stride + row * view.values * bytes, view.values);
  };
}

void drop_newest(Executor& executor) { executor.hooks().newest = Newest::by_nobody; }
void count_newest_everywhere(Executor& executor) { executor.hooks().newest = Newest::by_everybody; }

// The first and the last head of each row of a message, before anything is exchanged.
void swap_heads(Executor& executor) {
  executor.hooks().after = [&executor](const Task& task, int) {
    if (task.op != Op::attend) return;
    const TensorView view = executor.view(task.writes[0], task.chunk);
    const Tensor& out = executor.schedule()[task.writes[0]];
    const int64_t head = out.dims[2].mine.count * static_cast<int64_t>(out.bytes);
    const int64_t row = view.values * static_cast<int64_t>(out.bytes);
    // The last head stands in the last part.
    for (int64_t i = 0; i < view.rows; ++i) {
      std::byte* first = view.data + i * row;
      std::byte* last = view.data + (view.parts - 1) * view.part_stride + (i + 1) * row - head;
      std::swap_ranges(first, first + head, last);
    }
  };
}

void base_two(Executor& executor) {
  after(executor, Op::attend, 1, [](std::byte* row, int64_t count) {
    auto* lses = reinterpret_cast<float*>(row);
    for (int64_t i = 0; i < count; ++i) lses[i] *= std::numbers::log2e_v<float>;
  });
}

void rounded_lse(Executor& executor) {
  after(executor, Op::attend, 1, [](std::byte* row, int64_t count) {
    auto* lses = reinterpret_cast<float*>(row);
    for (int64_t i = 0; i < count; ++i) lses[i] = to_float(to_bf16(lses[i]));
  });
}

// Positions of the local shard start at 1: every angle is one step further.
void shift_rope(Executor& executor) {
  const std::vector<double> frequencies = rope_frequencies(executor.model());
  after(executor, Op::angles, 0, [frequencies](std::byte* row, int64_t count) {
    auto* cosines = reinterpret_cast<float*>(row);
    float* sines = cosines + count / 2;
    for (int64_t i = 0; i < count / 2; ++i) {
      const double angle = std::atan2(sines[i], cosines[i]) + frequencies[static_cast<size_t>(i)];
      cosines[i] = static_cast<float>(std::cos(angle));
      sines[i] = static_cast<float>(std::sin(angle));
    }
  });
}

}  // namespace

const std::vector<Control>& controls() {
  static const std::vector<Control> table = {
      {"newest token dropped", always, drop_newest},
      {"newest token counted KVP times", sharded, count_newest_everywhere},
      {"two heads swapped", always, swap_heads},
      {"log-sum-exp in base 2", sharded, base_two},
      {"log-sum-exp in bf16", sharded, rounded_lse},
      {"RoPE off by one", always, shift_rope},
  };
  return table;
}

int64_t extra_steps(const Layout& layout, int64_t interval) { return layout.kvp * interval; }

}  // namespace helix
