#include "execute/factory.h"

#include "execute/cpu/executor.h"

namespace helix {

std::string_view name_of(ExecutorKind kind) { return kind == ExecutorKind::cuda ? "cuda" : "cpu"; }
std::string_view name_of(ExchangeKind kind) {
  constexpr std::string_view names[] = {"mpi", "nccl", "fused"};
  return names[static_cast<size_t>(kind)];
}

std::span<const Fusion> fusions_of(ExecutorKind executor, ExchangeKind exchange) {
  return executor == ExecutorKind::cuda && exchange == ExchangeKind::fused
             ? fused_exchange_fusions()
             : cpu_fusions();
}

Peaks measure_peaks(ExecutorKind kind, int threads) {
  return kind == ExecutorKind::cuda ? cuda::measure_peaks() : cpu::measure_peaks(threads);
}

std::string refusal(const ExecutorChoice& choice, const Precision& p) {
  for (const Format format : {p.weights, p.kv, p.attention, p.experts, p.lm_head})
    if (format == Format::fp4) return "fp4 is priced, never executed: nvfp4 is";
  return choice.kind == ExecutorKind::cuda ? cuda::missing() : "";
}

std::unique_ptr<Executor> make_executor(const ExecutorChoice& choice, MPI_Comm ranks,
                                        const Assignment& work) {
  if (choice.kind == ExecutorKind::cuda) return cuda::make_executor(choice, ranks, work);
  return std::make_unique<cpu::CpuExecutor>(ranks, work);
}

}  // namespace helix
