// The GPU kernels beside their floor, the time to read their bytes at the read ceiling that the
// same run measures, and beside the peers quoted from measurements on such a card (H200, H100).
// Each case is a CUDA graph of dependent launches over buffers that take turns, more than 256 MB
// together, so that the 60 MB of L2 hold nothing of a turn. One JSON line a case; the notes say
// what a number is. Arguments: a word: only the cases whose name has it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/generate.h"
#include "tests/bench/cuda_products.h"
#include "tests/bench/cuda_timing.h"

namespace helix::cuda {
namespace {

__global__ void __launch_bounds__(256) read_all(const uint4* from, int64_t count, uint32_t* to) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  uint32_t sum = 0;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 7 * step < count; i += 8 * step) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v[j].x), "=r"(v[j].y), "=r"(v[j].z), "=r"(v[j].w)
                   : "l"(from + i + j * step));
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 1) *to = sum;
}

void measure_ceiling() {
  const auto data = drawn<bf16>(int64_t{1} << 32, 1);
  const Buffer<uint32_t> sink(1);
  const double us = node_us(2, [&](int) {
    read_all<<<dim3(static_cast<unsigned>(4 * sms)), 256, 0, stream.get()>>>(
        reinterpret_cast<const uint4*>(data.data()), data.bytes() / 16, sink.data());
  });
  ceiling = static_cast<double>(data.bytes()) / us;
  std::printf("{\"case\": \"read ceiling, 8 GiB\", \"us\": %.1f, \"gb_per_s\": %.0f}\n", us,
              ceiling / 1e3);
}

struct AttentionCase {
  int rows, tokens, heads, kv_heads;
  Quoted quoted;
  const char* peer;
  int head_size = 128, value_size = 128;
  constexpr bool latent() const { return value_size < head_size; }
};

// `pages`: of 64 tokens, in any order.
template <class Kv = bf16>
void time_attention(const AttentionCase& c, bool pages = false) {
  constexpr Format format = std::is_same_v<Kv, bf16>  ? Format::bf16
                            : std::is_same_v<Kv, fp8> ? Format::fp8
                                                      : Format::nvfp4;
  const std::string name =
      (c.latent() ? "MLA " : "attention ") + std::to_string(c.rows) + " x " +
      std::to_string(c.tokens) + ", " + std::to_string(c.heads) +
      (c.latent() ? "" : "/" + std::to_string(c.kv_heads)) +
      (format == Format::bf16 ? ""
                              : " " + std::string(formats[static_cast<int>(format)].name) + " KV") +
      (pages ? ", paged" : "");
  if (!wanted(name)) return;
  const AttentionShape shape{c.rows,      c.heads,      c.kv_heads,
                             c.head_size, c.value_size, 1 / std::sqrt(1.0F * c.head_size)};
  const int64_t token_values = c.head_size + (c.latent() ? 0 : c.value_size);
  const int64_t pair_values = c.tokens * token_values;
  const int64_t values = shape.pairs() * pair_values;
  const double bytes = static_cast<double>(values) * bytes_of(format);
  const double flops = 2.0 * c.rows * c.tokens * c.heads * (c.head_size + c.value_size);
  const int turns = std::max(2, static_cast<int>(std::ceil(256e6 / bytes)));
  std::vector<Buffer<std::byte>> kv;
  for (int i = 0; i < turns; ++i) {
    kv.emplace_back(static_cast<int64_t>(bytes));
    generate({.stream = combine(99, static_cast<uint64_t>(i)), .scale = 1.7320508F},
             {.width = values}, values_at<Kv>(kv.back().data(), values, 1),
             {stream.get(), sms, false});
  }
  const auto q = drawn<bf16>(int64_t{c.rows} * c.heads * c.head_size, 4);
  // Dense: a pair's keys, then its values. A page: a KV head's keys, then its values, head by head.
  const int64_t apart = pages ? page_tokens : c.tokens;
  const int max_pages = (c.tokens + page_tokens - 1) / page_tokens;
  std::vector<int64_t> keys, at_values;
  for (int pair = 0; pair < shape.pairs(); ++pair) {
    keys.push_back((pages ? pair % c.kv_heads : pair) * apart * token_values);
    at_values.push_back(keys.back() + (c.latent() ? 0 : apart * c.head_size));
  }
  std::vector<int32_t> table(pages ? c.rows * max_pages : 0);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937_64(1));
  const Buffer<int64_t> k{std::span<const int64_t>(keys)}, v{std::span<const int64_t>(at_values)};
  const std::vector<int32_t> counts(c.rows, c.tokens);
  const Buffer<int32_t> tokens{std::span<const int32_t>(counts)},
      page_table{std::span<const int32_t>(table)};
  const Buffer<std::byte> memory(AttentionPlan::bytes(shape, sms));
  const AttentionPlan plan(shape, sms, memory.data());
  const PartialLayout part{c.rows, c.heads, c.value_size, sizeof(bf16)};
  const Buffer<std::byte> out(part.bytes());
  cut_attention(plan, tokens.data(), how());
  const double us = node_us(nodes_for(bytes), [&](int i) {
    std::byte* const base = kv[i % turns].data();
    const KvView view{.base = base,
                      .format = format,
                      .keys = k.data(),
                      .values = v.data(),
                      .tokens = tokens.data(),
                      .pages = page_table.data(),
                      .page_stride = c.kv_heads * page_tokens * token_values,
                      .max_pages = max_pages,
                      .block_scales = reinterpret_cast<fp8*>(base + values / 2)};
    decode_attention(plan, q.data(), view, part, out.data(), how());
  });
  print(name, bytes, flops, us, c.quoted, c.peer);
}

void time_small() {
  if (!wanted("small")) return;
  const int width = 16384;
  const auto h = drawn<bf16>(8 * width, 1), y = drawn<bf16>(8 * width, 0),
             w = drawn<bf16>(width, 1);
  const Stored gains{reinterpret_cast<const std::byte*>(w.data()), width};
  const Buffer<bf16> out(8 * width);
  const auto say = [](const char* name, double us) {
    std::printf("{\"case\": \"small: %s\", \"us\": %.2f}\n", name, us);
  };
  for (int rows : {1, 8}) {
    say(rows == 1 ? "add_rms_norm 1 x 16384" : "add_rms_norm 8 x 16384", node_us(200, [&](int) {
          add_rms_norm(rows, width, h.data(), y.data(), gains, 1e-5F, out.data(), how());
        }));
  }
  const auto angles = drawn<float>(8 * 2 * 64, 1);
  say("rope 8 x 128 heads x 128", node_us(200, [&](int) {
        rope({8, 128, 128, 64, false, 128 * 128}, angles.data(), h.data(), out.data(), how());
      }));
  say("swiglu 8 x 8192",
      node_us(200, [&](int) { swiglu(8, 8192, nullptr, h.data(), out.data(), how()); }));
  const PartialLayout part{8, 16, 128, 2};
  const auto messages = drawn<bf16>(8 * part.bytes() / 2, 1);
  say("merge_partials 8 parts of 8 x 16 x 128", node_us(200, [&](int) {
        merge_partials(part, 8, reinterpret_cast<const std::byte*>(messages.data()), out.data(),
                       how());
      }));
  const Buffer<bf16> big(int64_t{1} << 30);
  const double us =
      node_us(2, [&](int) { generate({.stream = 1}, {.width = big.count()}, big.data(), how()); });
  std::printf("{\"case\": \"small: generate 2 GiB of bf16\", \"us\": %.1f, \"gb_per_s\": %.0f}\n",
              us, static_cast<double>(big.bytes()) / us / 1e3);
}

void time_all() {
  measure_ceiling();
  const char* const cudnn = "SDPA cuDNN, eager";
  const AttentionCase attention[] = {
      {1, 16384, 16, 1, {}, cudnn},           {1, 32768, 16, 1, {}, cudnn},
      {1, 65536, 16, 1, {34, 59}, cudnn},     {1, 131072, 16, 1, {}, cudnn},
      {1, 131072, 32, 8, {}, cudnn},          {1, 262144, 16, 1, {64, 96}, cudnn},
      {1, 1048576, 16, 1, {178, 212}, cudnn}, {8, 16384, 16, 1, {}, cudnn},
      {8, 65536, 16, 1, {85, 143}, cudnn},    {8, 131072, 16, 1, {144, 206}, cudnn},
      {32, 16384, 16, 1, {93, 127}, cudnn},   {1, 262144, 128, 8, {277, 400}, cudnn},
      {8, 131072, 128, 8, {972, 1480}, cudnn}};
  for (const AttentionCase& c : attention) time_attention(c);
  const char* const flash = "FlashMLA";
  const AttentionCase latent[] = {
      {1, 16384, 128, 1, {37, 38.4}, flash},    {1, 65536, 128, 1, {52.9, 55.2}, flash},
      {1, 131072, 128, 1, {77.3, 82.7}, flash}, {8, 16384, 128, 1, {70.8, 76.9}, flash},
      {8, 65536, 128, 1, {220, 242}, flash},    {32, 32768, 128, 1, {433, 481}, flash},
      {8, 65536, 64, 1, {160, 227}, flash},     {32, 32768, 16, 1, {278, 411}, flash},
      {64, 16384, 128, 1, {433, 481}, flash}};  // the peer's at 32 x 32768: as many tokens
  for (AttentionCase c : latent) {
    c.head_size = 576;
    c.value_size = 512;
    time_attention(c);
    c.quoted = {};
    time_attention<fp8>(c);
    if (c.tokens == 16384) time_attention<nvfp4>(c);
  }
  for (AttentionCase c : attention) {
    c.quoted = {};
    time_attention<fp8>(c);
    time_attention<nvfp4>(c);
  }
  const AttentionCase wide{8, 65536, 32, 8, {}, cudnn};  // llama-3.1-8b
  for (const bool pages : {false, true}) {
    time_attention(wide, pages);
    time_attention<fp8>(wide, pages);
    time_attention<nvfp4>(wide, pages);
  }
  time_products();
  time_small();
}

}  // namespace
}  // namespace helix::cuda

int main(int count, char** words) {
  using namespace helix::cuda;
  try {
    if (count > 1) only = words[1];
    cudaDeviceProp card{};
    HELIX_CUDA(cudaGetDeviceProperties(&card, 0));
    sms = card.multiProcessorCount;
    h200 = std::string(card.name).find("H200") != std::string::npos;
    stream = make_stream();
    time_all();
    stream = {};
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
