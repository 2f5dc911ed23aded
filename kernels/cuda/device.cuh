// What the kernels share: dependent launches, a ring of asynchronous copies that belongs to one
// warp, and tensor-core products on its slots.
//
// Every kernel that reads memory for long has one block an SM and, for each of its warps, a ring in
// shared memory: slots of 4 KB, filled by 16-byte asynchronous copies. A warp fills, waits for and
// drains its own slots, so that nothing but its own copies ever stops it. 96 KB a block: at 4.5
// TB/s and 1 us of latency 34 KB an SM must be under way. The copies carry no hint to prefetch 256
// bytes into L2: with it, 1M tokens of attention took 134 us in place of 123.
//
// A slot is rows of 128 or 256 bytes. The 16-byte chunk c of row r stands at c ^ (r & 7), so that
// the eight rows of a matrix fragment lie in different banks.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <cstdint>
#include <type_traits>

#include "base/format.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

inline constexpr int slot_bytes = 4096;

// The shared memory of a block of such a kernel: more than half of an SM's, so that no SM gets two
// of one kernel. A kernel that starts early finds blocks of the ones before it on some SMs; with
// room for two, the others would get two and take twice as long (llama-3.1-8b, 131072 tokens, H200:
// a step of 12.4 ms in place of 8.1). Ranks that share a card fill its SMs with each other's.
inline int lone_block_bytes(int needed, const Launch& how) {
  constexpr int more_than_half = 116 * 1024;
  return how.own_card && needed < more_than_half ? more_than_half : needed;
}

// `cluster`: blocks that share their shared memory.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int block, int shared_bytes,
            const Launch& how, int cluster, Arguments&&... arguments) {
  nvtxRangePushA(name);
  // An SM keeps its split between L1 and shared memory as long as it has a block. With a small one
  // the blocks of an exchange that waits would keep large blocks off their SMs, those of the rank
  // that is waited for too, where ranks share a card.
  HELIX_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
  if (shared_bytes >
      32 * 1024) {  // beyond 48 KB, a kernel's static memory with it, it is asked for
    HELIX_CUDA(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  }
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(block));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = how.stream;
  config.attrs = cluster > 1 ? attributes : attributes + 1;
  config.numAttrs = (cluster > 1 ? 1 : 0) + (how.dependent ? 1 : 0);
  HELIX_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
  nvtxRangePop();
}

template <class Activation>
constexpr Format format_of = std::is_same_v<Activation, bf16> ? Format::bf16 : Format::fp32;

// Call f with a null pointer of the format's type: one kernel for all formats, where it is not the
// reading of them that takes the time. Of plain numbers, and of all.
template <class F>
__device__ void with_type(Format format, F&& f) {
  format == Format::bf16 ? f(static_cast<bf16*>(nullptr)) : f(static_cast<float*>(nullptr));
}
template <class F>
__device__ void with_stored(Format format, F&& f) {
  if (format == Format::fp8) f(static_cast<fp8*>(nullptr));
  else if (format == Format::nvfp4) f(static_cast<nvfp4*>(nullptr));
  else with_type(format, f);
}

// Before Hopper a kernel begins when the one before has ended.
#if __CUDA_ARCH__ >= 900
#define HELIX_GRID_CONTROL(...) asm volatile("griddepcontrol." __VA_ARGS__)
#else
#define HELIX_GRID_CONTROL(...) static_cast<void>(0)
#endif
// The next kernel may be launched: said first, it only takes what this one leaves free.
__device__ inline void release_next() { HELIX_GRID_CONTROL("launch_dependents;"); }
// Everything launched before has ended and is visible.
__device__ inline void wait_for_previous() { HELIX_GRID_CONTROL("wait;" ::: "memory"); }

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ inline uint32_t swizzled(int row, int chunk, int row_bytes) {
  return static_cast<uint32_t>(row * row_bytes + ((chunk ^ (row & 7)) << 4));
}

// 16 bytes to shared memory, or zeros.
__device__ inline void copy_chunk(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void copy_word(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
  __syncwarp();
}

// Four 8x8 matrices of 16-bit values; lane 8 i + r gives the address of row r of matrix i.
__device__ inline void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_transposed(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
// c[16][8] += a[16][16] b[16][8], in the fragments of mma.m16n8k16.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two fp32 values rounded to bf16; `low` stands in the lower half.
__device__ inline uint32_t pack(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
// What rounding lost, as bf16 again: together 16 bits of mantissa, relative error 2^-17.
__device__ inline uint32_t pack_rest(float low, float high, uint32_t packed) {
  return pack(low - __uint_as_float(packed << 16), high - __uint_as_float(packed & 0xffff0000U));
}

// Two bf16 products.
__device__ inline uint32_t multiply_pairs(uint32_t a, uint32_t b) {
  uint32_t both;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(both) : "r"(a), "r"(b));
  return both;
}

// The same of fp16; its products are those of fp8 values, which it holds exactly.
__device__ inline uint32_t pack_halves(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
__device__ inline uint32_t pack_halves_rest(float low, float high, uint32_t packed) {
  const float2 held = __half22float2(*reinterpret_cast<const __half2*>(&packed));
  return pack_halves(low - held.x, high - held.y);
}
__device__ inline void multiply_add_halves(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                           uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline uint4 load_shared(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

__device__ inline uint32_t load_word(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

// 2^x within 2 units in the last place, 0 below 2^-126; one instruction, where exp2f takes five.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
inline constexpr float log2_e = 1.44269504F;
inline constexpr float ln_2 = 0.693147181F;
// 1 / x within 1 unit in the last place, log2 x within 2^-22: one instruction each.
__device__ inline float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float log_two(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// e4m3 codes. The hardware's conversion takes some 40 cycles a warp where shifts and masks take 8:
// a code's exponent is put into that of a wider format, which makes it too small by a power of two.
// NaN is not seen by that; it is looked for, and put right.
inline constexpr float fp8_in_fp16 = 0x1p8F;  // what the value is to be multiplied by
// Bytes 1 and 3 of four codes, as fp16.
__device__ inline uint32_t upper_halves(uint32_t codes) {
  return (codes & 0x80008000U) | (codes >> 1 & 0x3f803f80U);
}
// Four of the bytes of a and b (a: 0 to 3, b: 4 to 7) that the selector's digits name, lowest
// first; 8 + n: the sign of byte n, eight times.
__device__ inline uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t picked;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(picked) : "r"(a), "r"(b), "r"(selector));
  return picked;
}
// Two of the bytes, as bf16: exact, subnormals too; NaN as 480.
__device__ inline uint32_t widen(uint32_t codes, int low, int high) {
  const uint32_t apart = pick_bytes(codes, 0, 0x8080 | 0x11 * low | 0x1100 * high);
  return multiply_pairs(apart << 4 & 0x87f087f0U, 0x7b807b80U);  // 2^120
}
// Has the sign of a byte that is NaN's code: one more has the other sign.
__device__ inline uint32_t turned(uint32_t codes) { return codes ^ (codes + 0x01010101U); }
__device__ inline bool any_nan(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return ((turned(a) | turned(b) | turned(c) | turned(d)) & 0x80808080U) != 0;
}
// Puts the NaN of `nan` (two of them for a format of two bytes) where a code is NaN.
__device__ inline uint32_t with_nan(uint32_t pair, uint32_t low_code, uint32_t high_code,
                                    uint32_t nan) {
  if ((low_code & 0x7f) == 0x7f) pair = (pair & 0xffff0000U) | nan;
  if ((high_code & 0x7f) == 0x7f) pair = (pair & 0xffffU) | nan << 16;
  return pair;
}

// The low four bits, as from_e2m1 without its table.
__device__ inline float widen_e2m1(uint32_t code) {
  const uint32_t size = code & 7;
  const uint32_t bits = size < 2 ? size * 0x3f000000U : (126U << 23) + (size << 22);
  return __uint_as_float(bits | (code & 8) << 28);
}

// Consecutive values, as fp32.
__device__ inline void unpack(uint4 from, const bf16*, float (&to)[8]) {
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000U);
  }
}
__device__ inline void load8(const bf16* from, float (&to)[8]) {
  unpack(*reinterpret_cast<const uint4*>(from), from, to);
}
__device__ inline void load8(const float* from, float (&to)[8]) {
  *reinterpret_cast<float4*>(&to[0]) = *reinterpret_cast<const float4*>(from);
  *reinterpret_cast<float4*>(&to[4]) = *reinterpret_cast<const float4*>(from + 4);
}
// Of plain numbers.
__device__ inline float plain_at(const Stored& from, int64_t i) {
  return from.format == Format::bf16 ? to_float(from.as<bf16>().data[i]) : from.as<float>().data[i];
}
__device__ inline void load8(const Stored& from, int64_t i, float (&to)[8]) {
  from.format == Format::bf16 ? load8(from.as<bf16>().data + i, to)
                              : load8(from.as<float>().data + i, to);
}
__device__ inline void store8(const float (&from)[8], bf16* to) {
  *reinterpret_cast<uint4*>(to) = make_uint4(pack(from[0], from[1]), pack(from[2], from[3]),
                                             pack(from[4], from[5]), pack(from[6], from[7]));
}
__device__ inline void store8(const float (&from)[8], float* to) {
  *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  *reinterpret_cast<float4*>(to + 4) = make_float4(from[4], from[5], from[6], from[7]);
}
__device__ inline float4 load4(const float* from) {
  return __ldcg(reinterpret_cast<const float4*>(from));
}
// Said with an intrinsic: nvcc splits a plain assignment into four stores.
__device__ inline void store4(float4 from, float* to) {
  __stcg(reinterpret_cast<float4*>(to), from);
}
// Messages are aligned to 4 bytes only.
__device__ inline float4 load_words(const float* from) {
  return make_float4(__ldcg(from), __ldcg(from + 1), __ldcg(from + 2), __ldcg(from + 3));
}
__device__ inline float4 load_words(const bf16* from) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(from);
  const uint32_t low = __ldcg(words);
  const uint32_t high = __ldcg(words + 1);
  return make_float4(__uint_as_float(low << 16), __uint_as_float(low & 0xffff0000U),
                     __uint_as_float(high << 16), __uint_as_float(high & 0xffff0000U));
}
__device__ inline void store_words(float4 from, float* to) {
  to[0] = from.x;
  to[1] = from.y;
  to[2] = from.z;
  to[3] = from.w;
}
__device__ inline void store_words(float4 from, bf16* to) {
  reinterpret_cast<uint32_t*>(to)[0] = pack(from.x, from.y);
  reinterpret_cast<uint32_t*>(to)[1] = pack(from.z, from.w);
}

}  // namespace helix::cuda
