// The GPU kernels against their plain twins on the CPU: peaky data, ragged and empty shards, NaN,
// and what must not pass. Prints one line a check; exit code 1 if any failed. --quick: small shapes
// alone (for compute-sanitizer).
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "base/random.h"
#include "kernels/cpu/reference.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/generate.h"
#include "tests/cuda/append_cases.h"
#include "tests/cuda/attention_cases.h"
#include "tests/cuda/library_cases.h"
#include "tests/cuda/product_cases.h"
#include "tests/cuda/route_cases.h"
#include "tests/cuda/testing.h"
#include "tests/cuda/travel_cases.h"

namespace helix::cuda {
namespace {

template <class Activation>
void merge_cases() {
  for (const auto& [parts, size] : {std::pair{1, 64}, {2, 128}, {7, 128}, {64, 128}, {8, 512}}) {
    const PartialLayout part{
        .rows = 3, .heads = 4, .value_size = size, .element_bytes = sizeof(Activation)};
    std::vector<std::byte> messages(parts * part.bytes());
    for (int p = 0; p < parts; ++p) {
      auto values = normals<Activation>(12 * size);
      for (int i = 0; i < 12; ++i) {
        // Vector 3 is empty everywhere; an empty part holds NaN, which may not be read.
        const bool empty = i == 3 || integer(0, 3) == 0;
        const float lse = empty ? -infinity : i == 5 && p == 0 ? nan : 8 * normals<float>(1)[0];
        for (int d = 0; empty && d < size; ++d) values[i * size + d] = from_float<Activation>(nan);
        std::memcpy(&messages[p * part.bytes() + part.lse_offset(i / 4, i % 4)], &lse, 4);
      }
      std::memcpy(static_cast<void*>(&messages[p * part.bytes()]), values.data(),
                  part.outputs_bytes());
    }
    std::vector<Activation> expected(12 * size);
    cpu::reference::merge_partials<Activation>(part, parts, messages.data(), expected.data());
    const Buffer<std::byte> device{std::span<const std::byte>(messages)};
    const Buffer<Activation> out(12 * size);
    merge_partials(part, parts, device.data(), out.data(), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    expect_close(out.read(), expected, std::is_same_v<Activation, bf16> ? 1.0 / 128 : 2e-6,
                 std::string("merge ") + name_of<Activation> + " of " + std::to_string(parts));
  }
}

template <class Weight, class Activation>
void norm_cases() {
  for (const auto& [rows, width] : {std::pair{1, 8}, {3, 2048}, {2, 16384}, {1, 7168}}) {
    auto hidden = normals<Activation>(rows * width);
    const auto y = normals<Activation>(rows * width);
    const auto w = normals<Weight>(width);
    const Buffer<Activation> hs{std::span<const Activation>(hidden)};
    const Buffer<Activation> ys{std::span<const Activation>(y)}, out(rows * width);
    const Buffer<Weight> ws{std::span<const Weight>(w)};
    add_rms_norm(rows, width, hs.data(), ys.data(), stored(ws), 1e-5F, out.data(), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    std::vector<Activation> expected(rows * width);
    cpu::reference::add_rms_norm<Weight, Activation>(rows, width, hidden.data(), y.data(), w.data(),
                                                     1e-5F, expected.data());
    const std::string what = std::string("add norm ") + name_of<Activation> + " " +
                             std::to_string(rows) + " x " + std::to_string(width);
    expect_close(out.read(), expected, std::is_same_v<Activation, bf16> ? 1.0 / 128 : 2e-6, what);
    expect(same_bits(hs.read(), hidden), what + ": the same hidden state");
  }
}

template <class Activation>
void small_cases() {
  const double tolerance = std::is_same_v<Activation, bf16> ? 1.0 / 128 : 2e-6;
  for (const bool interleaved : {false, true}) {
    const cpu::RopeShape shape{
        .rows = 3, .heads = 5, .size = 192, .pairs = 32, .interleaved = interleaved};
    const auto x = normals<Activation>(3 * 5 * 192);
    std::vector<float> cosines, sines;
    for (float angle : normals<float>(3 * 32)) {
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
    std::vector<Activation> expected(x.size());
    cpu::reference::rope<Activation>(shape, cosines.data(), sines.data(), x.data(),
                                     expected.data());
    const Buffer<Activation> xs{std::span<const Activation>(x)}, out(std::ssize(x));
    std::vector<float> angles;  // [rows][2][pairs]
    for (int row = 0; row < 3; ++row) {
      angles.insert(angles.end(), &cosines[row * 32], &cosines[row * 32] + 32);
      angles.insert(angles.end(), &sines[row * 32], &sines[row * 32] + 32);
    }
    const Buffer<float> turned{std::span<const float>(angles)};
    rope({3, 5, 192, 32, interleaved, 5 * 192}, turned.data(), xs.data(), out.data(), how());
    rope({3, 5, 192, 32, interleaved, 5 * 192}, turned.data(), xs.data(), xs.data(), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    expect_close(out.read(), expected, tolerance, std::string("rope ") + name_of<Activation>);
    expect(same_bits(xs.read(), out.read()), "rope in place: the same bits");
  }
  const auto x = normals<Activation>(2 * 2 * 1032);
  std::vector<Activation> expected(2 * 1032);
  cpu::reference::swiglu<Activation>(2, 1032, x.data(), expected.data());
  const Buffer<Activation> xs{std::span<const Activation>(x)}, out(2 * 1032);
  swiglu(2, 1032, nullptr, xs.data(), out.data(), how());
  HELIX_CUDA(cudaStreamSynchronize(stream.get()));
  expect_close(out.read(), expected, tolerance, std::string("swiglu ") + name_of<Activation>);
}

template <class T>
void generate_cases() {
  const Draw draw{.stream = combine(42, 7), .scale = 0.7310586F, .offset = 0.1F};
  const float scale = quantised(format_of<T>) ? 0.0625F : 1;
  for (const Drawn& which :
       {Drawn{.first = 1234567890123, .rows = 1, .width = 4097, .stride = 0},
        Drawn{.first = 77, .rows = 300, .width = 64, .stride = 64, .run = 16, .jump = 64},
        Drawn{.first = 5, .rows = 33, .width = 112, .stride = 1001}}) {
    if (format_of<T> == Format::nvfp4 && which.width % 16 != 0) continue;
    std::vector<float> expected;
    for (int64_t row = 0; row < which.rows; ++row) {
      for (int64_t i = 0; i < which.width; ++i) {
        const int64_t index =
            which.first + i + (row / which.run * which.jump + row % which.run) * which.stride;
        expected.push_back(std::fma(uniform_at(draw.stream, static_cast<uint64_t>(index)),
                                    draw.scale, draw.offset));
      }
    }
    const auto count = std::ssize(expected);
    const Buffer<std::byte> out(code_bytes<T>(count));
    generate(draw, which, values_at<T>(out.data(), count, scale), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    expect(same_bits(out.read(), encoded<T>(expected, scale)),
           std::string("generate ") + name_of<T> + ": the CPU's bits, " + std::to_string(count) +
               " values");
  }
}

void all_cases(bool quick) {
  generate_cases<float>();
  generate_cases<bf16>();
  generate_cases<fp8>();
  generate_cases<nvfp4>();
  norm_cases<float, float>();
  norm_cases<bf16, bf16>();
  norm_cases<bf16, float>();
  small_cases<float>();
  small_cases<bf16>();
  merge_cases<float>();
  merge_cases<bf16>();
  product_cases<bf16, bf16>(quick);
  product_cases<fp8, bf16>(quick);
  product_cases<nvfp4, bf16>(quick);
  product_cases<float, bf16>(true);
  product_cases<float, float>(true);
  product_cases<bf16, float>(true);
  product_cases<fp8, float>(true);
  product_cases<nvfp4, float>(true);
  experts_cases<bf16, bf16, bf16>(quick);
  experts_cases<fp8, bf16, float>(quick);
  experts_cases<nvfp4, bf16, bf16>(quick);
  experts_cases<nvfp4, bf16, float>(quick);
  per_head_cases<bf16, bf16>();
  per_head_cases<fp8, bf16>();
  per_head_cases<nvfp4, bf16>();
  per_head_cases<float, float>();
  per_head_cases<nvfp4, float>();
  if (!quick) library_cases();  // racecheck is for kernels of ours
  route_cases<float>(quick);
  route_cases<bf16>(quick);
  pair_cases();
  travel_cases<float>(quick);
  travel_cases<bf16>(quick);
  experts_cases<float, bf16, bf16>(true);
  experts_cases<bf16, float, float>(true);
  experts_cases<fp8, float, float>(true);
  experts_cases<nvfp4, float, float>(true);
  append_cases<bf16, bf16>();
  append_cases<bf16, fp8>();
  append_cases<bf16, nvfp4>();
  append_cases<float, float>();
  append_cases<float, bf16>();
  append_cases<float, fp8>();
  append_cases<float, nvfp4>();
  attention_cases<float>(quick);
  attention_cases<bf16>(quick);
  attention_cases<float, float>(true);
  attention_cases<bf16, fp8>(quick);
  attention_cases<float, fp8>(true);
  attention_cases<bf16, nvfp4>(quick);
  attention_cases<float, nvfp4>(true);
  attention_controls<float>();
  attention_controls<bf16>();
  attention_nans<float>();
  attention_nans<bf16>();
  attention_nans<bf16, fp8>();
  attention_nans<bf16, nvfp4>();
}

}  // namespace
}  // namespace helix::cuda

int main(int count, char** words) {
  using namespace helix::cuda;
  try {
    HELIX_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    stream = make_stream();
    all_cases(count > 1 && std::string(words[1]) == "--quick");
    stream = {};
  } catch (const std::exception& error) {
    std::printf("FAIL  %s\n", error.what());
    return 1;
  }
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
