// The launches of each kind of task: shapes out of the schedule, a kernel over them.
#include <algorithm>
#include <utility>

#include "execute/cuda/executor.h"
#include "execute/routing.h"
#include "execute/types.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/plain.h"

namespace helix::cuda {

namespace {

int narrow(int64_t value) { return static_cast<int>(value); }

}  // namespace

// The first kernel after anything else waits for it; from then on each may begin while the one
// before it ends.
Launch CudaExecutor::how(const Task& task) {
  LaneState& lane = lane_of(task);
  const bool dependent = std::exchange(lane.after_kernel, true) && early_reads_;
  return {lane.stream.get(), blocks_, dependent, own_card_};
}

void CudaExecutor::launch(const Task& task, int layer) {
  // A replica may have no requests.
  if (array(task.reads[0], task.chunk).rows == 0 || array(task.writes[0], task.chunk).rows == 0)
    return;
  compute(task, layer);
}

void CudaExecutor::embed(const Task& task, int layer) {
  const Array out = array(task.writes[0], all_chunks);
  const Slice words = schedule_[task.reads[1]].dims[0].mine;
  with_type(activations(), [&]<class A>(A*) {
    cuda::embed(narrow(out.rows), words.first, words.count, narrow(out.width),
                array(task.reads[0], all_chunks).as<int32_t>(), stored(task.reads[1], layer),
                out.as<A>(), how(task));
  });
}

// Of vectors as wide as the weight: the whole row, or in place its heads (keys alone of keys and
// values), or the latent part of a row.
void CudaExecutor::norm(const Task& task, int layer) {
  const Array in = array(task.reads[0], all_chunks);
  const Array out = array(task.writes[0], all_chunks);
  const Id w = task.reads[1];
  const W which = schedule_[w].weight;
  const int64_t each = which == W::q_norm ? in.extents[1] : which == W::k_norm ? in.extents[2] : 1;
  const NormShape shape{narrow(in.rows), narrow(each), narrow(schedule_[w].dims[0].mine.count),
                        in.width, out.width};
  with_type(activations(), [&]<class A>(A*) {
    rms_norm(shape, in.as<const A>(), stored(w, layer), static_cast<float>(work_.model->norm_eps),
             out.as<A>(), how(task));
  });
}

void CudaExecutor::add_norm(const Task& task, int layer) {
  const Array hidden = array(task.reads[0], all_chunks);
  with_type(activations(), [&]<class A>(A*) {
    add_rms_norm(narrow(hidden.rows), narrow(hidden.width), hidden.as<A>(),
                 array(task.reads[1], all_chunks).as<const A>(), stored(task.reads[2], layer),
                 static_cast<float>(work_.model->norm_eps),
                 array(task.writes[0], all_chunks).as<A>(), how(task));
  });
}

void CudaExecutor::product(const Task& task, int layer) {
  const Array in = array(task.reads[0], task.chunk);
  const Array out = array(task.writes[0], task.chunk);
  with_type(activations(), [&]<class A>(A*) {
    any_product(
        ProductShape{narrow(in.rows), narrow(out.width), narrow(in.width), in.width, out.width},
        in.as<const A>(), stored(task.reads[1], layer), out.as<A>(), how(task), library_for(task));
  });
}

// W_UK makes the latent part of the query and puts the rotated part behind it; W_UV turns latents
// into values, in messages where these are exchanged.
void CudaExecutor::per_head(const Task& task, int layer) {
  const Array in = array(task.reads[0], task.chunk);
  const Array out = array(task.writes[0], task.chunk);
  const Id w = task.reads[1];
  PerHeadShape shape{.rows = narrow(in.rows),
                     .heads = narrow(in.extents[1]),
                     .made = narrow(schedule_[w].dims[1].mine.count),
                     .inputs = narrow(schedule_[w].dims[2].mine.count),
                     .x_size = narrow(in.extents[2]),
                     .y_size = narrow(out.extents[2]),
                     .part_heads = narrow(in.extents[1])};
  if (task.writes.size() == 2) {
    const PartialLayout part = store_.message(task.writes[0], task.chunk);
    const PartialLayout from = store_.message(task.reads[0], task.chunk);
    shape.part_heads = narrow(part.heads);
    shape.part_bytes = part.bytes();
    shape.outputs_bytes = part.outputs_bytes();
    shape.lses = reinterpret_cast<const float*>(in.data + from.lse_offset(0, 0));
  }
  with_type(activations(), [&]<class A>(A*) {
    cuda::per_head(shape, in.as<const A>(), stored(w, layer), out.data, how(task),
                   library_for(task));
  });
}

// cuBLASLt takes memory and loads kernels when it first meets a shape: here, on whatever values.
void CudaExecutor::meet_products() {
  for (const Segment& segment : schedule_.segments)
    for (int i = segment.begin; segment.layers > 0 && i < segment.end; ++i)
      if (const Task& task = schedule_.tasks[static_cast<size_t>(i)];
          task.op == Op::product || task.op == Op::per_head)
        launch(task, segment.first_layer);
}

void CudaExecutor::angles(const Task& task) {
  const Array out = array(task.writes[0], all_chunks);
  cuda::angles(narrow(out.rows), narrow(frequencies_.count()),
               array(task.reads[0], all_chunks).as<const int64_t>() + requests_.first,
               frequencies_.data(), out.as<float>(), how(task));
}

// Queries [rows][heads][size] whole; of keys and values [rows][2][heads][size] the keys.
void CudaExecutor::rope(const Task& task) {
  const Array x = array(task.reads[0], all_chunks);
  const auto& dims = schedule_[task.reads[0]].dims;
  const bool keys = dims[3].fill != Fill::absent;
  const bool latent = dims[2].fill == Fill::absent;
  const RopeShape shape{.rows = narrow(x.rows),
                        .heads = narrow(latent ? 1 : x.extents[keys ? 2 : 1]),
                        .size = narrow(x.extents[latent ? 1
                                                 : keys ? 3
                                                        : 2]),
                        .pairs = narrow(frequencies_.count()),
                        .interleaved = work_.model->rope.interleaved,
                        .stride = x.width};
  with_type(activations(), [&]<class A>(A*) {
    cuda::rope(shape, array(task.reads[1], all_chunks).as<const float>(), x.as<const A>(),
               x.as<A>(), how(task));
  });
}

static_assert(page_tokens == helix::page_tokens);

// The cache of a layer of the micro-batch in hand, from one of its rows on.
KvView CudaExecutor::cache_view(int layer, int64_t first_row) const {
  const Rows& rows = rows_now();
  const KvCache& cache = store_.cache();
  const int64_t first_pair = first_row * cache.heads;
  std::byte* base = store_.history(layer);
  KvView view{.base = base,
              .format = cache.format,
              .keys = rows.keys.data() + first_pair,
              .values = rows.values.data() + first_pair,
              .tokens = rows.tokens.data() + first_row};
  if (cache.paged()) {
    const Buffer<int32_t>& table = hooks_.pages_swapped ? rows.swapped : rows.pages;
    view.pages = table.data() + first_row * cache.most_pages;
    view.page_stride = page_tokens * cache.key_values;  // of values as of keys
    view.max_pages = narrow(cache.most_pages);
  }
  if (quantised(cache.format)) view.scales = kv_scales_.data() + layers_before(layer) * cache.heads;
  if (cache.format == Format::nvfp4)
    view.block_scales = values_at<nvfp4>(base, cache.count(), 1).scales;
  return view;
}

void CudaExecutor::append(const Task& task, int layer) {
  const Array kv = array(task.reads[0], all_chunks);
  const KvCache& cache = store_.cache();
  const AppendShape shape{.rows = narrow(kv.rows),
                          .heads = narrow(cache.heads),
                          .size = narrow(cache.key_values),
                          .kinds = cache.value_values == 0 ? 1 : 2};
  CodesTrace trace;
  if (forcing_codes_)
    trace = {forced_codes_.data() + layers_before(layer) * codes_of_layer(), own_codes_.data()};
  with_type(activations(), [&]<class A>(A*) {
    cuda::append(shape, kv.as<const A>(), rows_now().append.data(), cache_view(layer, 0), trace,
                 how(task));
  });
}

void CudaExecutor::attend(const Task& task, int layer) {
  const Array query = array(task.reads[0], task.chunk);
  const KvView kv = cache_view(layer, store_.first_row(task.chunk));
  with_type(activations(),
            [&]<class A>(A*) { attend_splits(plan_of(task), query.as<const A>(), kv, how(task)); });
  if (!splits_go_along(task)) merge_splits(task, how(task));
}

// Attention's results, cut as the card's SMs were, into messages.
void CudaExecutor::merge_splits(const Task& attend, const Launch& launch) {
  if (array(attend.reads[0], attend.chunk).rows == 0) return;
  with_type(activations(), [&]<class A>(A*) {
    cuda::merge_splits<A>(plan_of(attend), store_.message(attend.writes[0], attend.chunk),
                          store_.activation(attend.writes[0], attend.chunk), launch);
  });
}

void CudaExecutor::merge(const Task& task) {
  const Id parts = task.reads[0];
  with_type(activations(), [&]<class A>(A*) {
    merge_partials(store_.message(parts, task.chunk), store_.parts(parts),
                   store_.activation(parts, task.chunk), array(task.writes[0], task.chunk).as<A>(),
                   how(task));
  });
}

void CudaExecutor::rescale(const Task& task) {
  const Id mine = task.reads[0];
  with_type(activations(), [&]<class A>(A*) {
    rescale_partial(store_.message(mine, task.chunk), schedule_.place.l.kvp,
                    store_.activation(mine, task.chunk),
                    reinterpret_cast<const float*>(store_.activation(task.reads[1], task.chunk)),
                    array(task.writes[0], task.chunk).as<A>(), how(task));
  });
}

void CudaExecutor::swiglu(const Task& task) {
  const Array out = array(task.writes[0], all_chunks);
  const bool pairs = schedule_[task.reads[0]].dims[0].fill == Fill::routed;
  with_type(activations(), [&]<class A>(A*) {
    cuda::swiglu(narrow(out.rows), narrow(out.width),
                 pairs ? pairs_.begins + experts_held_ : nullptr,
                 array(task.reads[0], all_chunks).as<const A>(), out.as<A>(), how(task));
  });
}

void CudaExecutor::add(const Task& task) {
  const Array to = array(task.reads[0], all_chunks);
  with_type(activations(), [&]<class A>(A*) {
    cuda::add(to.rows * to.width, to.as<A>(), array(task.reads[1], all_chunks).as<const A>(),
              how(task));
  });
}

void CudaExecutor::route(const Task& task, int layer) {
  const Array in = array(task.reads[0], all_chunks);
  const helix::Experts& e = work_.model->experts;
  const Buffer<float>& skew = skew_[static_cast<size_t>(layer)];
  const Routing routing{.experts = narrow(e.count),
                        .chosen = narrow(e.chosen),
                        .groups = narrow(e.groups),
                        .chosen_groups = narrow(e.chosen_groups),
                        .sigmoid = e.scoring == Scoring::sigmoid,
                        .renormalise = e.renormalise,
                        .scale = static_cast<float>(e.scale),
                        .skew = skew.data()};
  RoutingTrace trace;
  if (forcing_)
    trace = {forced_now() + layers_before(layer) * in.rows * e.chosen, own_choice_.data()};
  const Stored bias = task.reads.size() < 3 ? Stored{} : stored(task.reads[2], layer);
  with_type(activations(), [&]<class A>(A*) {
    cuda::route(routing, narrow(in.rows), narrow(in.width), in.as<const A>(),
                stored(task.reads[1], layer), bias, trace, router_logits_.data(),
                array(task.writes[0], all_chunks).as<Choice>(), how(task));
  });
}

// Up: the rows that chose an expert, gathered by expert. Down: back to rows, weighted by the gates.
void CudaExecutor::experts(const Task& task, int layer) {
  const Array in = array(task.reads[0], all_chunks);
  const Array choice = array(task.reads[1], all_chunks);
  const Array out = array(task.writes[0], all_chunks);
  const Id w = task.reads[2];
  const Slice mine = schedule_[w].dims[0].mine;
  const int chosen = narrow(choice.extents[1]);
  const bool up = schedule_[w].weight == W::experts_up;
  if (up)
    pair_up(narrow(choice.rows),
            schedule_[task.reads[1]].dims[0].fill == Fill::arrived ? exchange_->arrived() : nullptr,
            chosen, choice.as<const Choice>(), narrow(mine.first), narrow(mine.count), pairs_,
            rows_now().met.data(), how(task));
  // Pairs of an expert, were all chosen alike.
  const int64_t each = choice.rows * chosen / work_.model->experts.count;
  const ProductShape shape{narrow(std::max<int64_t>(each, 1)), narrow(out.width), narrow(in.width),
                           in.width, out.width};
  const Stored weights = stored(w, layer);
  with_type(activations(), [&]<class A>(A*) {
    if (up)
      return any_experts_product(shape, {narrow(mine.count), pairs_.begins, pairs_.row_of},
                                 in.as<const A>(), weights, out.as<A>(), how(task));
    any_experts_product(shape, {narrow(mine.count), pairs_.begins, nullptr}, in.as<const A>(),
                        weights, expert_sums_.data(), how(task));
    sum_pairs(narrow(out.rows), chosen, narrow(out.width), choice.as<const Choice>(),
              pairs_.pair_of, expert_sums_.data(), out.as<A>(), how(task));
  });
}

void CudaExecutor::pick(const Task& task) {
  const Array logits = array(task.reads[0], all_chunks);
  cuda::pick(narrow(logits.rows), narrow(logits.width),
             narrow(schedule_[task.reads[0]].dims[1].mine.first),
             {logits.data, logits.rows * logits.width, activations()},
             array(task.writes[0], all_chunks).as<Best>(), how(task));
}

void CudaExecutor::advance(const Task& task) {
  const Slice requests = store_.now().requests;
  Advance step{.rows = narrow(requests.count),
               .ranks = schedule_.place.l.stage_ranks(),
               .positions = array(task.writes[task.writes.size() - 1], all_chunks).as<int64_t>()};
  if (task.writes.size() == 2) {  // only the last stage has tokens
    step.best = array(task.reads[0], all_chunks).as<const Best>();
    step.tokens = array(task.writes[0], all_chunks).as<int32_t>();
    step.sampled = sampled_on_card_.data() + requests.first;
    step.teacher = teacher_on_card_.data() + requests.first;
  }
  cuda::advance(step, how(task));
}

}  // namespace helix::cuda
