#include "schedule/covers.h"

#include <algorithm>

namespace helix {

namespace {

const Task& task_at(const Schedule& s, int i) { return s.tasks[static_cast<size_t>(i)]; }

bool follows(const Schedule& s, const Fusion& fusion, int at, int end) {
  if (at + std::ssize(fusion) > end) return false;
  const Task& first = task_at(s, at);
  for (int i = 0; i < std::ssize(fusion); ++i) {
    const Task& task = task_at(s, at + i);
    if (task.op != fusion[static_cast<size_t>(i)] || task.lane != first.lane ||
        task.chunk != first.chunk)
      return false;
  }
  return true;
}

bool has(const auto& ids, Id id) { return std::find(ids.begin(), ids.end(), id) != ids.end(); }

bool written_in(const Schedule& s, int begin, int end, Id id) {
  for (int i = begin; i < end; ++i)
    if (has(task_at(s, i).writes, id)) return true;
  return false;
}
bool read_in(const Schedule& s, int begin, int end, Id id) {
  for (int i = begin; i < end; ++i)
    if (has(task_at(s, i).reads, id)) return true;
  return false;
}

// Read by no task outside the cover that sees the same rows.
bool stays_inside(const Schedule& s, const Cover& cover, Id id) {
  const int chunk = task_at(s, cover.begin).chunk;
  if (s[id].kind != Kind::activation) return false;
  for (int i = 0; i < std::ssize(s.tasks); ++i) {
    const Task& task = task_at(s, i);
    if (i >= cover.begin && i < cover.end) continue;
    if (task.chunk != chunk && task.chunk != all_chunks && chunk != all_chunks) continue;
    if (has(task.reads, id)) return false;
  }
  return true;
}

const std::vector<Fusion>& gpu_table() {
  static const std::vector<Fusion> table = {
      {Op::all_to_all, Op::merge},              // partials are merged as they arrive
      {Op::all_reduce, Op::add_norm},           // residual and norm of the sum
      {Op::product, Op::swiglu},                // gate and up stay in registers
      {Op::experts, Op::swiglu},                //
      {Op::rope, Op::append},                   // the newest key and value
      {Op::norm, Op::rope, Op::append},         // with their norm
      {Op::pick, Op::all_gather, Op::advance},  // sampling
  };
  return table;
}

}  // namespace

std::span<const Fusion> cpu_fusions() { return {}; }

std::span<const Fusion> gpu_fusions() { return gpu_table(); }
std::span<const Fusion> fused_exchange_fusions() { return std::span(gpu_table()).first(2); }

std::vector<Cover> covers_of(const Schedule& s, std::span<const Fusion> fusions) {
  std::vector<Cover> covers;
  for (const Segment& g : s.segments)
    for (int at = g.begin; at < g.end; at = covers.back().end) {
      int count = 1;
      for (const Fusion& fusion : fusions)
        if (follows(s, fusion, at, g.end)) count = std::max(count, static_cast<int>(fusion.size()));
      covers.push_back({at, at + count});
    }
  return covers;
}

std::string name_of(const Schedule& s, const Cover& cover) {
  std::string name(task_at(s, cover.begin).name);
  for (int i = cover.begin + 1; i < cover.end; ++i) name += "+" + std::string(task_at(s, i).name);
  return name;
}

bool communicates(const Schedule& s, const Cover& cover) {
  for (int i = cover.begin; i < cover.end; ++i)
    if (communicates(task_at(s, i).op)) return true;
  return false;
}
Lane lane_of(const Schedule& s, const Cover& cover) { return task_at(s, cover.begin).lane; }
int layers_of(const Schedule& s, const Cover& cover) {
  return std::ranges::find_if(s.segments, [&](const Segment& g) { return cover.begin < g.end; })
      ->layers;
}

Cost cost(const Schedule& s, const Cover& cover, const StepState& state) {
  Cost total;
  for (int i = cover.begin; i < cover.end; ++i) {
    const Task& task = task_at(s, i);
    total += cost(s, task, state);
    for (const Id id : task.reads)
      if (written_in(s, cover.begin, i, id) && stays_inside(s, cover, id))
        total.late -= bytes_of(s[id], state, task.chunk);
    for (const Id id : task.writes)
      if (read_in(s, i + 1, cover.end, id) && stays_inside(s, cover, id))
        total.late -= bytes_of(s[id], state, task.chunk);
  }
  return total;
}

}  // namespace helix
