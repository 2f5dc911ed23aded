// base/format.h as a library, for test_formats.py to hold against ml_dtypes.
#include "base/format.h"

extern "C" {

void to_fp8(const float* from, int64_t count, uint8_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = helix::to_fp8(from[i]).bits;
}
void from_fp8(const uint8_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = helix::to_float(helix::fp8{from[i]});
}
void to_e2m1(const float* from, int64_t count, uint8_t* to) {  // a code a byte
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(helix::to_e2m1(from[i]));
}
void from_e2m1(const uint8_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = helix::from_e2m1(from[i]);
}
// Both planes: count / 2 bytes, then count / 16.
void to_nvfp4(const float* from, int64_t count, float scale, std::byte* to) {
  helix::encode(from, count, helix::values_at<helix::nvfp4>(to, count, scale));
}
void from_nvfp4(const std::byte* from, int64_t count, float scale, float* to) {
  helix::decode(helix::values_at<const helix::nvfp4>(from, count, scale), count, to);
}
}
