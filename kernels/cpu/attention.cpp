#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cpu/attention_logits.h"
#include "kernels/cpu/attention_values.h"
#include "kernels/cpu/parallel.h"

namespace helix::cpu {
namespace {

constexpr int64_t head_block =
    16;  // query heads between two polls: at MLA's size about 50 us a tile
// Tokens of a split: what surrounds its tiles is small against them …
constexpr int64_t least_split = 2048;
constexpr int64_t most_splits = 32;       // … also when the history is long
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

// Rows in the order of their lines, decoded to X, without the tensor's scale. `next`: rows that are
// fetched meanwhile.
template <class X, class Kv>
const X* widened(const Values<const Kv>& from, int64_t stride, int64_t tokens, int64_t width,
                 int64_t to_stride, const Ahead& next, Scratch& scratch) {
  X* const rows = scratch.take<X>(tile_tokens * to_stride);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t d = 0; d < width; d += line_values<Kv>) {
      next.fetch(t, d);
      const auto row = from.at(t * stride + d);
      const Line<Kv> line =
          width - d >= line_values<Kv> ? load_line(row) : load_line(row, width - d);
      X* const to = rows + t * to_stride + d;
      for (int p = 0; p < Line<Kv>::pairs; ++p) store_exact(line, p, to + 32 * p);
    }
  }
  return rows;
}

// A piece of a tile, and what is fetched while its K and its V are read.
template <class Kv>
struct Step {
  Piece<Kv> rows;
  Ahead values, keys;
};
// One after another, all but the last of a multiple of tile_tokens.
template <class Kv>
struct Tile {
  Step<Kv> steps[tile_of<Kv> / tile_tokens];
  int64_t count = 0, tokens = 0;
};

// One tile for Heads heads from h.
template <int Heads, class X, class Kv>
void attend_tile(const Group<X>& group, int64_t h, const Tile<Kv>& tile) {
  constexpr int64_t stride = tile_of<Kv>;
  alignas(64) float logits[Heads * stride];
  float* at = logits;
  for (int64_t s = 0; s < tile.count; at += tile.steps[s++].rows.tokens)
    logits_of<Heads>(group, h, tile.steps[s].rows, tile.steps[s].values, at);
  for (int64_t i = 0; i < Heads; ++i)
    std::fill(logits + i * stride + tile.tokens, logits + (i + 1) * stride, -infinity);
  alignas(64) float keep[lane_count] = {};
  weigh<Heads, Kv>(logits, tile.tokens, group.running + h, keep, tile.steps[0].keys);
  at = logits;
  for (int64_t s = 0; s < tile.count; at += tile.steps[s++].rows.tokens) {
    Ahead keys = tile.steps[s].keys;
    if (s == 0) keys.fetched = fetched_first<Kv>;
    add_all_values<Heads>(group, at, keep, tile.steps[s].rows, keys,
                          group.out + h * group.value_stride);
    std::fill_n(keep, Heads, 1.0F);
  }
}

// All heads over one tile: it is read from memory once, by the first heads, and from cache by the
// others.
template <class X, class Kv>
void attend_heads(const Group<X>& group, Tile<Kv> tile, Poller& poll) {
  for (int64_t h = 0; h < group.heads; h += 4) {
    const int64_t heads = std::min<int64_t>(4, group.heads - h);
    const auto attend = heads == 4   ? attend_tile<4, X, Kv>
                        : heads == 3 ? attend_tile<3, X, Kv>
                        : heads == 2 ? attend_tile<2, X, Kv>
                                     : attend_tile<1, X, Kv>;
    attend(group, h, tile);
    for (Step<Kv>& step : tile.steps) step.values = step.keys = Ahead();
    if ((h + heads) % head_block == 0) poll();
  }
}

// Codes are decoded once where several groups of heads read them, or in fp32.
template <class X, class Kv>
void attend_widened(Group<X> group, const Step<Kv>& step, Poller& poll) {
  const Piece<Kv>& rows = step.rows;
  static thread_local Scratch wide_k, wide_v;
  const int64_t k_stride = round_up(group.size, line_values<Kv>);
  const int64_t v_stride = round_up(group.value_size, line_values<Kv>);
  const Values<const X> k(
      widened<X>(rows.k, rows.k_stride, rows.tokens, group.size, k_stride, step.values, wide_k));
  Piece<X> wide{k, k, k_stride, k_stride, rows.tokens};
  if (!(rows.k == rows.v)) {  // not latent
    wide.v = Values<const X>(widened<X>(rows.v, rows.v_stride, rows.tokens, group.value_size,
                                        v_stride, Ahead(), wide_v));
    wide.v_stride = v_stride;
  }
  group.size = k_stride;
  group.value_size = v_stride;
  attend_heads(group, Tile<X>{{{wide, Ahead(), step.keys}}, 1, rows.tokens}, poll);
}

// The tokens of a split from token t on that stand in consecutive rows, `most` at most.
template <class Kv>
Piece<Kv> piece_at(const KvView<Kv>& kv, const Split& split, int64_t t, int64_t most) {
  const int64_t token = split.first + t;
  const int64_t row = kv.row(token);
  if (kv.block_table != nullptr) most = std::min(most, kv.block_tokens - token % kv.block_tokens);
  return {kv.k.at(row * kv.k_stride), kv.v.at(row * kv.v_stride), kv.k_stride, kv.v_stride,
          std::min(most, split.tokens - t)};
}
// Their keys.
template <class Kv>
Ahead keys_at(const KvView<Kv>& kv, const Split& split, int64_t t) {
  return t < split.tokens ? Ahead(piece_at(kv, split, t, 1).k, kv.k_stride) : Ahead();
}

// Do the heads of a KV head decode its codes while they multiply? Several groups of heads share
// what is decoded once; so do those that compute in fp32.
template <class X, class Kv>
bool decode_codes(int64_t heads) {
  return std::is_same_v<X, bf16> && !std::is_same_v<X, Kv> && heads <= 4;
}

// next(t): the keys at token t of what is read after this split.
template <class X, class Kv, class Next>
void attend_split(const Group<X>& group, const KvView<Kv>& kv, const Split& split, Next&& next,
                  Poller& poll) {
  const auto step_at = [&](int64_t t, int64_t tile, int64_t most) {
    const Piece<Kv> rows = piece_at(kv, split, t, most);
    const int64_t after = t + tile;
    return Step<Kv>{rows, kv.k == kv.v ? Ahead() : Ahead(rows.v, kv.v_stride),
                    after < split.tokens ? keys_at(kv, split, after) : next(after - split.tokens)};
  };
  if constexpr (std::is_same_v<X, Kv> || std::is_same_v<X, bf16>) {
    if (std::is_same_v<X, Kv> || decode_codes<X, Kv>(group.heads)) {
      for (int64_t t = 0; t < split.tokens; t += tile_of<Kv>) {
        Tile<Kv> tile;
        tile.tokens = std::min(tile_of<Kv>, split.tokens - t);
        for (int64_t done = 0; done < tile.tokens; done += tile.steps[tile.count++].rows.tokens)
          tile.steps[tile.count] = step_at(t + done, tile_of<Kv>, tile.tokens - done);
        attend_heads(group, tile, poll);
        poll();
      }
      return;
    }
  }
  if constexpr (!std::is_same_v<X, Kv>) {
    for (int64_t t = 0; t < split.tokens; t += tile_tokens) {
      attend_widened(group, step_at(t, tile_tokens, tile_tokens), poll);
      poll();
    }
  }
}

// Merges the splits of one query head in order, and writes its output, times the values' scale, in
// order, and log-sum-exp.
template <class Kv, class Activation>
void merge_splits(int64_t splits, const float* outs, const Running* running, int64_t out_step,
                  int64_t running_step, int64_t value_size, Position position, float value_scale,
                  Activation* out, float* lse) {
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
  for (int64_t s = 0; s < splits; ++s) weights[s] /= total;
  for (int64_t d = 0; d < value_size; d += line_values<Kv>) {
    alignas(64) float arranged[line_values<Kv>];
    for (int64_t i = 0; i < line_values<Kv>; i += lane_count) {
      Lanes merged = zero();
      for (int64_t s = 0; s < splits; ++s)
        merged = multiply_add(load(outs + s * out_step + d + i), all(weights[s]), merged);
      store(merged * value_scale, arranged + i);
    }
    alignas(64) float values[line_values<Kv>];
    disarrange<Kv>(arranged, position, values);
    const int64_t count = std::min(value_size - d, line_values<Kv>);
    for_lanes(count,
              [&](int64_t i, auto read, auto write) { write(read(values + i), out + d + i); });
  }
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
  using X = Operand<Kv, Activation>;
  const bool decodes = decode_codes<X, Kv>(group_heads);
  const Position position = std::is_same_v<X, float>               ? cpu::position<float>
                            : decodes && std::is_same_v<Kv, nvfp4> ? position_of_block
                                                                   : position_beside;
  const int64_t q_stride = round_up(shape.head_size, line_values<Kv>);
  const int64_t value_stride =
      round_up(shape.value_size,
               std::is_same_v<X, bf16> ? std::max<int64_t>(64, line_values<Kv>) : line_values<Kv>);
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
    Running* const wave_runnings = runnings.data();

    int64_t tokens = 0;
    for (int64_t i = base; i < base + count; ++i) tokens += splits[i].tokens;
    // Whose queries a thread has arranged last: a pair's splits follow one another.
    std::vector<int64_t> arranged(static_cast<size_t>(omp_get_max_threads()), -1);
    // A thread takes splits in runs, beyond which nothing is fetched ahead: eight runs a thread.
    const int64_t run = std::max<int64_t>(1, count / (8 * omp_get_max_threads()));
    for_blocks(count, tokens * group_heads * (shape.head_size + shape.value_size), run, poller,
               [&](int64_t i) {
                 const Split& split = splits[base + i];
                 static thread_local Scratch scratch;
                 X* const queries = scratch.take<X>(5 * group_heads * q_stride);
                 X* const beside_codes = queries + group_heads * q_stride;
                 int64_t& last = arranged[static_cast<size_t>(omp_get_thread_num())];
                 if (std::exchange(last, split.pair) != split.pair) {
                   const Activation* from = q + split.pair * group_heads * shape.head_size;
                   for (int64_t h = 0; h < group_heads; ++h)
                     arrange<Kv>(from + h * shape.head_size, shape.head_size,
                                 queries + h * q_stride);
                   if constexpr (std::is_same_v<X, bf16>) {
                     for (int64_t h = 0; decodes && h < group_heads; ++h)
                       spread(queries + h * q_stride, q_stride, group_heads, h, beside_codes);
                   }
                 }
                 const Group<X> group{.heads = group_heads,
                                      .size = shape.head_size,
                                      .value_size = shape.value_size,
                                      .scale = shape.scale * kv[split.pair].k.scale,
                                      .q = decodes ? beside_codes : queries,
                                      .q_stride = q_stride,
                                      .out = wave_outs + i * split_values,
                                      .value_stride = value_stride,
                                      .running = wave_runnings + i * group_heads};
                 std::fill_n(group.out, split_values, 0.0F);
                 const Split* const after =
                     (i + 1) % run != 0 && i + 1 < count ? &splits[base + i + 1] : nullptr;
                 const auto next = [&](int64_t t) {
                   return after == nullptr ? Ahead() : keys_at(kv[after->pair], *after, t);
                 };
                 attend_split(group, kv[split.pair], split, next, poller);
               });

    for_blocks((end - begin) * group_heads, count * split_values, poller, [&](int64_t i) {
      const int64_t pair = begin + i / group_heads;
      const int64_t first = first_split[pair] - base;
      const int64_t row = pair / shape.kv_heads;
      const int64_t head = pair % shape.kv_heads * group_heads + i % group_heads;
      std::byte* message = out + head / part.heads * part.bytes();
      float lse = 0;
      merge_splits<Kv>(
          first_split[pair + 1] - base - first,
          wave_outs + first * split_values + i % group_heads * value_stride,
          wave_runnings + first * group_heads + i % group_heads, split_values, group_heads,
          shape.value_size, position, kv[pair].v.scale,
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
