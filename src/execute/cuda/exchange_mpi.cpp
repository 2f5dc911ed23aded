// Host-staged: what is sent goes into pinned memory, the CPU executor's collectives carry it on,
// and what came goes back to the card. It works wherever MPI does, also for ranks that share a
// card; a step's graph is cut at each exchange.
#include <algorithm>

#include "execute/cpu/collectives.h"
#include "execute/cuda/exchange.h"

namespace helix::cuda {

namespace {

Block pinned(size_t bytes) {
  void* data = nullptr;
  HELIX_CUDA(cudaHostAlloc(&data, std::max<size_t>(bytes, 1), cudaHostAllocDefault));
  std::fill_n(static_cast<std::byte*>(data), bytes, std::byte{});
  return {static_cast<std::byte*>(data), [](std::byte* p) { HELIX_CUDA_NOTHROW(cudaFreeHost(p)); }};
}

class MpiExchange final : public Exchange {
 public:
  MpiExchange(MPI_Comm ranks, const Schedule& schedule, const Store& store, const Assignment& work)
      : schedule_(schedule),
        store_(store),
        collectives_(ranks, schedule, mirror_, work),
        mirror_(schedule, work, pinned, Holds::exchanged),
        count_(pinned(sizeof(int32_t))),
        arrived_(1) {}

  bool captures(const Task&) const override { return false; }
  bool run(const Task& task, const Launch& how) override;
  void plan(const Shift& shift) override {
    shift_ = shift;
    collectives_.plan(shift);
  }
  void observe(StepState& state) const override { collectives_.observe(state); }
  const int32_t* arrived() const override { return arrived_.data(); }
  void stage_barrier() const override { collectives_.stage_agrees(true); }
  void barrier() const override { collectives_.barrier(); }

 private:
  void run_shift(const Task& task, cudaStream_t stream);
  void carry(const Task& task);
  static void copy(std::span<std::byte> to, std::span<const std::byte> from, cudaMemcpyKind kind,
                   cudaStream_t stream) {
    if (!to.empty()) HELIX_CUDA(cudaMemcpyAsync(to.data(), from.data(), to.size(), kind, stream));
  }
  // Log-sum-exps that stand in their outputs' messages go with them.
  bool goes_along(const Ids<5>& ids, Id id) const {
    return store_.holder(id) != id && std::ranges::find(ids, store_.holder(id)) != ids.end();
  }

  const Schedule& schedule_;
  const Store& store_;
  cpu::Collectives collectives_;
  Store mirror_;  // on the host, of what is exchanged
  Block count_;
  Buffer<int32_t> arrived_;
  Shift shift_;
};

void MpiExchange::carry(const Task& task) {
  while (!collectives_.progress(task, true)) {
  }
}

bool MpiExchange::run(const Task& task, const Launch& how) {
  const cudaStream_t stream = how.stream;
  mirror_.turn_to(store_.now_index());
  if (task.op == Op::shift) return run_shift(task, stream), false;
  for (const Id id : task.reads)
    if (!goes_along(task.reads, id))
      copy(mirror_.bytes(id, task.chunk), store_.bytes(id, task.chunk), cudaMemcpyDeviceToHost,
           stream);
  HELIX_CUDA(cudaStreamSynchronize(stream));
  carry(task);
  Ids<5> written;
  for (const Id id : task.writes) written.push_back(id);
  for (const Id id : written)
    if (!goes_along(written, id))
      copy(store_.bytes(id, task.chunk), mirror_.bytes(id, task.chunk), cudaMemcpyHostToDevice,
           stream);
  if (task.op == Op::dispatch) {
    StepState met;
    collectives_.observe(met);
    *reinterpret_cast<int32_t*>(count_.get()) = static_cast<int32_t>(met.arrived);
    HELIX_CUDA(cudaMemcpyAsync(arrived_.data(), count_.get(), sizeof(int32_t),
                               cudaMemcpyHostToDevice, stream));
  }
  // The next exchange writes over the pinned memory.
  HELIX_CUDA(cudaStreamSynchronize(stream));
  return false;
}

void MpiExchange::run_shift(const Task& task, cudaStream_t stream) {
  if (shift_.send)
    copy(mirror_.bytes(task.reads[0], all_chunks), store_.bytes(task.reads[0], all_chunks),
         cudaMemcpyDeviceToHost, stream);
  HELIX_CUDA(cudaStreamSynchronize(stream));
  carry(task);
  if (!shift_.receive) return;
  const Id out = task.writes[0];
  const StepState& next = store_.micro_batch(shift_.receives).most;
  const auto bytes = static_cast<size_t>(bytes_of(schedule_[out], next));
  copy({store_.activation_of(shift_.receives, out), bytes},
       {mirror_.activation_of(shift_.receives, out), bytes}, cudaMemcpyHostToDevice, stream);
  HELIX_CUDA(cudaStreamSynchronize(stream));
}

}  // namespace

std::unique_ptr<Exchange> make_mpi_exchange(MPI_Comm ranks, const Schedule& schedule,
                                            const Store& store, const Assignment& work) {
  return std::make_unique<MpiExchange>(ranks, schedule, store, work);
}

}  // namespace helix::cuda
