#include "execute/cpu/host_rates.h"

#include <cmath>
#include <cstdint>

#include "kernels/cpu/lines.h"
#include "kernels/cpu/memory.h"

namespace helix {

namespace {

volatile float sink;  // keeps the compiler from leaving out what nobody reads

double size_of(size_t index) { return static_cast<double>(1 << 20) * std::pow(4.0, index); }

// In eight streams, as products read: one alone is slower.
float sum_of(const float* from, int64_t values) {
  constexpr int64_t streams = 8;
  const int64_t stream = values / streams;
  cpu::Lanes sums[streams];
  for (cpu::Lanes& sum : sums) sum = cpu::zero();
  for (int64_t i = 0; i + cpu::lane_count <= stream; i += cpu::lane_count) {
#pragma GCC unroll 8
    for (int64_t j = 0; j < streams; ++j) sums[j] = sums[j] + cpu::load(from + j * stream + i);
  }
  float total = 0;
  for (const cpu::Lanes& sum : sums) total += cpu::sum(sum);
  return total;
}

// Independent chains of multiply-adds, enough for two units and some cycles of latency; `add` takes
// a sum to its next.
constexpr int chains = 12;
template <class Add>
float chained(int64_t rounds, const Add& add) {
  cpu::Lanes sums[chains];
  for (cpu::Lanes& sum : sums) sum = cpu::zero();
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (cpu::Lanes& sum : sums) sum = add(sum);
  }
  float total = 0;
  for (const cpu::Lanes& sum : sums) total += cpu::sum(sum);
  return total;
}

// One of `threads` threads, which reads its part of each size again and again.
HostRates measure_thread(int threads) {
  HostRates rates;
  const auto most = static_cast<int64_t>(size_of(rates.read_bytes_per_s.size() - 1)) / 4 / threads;
  // In the pages that weights and KV stand in: small ones are read slower.
  const cpu::Memory memory = cpu::take_memory(static_cast<size_t>(most) * sizeof(float));
  auto* const data = reinterpret_cast<float*>(memory.get());
  std::fill_n(data, most, 1.0F);
  for (size_t i = 0; i < rates.read_bytes_per_s.size(); ++i) {
    const int64_t values = static_cast<int64_t>(size_of(i)) / 4 / threads;
#pragma omp barrier
    rates.read_bytes_per_s[i] =
        best_rate(0.05, static_cast<double>(values) * 4, [&] { sink = sum_of(data, values); });
  }
#pragma omp barrier
  constexpr int64_t rounds = 20000;
  constexpr double flops = 2.0 * chains * cpu::lane_count * rounds;
  rates.flops_per_s = best_rate(0.05, flops, [&] {
    sink = chained(rounds, [](cpu::Lanes sum) {
      return cpu::multiply_add(sum, cpu::all(0.999F), cpu::all(0.001F));
    });
  });
  const std::array<bf16, 32> ones = {};
  const cpu::Pairs pairs = cpu::load_pairs(ones.data());
  rates.bf16_flops_per_s = best_rate(0.05, 2 * flops, [&] {
    sink = chained(rounds, [&](cpu::Lanes sum) { return cpu::multiply_add(pairs, pairs, sum); });
  });
  return rates;
}

}  // namespace

// Each thread has a clock of its own, so that a thread that has to wait for its core spoils
// nothing.
HostRates measure_host(int threads) {
  HostRates all;
#pragma omp parallel num_threads(threads)
  {
    const HostRates mine = measure_thread(threads);
#pragma omp critical
    {
      for (size_t i = 0; i < mine.read_bytes_per_s.size(); ++i)
        all.read_bytes_per_s[i] += mine.read_bytes_per_s[i];
      all.flops_per_s += mine.flops_per_s;
      all.bf16_flops_per_s += mine.bf16_flops_per_s;
    }
  }
  return all;
}

double HostRates::read_rate(double bytes) const {
  size_t index = 0;
  while (index + 1 < read_bytes_per_s.size() && size_of(index + 1) <= bytes) ++index;
  return read_bytes_per_s[index];
}

}  // namespace helix
