#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/dots.h"
#include "kernels/cpu/parallel.h"

namespace helix::cpu {
namespace {

constexpr int64_t head_block =
    16;  // query heads between two polls: at MLA's size about 50 us a tile
constexpr int64_t least_split =
    256;  // tokens of a split: its result is small against what it read …
constexpr int64_t most_splits = 64;       // … also when the history is long
constexpr int64_t wave_bytes = 16 << 20;  // results of splits that wait for their merge

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

int64_t split_tokens(int64_t tokens) {
  return round_up(std::max(least_split, (tokens + most_splits - 1) / most_splits), tile_tokens);
}

// Tokens [first, first + tokens) of one (row, KV head), which is view `pair`.
struct Split {
  int64_t pair, first, tokens;
};

// Softmax so far of one query head: outputs beside it are sums of exp(logit - max) v. It starts at
// the lowest finite maximum, so that no difference of infinities arises.
struct Running {
  float max = std::numeric_limits<float>::lowest();
  float sum = 0;
};

// Rows of a tile that are read next: they are fetched into cache while the tile before them is
// computed with, K during V and V during K. Memory then never waits for arithmetic; without it the
// two took turns.
struct Ahead {
  const char* rows = nullptr;
  int64_t stride = 0;  // values
  int64_t bits = 0;    // of a value

  Ahead() = default;
  template <class Kv>
  Ahead(const Values<const Kv>& from, int64_t stride) : stride(stride) {
    if constexpr (std::is_same_v<Kv, nvfp4>) {  // scales are few: the hardware sees to them
      rows = reinterpret_cast<const char*>(from.codes);
      bits = 4;
    } else {
      rows = reinterpret_cast<const char*>(from.data);
      bits = 8 * sizeof(Kv);
    }
  }
  // `count` values of row t from d.
  void fetch(int64_t t, int64_t d, int64_t count) const {
    if (rows == nullptr) return;
    const char* from = rows + (t * stride + d) * bits / 8;
    for (int64_t i = 0; i < count * bits / 8; i += 64) __builtin_prefetch(from + i, 0, 2);
  }
};

// The query heads that read one KV head, in fp32, and where their results go.
struct Group {
  int64_t heads, size, value_size, value_stride;
  float scale;     // of the logits, the keys' scale included
  const float* q;  // [heads][size]
  float* out;      // [heads][value_stride]
  Running* running;
};

// Logits of Heads heads from h: logits[i][t] for t < tokens, -inf up to the next multiple of
// sixteen.
template <int Heads, class Kv>
[[gnu::noinline]] void logits_of(const Group& group, int64_t h, const Values<const Kv>& k,
                                 int64_t stride, int64_t tokens, const Ahead& values_ahead,
                                 float* logits) {
  constexpr int columns = Heads == 1 ? 16 : Heads == 2 ? 8 : 4;
  for (int64_t t = 0; t < tokens; t += columns) {
    Values<const Kv> rows[columns];
    for (int64_t c = 0; c < columns; ++c) rows[c] = k.at(std::min(t + c, tokens - 1) * stride);
    for (int64_t c = 0; c < columns && t + c < tokens; ++c)
      values_ahead.fetch(t + c, 0, group.value_size);
    float values[16];
    store(
        dots<Heads, columns>(group.q + h * group.size, group.size, rows, group.size) * group.scale,
        values);
    for (int i = 0; i < Heads; ++i) {
      std::memcpy(logits + i * tile_tokens + t, values + i * columns, columns * sizeof(float));
    }
  }
  for (int i = 0; i < Heads; ++i) {
    std::fill(logits + i * tile_tokens + tokens,
              logits + i * tile_tokens + round_up(tokens, lane_count), -infinity);
  }
}

// Turns a tile's logits into weights under the new maximum; keep: what the older sums are
// multiplied by. Heads go side by side: each step alone waits for the one before.
template <int Heads>
[[gnu::noinline]] void weigh(float* logits, int64_t tokens, Running* running, float (&keep)[16]) {
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) {
    Lanes most = all(running[i].max);
    for (int64_t t = 0; t < tokens; t += lane_count)
      most = larger(load(logits + i * tile_tokens + t), most);
    const float max = largest(most);
    keep[i] = running[i].max - max;
    running[i].max = max;
  }
  store(exponential(load(keep)), keep);
  for (int64_t t = 0; t < tokens; t += lane_count) {
#pragma GCC unroll 4
    for (int i = 0; i < Heads; ++i) {
      float* const at = logits + i * tile_tokens + t;
      store(exponential(load(at) - running[i].max), at);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Heads; ++i) {
    Lanes total = zero();
    for (int64_t t = 0; t < tokens; t += lane_count)
      total = total + load(logits + i * tile_tokens + t);
    running[i].sum = running[i].sum * keep[i] + sum(total);
  }
}

// out[i][d] = keep[i] out[i][d] + sum over t of weights[i][t] v[t][d], in order of t.
template <int Heads, int Vectors, class Kv, class Read>
[[gnu::noinline]] void add_values(const float* weights, const float* keep,
                                  const Values<const Kv>& v, int64_t stride, int64_t tokens,
                                  const Ahead& keys_ahead, int64_t d, float* out,
                                  int64_t out_stride, Read&& read) {
  Lanes sum[Heads][Vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Heads; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j)
      sum[i][j] = load(out + i * out_stride + d + j * lane_count) * keep[i];
  }
  for (int64_t t = 0; t < tokens; ++t) {
    keys_ahead.fetch(t, d, Vectors * lane_count);
    Lanes value[Vectors];
    if constexpr (Vectors == 4) load_four(v.at(t * stride + d), value);
    else value[0] = read(v.at(t * stride + d));
#pragma GCC unroll 16
    for (int i = 0; i < Heads; ++i) {
      const Lanes weight = all(weights[i * tile_tokens + t]);
#pragma GCC unroll 16
      for (int j = 0; j < Vectors; ++j) sum[i][j] = multiply_add(weight, value[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Heads; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) store(sum[i][j], out + i * out_stride + d + j * lane_count);
  }
}

// Tokens that stand in consecutive rows.
template <class Kv>
struct Tile {
  Values<const Kv> k, v;
  int64_t k_stride, v_stride, tokens;
};

// One tile for Heads heads from h.
template <int Heads, class Kv>
void attend_tile(const Group& group, int64_t h, const Tile<Kv>& tile, const Ahead& values_ahead,
                 const Ahead& keys_ahead) {
  alignas(64) float logits[Heads * tile_tokens];
  alignas(64) float keep[lane_count] = {};
  logits_of<Heads>(group, h, tile.k, tile.k_stride, tile.tokens, values_ahead, logits);
  weigh<Heads>(logits, tile.tokens, group.running + h, keep);
  float* out = group.out + h * group.value_stride;
  const auto add = [&]<int Vectors>(int64_t d, auto read) {
    add_values<Heads, Vectors>(logits, keep, tile.v, tile.v_stride, tile.tokens, keys_ahead, d, out,
                               group.value_stride, read);
  };
  int64_t d = 0;
  for (; d + 4 * lane_count <= group.value_size; d += 4 * lane_count)
    add.template operator()<4>(d, Load{});
  for (; d + lane_count <= group.value_size; d += lane_count) add.template operator()<1>(d, Load{});
  if (d < group.value_size) add.template operator()<1>(d, LoadTail{group.value_size - d});
}

// All heads over one tile: it is read from memory once, by the first heads, and from cache by the
// others.
template <class Kv>
void attend_heads(const Group& group, const Tile<Kv>& tile, const Ahead& values, const Ahead& keys,
                  Poller& poll) {
  for (int64_t h = 0; h < group.heads; h += 4) {
    const int64_t heads = std::min<int64_t>(4, group.heads - h);
    const auto attend = heads == 4   ? attend_tile<4, Kv>
                        : heads == 3 ? attend_tile<3, Kv>
                        : heads == 2 ? attend_tile<2, Kv>
                                     : attend_tile<1, Kv>;
    attend(group, h, tile, h == 0 ? values : Ahead(), h == 0 ? keys : Ahead());
    if ((h + heads) % head_block == 0) poll();
  }
}

// Rows of codes as fp32, without their scale; of another stride.
template <class Kv>
Values<const float> widened(const Values<const Kv>& from, int64_t stride, int64_t tokens,
                            int64_t width, Scratch& to) {
  const int64_t padded = round_up(width, lane_count);
  float* const rows = to.take(tile_tokens * padded);
  for (int64_t t = 0; t < tokens; ++t)
    for_lanes(width, [&](int64_t d, auto read, auto write) {
      write(read(from.at(t * stride + d)), rows + t * padded + d);
    });
  return Values<const float>(rows);
}

template <class Kv>
void attend_split(const Group& group, const KvView<Kv>& kv, const Split& split, Poller& poll) {
  const bool latent = kv.k == kv.v;
  for (int64_t t = 0; t < split.tokens; t += tile_tokens) {
    const auto tile_at = [&](int64_t token) {
      const int64_t row = kv.row(split.first + token);
      return Tile<Kv>{kv.k.at(row * kv.k_stride), kv.v.at(row * kv.v_stride), kv.k_stride,
                      kv.v_stride, std::min(tile_tokens, split.tokens - token)};
    };
    const Tile<Kv> tile = tile_at(t);
    const Ahead keys = t + 2 * tile_tokens <= split.tokens
                           ? Ahead(tile_at(t + tile_tokens).k, kv.k_stride)
                           : Ahead();
    // Codes that several groups of heads read are decoded once.
    if constexpr (std::is_same_v<Kv, fp8> || std::is_same_v<Kv, nvfp4>) {
      if (group.heads > 4) {
        static thread_local Scratch wide_k, wide_v;
        const auto k = widened(tile.k, kv.k_stride, tile.tokens, group.size, wide_k);
        const auto v =
            latent ? k : widened(tile.v, kv.v_stride, tile.tokens, group.value_size, wide_v);
        const int64_t k_stride = round_up(group.size, lane_count);
        attend_heads(
            group,
            Tile<float>{k, v, k_stride, latent ? k_stride : round_up(group.value_size, lane_count),
                        tile.tokens},
            Ahead(), keys, poll);
        poll();
        continue;
      }
    }
    attend_heads(group, tile, latent ? Ahead() : Ahead(tile.v, kv.v_stride), keys, poll);
    poll();
  }
}

// Merges the splits of one query head in order, and writes its output, times the values' scale, and
// log-sum-exp.
template <class Activation>
void merge_splits(int64_t splits, const float* outs, const Running* running, int64_t out_step,
                  int64_t running_step, int64_t value_size, float value_scale, Activation* out,
                  float* lse) {
  float max = std::numeric_limits<float>::lowest();
  for (int64_t s = 0; s < splits; ++s) max = std::max(max, running[s * running_step].max);
  float weights[most_splits];
  float total = 0;
  for (int64_t s = 0; s < splits; ++s) {
    weights[s] = exponential(running[s * running_step].max - max);
    total += weights[s] * running[s * running_step].sum;
  }
  // Logits that are all -inf, or any NaN, are no empty shard: they must be seen.
  *lse = splits == 0 ? -infinity : total > 0 ? max + std::log(total) : nan;
  for_lanes(value_size, [&](int64_t d, auto, auto write) {
    Lanes merged = zero();
    for (int64_t s = 0; s < splits; ++s)
      merged = multiply_add(load(outs + s * out_step + d), all(weights[s] / total), merged);
    write(merged * value_scale, out + d);
  });
}

}  // namespace

template <class Activation, class Kv>
void decode_attention(const AttentionShape& shape, const Activation* q,
                      std::span<const KvView<Kv>> kv, const PartialLayout& part, std::byte* out,
                      const std::function<void()>& poll) {
  if (shape.rows == 0 || shape.heads == 0) return;
  assert(shape.heads % shape.kv_heads == 0 && shape.heads % part.heads == 0);
  assert(part.element_bytes == sizeof(Activation) && part.value_size == shape.value_size);
  const int64_t group_heads = shape.heads / shape.kv_heads;
  const int64_t value_stride = round_up(shape.value_size, lane_count);
  const int64_t split_values = group_heads * value_stride;
  const int64_t pairs = shape.rows * shape.kv_heads;

  std::vector<Split> splits;
  std::vector<int64_t> first_split;  // of each pair
  for (int64_t pair = 0; pair < pairs; ++pair) {
    first_split.push_back(std::ssize(splits));
    const int64_t tokens = kv[pair].tokens;
    const int64_t step = split_tokens(tokens);
    for (int64_t t = 0; t < tokens; t += step)
      splits.push_back({pair, t, std::min(step, tokens - t)});
  }
  first_split.push_back(std::ssize(splits));

  static thread_local Scratch outs;
  static thread_local std::vector<Running> runnings;
  Poller poller(poll);
  // Pairs go in waves that fit the scratch; what a wave holds changes no bits.
  for (int64_t begin = 0, end = 0; begin < pairs; begin = end) {
    const int64_t base = first_split[begin];
    const int64_t fitting = base + std::max<int64_t>(1, wave_bytes / 4 / split_values);
    end = begin + 1;
    while (end < pairs && first_split[end + 1] <= fitting) ++end;
    const int64_t count = first_split[end] - base;
    runnings.assign(static_cast<size_t>(count * group_heads), Running{});
    float* const wave_outs = outs.take(count * split_values);
    std::fill_n(wave_outs, count * split_values, 0.0F);
    Running* const wave_runnings = runnings.data();

    int64_t tokens = 0;
    for (int64_t i = base; i < base + count; ++i) tokens += splits[i].tokens;
    for_blocks(
        count, tokens * group_heads * (shape.head_size + shape.value_size), poller, [&](int64_t i) {
          const Split& split = splits[base + i];
          static thread_local Scratch scratch;
          float* const queries = scratch.take(group_heads * shape.head_size);
          const Activation* from = q + split.pair * group_heads * shape.head_size;
          for_lanes(group_heads * shape.head_size,
                    [&](int64_t d, auto read, auto write) { write(read(from + d), queries + d); });
          const Group group{.heads = group_heads,
                            .size = shape.head_size,
                            .value_size = shape.value_size,
                            .value_stride = value_stride,
                            .scale = shape.scale * code_scale(kv[split.pair].k),
                            .q = queries,
                            .out = wave_outs + i * split_values,
                            .running = wave_runnings + i * group_heads};
          attend_split(group, kv[split.pair], split, poller);
        });

    for_blocks((end - begin) * group_heads, count * split_values, poller, [&](int64_t i) {
      const int64_t pair = begin + i / group_heads;
      const int64_t first = first_split[pair] - base;
      const int64_t row = pair / shape.kv_heads;
      const int64_t head = pair % shape.kv_heads * group_heads + i % group_heads;
      std::byte* message = out + head / part.heads * part.bytes();
      float lse = 0;
      merge_splits(
          first_split[pair + 1] - base - first,
          wave_outs + first * split_values + i % group_heads * value_stride,
          wave_runnings + first * group_heads + i % group_heads, split_values, group_heads,
          shape.value_size, code_scale(kv[pair].v),
          reinterpret_cast<Activation*>(message + part.output_offset(row, head % part.heads)),
          &lse);
      std::memcpy(message + part.lse_offset(row, head % part.heads), &lse, sizeof lse);
    });
  }
  poller.finish();
}

#define INSTANTIATE(Activation, Kv)                                                             \
  template void decode_attention(const AttentionShape&, const Activation*,                      \
                                 std::span<const KvView<Kv>>, const PartialLayout&, std::byte*, \
                                 const std::function<void()>&);
#define FOR_ACTIVATIONS(Kv) INSTANTIATE(float, Kv) INSTANTIATE(bf16, Kv)
FOR_ACTIVATIONS(float)
FOR_ACTIVATIONS(bf16)
FOR_ACTIVATIONS(fp8)
FOR_ACTIVATIONS(nvfp4)
#undef FOR_ACTIVATIONS
#undef INSTANTIATE

}  // namespace helix::cpu
