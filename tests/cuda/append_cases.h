// Newest tokens into a cache, dense and paged: the codes of base/format.h, nowhere else a byte, and
// with a trace the judge's codes in place of the own ones.
#pragma once

#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/check.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {

template <class Activation, class Kv>
void append_case(int kinds, bool paged, bool traced) {
  constexpr int rows = 3, heads = 2, size = 96, capacity = 3 * page_tokens;
  const std::vector<int32_t> place = {70, -1, 0};
  const AppendShape shape{rows, heads, size, kinds};
  const int64_t vector = int64_t{capacity} * size;
  const int64_t count = rows * heads * kinds * vector;
  const float scales[heads] = {0.5F, 0.0625F};
  // Vector v of [row][head][kind] begins at v * vector; its pages stand in reverse.
  const std::vector<int32_t> reversed = {2, 1, 0, 2, 1, 0, 2, 1, 0};
  std::vector<int64_t> keys, values;
  for (int pair = 0; pair < rows * heads; ++pair) {
    keys.push_back(pair * kinds * vector);
    values.push_back(keys.back() + (kinds - 1) * vector);
  }
  const auto kv = normals<Activation>(int64_t{rows} * kinds * heads * size);
  std::vector<float> all(size);
  const int64_t vector_bytes = bytes_for<Kv>(size);
  std::vector<std::byte> judged(rows * heads * kinds * vector_bytes, std::byte{0x2b});
  std::vector<std::byte> own(judged.size(), std::byte{0});
  std::vector<std::byte> expected(code_bytes<Kv>(count), std::byte{0x11});
  std::vector<std::byte> expected_own = own;
  const Buffer<std::byte> base{std::span<const std::byte>(expected)};
  for (int row = 0; row < rows; ++row) {
    for (int v = 0; v < heads * kinds && place[row] >= 0; ++v) {
      const int head = v / kinds;
      const int kind = v % kinds;
      const float scale = quantised(format_of<Kv>) ? scales[head] : 1;
      for (int i = 0; i < size; ++i) {
        all[i] = to_float(kv[((int64_t{row} * kinds + kind) * heads + head) * size + i]);
      }
      const int64_t number = int64_t{row} * heads * kinds + v;
      const int at =
          paged ? reversed[place[row] / page_tokens] * page_tokens + place[row] % page_tokens
                : place[row];
      const Values<Kv> to =
          values_at<Kv>(expected.data(), count, scale).at(number * vector + int64_t{at} * size);
      if (traced) {
        copy(values_at<const Kv>(&judged[number * vector_bytes], size, scale), size, to);
        encode(all.data(), size, values_at<Kv>(&expected_own[number * vector_bytes], size, scale));
      } else {
        encode(all.data(), size, to);
      }
    }
  }
  const Buffer<Activation> from{std::span<const Activation>(kv)};
  const Buffer<int32_t> places{std::span<const int32_t>(place)},
      pages{std::span<const int32_t>(reversed)};
  const Buffer<int64_t> k{std::span<const int64_t>(keys)}, v{std::span<const int64_t>(values)};
  const Buffer<float> scale{std::span<const float>(scales)};
  const Buffer<std::byte> forced{std::span<const std::byte>(judged)},
      kept{std::span<const std::byte>(own)};
  const KvView view{.base = base.data(),
                    .format = format_of<Kv>,
                    .keys = k.data(),
                    .values = v.data(),
                    .pages = paged ? pages.data() : nullptr,
                    .page_stride = int64_t{page_tokens} * size,
                    .max_pages = 3,
                    .scales = quantised(format_of<Kv>) ? scale.data() : nullptr,
                    .block_scales = reinterpret_cast<fp8*>(base.data() + count / 2)};
  append(shape, from.data(), places.data(), view,
         traced ? CodesTrace{forced.data(), kept.data()} : CodesTrace{}, how());
  HELIX_CUDA(cudaStreamSynchronize(stream.get()));
  const std::string what = std::string("append ") + name_of<Activation> + " to " + name_of<Kv> +
                           (kinds == 1 ? ", keys alone" : "") + (paged ? ", paged" : "") +
                           (traced ? ", the judge's codes" : "");
  expect(same_bits(base.read(), expected), what);
  if (traced) expect(same_bits(kept.read(), expected_own), what + ": the own ones are kept");
}

template <class Activation, class Kv>
void append_cases() {
  for (const int kinds : {1, 2})
    for (const bool paged : {false, true}) append_case<Activation, Kv>(kinds, paged, false);
  if (quantised(format_of<Kv>)) append_case<Activation, Kv>(2, true, true);
}

}  // namespace helix::cuda
