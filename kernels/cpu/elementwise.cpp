#include "kernels/cpu/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/parallel.h"

namespace helix::cpu {
namespace {

template <class Weight, class Activation>
void norm_row(int64_t width, const Activation* x, const Weight* w, float eps, Activation* out) {
  Lanes squares = zero();
  for_lanes(width, [&](int64_t i, auto read, auto) {
    const Lanes value = read(x + i);
    squares = multiply_add(value, value, squares);
  });
  const float inverse = 1.0F / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
  for_lanes(width, [&](int64_t i, auto read, auto write) {
    write(read(x + i) * inverse * read(w + i), out + i);
  });
}

}  // namespace

template <class Weight, class Activation>
void rms_norm(int64_t rows, int64_t width, int64_t x_stride, int64_t out_stride,
              const Activation* x, const Weight* w, float eps, Activation* out) {
  for_blocks(rows, rows * width,
             [&](int64_t r) { norm_row(width, x + r * x_stride, w, eps, out + r * out_stride); });
}

template <class Weight, class Activation>
void add_rms_norm(int64_t rows, int64_t width, Activation* hidden, const Activation* y,
                  const Weight* w, float eps, Activation* out) {
  for_blocks(rows, rows * width, [&](int64_t r) {
    Activation* row = hidden + r * width;
    for_lanes(width, [&](int64_t i, auto read, auto write) {
      write(read(row + i) + read(y + r * width + i), row + i);
    });
    norm_row(width, row, w, eps, out + r * width);
  });
}

template <class Activation>
void rope(const RopeShape& shape, const float* cosines, const float* sines, const Activation* x,
          Activation* out) {
  const int64_t fixed = shape.size - 2 * shape.pairs;
  const int64_t apart = shape.interleaved ? 1 : shape.pairs;
  const int64_t step = shape.interleaved ? 2 : 1;
  for_blocks(shape.rows, shape.rows * shape.heads * shape.size, [&](int64_t r) {
    const float* cosine = cosines + r * shape.pairs;
    const float* sine = sines + r * shape.pairs;
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t first = (r * shape.heads + h) * shape.size;
      if (x != out) std::copy_n(x + first, fixed, out + first);
      const Activation* from = x + first + fixed;
      Activation* to = out + first + fixed;
      for (int64_t i = 0; i < shape.pairs; ++i) {
        const float a = to_float(from[i * step]);
        const float b = to_float(from[i * step + apart]);
        to[i * step] = from_float<Activation>(a * cosine[i] - b * sine[i]);
        to[i * step + apart] = from_float<Activation>(b * cosine[i] + a * sine[i]);
      }
    }
  });
}

template <class Activation>
void swiglu(int64_t rows, int64_t width, const Activation* x, Activation* out) {
  for_blocks(rows, rows * width * 16, [&](int64_t r) {
    const Activation* gate = x + r * 2 * width;
    for_lanes(width, [&](int64_t i, auto read, auto write) {
      const Lanes g = read(gate + i);
      write(g / (all(1) + exponential(zero() - g)) * read(gate + width + i), out + r * width + i);
    });
  });
}

template <class Activation>
void sum_in_order(int parts, int64_t count, const Activation* const* from, Activation* out) {
  constexpr int64_t chunk = 4096;
  for_blocks((count + chunk - 1) / chunk, parts * count, [&](int64_t c) {
    const int64_t begin = c * chunk;
    for_lanes(std::min(chunk, count - begin), [&](int64_t i, auto read, auto write) {
      Lanes total = zero();
      for (int p = 0; p < parts; ++p) total = total + read(from[p] + begin + i);
      write(total, out + begin + i);
    });
  });
}

template <class From, class To>
void convert(int64_t count, const From* from, To* to) {
  constexpr int64_t chunk = 16384;
  for_blocks((count + chunk - 1) / chunk, count, [&](int64_t c) {
    const int64_t begin = c * chunk;
    for_lanes(std::min(chunk, count - begin), [&](int64_t i, auto read, auto write) {
      write(read(from + begin + i), to + begin + i);
    });
  });
}

template <class Weight, class Activation>
void embed(std::span<const int32_t> tokens, int64_t first, int64_t count, int64_t width,
           const Weight* table, Activation* out) {
  for (size_t r = 0; r < tokens.size(); ++r) {
    const int64_t row = tokens[r] - first;
    Activation* to = out + static_cast<int64_t>(r) * width;
    if (row >= 0 && row < count) {
      convert(width, table + row * width, to);
    } else {
      std::fill_n(to, width, Activation{});
    }
  }
}

template <class Activation>
Best argmax(std::span<const Activation> logits, int64_t first_index) {
  Best best{-std::numeric_limits<float>::infinity(), static_cast<int32_t>(first_index)};
  const auto count = static_cast<int64_t>(logits.size());
  constexpr int64_t chunk = 256;
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t end = std::min(count, begin + chunk);
    // Whole chunks are first asked whether they hold anything better: mostly they do not.
    if (end - begin == chunk) {
      bool any = false;
      for (int64_t i = begin; i < end; i += lane_count)
        any |= any_larger(load(logits.data() + i), best.value);
      if (!any) continue;
    }
    for (int64_t i = begin; i < end; ++i) {
      const float value = to_float(logits[static_cast<size_t>(i)]);
      if (value > best.value || value != value)
        best = {value, static_cast<int32_t>(first_index + i)};
      if (value != value) return best;
    }
  }
  return best;
}

#define INSTANTIATE(Weight, Activation)                                                        \
  template void rms_norm(int64_t, int64_t, int64_t, int64_t, const Activation*, const Weight*, \
                         float, Activation*);                                                  \
  template void add_rms_norm(int64_t, int64_t, Activation*, const Activation*, const Weight*,  \
                             float, Activation*);                                              \
  template void embed(std::span<const int32_t>, int64_t, int64_t, int64_t, const Weight*,      \
                      Activation*);                                                            \
  template void convert(int64_t, const Weight*, Activation*);
INSTANTIATE(float, float)
INSTANTIATE(float, bf16)
INSTANTIATE(bf16, float)
INSTANTIATE(bf16, bf16)
#undef INSTANTIATE

#define INSTANTIATE(Activation)                                                       \
  template void rope(const RopeShape&, const float*, const float*, const Activation*, \
                     Activation*);                                                    \
  template void swiglu(int64_t, int64_t, const Activation*, Activation*);             \
  template void sum_in_order(int, int64_t, const Activation* const*, Activation*);    \
  template Best argmax(std::span<const Activation>, int64_t);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE

}  // namespace helix::cpu
