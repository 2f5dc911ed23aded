#include "execute/cuda/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/heartbeat.h"
#include "execute/cuda/types.h"
#include "execute/drawn.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/generate.h"

namespace helix::cuda {

namespace {

int64_t volume(const Part& part) {
  int64_t count = 1;
  for (const Slice& slice : part) count *= slice.count;
  return count;
}

template <class T>
void upload(const std::vector<T>& values, T* to) {
  HELIX_CUDA(cudaMemcpy(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
}

// Marked models are tiny, and made on the host, as are norms, of which there is little; checkpoints
// are read there.
class Filler {
 public:
  Filler(const Assignment& work, int blocks)
      : on_host_(work.model->marked || work.model->checkpoint != nullptr),
        generator_(*work.model, work.precision, work.seed),
        stream_(make_stream()),
        launch_{stream_.get(), blocks, false} {}

  template <class T>
  void weight(const WeightPart& w, T* to) const {
    if (!on_host_ && generator_.draw(w.weight, w.layer).offset == 0) {
      for (const DrawnPart& part : drawn_parts(generator_, w.weight, w.layer, w.part))
        draw(part, to + part.begins);
      return;
    }
    std::vector<T> values(static_cast<size_t>(volume(w.part)));
    generator_.weights(w.weight, w.layer, w.part, Values<T>(values.data()));
    upload(values, to);
  }

  template <class T>
  void history(const HistoryPart& h, T* keys, T* values) const {
    if (!on_host_) {
      draw(drawn_keys(generator_, h), keys);
      if (values != nullptr) draw(drawn_values(generator_, h), values);
      return;
    }
    const Attention& a = generator_.model().attention;
    std::vector<T> k(static_cast<size_t>(h.positions.count * a.head_size));
    std::vector<T> v(static_cast<size_t>(values == nullptr ? 0 : h.positions.count * a.value_size));
    generator_.history(h.layer, h.request, h.length, h.kv_head, h.positions, Values<T>(k.data()),
                       Values<T>(v.data()));
    upload(k, keys);
    upload(v, values);
  }

  void wait() const { HELIX_CUDA(cudaStreamSynchronize(stream_.get())); }

 private:
  template <class T>
  void draw(const DrawnPart& p, T* to) const {
    cuda::generate({p.draw.stream, p.draw.scale, p.draw.offset},
                   {p.first, p.rows, p.width, p.stride, p.run, p.jump}, to, launch_);
  }

  bool on_host_;
  Generator generator_;
  OwnedStream stream_;
  Launch launch_;
};

}  // namespace

Block allocate(size_t bytes) {
  void* data = nullptr;
  const size_t wanted = std::max<size_t>(bytes, 1);
  if (cudaMalloc(&data, wanted) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    size_t free = 0;
    size_t total = 0;
    HELIX_CUDA(cudaMemGetInfo(&free, &total));
    throw RunError(fmt::format("out of GPU memory: {} bytes wanted, {} free", bytes, free));
  }
  Block block(static_cast<std::byte*>(data), [](std::byte* p) { HELIX_CUDA_NOTHROW(cudaFree(p)); });
  HELIX_CUDA(cudaMemset(data, 0, wanted));
  return block;
}

void generate(const Store& store, const Assignment& work, int blocks) {
  HELIX_CUDA(cudaDeviceSynchronize());  // memory is zero
  const Filler filler(work, blocks);
  store.for_each_weight([&](const WeightPart& w) {
    with_type(format_of(work.precision, w.weight),
              [&]<class T>(T*) { filler.weight(w, reinterpret_cast<T*>(w.data)); });
    beat();
  });
  filler.wait();
  beat();
  if (!work.prompt.empty()) return;  // its steps make the history
  store.for_each_history([&](const HistoryPart& h) {
    with_type(work.precision.kv, [&]<class T>(T*) {
      filler.history(h, reinterpret_cast<T*>(h.keys), reinterpret_cast<T*>(h.values));
    });
    beat();
  });
  filler.wait();
}

}  // namespace helix::cuda
