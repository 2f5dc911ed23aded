#include "bench/controls.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "bench/controls_experts.h"

namespace helix {

namespace {

bool always(const Model&, const Layout&) { return true; }
bool sharded(const Model&, const Layout& layout) { return layout.kvp > 1; }
bool merges_latents(const Model& model, const Layout& layout) {
  return model.attention.mla() && layout.kvp > 1 && layout.merge != Merge::all_reduce;
}
bool merges_whole(const Model&, const Layout& layout) {
  return layout.kvp > 1 && layout.merge == Merge::all_reduce;
}
bool has_experts(const Model& model, const Layout&) { return model.experts.count > 0; }
bool renormalises(const Model& model, const Layout&) { return model.experts.renormalise; }
bool has_bias(const Model& model, const Layout&) { return model.experts.bias; }
bool has_groups(const Model& model, const Layout&) { return model.experts.groups > 1; }

Layout with_value_exchange(const Layout& layout) {
  Layout changed = layout;
  changed.mla = Mla::value;
  return changed;
}

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

void drop_newest(Executor& executor, const Assignment&) {
  executor.hooks().newest = Newest::by_nobody;
}
void count_newest_everywhere(Executor& executor, const Assignment&) {
  executor.hooks().newest = Newest::by_everybody;
}

void swap_pages(Executor& executor, const Assignment&) { executor.hooks().pages_swapped = true; }

// The first and the last head of each row of a message, before anything is exchanged.
void swap_heads(Executor& executor, const Assignment&) {
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

void base_two(Executor& executor, const Assignment&) {
  after(executor, Op::attend, 1, [](std::byte* row, int64_t count) {
    auto* lses = reinterpret_cast<float*>(row);
    for (int64_t i = 0; i < count; ++i) lses[i] *= std::numbers::log2e_v<float>;
  });
}

void rounded_lse(Executor& executor, const Assignment&) {
  after(executor, Op::attend, 1, [](std::byte* row, int64_t count) {
    auto* lses = reinterpret_cast<float*>(row);
    for (int64_t i = 0; i < count; ++i) lses[i] = to_float(to_bf16(lses[i]));
  });
}

// Positions of the local shard start at 1: every angle is one step further.
void shift_rope(Executor& executor, const Assignment&) {
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

// Where W_UV is applied before the merge, a rank needs it for all heads that it attends with. The
// error: it holds the slice of an exchange of latents, W_UV of the heads that it has after the
// merge, and applies that to all.
void uv_of_merged_heads(Executor& executor, const Assignment& work) {
  executor.hooks().after = [&executor, &work](const Task& task, int layer) {
    if (task.op != Op::per_head || task.writes.size() != 2) return;
    const Attention& a = work.model->attention;
    const Slice merged = executor.schedule().place.merged_heads(a.query_heads);
    const Generator generator(*work.model, work.precision, work.seed);
    std::vector<float> uv(static_cast<size_t>(merged.count * a.v * a.kv_lora));
    generator.weights(W::uv, layer, {merged, whole(a.v), whole(a.kv_lora), whole(1)}, uv.data());
    const TensorView in = executor.view(task.reads[0], task.chunk);
    const TensorView out = executor.view(task.writes[0], task.chunk);
    const int64_t in_a_part = out.values / a.v;
    for (int64_t row = 0; row < out.rows; ++row)
      for (int64_t head = 0; head < in_a_part * out.parts; ++head) {
        const float* latent =
            reinterpret_cast<const float*>(in.data) + row * in.values + head * a.kv_lora;
        auto* value = reinterpret_cast<float*>(out.data + head / in_a_part * out.part_stride) +
                      row * out.values + head % in_a_part * a.v;
        const float* w = uv.data() + head % merged.count * a.v * a.kv_lora;
        for (int64_t i = 0; i < a.v; ++i, w += a.kv_lora)
          value[i] = std::inner_product(w, w + a.kv_lora, latent, 0.0F);
      }
  };
}

// Outputs that an all-reduce has merged on every KVP rank are summed over them once more.
void merge_twice(Executor& executor, const Assignment& work) {
  executor.hooks().after = [&executor, &work](const Task& task, int) {
    if (task.op != Op::all_reduce || task.name != "exchange") return;
    const TensorView view = executor.view(task.writes[0], task.chunk);
    auto* values = reinterpret_cast<float*>(view.data);
    for (int64_t i = 0; i < view.rows * view.values; ++i)
      values[i] *= static_cast<float>(work.layout.kvp);
  };
}

}  // namespace

const std::vector<Control>& controls() {
  static const std::vector<Control> table = {
      {"newest token dropped", always, drop_newest},
      {"newest token counted KVP times", sharded, count_newest_everywhere},
      {"two pages swapped", always, swap_pages},
      {"two heads swapped", always, swap_heads},
      {"log-sum-exp in base 2", sharded, base_two},
      {"log-sum-exp in bf16", sharded, rounded_lse},
      {"RoPE off by one", always, shift_rope},
      {"W_UV of other heads", merges_latents, uv_of_merged_heads, with_value_exchange},
      {"merged twice", merges_whole, merge_twice},
      {"weights not renormalised", renormalises, gates_not_renormalised},
      {"expert run twice", has_experts, expert_run_twice},
      {"bias used as weight", has_bias, bias_as_weight},
      {"groups masked with 0", has_groups, groups_masked_with_zero},
  };
  return table;
}

int64_t extra_steps(const Layout& layout, int64_t interval) { return layout.kvp * interval; }

}  // namespace helix
