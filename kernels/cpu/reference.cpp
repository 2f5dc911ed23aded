#include "kernels/cpu/reference.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace helix::cpu::reference {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class T>
T rounded(double value) {
  return from_float<T>(static_cast<float>(value));
}

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(static_cast<void*>(&value), from, sizeof value);
  return value;
}

template <class T>
void write(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

template <class Activation>
double output(const PartialLayout& part, const std::byte* message, int64_t row, int64_t head,
              int64_t d) {
  return to_float(
      read<Activation>(message + part.output_offset(row, head) + d * part.element_bytes));
}

double log_sum_exp(const PartialLayout& part, const std::byte* message, int64_t row, int64_t head) {
  return read<float>(message + part.lse_offset(row, head));
}

// exp(lse - max) / sum of all; the log-sum-exp that is asked for is not -inf.
double share(double lse, const std::vector<double>& lses) {
  double max = -infinity;
  for (double other : lses) max = other > max ? other : max;
  double total = 0;
  for (double other : lses) total += other == -infinity ? 0 : std::exp(other - max);
  return std::exp(lse - max) / total;
}

}  // namespace

template <class Activation, class Kv>
void decode_attention(const AttentionShape& shape, const Activation* q,
                      std::span<const KvView<Kv>> kv, const PartialLayout& part, std::byte* out) {
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t head = 0; head < shape.heads; ++head) {
      const KvView<Kv>& view = kv[row * shape.kv_heads + head * shape.kv_heads / shape.heads];
      std::vector<double> logits;
      double max = -infinity;
      for (int64_t t = 0; t < view.tokens; ++t) {
        double sum = 0;
        for (int64_t d = 0; d < shape.head_size; ++d) {
          sum += double{to_float(q[(row * shape.heads + head) * shape.head_size + d])} *
                 double{value_at(view.k, view.row(t) * view.k_stride + d)};
        }
        logits.push_back(shape.scale * sum);
        max = logits.back() > max ? logits.back() : max;
      }
      double total = 0;
      std::vector<double> weights;
      weights.reserve(logits.size());
      for (double logit : logits) {
        weights.push_back(std::exp(logit - max));
        total += weights.back();
      }
      std::byte* message = out + head / part.heads * part.bytes();
      const int64_t slot = head % part.heads;
      for (int64_t d = 0; d < shape.value_size; ++d) {
        double sum = 0;
        for (int64_t t = 0; t < view.tokens; ++t) {
          sum += weights[t] / total * value_at(view.v, view.row(t) * view.v_stride + d);
        }
        write(message + part.output_offset(row, slot) + d * part.element_bytes,
              rounded<Activation>(sum));
      }
      const double lse = view.tokens == 0 ? -infinity : max + std::log(total);
      write(message + part.lse_offset(row, slot), static_cast<float>(lse));
    }
  }
}

template <class Activation>
void merge_partials(const PartialLayout& part, int parts, const std::byte* messages,
                    Activation* out) {
  for (int64_t row = 0; row < part.rows; ++row) {
    for (int64_t head = 0; head < part.heads; ++head) {
      std::vector<double> lses;
      lses.reserve(static_cast<size_t>(parts));
      for (int p = 0; p < parts; ++p) {
        lses.push_back(log_sum_exp(part, messages + p * part.bytes(), row, head));
      }
      for (int64_t d = 0; d < part.value_size; ++d) {
        double sum = 0;
        for (int p = 0; p < parts; ++p) {
          if (lses[p] == -infinity) continue;
          sum += share(lses[p], lses) *
                 output<Activation>(part, messages + p * part.bytes(), row, head, d);
        }
        out[(row * part.heads + head) * part.value_size + d] = rounded<Activation>(sum);
      }
    }
  }
}

template <class Activation>
void rescale_partial(const PartialLayout& part, int parts, const std::byte* message,
                     const float* lses, Activation* out) {
  for (int64_t row = 0; row < part.rows; ++row) {
    for (int64_t head = 0; head < part.heads; ++head) {
      std::vector<double> others;
      others.reserve(static_cast<size_t>(parts));
      for (int p = 0; p < parts; ++p)
        others.push_back(lses[(p * part.rows + row) * part.heads + head]);
      const double own = log_sum_exp(part, message, row, head);
      for (int64_t d = 0; d < part.value_size; ++d) {
        const double value =
            own == -infinity ? 0
                             : share(own, others) * output<Activation>(part, message, row, head, d);
        out[(row * part.heads + head) * part.value_size + d] = rounded<Activation>(value);
      }
    }
  }
}

template <class Weight, class Activation>
void product_per_head(const ProductShape& shape, int64_t heads, const Activation* x,
                      const Values<const Weight>& w, Activation* y) {
  for (int64_t m = 0; m < shape.rows; ++m) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t n = 0; n < shape.outputs; ++n) {
        double sum = 0;
        for (int64_t k = 0; k < shape.inputs; ++k) {
          sum += double{to_float(x[(m * heads + h) * shape.x_stride + k])} *
                 double{value_at(w, (h * shape.outputs + n) * shape.inputs + k)};
        }
        y[(m * heads + h) * shape.y_stride + n] = rounded<Activation>(sum);
      }
    }
  }
}

template <class Weight, class Activation>
void product(const ProductShape& shape, const Activation* x, const Values<const Weight>& w,
             Activation* y) {
  reference::product_per_head(shape, 1, x, w,
                              y);  // qualified: the arguments alone would find the tuned one
}

template <class Weight, class Activation>
void rms_norm(int64_t rows, int64_t width, int64_t x_stride, int64_t out_stride,
              const Activation* x, const Weight* w, float eps, Activation* out) {
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double value = to_float(x[r * x_stride + i]);
      squares += value * value;
    }
    const double root = std::sqrt(squares / static_cast<double>(width) + eps);
    for (int64_t i = 0; i < width; ++i) {
      out[r * out_stride + i] =
          rounded<Activation>(to_float(x[r * x_stride + i]) / root * to_float(w[i]));
    }
  }
}

template <class Weight, class Activation>
void add_rms_norm(int64_t rows, int64_t width, Activation* hidden, const Activation* y,
                  const Weight* w, float eps, Activation* out) {
  for (int64_t i = 0; i < rows * width; ++i) {
    hidden[i] = rounded<Activation>(double{to_float(hidden[i])} + double{to_float(y[i])});
  }
  reference::rms_norm(rows, width, width, width, hidden, w, eps, out);
}

template <class Activation>
void rope(const RopeShape& shape, const float* cosines, const float* sines, const Activation* x,
          Activation* out) {
  for (int64_t r = 0; r < shape.rows; ++r) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t first = (r * shape.heads + h) * shape.size;
      const int64_t rotated = first + shape.size - 2 * shape.pairs;
      for (int64_t i = first; i < rotated; ++i) out[i] = x[i];
      for (int64_t i = 0; i < shape.pairs; ++i) {
        const int64_t left = rotated + (shape.interleaved ? 2 * i : i);
        const int64_t right = rotated + (shape.interleaved ? 2 * i + 1 : i + shape.pairs);
        const double a = to_float(x[left]);
        const double b = to_float(x[right]);
        const double cosine = cosines[r * shape.pairs + i];
        const double sine = sines[r * shape.pairs + i];
        out[left] = rounded<Activation>(a * cosine - b * sine);
        out[right] = rounded<Activation>(b * cosine + a * sine);
      }
    }
  }
}

template <class Activation>
void swiglu(int64_t rows, int64_t width, const Activation* x, Activation* out) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) {
      const double gate = to_float(x[2 * r * width + i]);
      const double up = to_float(x[(2 * r + 1) * width + i]);
      out[r * width + i] = rounded<Activation>(gate / (1 + std::exp(-gate)) * up);
    }
  }
}

template <class Activation>
void sum_in_order(int parts, int64_t count, const Activation* const* from, Activation* out) {
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (int p = 0; p < parts; ++p) sum += to_float(from[p][i]);
    out[i] = rounded<Activation>(sum);
  }
}

template <class From, class To>
void convert(int64_t count, const From* from, To* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from_float<To>(to_float(from[i]));
}

template <class Weight, class Activation>
void embed(std::span<const int32_t> tokens, int64_t first, int64_t count, int64_t width,
           const Weight* table, Activation* out) {
  for (int32_t token : tokens) {
    const bool ours = token >= first && token < first + count;
    for (int64_t i = 0; i < width; ++i) {
      *out++ = rounded<Activation>(ours ? to_float(table[(token - first) * width + i]) : 0);
    }
  }
}

template <class Activation>
Best argmax(std::span<const Activation> logits, int64_t first_index) {
  Best best{.value = -std::numeric_limits<float>::infinity(),
            .index = static_cast<int32_t>(first_index)};
  for (size_t i = 0; i < logits.size(); ++i) {
    const float value = to_float(logits[i]);
    const auto index = static_cast<int32_t>(first_index + static_cast<int64_t>(i));
    if (std::isnan(value)) return {.value = value, .index = index};
    if (value > best.value) best = {.value = value, .index = index};
  }
  return best;
}

#define INSTANTIATE(Stored, Activation)                                                      \
  template void decode_attention(const AttentionShape&, const Activation*,                   \
                                 std::span<const KvView<Stored>>, const PartialLayout&,      \
                                 std::byte*);                                                \
  template void product(const ProductShape&, const Activation*, const Values<const Stored>&, \
                        Activation*);                                                        \
  template void product_per_head(const ProductShape&, int64_t, const Activation*,            \
                                 const Values<const Stored>&, Activation*);
#define FOR_ACTIVATIONS(Stored) INSTANTIATE(Stored, float) INSTANTIATE(Stored, bf16)
FOR_ACTIVATIONS(float)
FOR_ACTIVATIONS(bf16)
FOR_ACTIVATIONS(fp8)
FOR_ACTIVATIONS(nvfp4)
#undef FOR_ACTIVATIONS
#undef INSTANTIATE

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

#define INSTANTIATE(Activation)                                                            \
  template void merge_partials(const PartialLayout&, int, const std::byte*, Activation*);  \
  template void rescale_partial(const PartialLayout&, int, const std::byte*, const float*, \
                                Activation*);                                              \
  template void rope(const RopeShape&, const float*, const float*, const Activation*,      \
                     Activation*);                                                         \
  template void swiglu(int64_t, int64_t, const Activation*, Activation*);                  \
  template void sum_in_order(int, int64_t, const Activation* const*, Activation*);         \
  template Best argmax(std::span<const Activation>, int64_t);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE

}  // namespace helix::cpu::reference
