#include "machine/own_core.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace helix {

namespace {

constexpr double near = 0.95;  // one of its own reaches 0.98 of its best, a shared one 0.5 to 0.9

// In registers, and on several of them, as one chain would leave units idle; the compiler must not
// sum up what rounds add.
void add(int rounds) {
  uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
#pragma GCC unroll 8
  for (int round = 0; round < rounds; ++round) {
    asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f), "+r"(g), "+r"(h));
    ++a, ++b, ++c, ++d, ++e, ++f, ++g, ++h;
  }
}

}  // namespace

double additions_per_s() {
  using Clock = std::chrono::steady_clock;
  constexpr int rounds = 2048,
                tries = 3;  // a try of about a microsecond, which an interrupt spoils
  double least_s = 1;
  for (int i = 0; i < tries; ++i) {
    const auto began = Clock::now();
    add(rounds);
    least_s = std::min(least_s, std::chrono::duration<double>(Clock::now() - began).count());
  }
  return 8.0 * rounds / least_s;
}

bool OwnCore::now() {
  const double rate = rate_();
  best_ = std::max(best_, rate);
  const auto now = std::chrono::steady_clock::now();
  if (!(rate >= near * best_)) own_from_ = now + calm_;
  return now >= own_from_;
}

}  // namespace helix
