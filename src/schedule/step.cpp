// The decode step, as Figure 4 of the paper draws it. Every strategy is this one page.
#include <algorithm>

#include "schedule/verbs.h"

namespace helix {

namespace {

class Step : Verbs {
 public:
  Step(const Plan& plan, int rank) : Verbs(plan, rank) {}
  Schedule build();

 private:
  Id query();
  Id key_value();
  Id merge_partials(Partial part);
  void attention();
  Id mlp(Id in, W up, W down);
  void dense();
  void moe();
  void settle(Id y, W next_norm, int layer_offset);
  void prologue(bool first_stage);
  void epilogue(bool last_stage);

  Id x_ = -1;  // the normalised input of the next block
  Id h_ = -1;  // the residual stream
  Id tokens_ = -1;
  Id table_ = -1;  // the embedding
};

Dim heads_dim(Slice heads) { return {heads}; }
Dim width_dim(int64_t width) { return {whole(width)}; }

// [rows, H] -> [rows, Q/TPA, D], rotated. Under `gather` each KVP rank projects Q/A heads and
// gathers the rest.
Id Step::query() {
  const Attention& a = m.attention;
  const bool gather = l.query == Query::gather && l.kvp > 1;
  const Dim heads = heads_dim(gather ? share(a.query_heads, l.replica_ranks(), me.in_replica())
                                     : me.heads(a.query_heads));
  const Id latent =
      a.q_lora > 0 ? norm(W::q_latent_norm, product(W::dq, x_, {width_dim(a.q_lora), one, one}))
                   : x_;
  Id q = product(W::q, latent, {heads, width_dim(a.query_size()), one});
  if (a.qk_norm) norm_in_place(W::q_norm, q);
  rope(q);
  if (a.mla())
    q = per_head(W::uk, q, heads, width_dim(a.kv_lora), width_dim(a.nope), width_dim(a.head_size));
  return gather ? gather_heads("gather_q", me.kvp_group(), q, heads_dim(me.heads(a.query_heads)))
                : q;
}

// [rows, H] -> the newest token's key and value, appended by their owner.
Id Step::key_value() {
  const Attention& a = m.attention;
  Id kv;
  if (a.mla()) {
    kv = product(W::dkv, x_, {width_dim(a.head_size), one, one});
    norm_in_place(W::kv_latent_norm, kv);
  } else {
    kv = product(W::kv, x_,
                 {width_dim(2), heads_dim(me.kv_heads(a.kv_heads)), width_dim(a.head_size)});
    if (a.qk_norm) norm_in_place(W::k_norm, kv);
  }
  rope(kv);
  return append(kv);
}

// [rows, Q/TPA] partial outputs -> [rows, Q/A] (all_reduce: Q/TPA) exact ones.
Id Step::merge_partials(Partial part) {
  const Group group = me.kvp_group();
  if (group.size == 1) return part.out;
  const Dim heads = heads_dim(me.merged_heads(m.attention.query_heads));
  if (l.merge == Merge::a2a) return merge(all_to_all(group, part, heads), heads);
  const Id lses = gather_ranks("gather_lse", group, part.lse);
  const Id scaled = rescale(part, lses);
  if (l.merge == Merge::ag_rs) return scatter_heads("exchange", group, scaled, heads);
  return all_reduce("exchange", group, scaled);
}

void Step::attention() {
  const Attention& a = m.attention;
  const auto values = [&](Id o, Slice heads) {  // MLA: latent -> value
    return per_head(W::uv, o, heads_dim(heads), width_dim(a.v), width_dim(a.kv_lora),
                    width_dim(a.v));
  };
  const bool value_exchange = l.mla == Mla::value;
  const Id q = query();
  const Id newest = key_value();
  Id o = per_chunk([&] {
    Partial part = attend(q, newest);
    if (value_exchange) {  // the log-sum-exps travel with what is exchanged
      const Id lse = part.lse;
      part = {values(part.out, me.heads(a.query_heads)),
              number("value_lse", Kind::activation, 4, s[lse].dims)};
      s.tasks.back().reads.push_back(lse);
      s.tasks.back().writes.push_back(part.lse);
    }
    then_exchange();
    return merge_partials(part);
  });
  if (a.mla() && !value_exchange) o = values(o, me.merged_heads(a.query_heads));
  settle(all_reduce("reduce_attention", me.output_group(), product(W::o, o, {hidden, one, one})),
         W::ffn_norm, 0);
}

Id Step::mlp(Id in, W up, W down) {
  const int64_t quantum = plan.precision.weights == Format::nvfp4 ? 16 : 1;
  const Dim width{share(extents_of(m, up)[1], l.dense_width(), me.dense_index(), quantum)};
  return product(down, swiglu(product(up, in, {width_dim(2), width, one})), {hidden, one, one});
}

void Step::dense() {
  const Id y = l.gathers() ? leave("leave_ffn", mlp(enter("enter_ffn", x_), W::up, W::down))
                           : mlp(x_, W::up, W::down);
  settle(all_reduce("reduce_ffn", me.dense_group(), y), W::attention_norm, 1);
}

void Step::moe() {
  const Id in = l.gathers() ? enter("enter_ffn", x_) : x_;
  const Id choice = route(in);
  Id y;
  if (l.moe == Moe::dispatch) {
    const Arrived here = dispatch(in, choice);
    y = combine(experts(here.rows, here.choice, dim(here.rows, 0)), choice);
  } else {
    y = experts(in, choice, dim(in, 0));
  }
  if (m.experts.shared > 0) add(y, mlp(in, W::shared_up, W::shared_down));
  settle(all_reduce("reduce_ffn", me.dense_group(), l.gathers() ? leave("leave_ffn", y) : y),
         W::attention_norm, 1);
}

// A block ends with the norm of the block that follows, so that all-reduce, residual and norm are
// one run of tasks.
void Step::settle(Id y, W next_norm, int layer_offset) {
  const Id w = weight(next_norm, {hidden, one, one, one}, layer_offset);
  task("add_norm", Op::add_norm, {h_, y, w}, x_);
  s.tasks.back().writes.push_back(h_);
}

void Step::prologue(bool first_stage) {
  angles_ = number("angles", Kind::activation, 4,
                   {rows, width_dim(2), width_dim(m.attention.rotated() / 2), one});
  task("angles", Op::angles, {positions_}, angles_);
  if (first_stage) {
    const Dim mine{rows_of(m.vocabulary, l.stage_ranks(), me.in_stage())};
    table_ = weight(W::embed, {mine, hidden, one, one});
    const Id found = task("embed", Op::embed, {tokens_, table_},
                          activation("embedded", {stage_rows, hidden, one, one}));
    h_ = all_reduce("reduce_embedding", me.replica(), leave("scatter_embedding", found));
  } else {
    h_ = activation("hidden", {rows, hidden, one, one});
  }
  x_ = norm(W::attention_norm, h_);
}

void Step::epilogue(bool last_stage) {
  if (last_stage) {
    const Dim words{rows_of(m.vocabulary, l.stage_ranks(), me.in_stage())};
    const bool one_tensor = m.tied && l.pp == 1 && plan.precision.lm_head == plan.precision.small();
    const Id head = one_tensor ? table_ : weight(W::lm_head, {words, hidden, one, one});
    const Id logits = product(name_of(W::lm_head), head, enter("gather_hidden", x_),
                              {words, one, one});  // every rank sees every request
    const Id best = task("pick", Op::pick, {logits},
                         number("best", Kind::activation, 8, {stage_rows, one, one, one}));
    const Group stage = me.stage();
    const Id bests = gather_ranks("gather_best", stage, best);
    task("advance", Op::advance, {bests, positions_}, tokens_);
    s.tasks.back().writes.push_back(positions_);
  } else {
    task("advance", Op::advance, {positions_}, positions_);
  }
  if (l.pp > 1) {  // send to rank `first`, receive from the stage before
    const int world = l.ranks();
    const Group ring{2, 0, (me.rank() + l.stage_ranks()) % world, -l.stage_ranks()};
    task("shift", Op::shift, {last_stage ? tokens_ : h_}, me.pp == 0 ? tokens_ : h_, ring);
  }
}

void find_predecessors(Schedule& s) {
  std::vector<int> writer(s.tensors.size());
  for (const Segment& g : s.segments) {
    std::fill(writer.begin(), writer.end(), -1);
    for (int i = g.begin; i < g.end; ++i) {
      Task& task = s.tasks[static_cast<size_t>(i)];
      for (const Id id : task.reads)
        if (const int w = writer[static_cast<size_t>(id)]; w >= 0) {
          int& after = task.after[static_cast<size_t>(s.tasks[static_cast<size_t>(w)].lane)];
          after = std::max(after, w);
        }
      for (const Id id : task.writes) writer[static_cast<size_t>(id)] = i;
    }
  }
}

Schedule Step::build() {
  const Slice layers = share(m.layers, l.pp, me.pp);
  const int64_t dense_here = std::clamp<int64_t>(m.dense_layers - layers.first, 0, layers.count);
  tokens_ = number("tokens", Kind::state, 4, {stage_rows, one, one, one});
  positions_ = number("positions", Kind::state, 8, {stage_rows, one, one, one});
  segment("prologue", layers.first, 1, [&] { prologue(me.pp == 0); });
  segment("dense", layers.first, dense_here, [&] { attention(), dense(); });
  segment("moe", layers.first + dense_here, layers.count - dense_here, [&] { attention(), moe(); });
  segment("epilogue", layers.first + layers.count, 1, [&] { epilogue(me.pp + 1 == l.pp); });
  find_predecessors(s);
  return std::move(s);
}

}  // namespace

Schedule build_schedule(const Plan& plan, int rank) { return Step(plan, rank).build(); }

}  // namespace helix
