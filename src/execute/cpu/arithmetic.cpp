// The arithmetic of each kind of task: shapes out of the schedule, a kernel over them.
#include <cmath>
#include <cstring>

#include "execute/cpu/executor.h"
#include "execute/forced_codes.h"
#include "execute/types.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/product.h"
#include "layout/requests.h"

namespace helix::cpu {

void CpuExecutor::embed(const Task& task, int layer) {
  const Array tokens = array(task.reads[0], all_chunks);
  const Array out = array(task.writes[0], all_chunks);
  const Slice words = schedule_[task.reads[1]].dims[0].mine;
  with_types(
      weight_format(task.reads[1]), work_.precision.activations, [&]<class T, class A>(T*, A*) {
        cpu::embed(std::span<const int32_t>(tokens.as<int32_t>(), static_cast<size_t>(out.rows)),
                   words.first, words.count, out.width,
                   reinterpret_cast<const T*>(weight(task.reads[1], layer)), out.as<A>());
      });
}

// Of vectors as wide as the weight: the whole row, or in place its heads (keys alone of keys and
// values), or the latent part of a row.
void CpuExecutor::norm(const Task& task, int layer) {
  const Array in = array(task.reads[0], all_chunks);
  const Array out = array(task.writes[0], all_chunks);
  const Id w = task.reads[1];
  const W which = schedule_[w].weight;
  const int64_t width = schedule_[w].dims[0].mine.count;
  const int64_t vectors = which == W::q_norm   ? in.extents[1]
                          : which == W::k_norm ? in.extents[2]
                                               : 1;
  with_types(weight_format(w), work_.precision.activations, [&]<class T, class A>(T*, A*) {
    for (int64_t row = 0; row < in.rows; ++row)
      rms_norm(vectors, width, width, width, in.as<A>() + row * in.width,
               reinterpret_cast<const T*>(weight(w, layer)),
               static_cast<float>(work_.model->norm_eps), out.as<A>() + row * out.width);
  });
}

void CpuExecutor::add_norm(const Task& task, int layer) {
  const Array hidden = array(task.reads[0], all_chunks);
  const Id w = task.reads[2];
  with_types(weight_format(w), work_.precision.activations, [&]<class T, class A>(T*, A*) {
    add_rms_norm(
        hidden.rows, hidden.width, hidden.as<A>(), array(task.reads[1], all_chunks).as<A>(),
        reinterpret_cast<const T*>(weight(w, layer)), static_cast<float>(work_.model->norm_eps),
        array(task.writes[0], all_chunks).as<A>());
  });
}

void CpuExecutor::product(const Task& task, int layer) {
  const Array in = array(task.reads[0], task.chunk);
  const Array out = array(task.writes[0], task.chunk);
  const Id w = task.reads[1];
  with_stored(weight_format(w), work_.precision.activations, [&]<class T, class A>(T*, A*) {
    cpu::product(ProductShape{in.rows, out.width, in.width, in.width, out.width}, in.as<A>(),
                 stored(w, layer).as<T>(), out.as<A>(), {});
  });
}

// W_UK makes the latent part of the query and puts the rotated part behind it; W_UV turns latents
// into values, in messages where these are exchanged.
void CpuExecutor::per_head(const Task& task, int layer) {
  const Array in = array(task.reads[0], task.chunk);
  const Array out = array(task.writes[0], task.chunk);
  const Id w = task.reads[1];
  const int64_t heads = in.extents[1];
  const int64_t made = schedule_[w].dims[1].mine.count;
  const int64_t contracted = schedule_[w].dims[2].mine.count;
  const ProductShape one_row{1, made, contracted, in.extents[2], out.extents[2]};
  const bool messages = task.writes.size() == 2;
  const PartialLayout part =
      messages ? store_.message(task.writes[0], task.chunk) : PartialLayout{};
  with_stored(weight_format(w), work_.precision.activations, [&]<class T, class A>(T*, A*) {
    const Values<const T> weights = stored(w, layer).as<T>();
    if (!messages) {
      product_per_head(ProductShape{in.rows, made, contracted, in.extents[2], out.extents[2]},
                       heads, in.as<A>(), weights, out.as<A>());
      const int64_t behind = in.extents[2] - contracted;
      for (int64_t i = 0; made < out.extents[2] && i < in.rows * heads; ++i)
        std::copy_n(in.as<A>() + i * in.extents[2] + contracted, behind,
                    out.as<A>() + i * out.extents[2] + made);
      return;
    }
    const PartialLayout from = store_.message(task.reads[0], task.chunk);
    for (int64_t row = 0; row < in.rows; ++row)
      for (int64_t head = 0; head < heads; head += part.heads) {
        std::byte* message = out.data + head / part.heads * part.bytes();
        product_per_head(one_row, part.heads, in.as<A>() + row * in.width + head * in.extents[2],
                         weights.at(head * made * contracted),
                         reinterpret_cast<A*>(message + part.output_offset(row, 0)));
        std::memcpy(message + part.lse_offset(row, 0), in.data + from.lse_offset(row, head),
                    static_cast<size_t>(part.heads) * sizeof(float));
      }
  });
}

void CpuExecutor::angles(const Task& task) {
  const Array out = array(task.writes[0], all_chunks);
  const auto pairs = static_cast<int64_t>(frequencies_.size());
  for (int64_t row = 0; row < out.rows; ++row)
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const double angle =
          static_cast<double>(position(row)) * frequencies_[static_cast<size_t>(pair)];
      out.as<float>()[row * 2 * pairs + pair] = static_cast<float>(std::cos(angle));
      out.as<float>()[row * 2 * pairs + pairs + pair] = static_cast<float>(std::sin(angle));
    }
}

// Queries [rows][heads][size] whole; of keys and values [rows][2][heads][size] the keys.
void CpuExecutor::rope(const Task& task) {
  const Array x = array(task.reads[0], all_chunks);
  const auto* angles = array(task.reads[1], all_chunks).as<float>();
  const auto pairs = static_cast<int64_t>(frequencies_.size());
  const bool keys = schedule_[task.reads[0]].dims[3].fill != Fill::absent;
  const bool latent = schedule_[task.reads[0]].dims[2].fill == Fill::absent;
  const int64_t size = latent ? x.extents[1] : keys ? x.extents[3] : x.extents[2];
  const int64_t heads = latent ? 1 : keys ? x.extents[2] : x.extents[1];
  with_type(work_.precision.activations, [&]<class A>(A*) {
    for (int64_t row = 0; row < x.rows; ++row) {
      A* vectors = x.as<A>() + row * x.width;
      const float* cosines = angles + row * 2 * pairs;
      cpu::rope(RopeShape{1, heads, size, pairs, work_.model->rope.interleaved}, cosines,
                cosines + pairs, vectors, vectors);
    }
  });
}

static_assert(page_tokens % tile_tokens == 0);

// Where the keys and the values of a KV head of a row begin.
template <class T>
CpuExecutor::Cached<T> CpuExecutor::cached(int layer, int64_t row, int64_t head) const {
  const KvCache& cache = store_.cache();
  const auto all = values_at<T>(store_.history(layer), cache.count(),
                                generator_.kv_scale(layer, cache.first_head + head));
  return {all.at(cache.first_key(row, head)), all.at(cache.first_value(row, head))};
}

void CpuExecutor::append(const Task& task, int layer) {
  const Array kv = array(task.reads[0], all_chunks);
  const KvCache& cache = store_.cache();
  const Place& me = schedule_.place;
  std::vector<float> wide(static_cast<size_t>(std::max(cache.key_values, cache.value_values)));
  with_stored(work_.precision.kv, work_.precision.activations, [&]<class K, class A>(K*, A*) {
    for (int64_t row = 0; row < kv.rows; ++row) {
      if (!owns_newest(row)) continue;
      const int64_t at =
          cache.place(row, local_length(position(row), work_.interval, me.l.kvp, me.kvp));
      const std::byte* judged = judged_codes(layer, row);
      const auto put = [&](const A* from, int64_t count, const Values<K>& to) {
        convert(count, from, wide.data());
        encode(wide.data(), count, to);
        if constexpr (std::is_same_v<K, fp8> || std::is_same_v<K, nvfp4>) {
          if (judged == nullptr) return;
          force_codes(values_at<const K>(judged, count, to.scale), count, to, hooks_.codes);
          judged += bytes_for<K>(count);
        }
      };
      for (int64_t head = 0; head < cache.heads; ++head) {
        const A* key = kv.as<A>() + row * kv.width + head * cache.key_values;
        const auto [keys, values] = cached<K>(layer, row, head);
        put(key, cache.key_values, keys.at(at * cache.key_values));
        if (cache.value_values == 0) continue;
        put(key + cache.heads * cache.key_values, cache.value_values,
            values.at(at * cache.value_values));
      }
    }
  });
}

// Of this rank's first KV head; null where the executor's own codes stand.
const std::byte* CpuExecutor::judged_codes(int layer, int64_t row) const {
  if (!hooks_.codes.judged) return nullptr;
  const KvCache& cache = store_.cache();
  const int64_t request = store_.now().requests.first + requests_.first + row;
  const auto all = hooks_.codes.judged(step_, layer, request);
  return all.empty() ? nullptr : all.data() + cache.first_head * cache.token_bytes();
}

void CpuExecutor::attend(const Task& task, int layer) {
  const Array query = array(task.reads[0], task.chunk);
  const KvCache& cache = store_.cache();
  const Place& me = schedule_.place;
  const PartialLayout part = store_.message(task.writes[0], task.chunk);
  const AttentionShape shape{query.rows,       query.extents[1], cache.heads,
                             query.extents[2], part.value_size,  scale_};
  with_stored(work_.precision.kv, work_.precision.activations, [&]<class K, class A>(K*, A*) {
    std::vector<KvView<K>> views;
    const std::vector<int32_t> wrong =
        hooks_.pages_swapped ? cache.swapped_pages() : std::vector<int32_t>();
    for (int64_t i = 0; i < query.rows; ++i) {
      const int64_t row = store_.first_row(task.chunk) + i;
      const int64_t tokens = local_length(position(row), work_.interval, me.l.kvp, me.kvp) +
                             (owns_newest(row) ? 1 : 0);
      for (int64_t head = 0; head < cache.heads; ++head) {
        const auto [keys, values] = cached<K>(layer, row, head);
        views.push_back(
            {.k = keys,
             .v = values,
             .k_stride = cache.key_values,
             .v_stride = cache.value_values == 0 ? cache.key_values : cache.value_values,
             .tokens = tokens,
             .block_table = wrong.empty() ? cache.pages_of(row) : &wrong[row * cache.most_pages],
             .block_tokens = page_tokens});
      }
    }
    decode_attention<A, K>(shape, query.as<A>(), views, part,
                           store_.activation(task.writes[0], task.chunk), poll_);
  });
}

void CpuExecutor::merge(const Task& task) {
  const Id parts = task.reads[0];
  with_type(work_.precision.activations, [&]<class A>(A*) {
    merge_partials(store_.message(parts, task.chunk), store_.parts(parts),
                   store_.activation(parts, task.chunk), array(task.writes[0], task.chunk).as<A>());
  });
}

void CpuExecutor::rescale(const Task& task) {
  const Id mine = task.reads[0];
  with_type(work_.precision.activations, [&]<class A>(A*) {
    rescale_partial(store_.message(mine, task.chunk), schedule_.place.l.kvp,
                    store_.activation(mine, task.chunk),
                    reinterpret_cast<const float*>(store_.activation(task.reads[1], task.chunk)),
                    array(task.writes[0], task.chunk).as<A>());
  });
}

void CpuExecutor::swiglu(const Task& task) {
  const Array out = array(task.writes[0], all_chunks);
  with_type(work_.precision.activations, [&]<class A>(A*) {
    cpu::swiglu(out.rows, out.width, array(task.reads[0], all_chunks).as<A>(), out.as<A>());
  });
}

void CpuExecutor::add(const Task& task) {
  const Array to = array(task.reads[0], all_chunks);
  with_type(work_.precision.activations, [&]<class A>(A*) {
    const A* summands[] = {to.as<A>(), array(task.reads[1], all_chunks).as<A>()};
    sum_in_order(2, to.rows * to.width, summands, to.as<A>());
  });
}

void CpuExecutor::pick(const Task& task) {
  const Array logits = array(task.reads[0], all_chunks);
  auto* best = reinterpret_cast<Best*>(array(task.writes[0], all_chunks).data);
  const int64_t first = schedule_[task.reads[0]].dims[1].mine.first;
  with_type(work_.precision.activations, [&]<class A>(A*) {
    for (int64_t row = 0; row < logits.rows; ++row)
      best[row] = argmax(std::span<const A>(logits.as<A>() + row * logits.width,
                                            static_cast<size_t>(logits.width)),
                         first);
  });
}

void CpuExecutor::advance(const Task& task) {
  const Slice requests = store_.now().requests;
  auto* positions = array(task.writes[task.writes.size() - 1], all_chunks).as<int64_t>();
  for (int64_t row = 0; row < requests.count; ++row) ++positions[row];
  if (task.writes.size() == 1) return;  // only the last stage has tokens
  const int ranks = schedule_.place.l.stage_ranks();
  const auto* best = array(task.reads[0], all_chunks).as<const Best>();
  auto* tokens = array(task.writes[0], all_chunks).as<int32_t>();
  sampled_.resize(work_.lengths.size());
  for (int64_t row = 0; row < requests.count; ++row) {
    Best winner = best[row];  // ranks hold ascending words: ties stay with the lowest
    for (int rank = 1; rank < ranks; ++rank)
      if (const Best& other = best[rank * requests.count + row];
          other.value > winner.value || std::isnan(other.value))
        winner = other;
    const auto request = static_cast<size_t>(requests.first + row);
    sampled_[request] = winner.index;
    tokens[row] = teacher_.empty() ? winner.index : teacher_[request];
  }
}

}  // namespace helix::cpu
