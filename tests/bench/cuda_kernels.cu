// The GPU kernels beside their floor, the time to read their bytes at the read ceiling that the
// same run measures, and beside the peers quoted from measurements on such a card (H200, H100).
// Each case is a CUDA graph of dependent launches over buffers that take turns, more than 256 MB
// together, so that the 60 MB of L2 hold nothing of a turn. One JSON line a case; the notes say
// what a number is. Arguments: a word: only the cases whose name has it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/generate.h"
#include "kernels/cuda/product.h"

namespace helix::cuda {
namespace {

OwnedStream stream;
int sms = 0;
std::string only;
double ceiling = 0;  // bytes a microsecond
bool h200 = false;
// Microseconds that a peer was measured to take on an H200 and on an H100; 0: not measured.
struct Quoted {
  double on_h200 = 0, on_h100 = 0;
  double here() const { return h200 ? on_h200 : on_h100; }
};
constexpr double matrix_rate = 780e6;  // bf16 FLOPs a microsecond (measured, 8192^3)

Launch how() { return {stream.get(), sms, true}; }

bool wanted(const std::string& name) { return name.find(only) != std::string::npos; }

// Median microseconds of a graph of `nodes` launches; node(i) launches the i-th.
template <class Node>
double graph_us(int nodes, Node&& node) {
  const OwnedGraphExec graph = capture(stream.get(), [&] {
    for (int i = 0; i < nodes; ++i) node(i);
  });
  const OwnedEvent begin = make_event(), end = make_event();
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    HELIX_CUDA(cudaEventRecord(begin.get(), stream.get()));
    HELIX_CUDA(cudaGraphLaunch(graph.get(), stream.get()));
    HELIX_CUDA(cudaEventRecord(end.get(), stream.get()));
    HELIX_CUDA(cudaEventSynchronize(end.get()));
    float ms = 0;
    HELIX_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (i >= 3) times.push_back(ms * 1000);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Microseconds of a launch in steady state: what 2 n more of them add to a graph of n.
template <class Node>
double node_us(int nodes, Node&& node) {
  return (graph_us(3 * nodes, node) - graph_us(nodes, node)) / (2 * nodes);
}

int nodes_for(double bytes) { return std::clamp(static_cast<int>(3e9 / bytes), 8, 100); }

template <class T>
Buffer<T> drawn(int64_t count, float scale) {
  static uint64_t stream_key = 1;
  Buffer<T> buffer(count);
  generate({.stream = combine(stream_key++, 0), .scale = scale}, {.width = count}, buffer.data(),
           {stream.get(), sms, false});
  return buffer;
}

void print(const std::string& name, double bytes, double flops, double us, const Quoted& quoted,
           const char* peer) {
  const double floor = std::max(bytes / ceiling, flops / matrix_rate);
  std::printf(
      "{\"case\": \"%s\", \"bytes\": %.0f, \"us\": %.2f, \"floor_us\": %.2f, \"over_floor\": %.3f, "
      "\"gb_per_s\": %.0f",
      name.c_str(), bytes, us, floor, us / floor, bytes / us / 1e3);
  if (const double peer_us = quoted.here(); peer_us > 0) {
    std::printf(", \"peer\": \"%s\", \"peer_us\": %.1f, \"peer_over_ours\": %.2f", peer, peer_us,
                peer_us / us);
  }
  std::printf("}\n");
  std::fflush(stdout);
}

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

template <class Activation, class Kv = bf16>
void time_attention(const AttentionCase& c) {
  const std::string name = (c.latent() ? "MLA " : "attention ") + std::to_string(c.rows) + " x " +
                           std::to_string(c.tokens) + ", " + std::to_string(c.heads) +
                           (c.latent() ? "" : "/" + std::to_string(c.kv_heads)) +
                           (std::is_same_v<Activation, float> ? " fp32 activations" : "") +
                           (std::is_same_v<Kv, fp8>     ? " fp8 KV"
                            : std::is_same_v<Kv, nvfp4> ? " nvfp4 KV"
                                                        : "");
  if (!wanted(name)) return;
  const AttentionShape shape{c.rows,      c.heads,      c.kv_heads,
                             c.head_size, c.value_size, 1 / std::sqrt(1.0F * c.head_size)};
  const int64_t pair_values = int64_t{c.tokens} * (c.head_size + (c.latent() ? 0 : c.value_size));
  const int64_t values = shape.pairs() * pair_values;
  const double bytes = static_cast<double>(bytes_for<Kv>(values));
  const double flops = 2.0 * c.rows * c.tokens * c.heads * (c.head_size + c.value_size);
  const int turns = std::max(2, static_cast<int>(std::ceil(256e6 / bytes)));
  std::vector<Buffer<std::byte>> kv;
  for (int i = 0; i < turns; ++i) {
    kv.emplace_back(bytes_for<Kv>(values));
    generate({.stream = combine(99, static_cast<uint64_t>(i)), .scale = 1.7320508F},
             {.width = values}, values_at<Kv>(kv.back().data(), values, 1),
             {stream.get(), sms, false});
  }
  const auto q = drawn<Activation>(int64_t{c.rows} * c.heads * c.head_size, 4);
  std::vector<int64_t> keys, at_values;
  for (int pair = 0; pair < shape.pairs(); ++pair) {
    keys.push_back(pair * pair_values);
    at_values.push_back(keys.back() + (c.latent() ? 0 : int64_t{c.tokens} * c.head_size));
  }
  const Buffer<int64_t> k{std::span<const int64_t>(keys)}, v{std::span<const int64_t>(at_values)};
  const std::vector<int32_t> counts(c.rows, c.tokens);
  const Buffer<int32_t> tokens{std::span<const int32_t>(counts)};
  const Buffer<std::byte> memory(AttentionPlan::bytes(shape, sms));
  const AttentionPlan plan(shape, sms, memory.data());
  const PartialLayout part{c.rows, c.heads, c.value_size, sizeof(Activation)};
  const Buffer<std::byte> out(part.bytes());
  cut_attention(plan, tokens.data(), how());
  const double us = node_us(nodes_for(bytes), [&](int i) {
    const KvView view{.base = kv[i % turns].data(),
                      .format = std::is_same_v<Kv, fp8>     ? Format::fp8
                                : std::is_same_v<Kv, nvfp4> ? Format::nvfp4
                                                            : Format::bf16,
                      .keys = k.data(),
                      .values = v.data(),
                      .tokens = tokens.data(),
                      .block_scales = reinterpret_cast<fp8*>(kv[i % turns].data() + values / 2)};
    decode_attention(plan, q.data(), view, part, out.data(), how());
  });
  print(name, bytes, flops, us, c.quoted, c.peer);
}

struct ProductCase {
  int outputs, inputs;
  Quoted quoted;
};
template <class Weight>
constexpr const char* by_weight() {
  return std::is_same_v<Weight, fp8> ? ", fp8" : std::is_same_v<Weight, nvfp4> ? ", nvfp4" : "";
}
// Weights in turn, more than L2 holds. Codes: any bits.
template <class Weight>
struct Turns {
  int64_t values;
  std::vector<Buffer<bf16>> memory;
  explicit Turns(int64_t count) : values(count) {
    const double bytes = bytes_per_value * static_cast<double>(count);
    const int turns = std::max(2, static_cast<int>(std::ceil(256e6 / bytes)));
    for (int i = 0; i < turns; ++i) {
      memory.push_back(drawn<bf16>(static_cast<int64_t>(bytes) / 2 + 8, 0.02F));
    }
  }
  Values<const Weight> at(int i) const {
    const Buffer<bf16>& buffer = memory[i % memory.size()];
    return values_at<const Weight>(reinterpret_cast<const std::byte*>(buffer.data()), values, 1);
  }
  static constexpr double bytes_per_value = std::is_same_v<Weight, fp8>     ? 1
                                            : std::is_same_v<Weight, nvfp4> ? 0.5625
                                                                            : 2;
};

template <class Weight>
void time_product(int rows, const ProductCase& c) {
  const std::string name = "product " + std::to_string(rows) + " x " + std::to_string(c.outputs) +
                           " x " + std::to_string(c.inputs) + by_weight<Weight>();
  if (!wanted(name)) return;
  const Turns<Weight> w(int64_t{c.outputs} * c.inputs);
  const double bytes = w.bytes_per_value * static_cast<double>(w.values);
  const auto x = drawn<bf16>(int64_t{rows} * c.inputs, 1);
  const Buffer<bf16> y(int64_t{rows} * c.outputs);
  const double us = node_us(nodes_for(bytes), [&](int i) {
    product({rows, c.outputs, c.inputs, c.inputs, c.outputs}, x.data(), w.at(i), y.data(), how());
  });
  print(name, bytes, 2.0 * rows * static_cast<double>(w.values), us,
        std::is_same_v<Weight, bf16> ? c.quoted : Quoted{}, "cuBLAS");
}

// `touched` of `held` experts have `each` pairs.
template <class Weight>
void time_experts(int held, int touched, int each, int outputs, int inputs) {
  const std::string name = "experts " + std::to_string(touched) + " of " + std::to_string(held) +
                           ", " + std::to_string(each) + " x " + std::to_string(outputs) + " x " +
                           std::to_string(inputs) + by_weight<Weight>();
  if (!wanted(name)) return;
  const Turns<Weight> w(int64_t{held} * outputs * inputs);
  const double bytes = w.bytes_per_value * touched * outputs * inputs;
  std::vector<int32_t> begins = {0}, row_of(touched * each, 0);
  for (int e = 0; e < held; ++e) {
    begins.push_back(begins.back() + (e * touched / held < (e + 1) * touched / held ? each : 0));
  }
  const Buffer<int32_t> b{std::span<const int32_t>(begins)}, r{std::span<const int32_t>(row_of)};
  const auto x = drawn<bf16>(inputs, 1);
  const Buffer<bf16> y(int64_t{touched} * each * outputs);
  const double us = node_us(nodes_for(bytes), [&](int i) {
    experts_product({max_product_rows, outputs, inputs, inputs, outputs},
                    Experts{held, b.data(), r.data()}, x.data(), w.at(i), y.data(), how());
  });
  print(name, bytes, 0, us, {}, "");
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
  for (const AttentionCase& c : attention) time_attention<bf16>(c);
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
    time_attention<bf16>(c);
    c.quoted = {};
    time_attention<bf16, fp8>(c);
    if (c.tokens == 16384) time_attention<bf16, nvfp4>(c);
  }
  for (AttentionCase c : attention) {
    c.quoted = {};
    if (c.kv_heads == 1) time_attention<bf16, fp8>(c);
  }
  for (const int rows : {1, 2, 4, 8}) {
    for (const ProductCase& c : {ProductCase{53248, 16384, {447, 629}},
                                 {16384, 16384, {133, 195}},
                                 {6656, 16384, {64, 89}},
                                 {2048, 16384, {28.5, 36}},
                                 {16384, 2048, {26.8, 35}},
                                 {2048, 7168, {19.7, 23}},
                                 {512, 16384, {}},
                                 {128, 16384, {}}}) {
      if (rows == 1 || rows == 8 || c.inputs * int64_t{c.outputs} < 40000000) {
        time_product<bf16>(rows, c);
      }
    }
  }
  for (const int rows : {1, 8}) {
    for (const ProductCase& c : {ProductCase{16384, 16384, {}},
                                 {6656, 16384, {}},
                                 {2048, 16384, {}},
                                 {16384, 2048, {}},
                                 {16384, 832, {}},
                                 {2048, 7168, {}},
                                 {512, 16384, {}}}) {
      time_product<fp8>(rows, c);
      time_product<nvfp4>(rows, c);
    }
  }
  // DeepSeek-R1, TPF 8 x EP 8: 3 of 32 experts at batch 1, 15 at batch 8.
  for (const auto& [touched, each] : {std::pair{3, 1}, {15, 1}, {30, 2}}) {
    time_experts<bf16>(32, touched, each, 512, 7168);
    time_experts<bf16>(32, touched, each, 7168, 256);
    time_experts<nvfp4>(32, touched, each, 512, 7168);
    time_experts<nvfp4>(32, touched, each, 7168, 256);
  }
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
