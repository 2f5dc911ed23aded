// Products of a warpgroup (128 threads) on Hopper's tensor cores: both factors in shared memory,
// the sum in registers. Factors lie in blocks of rows of 128 bytes, 1024-byte aligned, swizzled as
// device.cuh says (the hardware's 128-byte swizzle): row r's 16-byte chunk c stands at c ^ (r & 7).
//
// The sum of thread t of a warpgroup: sum[8 n + ...] as in mma.m16n8k16, the warp's 16 rows: rows
// 16 (t / 32) + t % 32 / 4 (+ 8 for elements 2 and 3 of four), columns 8 n + 2 (t % 4) (+ 1).
#pragma once

#include <cstdint>

#include "kernels/cuda/device.cuh"

namespace helix::cuda {

// What a factor's place is to the hardware. `apart`: bytes between blocks of 64 columns, for a
// factor that is contracted along its rows.
__device__ inline uint64_t factor(uint32_t address, uint32_t apart = 16) {
  return uint64_t{(address & 0x3ffffU) >> 4} | uint64_t{apart >> 4} << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

// Products run beside what follows; they are waited for before their sums or factors are touched.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int Pending = 0>
__device__ inline void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// What ordinary stores and copies wrote, the tensor cores may read after the next barrier.
__device__ inline void show_to_tensor_cores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Named barriers: `id` from 1 on; `threads` take part.
__device__ inline void meet(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// A barrier in shared memory whose phase ends with the `count`-th arrival.
__device__ inline void make_barrier(uint64_t* barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}
__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives when this thread's copies so far are there.
__device__ inline void arrive_with_copies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
// Until the phase of this parity has ended.
__device__ inline void wait_for_phase(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@done bra end;\n"
      "bra again;\n"
      "end:\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// How many registers each thread of this warpgroup may have from here on; the kernel's warpgroups
// part at one branch, and 64 Ki must do for all.
template <int Count>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

#define HELIX_4(s, i) "+f"(s[i]), "+f"(s[(i) + 1]), "+f"(s[(i) + 2]), "+f"(s[(i) + 3])
#define HELIX_16(s, i) HELIX_4(s, i), HELIX_4(s, (i) + 4), HELIX_4(s, (i) + 8), HELIX_4(s, (i) + 12)
// clang-format off
#define HELIX_TO_63 \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
// clang-format on

// sum [64][64] = (add ? sum : 0) + a [64][16] b [64][16]^T: rows of both along the contraction.
__device__ inline void multiply_rows(float (&sum)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;\n"
      "}"
      : HELIX_16(sum, 0), HELIX_16(sum, 16)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

// sum [64][64] += a [64][16] b [64][16]^T; a in registers, as mma.m16n8k16 has it.
__device__ inline void multiply_rows(float (&sum)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
      : HELIX_16(sum, 0), HELIX_16(sum, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// sum [64][128] += a [64][16] b [16][128]: b is contracted along its rows. a in shared memory, or
// in registers as mma.m16n8k16 has it.
__device__ inline void multiply_columns(float (&sum)[64], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " HELIX_TO_63
               "%64, %65, 1, 1, 1, 0, 1;"
               : HELIX_16(sum, 0), HELIX_16(sum, 16), HELIX_16(sum, 32), HELIX_16(sum, 48)
               : "l"(a), "l"(b));
}
__device__ inline void multiply_columns(float (&sum)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " HELIX_TO_63
               "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : HELIX_16(sum, 0), HELIX_16(sum, 16), HELIX_16(sum, 32), HELIX_16(sum, 48)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef HELIX_4
#undef HELIX_16
#undef HELIX_TO_63

}  // namespace helix::cuda
