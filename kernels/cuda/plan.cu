// How the tokens of a step are cut into shares, from counts in device memory; once a step, for all
// its layers. All tiles of all pairs (row, KV head) stand in one line, cut into equal shares; or
// each pair is cut into shares of its own. A segment is (share, pair); its partial result stands in
// slot share + pair, which grows from segment to segment, so that a pair's slots stand side by
// side.
#include <algorithm>
#include <cassert>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

// A block loses some 5 us from one pair to the next, in which it could read so many tokens. Pairs
// have shares of their own where no share is longer by that than if all were equal.
constexpr int turn_tokens = 256;

// One block of threads: tiles, and shares, before each row first; then the cuts and the pairs'
// splits from them.
__global__ void cut(AttentionPlan plan, const int32_t* tokens) {
  const AttentionShape shape = plan.shape;
  const int thread = static_cast<int>(threadIdx.x);
  const int step = static_cast<int>(blockDim.x);
  const int tile_tokens = attention_tile(shape.head_size);
  const auto tiles = [&](int row) { return (tokens[row] + tile_tokens - 1) / tile_tokens; };
  for (int row = thread; row <= shape.rows; row += step) {
    int before = 0;
    for (int r = 0; r < row; ++r) before += tiles(r) * shape.kv_heads;
    plan.starts[row] = before;
  }
  __syncthreads();
  const int total = plan.starts[shape.rows];
  // Of a pair of this row, if it has its own; none is empty.
  const auto shares = [&](int row) {
    return min(tiles(row), max(1, tiles(row) * plan.shares / max(total, 1)));
  };
  bool own = true;
  for (int row = thread; row <= shape.rows; row += step) {
    int before = 0;
    for (int r = 0; r < row; ++r) before += shares(r) * shape.kv_heads;
    plan.own_starts[row] = before;
    own = own && before <= plan.shares &&
          (row == shape.rows ||
           tiles(row) * int64_t{plan.shares} <=
               int64_t{shares(row)} * (total + turn_tokens / tile_tokens * plan.shares));
  }
  own = __syncthreads_and(own) != 0;
  const int64_t used =  // so that no share is empty
      own ? plan.own_starts[shape.rows] : min(plan.shares, total);
  const auto row_of = [&](const int32_t* starts, int at) {
    int row = 0;
    while (starts[row + 1] <= at) ++row;
    return row;
  };
  for (int share = thread; share <= plan.shares; share += step) {
    Cut at{shape.pairs(), 0};
    if (share < used && own) {
      const int row = row_of(plan.own_starts, share);
      const int offset = share - plan.own_starts[row];
      at.pair = row * shape.kv_heads + offset / shares(row);
      at.tile = static_cast<int>(int64_t{offset % shares(row)} * tiles(row) / shares(row));
    } else if (share < used) {
      const int first = static_cast<int>(int64_t{share} * total / used);
      const int row = row_of(plan.starts, first);
      const int offset = first - plan.starts[row];
      at.pair = row * shape.kv_heads + offset / tiles(row);
      at.tile = offset % tiles(row);
    }
    plan.cuts[share] = at;
  }
  for (int pair = thread; pair < shape.pairs(); pair += step) {
    const int row = pair / shape.kv_heads, head = pair % shape.kv_heads;
    const int64_t first = plan.starts[row] + int64_t{head} * tiles(row);
    const auto share_of = [&](int64_t at) {
      return static_cast<int>(((at + 1) * used - 1) / total);
    };
    plan.splits[pair] = {0, 0};
    if (tiles(row) > 0 && own) {
      plan.splits[pair] = {plan.own_starts[row] + head * shares(row) + pair, shares(row)};
    } else if (tiles(row) > 0) {
      const int share = share_of(first);
      plan.splits[pair] = {share + pair, share_of(first + tiles(row) - 1) - share + 1};
    }
  }
}

}  // namespace

namespace {

int shares_of(const AttentionShape& shape, int over_blocks) {
  return std::max(1, over_blocks / shape.head_blocks());
}

}  // namespace

int64_t AttentionPlan::bytes(const AttentionShape& shape, int over_blocks) {
  const int shares = shares_of(shape, over_blocks);
  const int64_t slots = shares + shape.pairs();
  return slots * shape.group() * (shape.value_size + 1) * 4 + (shares + 1) * int64_t{sizeof(Cut)} +
         shape.pairs() * int64_t{sizeof(Splits)} + 2 * (shape.rows + 1) * int64_t{4};
}

AttentionPlan::AttentionPlan(const AttentionShape& of, int over_blocks, std::byte* memory)
    : shape(of), shares(shares_of(of, over_blocks)) {
  assert(shape.rows > 0 && shape.heads % shape.kv_heads == 0 && shape.group() <= 128);
  assert(shape.head_size <= 576 && shape.value_size <= std::min(shape.head_size, 512));
  assert(shares <= max_parts);
  outs = reinterpret_cast<float*>(memory);
  lses = outs + int64_t{slots()} * shape.group() * shape.value_size;
  cuts = reinterpret_cast<Cut*>(lses + int64_t{slots()} * shape.group());
  splits = reinterpret_cast<Splits*>(cuts + shares + 1);
  starts = reinterpret_cast<int32_t*>(splits + shape.pairs());
  own_starts = starts + shape.rows + 1;
}

void cut_attention(const AttentionPlan& plan, const int32_t* tokens, const Launch& how) {
  launch("cut attention", cut, dim3(1), 1024, 0, {how.stream, how.blocks, false}, 1, plan, tokens);
}

}  // namespace helix::cuda
