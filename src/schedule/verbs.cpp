#include "schedule/verbs.h"

namespace helix {

namespace {

Dim whole_dim(int64_t count) { return {whole(count)}; }

// nvfp4 shares a scale among 16 values, so that its shards are cut at multiples of 16.
int64_t quantum(Format format) { return format == Format::nvfp4 ? 16 : 1; }

}  // namespace

Verbs::Verbs(const Plan& p, int rank)
    : plan(p),
      m(*p.model),
      me(s.place),
      l(s.place.l),
      hidden(whole_dim(m.hidden)),
      stage_rows{{}, p.layout.dp > 1 ? Fill::stage_rows : Fill::rows} {
  s.place = Place(p.layout, rank);
  s.chunks = p.chunks;
}

Id Verbs::number(std::string_view name, Kind kind, double bytes, const std::array<Dim, 4>& dims) {
  s.tensors.push_back({name, kind, bytes, dims});
  return static_cast<Id>(s.tensors.size() - 1);
}
Id Verbs::activation(std::string_view name, const std::array<Dim, 4>& dims) {
  return number(name, Kind::activation, bytes_of(plan.precision.activations), dims);
}
Id Verbs::weight(W which, const std::array<Dim, 4>& dims, int layer_offset) {
  const Id id =
      number(name_of(which), Kind::weight, bytes_of(format_of(plan.precision, which)), dims);
  s.tensors.back().weight = which;
  s.tensors.back().layer_offset = layer_offset;
  return id;
}

Id Verbs::task(std::string_view name, Op op, Ids<5> reads, Id writes, const Group& group) {
  s.tasks.push_back({name, op, reads, {writes}, group, lane_, chunk_});
  return writes;
}

void Verbs::repeat_chunks(size_t begin) {
  const size_t body = s.tasks.size() - begin;
  for (int chunk = 1; chunk < s.chunks; ++chunk)
    for (size_t i = 0; i < body; ++i) {
      Task copy = s.tasks[begin + i];
      copy.chunk = chunk;
      s.tasks.push_back(copy);
    }
}

Id Verbs::product(W which, Id in, const std::array<Dim, 3>& outputs) {
  // The weight's axes are those of the output, then those of the input.
  std::array<Dim, 4> dims = {one, one, one, one};
  size_t axes = 0;
  const auto put = [&](const Dim& d) {
    if (d.fill != Fill::absent) dims[axes++] = d;
  };
  for (const Dim& d : outputs) put(d);
  for (int axis = 1; axis < 4; ++axis) put(dim(in, axis));
  return product(name_of(which), weight(which, dims), in, outputs);
}
Id Verbs::product(std::string_view name, Id w, Id in, const std::array<Dim, 3>& outputs) {
  return task(name, Op::product, {in, w},
              activation(name, {dim(in, 0), outputs[0], outputs[1], outputs[2]}));
}

// W_UK and W_UV: a matrix a head. `out_width` may be wider than what is made: the latent query
// carries its rotated part behind.
Id Verbs::per_head(W which, Id in, Dim heads, Dim made, Dim contracted, Dim out_width) {
  const Id w = weight(which, {heads, made, contracted, one});
  return task(name_of(which), Op::per_head, {in, w},
              activation(name_of(which), {dim(in, 0), heads, out_width, one}));
}

Id Verbs::norm(W which, Id in, int layer_offset) {
  const Id w = weight(which, {whole_dim(extents_of(m, which)[0]), one, one, one}, layer_offset);
  return task(name_of(which), Op::norm, {in, w}, activation("normed", s[in].dims));
}
void Verbs::norm_in_place(W which, Id in) {
  const Id w = weight(which, {whole_dim(extents_of(m, which)[0]), one, one, one});
  task(name_of(which), Op::norm, {in, w}, in);
}
void Verbs::rope(Id in) { task("rope", Op::rope, {in, angles_}, in); }

Id Verbs::swiglu(Id in) {
  return task("swiglu", Op::swiglu, {in}, activation("swiglu", {dim(in, 0), dim(in, 2), one, one}));
}
void Verbs::add(Id to, Id from) { task("add", Op::add, {to, from}, to); }

Id Verbs::append(Id kv) {
  const Id newest = number("newest", Kind::newest, bytes_of(plan.precision.kv),
                           {Dim{{}, Fill::newest}, dim(kv, 1), dim(kv, 2), dim(kv, 3)});
  return task("append", Op::append, {kv, positions_}, newest);
}

Verbs::Partial Verbs::attend(Id query, Id newest) {
  const Id history =
      number("history", Kind::history, bytes_of(plan.precision.kv),
             {Dim{{}, Fill::history}, dim(newest, 1), dim(newest, 2), dim(newest, 3)});
  const Partial out{
      activation("partial", {rows, dim(query, 1), whole_dim(m.attention.value_size), one}),
      number("lse", Kind::activation, 4, {rows, dim(query, 1), one, one})};
  task("attention", Op::attend, {query, newest, history, positions_}, out.out);
  s.tasks.back().writes.push_back(out.lse);
  return out;
}

Verbs::Partial Verbs::all_to_all(const Group& group, const Partial& part, Dim heads) {
  const Dim peers = whole_dim(group.size);
  const Partial got{activation("parts", {rows, peers, heads, dim(part.out, 2)}),
                    number("part_lses", Kind::activation, 4, {rows, peers, heads, one})};
  task("exchange", Op::all_to_all, {part.out, part.lse}, got.out, group);
  s.tasks.back().writes.push_back(got.lse);
  return got;
}
Id Verbs::merge(const Partial& parts, Dim heads) {
  return task("merge", Op::merge, {parts.out, parts.lse},
              activation("merged", {rows, heads, dim(parts.out, 3), one}));
}
Id Verbs::rescale(const Partial& part, Id lses) {
  return task("rescale", Op::rescale, {part.out, lses}, activation("rescaled", s[part.out].dims));
}

Id Verbs::collective(std::string_view name, Op op, const Group& group, Id in,
                     const std::array<Dim, 4>& dims) {
  if (group.size == 1) return in;
  Tensor out = s[in];
  out.name = name;
  out.dims = dims;
  s.tensors.push_back(out);
  return task(name, op, {in}, static_cast<Id>(s.tensors.size() - 1), group);
}
Id Verbs::all_reduce(std::string_view name, const Group& group, Id in) {
  return collective(name, Op::all_reduce, group, in, s[in].dims);
}
Id Verbs::gather_heads(std::string_view name, const Group& group, Id in, Dim heads) {
  return collective(name, Op::all_gather, group, in, {dim(in, 0), heads, dim(in, 2), dim(in, 3)});
}
Id Verbs::scatter_heads(std::string_view name, const Group& group, Id in, Dim heads) {
  return collective(name, Op::reduce_scatter, group, in,
                    {dim(in, 0), heads, dim(in, 2), dim(in, 3)});
}
Id Verbs::gather_ranks(std::string_view name, const Group& group, Id in) {
  return collective(name, Op::all_gather, group, in,
                    {whole_dim(group.size), dim(in, 0), dim(in, 1), dim(in, 2)});
}
Id Verbs::enter(std::string_view name, Id in) {
  return collective(name, Op::all_gather, me.dp_group(), in,
                    {stage_rows, dim(in, 1), dim(in, 2), dim(in, 3)});
}
Id Verbs::leave(std::string_view name, Id in) {
  return collective(name, Op::reduce_scatter, me.dp_group(), in,
                    {rows, dim(in, 1), dim(in, 2), dim(in, 3)});
}

Id Verbs::route(Id in) {
  Ids<5> reads = {in, weight(W::router, {whole_dim(m.experts.count), hidden, one, one})};
  if (m.experts.bias)
    reads.push_back(weight(W::router_bias, {whole_dim(m.experts.count), one, one, one}));
  // A choice is an expert and its gate.
  return task(
      "route", Op::route, reads,
      number("choice", Kind::activation, 8, {dim(in, 0), whole_dim(m.experts.chosen), one, one}));
}
Verbs::Arrived Verbs::dispatch(Id in, Id choice) {
  const Dim arriving{{}, Fill::arrived};
  const Arrived got{
      activation("arrived", {arriving, hidden, one, one}),
      number("arrived_choice", Kind::activation, 8, {arriving, dim(choice, 1), one, one})};
  task("dispatch", Op::dispatch, {in, choice}, got.rows, me.dp_group());
  s.tasks.back().writes.push_back(got.choice);
  return got;
}
Id Verbs::combine(Id in, Id choice) {
  return task("combine", Op::combine, {in, choice},
              activation("combined", {rows, hidden, one, one}), me.dp_group());
}
Id Verbs::experts(Id in, Id choice, Dim out_rows) {
  const int ep = me.expert_rank() / l.tpf;
  const int tpf = me.expert_rank() % l.tpf;
  const Dim mine{share(m.experts.count, l.ep, ep), Fill::touched};
  const Dim width{share(m.experts.width, l.tpf, tpf, quantum(plan.precision.experts))};
  const Dim pairs{{}, Fill::routed};
  const Id up = task("experts_up", Op::experts,
                     {in, choice, weight(W::experts_up, {mine, whole_dim(2), width, hidden})},
                     activation("experts_up", {pairs, whole_dim(2), width, one}));
  return task("experts_down", Op::experts,
              {swiglu(up), choice, weight(W::experts_down, {mine, hidden, width, one})},
              activation("experts_out", {out_rows, hidden, one, one}));
}

}  // namespace helix
