// The newest token's key and value of each row into the cache: a block a (row, KV head), a thread
// one value, or a block of nvfp4.
#include "kernels/cuda/attention.cuh"

namespace helix::cuda {
namespace {

constexpr int threads = 64;

// One vector. Every value is its thread's alone.
template <class Kv, class Activation>
__device__ void keep(const Activation* from, int size, const Values<Kv>& to,
                     const Values<const Kv>& forced, const Values<Kv>& own, bool traced) {
  constexpr int each = std::is_same_v<Kv, nvfp4> ? nvfp4_block : 1;
#pragma unroll 1
  for (int i = each * static_cast<int>(threadIdx.x); i < size; i += each * threads) {
    float values[each];
#pragma unroll
    for (int j = 0; j < each; ++j) values[j] = to_float(from[i + j]);
    encode(values, each, traced ? own.at(i) : to.at(i));
    if (traced) copy(forced.at(i), each, to.at(i));
  }
}

template <class Activation>
__global__ void __launch_bounds__(threads, 1)
    keep_newest(AppendShape shape, const Activation* kv, const int32_t* place, KvView to,
                CodesTrace trace) {
  release_next();
  wait_for_previous();
  const int row = static_cast<int>(blockIdx.x) / shape.heads;
  const int head = static_cast<int>(blockIdx.x) % shape.heads;
  if (place[row] < 0) return;
  with_stored(to.format, [&]<class Kv>(Kv*) {
    const float scale = scale_of(to, head);
    const int64_t token = token_offset(to, row, place[row], shape.size);
#pragma unroll 1
    for (int kind = 0; kind < shape.kinds; ++kind) {
      const int64_t vector = int64_t{blockIdx.x} * shape.kinds + kind;
      const int64_t traced = vector * bytes_for<Kv>(shape.size);
      keep(kv + ((int64_t{row} * shape.kinds + kind) * shape.heads + head) * shape.size, shape.size,
           values_of<Kv>(to, scale).at((kind == 0 ? to.keys : to.values)[blockIdx.x] + token),
           values_at<const Kv>(trace.forced + traced, shape.size, scale),
           values_at<Kv>(trace.own + traced, shape.size, scale), trace.forced != nullptr);
    }
  });
}

}  // namespace

template <class Activation>
void append(const AppendShape& shape, const Activation* kv, const int32_t* place, const KvView& to,
            const CodesTrace& trace, const Launch& how) {
  launch("append", keep_newest<Activation>, dim3(static_cast<unsigned>(shape.rows * shape.heads)),
         threads, 0, how, 1, shape, kv, place, to, trace);
}

template void append(const AppendShape&, const float*, const int32_t*, const KvView&,
                     const CodesTrace&, const Launch&);
template void append(const AppendShape&, const bf16*, const int32_t*, const KvView&,
                     const CodesTrace&, const Launch&);

}  // namespace helix::cuda
