#include "execute/cuda/generate.h"

#include <algorithm>
#include <vector>

#include "base/heartbeat.h"
#include "execute/drawn.h"
#include "execute/types.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/generate.h"

namespace helix::cuda {

namespace {

int64_t volume(const Part& part) {
  int64_t count = 1;
  for (const Slice& slice : part) count *= slice.count;
  return count;
}

// `count` values of a format, made on the host.
template <class T>
class Staged {
 public:
  Staged(int64_t count, float scale)
      : count_(count), scale_(scale), bytes_(static_cast<size_t>(bytes_for<T>(count))) {}
  Values<T> values() { return values_at<T>(bytes_.data(), count_, scale_); }
  void upload(const Values<T>& to) {
    if (count_ == 0) return;
    if constexpr (std::is_same_v<T, nvfp4>) {
      cuda::upload(to.codes, values().codes, static_cast<size_t>(count_ / 2));
      cuda::upload(to.scales, values().scales, static_cast<size_t>(count_ / nvfp4_block));
    } else {
      cuda::upload(to.data, bytes_.data(), bytes_.size());
    }
  }

 private:
  int64_t count_;
  float scale_;
  std::vector<std::byte> bytes_;
};

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
  void weight(const WeightPart& w) const {
    const int64_t count = volume(w.part);
    const float scale = generator_.scale(w.weight, w.layer);
    const auto to = values_at<T>(w.data, count, scale);
    if (!on_host_ && generator_.draw(w.weight, w.layer).offset == 0) {
      for (const DrawnPart& part : drawn_parts(generator_, w.weight, w.layer, w.part))
        draw(part, to.at(part.begins));
      return;
    }
    Staged<T> staged(count, scale);
    generator_.weights(w.weight, w.layer, w.part, staged.values());
    staged.upload(to);
  }

  template <class T>
  void history(const HistoryPart& h) const {
    const Attention& a = generator_.model().attention;
    const float scale = generator_.kv_scale(h.layer, h.kv_head);
    const auto cache = values_at<T>(h.cache, h.cached, scale);
    if (!on_host_) {
      draw(drawn_keys(generator_, h), cache.at(h.first_key));
      if (!a.mla()) draw(drawn_values(generator_, h), cache.at(h.first_value));
      return;
    }
    Staged<T> keys(h.positions.count * a.head_size, scale);
    Staged<T> values(a.mla() ? 0 : h.positions.count * a.value_size, scale);
    generator_.history(h.layer, h.request, h.length, h.kv_head, h.positions, keys.values(),
                       values.values());
    keys.upload(cache.at(h.first_key));
    values.upload(cache.at(h.first_value));
  }

  void wait() const { HELIX_CUDA(cudaStreamSynchronize(stream_.get())); }

 private:
  template <class T>
  void draw(const DrawnPart& p, const Values<T>& to) const {
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
  const auto wanted = std::max<int64_t>(1, static_cast<int64_t>(bytes));
  Block block(static_cast<std::byte*>(allocate_bytes(wanted)),
              [wanted](std::byte* p) { free_bytes(p, wanted); });
  HELIX_CUDA(cudaMemset(block.get(), 0, static_cast<size_t>(wanted)));
  return block;
}

void generate(const Store& store, const Assignment& work, int blocks) {
  HELIX_CUDA(cudaDeviceSynchronize());  // memory is zero
  const Filler filler(work, blocks);
  store.for_each_weight([&](const WeightPart& w) {
    with_stored(format_of(work.precision, w.weight), [&]<class T>(T*) { filler.weight<T>(w); });
    beat();
  });
  filler.wait();
  beat();
  if (!work.prompt.empty()) return;  // its steps make the history
  store.for_each_history([&](const HistoryPart& h) {
    with_stored(work.precision.kv, [&]<class T>(T*) { filler.history<T>(h); });
    beat();
  });
  filler.wait();
}

}  // namespace helix::cuda
