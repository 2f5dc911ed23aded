// How the tokens of a step are cut into shares, from counts in device memory; once a step, for all
// its layers. All tiles of all pairs (row, KV head) stand in one line, cut into equal shares. A
// segment is (share, pair); its partial result stands in slot share + pair, which grows from
// segment to segment, so that a pair's slots stand side by side.
#include <algorithm>
#include <cassert>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

// Every share has work. Whole blocks for each pair would spare the 5 us that a block loses from
// one pair to the next, but leave some blocks idle: 8 x 128K tokens then took 146 us in place of
// 126, probably because the next kernel puts two of its blocks where an idle one stood.
//
// One block of threads: tiles before each row first, then the cuts and the pairs' splits from them.
__global__ void cut(AttentionPlan plan, const int32_t* tokens) {
  const AttentionShape shape = plan.shape;
  const int thread = static_cast<int>(threadIdx.x);
  const int step = static_cast<int>(blockDim.x);
  const auto tiles = [&](int row) {
    return (tokens[row] + attention_tile(shape.head_size) - 1) / attention_tile(shape.head_size);
  };
  for (int row = thread; row <= shape.rows; row += step) {
    int before = 0;
    for (int r = 0; r < row; ++r) before += tiles(r) * shape.kv_heads;
    plan.starts[row] = before;
  }
  __syncthreads();
  const int64_t total = plan.starts[shape.rows];
  const int64_t used = min(int64_t{plan.shares}, total);  // so that no share is empty
  for (int share = thread; share <= plan.shares; share += step) {
    Cut at{shape.pairs(), 0};
    if (share < used) {
      const int first = static_cast<int>(share * total / used);
      int row = 0;
      while (plan.starts[row + 1] <= first) ++row;
      const int offset = first - plan.starts[row];
      at.pair = row * shape.kv_heads + offset / tiles(row);
      at.tile = offset % tiles(row);
    }
    plan.cuts[share] = at;
  }
  for (int pair = thread; pair < shape.pairs(); pair += step) {
    const int row = pair / shape.kv_heads;
    const int64_t first = plan.starts[row] + int64_t{pair % shape.kv_heads} * tiles(row);
    const auto share_of = [&](int64_t at) {
      return static_cast<int>(((at + 1) * used - 1) / total);
    };
    plan.splits[pair] = {0, 0};
    if (tiles(row) > 0) {
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
         shape.pairs() * int64_t{sizeof(Splits)} + (shape.rows + 1) * int64_t{4};
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
}

void cut_attention(const AttentionPlan& plan, const int32_t* tokens, const Launch& how) {
  launch("cut attention", cut, dim3(1), 1024, 0, {how.stream, how.blocks, false}, 1, plan, tokens);
}

}  // namespace helix::cuda
