// Which executor carries out a point, on what, and how: the one place that knows them all.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "execute/card_facts.h"
#include "execute/exchange/mpi.h"
#include "execute/executor.h"

namespace helix {

enum class ExecutorKind : uint8_t { cpu, cuda };
// How GPU ranks exchange: staged through the host's memory; NCCL's messages, one rank a card; or
// kernels of our own on peer-mapped memory.
enum class ExchangeKind : uint8_t { mpi, nccl, fused };
std::string_view name_of(ExecutorKind), name_of(ExchangeKind);
// Which tasks such an executor carries out as one: GPU kernels that exchange go on with what
// follows, all else is a task by itself.
std::span<const Fusion> fusions_of(ExecutorKind executor, ExchangeKind exchange);

struct ExecutorChoice {
  ExecutorKind kind = ExecutorKind::cpu;
  ExchangeKind exchange = ExchangeKind::mpi;
  bool graph = true;        // cuda: steps are captured and replayed
  bool early_reads = true;  // cuda: a kernel may begin, and read weights, while the one before ends
  // cuda, fused: SMs that an exchange takes; 0: our choice. Under HOP-B attention leaves as many
  // alone; at 0 none: its blocks leave room beside them.
  int exchange_blocks = 0;
  int ranks_per_card = 1;  // at most, in the launch
};

// Why such an executor cannot carry out such a point; empty: it can.
std::string refusal(const ExecutorChoice& choice, const Precision& precision);
// Collective over `ranks`: the layout's, or one for a shard. Throws RunError for lack of memory.
std::unique_ptr<Executor> make_executor(const ExecutorChoice& choice, MPI_Comm ranks,
                                        const Assignment& work);

// What a GPU rank works on.
struct Card : CardFacts {
  double read_bytes_per_s = 0;  // measured
  double flops_per_s = 0;       // bf16 matrix products, from the number of SMs and their clock
  int multiprocessors = 0;
};
// Makes card_of_rank this rank's. Throws InputError in one line where the program, the driver or
// the card cannot do it.
Card open_card(int local_rank);
double free_card_bytes();
// Device memory that this process has allocated and not given back.
int64_t held_card_bytes();

// What the processor of a rank reaches at its best, each kind of work alone, by what the executor
// calls for it at shapes that suit: the peaks of a machine file.
struct Peaks {
  double memory_bytes = 0;
  double read_bytes_per_s = 0;
  double copy_bytes_per_s = 0;  // of memory that no cache holds
  // By the format of the weights, or of the KV cache; activations are bf16, a GPU's of fp32 weights
  // fp32. 0: no kernel.
  std::array<double, std::size(formats)> product_flops_per_s = {};
  std::array<double, std::size(formats)> attention_flops_per_s = {};
  // A node of a CUDA graph that does nothing, and one that starts before its predecessor ends.
  double node_us = 0;
  double dependent_node_us = 0;
  // bf16 products of more rows are a library's, of which nothing begins early; 0: none are.
  int library_rows = 0;
};
// A few seconds. Each rank measures for itself: all at once, as in a step.
Peaks measure_peaks(ExecutorKind kind, int threads);

// These are linked from src/execute/cuda/ where CUDA is built in, else from without_cuda.cpp.
namespace cuda {
std::string missing();  // why this build has no such executor; empty: it has
std::unique_ptr<Executor> make_executor(const ExecutorChoice& choice, MPI_Comm ranks,
                                        const Assignment& work);
Peaks measure_peaks();
}  // namespace cuda
namespace cpu {
Peaks measure_peaks(int threads);
}  // namespace cpu

}  // namespace helix
