// The plain twin of every kernel: one loop after another, sums in double, never tuned. Tests
// compare with these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/product.h"

namespace helix::cpu::reference {

template <class Activation, class Kv>
void decode_attention(const AttentionShape& shape, const Activation* q,
                      std::span<const KvView<Kv>> kv, const PartialLayout& part, std::byte* out);
template <class Activation>
void merge_partials(const PartialLayout& part, int parts, const std::byte* messages,
                    Activation* out);
template <class Activation>
void rescale_partial(const PartialLayout& part, int parts, const std::byte* message,
                     const float* lses, Activation* out);

template <class Weight, class Activation>
void product(const ProductShape& shape, const Activation* x, const Values<const Weight>& w,
             Activation* y);
template <class Weight, class Activation>
void product_per_head(const ProductShape& shape, int64_t heads, const Activation* x,
                      const Values<const Weight>& w, Activation* y);

template <class Weight, class Activation>
void rms_norm(int64_t rows, int64_t width, int64_t x_stride, int64_t out_stride,
              const Activation* x, const Weight* w, float eps, Activation* out);
template <class Weight, class Activation>
void add_rms_norm(int64_t rows, int64_t width, Activation* hidden, const Activation* y,
                  const Weight* w, float eps, Activation* out);
template <class Activation>
void rope(const RopeShape& shape, const float* cosines, const float* sines, const Activation* x,
          Activation* out);
template <class Activation>
void swiglu(int64_t rows, int64_t width, const Activation* x, Activation* out);
template <class Activation>
void sum_in_order(int parts, int64_t count, const Activation* const* from, Activation* out);
template <class From, class To>
void convert(int64_t count, const From* from, To* to);
template <class Weight, class Activation>
void embed(std::span<const int32_t> tokens, int64_t first, int64_t count, int64_t width,
           const Weight* table, Activation* out);
template <class Activation>
Best argmax(std::span<const Activation> logits, int64_t first_index);

}  // namespace helix::cpu::reference
