#include "execute/simulate/rates.h"

#include <algorithm>

namespace helix::simulated {

namespace {

constexpr double us_a_gb_per_s = 1e6 / 1e9;
constexpr double us_a_tflops = 1e6 / 1e12;

Format format_of(const Tensor& tensor) {
  return static_cast<Format>(std::ranges::find(formats, tensor.bytes, &FormatRow::bytes) -
                             std::begin(formats));
}

// Of a rank's peers in a group, the share outside its own domain. Domains are consecutive ranks.
double share_outside(const Schedule& s, const Task& task, int64_t domain_ranks) {
  const int me = s.place.rank();
  const auto outside = [&](int64_t rank) { return rank / domain_ranks != me / domain_ranks; };
  // Of a pipeline one boundary between stages lies between domains, if any: the slowest counts.
  if (task.op == Op::shift) return s.place.l.ranks() > domain_ranks ? 1 : 0;
  int64_t count = 0;
  for (int64_t i = 0; i < task.group.size; ++i)
    count += outside(task.group.first + i * task.group.stride) ? 1 : 0;
  return static_cast<double>(count) / (task.group.size - 1);
}

void add_communication(const Schedule& s, const Task& task, const Machine& m, Rates& r) {
  const double outside = share_outside(s, task, m.domain_ranks);
  r.fixed_us += (task.op == Op::all_reduce ? m.all_reduce_us : m.exchange_us) +
                (outside > 0 ? m.network_us : 0);
  r.sent_byte_us = std::max(
      {r.sent_byte_us, (1 - outside) * us_a_gb_per_s / (m.link_gb_per_s * m.link_efficiency),
       outside * us_a_gb_per_s / (m.network_gb_per_s * m.network_efficiency)});
}

// Of a weight or of the KV cache, whatever is read of it early.
double value_bytes_of(const Schedule& s, const Cover& cover) {
  for (int i = cover.begin; i < cover.end; ++i)
    for (const Id id : s.tasks[static_cast<size_t>(i)].reads)
      if (s[id].kind == Kind::weight || s[id].kind == Kind::history) return s[id].bytes;
  return 0;
}

// Routers and chosen experts are kernels of ours, and what is written into messages.
bool may_be_a_library_s(const Schedule& s, const Task& task) {
  return (task.op == Op::product || task.op == Op::per_head) && task.writes.size() == 1 &&
         format_of(s[task.reads[1]]) == Format::bf16;
}

}  // namespace

Rates rates_of(const Schedule& s, const Cover& cover, const Machine& m) {
  Rates r;
  bool attends = false;
  double tflops = m.product_tflops[static_cast<size_t>(Format::bf16)];
  for (int i = cover.begin; i < cover.end; ++i) {
    const Task& task = s.tasks[static_cast<size_t>(i)];
    const Work work = row_of(task.op).work;
    if (communicates(task.op)) add_communication(s, task, m, r);
    attends |= work == Work::attend;
    if (work == Work::attend)
      tflops = m.attention_tflops[static_cast<size_t>(format_of(s[task.reads[2]]))];
    else if (work != Work::none)
      for (const Id id : task.reads)
        if (s[id].kind == Kind::weight && s[id].weight != W::router_bias)
          tflops = m.product_tflops[static_cast<size_t>(format_of(s[id]))];
    if (may_be_a_library_s(s, task)) r.library_rows = m.library_rows;
    if (work == Work::experts) r.touched_us += m.touched_expert_us / 2;  // up and down
  }
  r.communicates = communicates(s, cover);
  r.value_bytes = value_bytes_of(s, cover);
  if (!r.communicates) r.fixed_us = m.kernel_us;
  double read = attends ? m.kv_read_efficiency : m.weight_read_efficiency;
  double compute = attends ? m.attention_efficiency : m.product_efficiency;
  const auto measured = m.covers.find(name_of(s, cover));
  if (measured != m.covers.end()) {
    r.fixed_us = measured->second.fixed_us;
    read = measured->second.read_efficiency;
    compute = measured->second.compute_efficiency;
    r.timed = TimedShapes(measured->second.shapes);
  }
  r.early_byte_us = us_a_gb_per_s / (m.read_gb_per_s * read);
  r.late_byte_us = us_a_gb_per_s / (m.read_gb_per_s * (attends ? m.weight_read_efficiency : read));
  r.peak_flop_us = us_a_tflops / tflops;
  r.flop_us = r.peak_flop_us / compute;
  return r;
}

}  // namespace helix::simulated
