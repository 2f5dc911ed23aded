// Products of a warpgroup (128 threads) on Hopper's tensor cores: both factors in shared memory,
// the sum in registers. Factors lie in blocks of rows of 128 bytes, 1024-byte aligned, swizzled as
// device.cuh says (the hardware's 128-byte swizzle): row r's 16-byte chunk c stands at c ^ (r & 7).
//
// The sum of thread t of a warpgroup: sum[8 n + ...] as in mma.m16n8k16, the warp's 16 rows: rows
// 16 (t / 32) + t % 32 / 4 (+ 8 for elements 2 and 3 of four), columns 8 n + 2 (t % 4) (+ 1).
#pragma once

#include <cstdint>

namespace helix::cuda {

// What a factor's place is to the hardware. `apart`: bytes between blocks of 64 columns, for a
// factor that is contracted along its rows.
__device__ inline uint64_t factor(uint32_t address, uint32_t apart = 16) {
  return uint64_t{(address & 0x3ffffU) >> 4} | uint64_t{apart >> 4} << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wait_for_products() {
  asm volatile(
      "wgmma.commit_group.sync.aligned;\n"
      "wgmma.wait_group.sync.aligned 0;" ::
          : "memory");
}
// What ordinary stores and copies wrote, the tensor cores may read after the next barrier.
__device__ inline void show_to_tensor_cores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define HELIX_4(s, i) "+f"(s[i]), "+f"(s[(i) + 1]), "+f"(s[(i) + 2]), "+f"(s[(i) + 3])
#define HELIX_16(s, i) HELIX_4(s, i), HELIX_4(s, (i) + 4), HELIX_4(s, (i) + 8), HELIX_4(s, (i) + 12)

// sum [64][32] = (add ? sum : 0) + a [64][16] b [32][16]^T: rows of both along the contraction.
__device__ inline void multiply_rows(float (&sum)[16], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "%16, %17, p, 1, 1, 0, 0;\n"
      "}"
      : HELIX_16(sum, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

// sum [64][128] += a [64][16] b [16][128]: b is contracted along its rows.
__device__ inline void multiply_columns(float (&sum)[64], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, 1, 1, 1, 0, 1;"
      : HELIX_16(sum, 0), HELIX_16(sum, 16), HELIX_16(sum, 32), HELIX_16(sum, 48)
      : "l"(a), "l"(b));
}

#undef HELIX_4
#undef HELIX_16

}  // namespace helix::cuda
