// What a rank's threads reach at their best: reading what the caches hold, and our kernels on it.
#include <omp.h>

#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "execute/cpu/host_rates.h"
#include "execute/factory.h"
#include "execute/types.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/product.h"
#include "machine/measure.h"

namespace helix::cpu {

namespace {

constexpr double budget_s = 0.03;  // of a shape

// Zeros: a product of zeros takes as long as any other.
class Zeros {
 public:
  explicit Zeros(int64_t bytes)
      : data_(static_cast<std::byte*>(operator new (static_cast<size_t>(bytes),
                                                    std::align_val_t{64}))) {
    std::memset(data_.get(), 0, static_cast<size_t>(bytes));
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { operator delete (p, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

template <class Weight>
double product_rate(int64_t rows, int64_t outputs, int64_t inputs) {
  const Zeros x(rows * inputs * 2), y(rows * outputs * 2), w(bytes_for<Weight>(outputs * inputs));
  const ProductShape shape{rows, outputs, inputs, inputs, outputs};
  const auto weights = values_at<const Weight>(w.as<std::byte>(), outputs * inputs, 1);
  return best_rate(budget_s, 2.0 * static_cast<double>(rows * outputs * inputs),
                   [&] { product(shape, x.as<const bf16>(), weights, y.as<bf16>()); });
}

template <class Kv>
double attention_rate(int64_t heads, int64_t size, int64_t tokens) {
  const Zeros q(heads * size * 2), kv(2 * bytes_for<Kv>(tokens * size));
  const PartialLayout part{.rows = 1, .heads = heads, .value_size = size, .element_bytes = 2};
  const Zeros out(part.bytes());
  const AttentionShape shape{1, heads, 1, size, size, 1};
  const auto plane = [&](int64_t index) {
    return values_at<const Kv>(kv.as<std::byte>() + index * bytes_for<Kv>(tokens * size),
                               tokens * size, 1);
  };
  const std::vector<KvView<Kv>> views = {
      {.k = plane(0), .v = plane(1), .k_stride = size, .v_stride = size, .tokens = tokens}};
  const std::function<void()> none;
  return best_rate(budget_s, 4.0 * static_cast<double>(heads * size * tokens), [&] {
    decode_attention<bf16, Kv>(shape, q.as<const bf16>(), views, part, out.as<std::byte>(), none);
  });
}

double copy_rate() {
  constexpr int64_t bytes = int64_t{64} << 20;
  const Zeros from(bytes), to(bytes);
  return best_rate(0.2, static_cast<double>(bytes), [&] {
    std::memcpy(to.as<std::byte>(), from.as<std::byte>(), static_cast<size_t>(bytes));
  });
}

}  // namespace

Peaks measure_peaks(int threads) {
  const HostRates host = measure_host(threads);
  Peaks peaks{.memory_bytes = available_memory(),
              .read_bytes_per_s = std::ranges::max(host.read_bytes_per_s),
              .copy_bytes_per_s = copy_rate()};
  for (const Format format : {Format::fp32, Format::bf16, Format::fp8, Format::nvfp4})
    with_stored(format, [&]<class T>(T*) {
      double& product = peaks.product_flops_per_s[static_cast<size_t>(format)];
      double& attention = peaks.attention_flops_per_s[static_cast<size_t>(format)];
      for (const int64_t rows : {4, 8, 16})
        for (const int64_t inputs : {256, 1024})
          product = std::max(product, product_rate<T>(rows, 256, inputs));
      for (const int64_t heads : {4, 16})
        for (const int64_t size : {64, 128})
          attention = std::max(attention, attention_rate<T>(heads, size, 1024));
    });
  return peaks;
}

}  // namespace helix::cpu
