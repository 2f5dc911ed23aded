// NCCL's messages in the graph. Reductions are two rounds of messages with a sum in rank order
// between them, so that all ranks have the same bits, and those of the host-staged exchange.
#include "base/error.h"
#include "execute/cuda/cliques.h"
#include "execute/cuda/travellers.h"
#include "execute/factory.h"
#include "execute/types.h"
#include "kernels/cuda/elementwise.h"

#if __has_include(<nccl.h>)

namespace helix::cuda {

namespace {

class NcclExchange final : public Exchange {
 public:
  NcclExchange(MPI_Comm ranks, const Schedule& schedule, const Store& store, const Assignment& work)
      : schedule_(schedule),
        store_(store),
        activations_(work.precision.activations),
        travellers_(schedule, store, work),
        all_(Communicator::duplicate(ranks)),
        stage_(Communicator::split(ranks, schedule.place.pp, schedule.place.rank())),
        compute_(clique_of(ranks, Clique::compute)),
        exchange_(work.chunks > 1 ? clique_of(ranks, Clique::exchange) : nullptr) {}

  bool captures(const Task& task) const override { return task.op != Op::shift; }
  void prepare(const Task& task, int64_t* met) override { travellers_.prepare(task, met); }
  bool run(const Task& task, const Launch& how) override;
  void plan(const Shift& shift) override { shift_ = shift; }
  const int32_t* arrived() const override { return travellers_.arrived(); }
  void stage_barrier() const override { HELIX_MPI(MPI_Barrier(stage_.get())); }
  void barrier() const override { HELIX_MPI(MPI_Barrier(all_.get())); }

 private:
  void run_shift(const Task& task, cudaStream_t stream);
  void sum(const RankSum& sum, cudaStream_t stream);

  const Schedule& schedule_;
  const Store& store_;
  Format activations_;
  Travellers travellers_;
  Communicator all_, stage_;
  ncclComm_t compute_;
  ncclComm_t exchange_;  // a lane of its own under HOP-B
  Shift shift_;
};

void send(const std::byte* from, int64_t bytes, int peer, ncclComm_t comm, cudaStream_t stream) {
  if (bytes > 0)
    HELIX_NCCL(ncclSend(from, static_cast<size_t>(bytes), ncclInt8, peer, comm, stream));
}
void receive(std::byte* to, int64_t bytes, int peer, ncclComm_t comm, cudaStream_t stream) {
  if (bytes > 0) HELIX_NCCL(ncclRecv(to, static_cast<size_t>(bytes), ncclInt8, peer, comm, stream));
}

bool NcclExchange::run(const Task& task, const Launch& how) {
  const cudaStream_t stream = how.stream;
  if (task.op == Op::shift) return run_shift(task, stream), false;
  const ncclComm_t comm = task.lane == Lane::exchange ? exchange_ : compute_;
  travellers_.pack(task, how);
  for (const Round& round : travellers_.rounds(task)) {
    HELIX_NCCL(ncclGroupStart());
    for (const Message& m : round.messages) {
      send(m.from, m.from_bytes, m.peer, comm, stream);
      receive(m.to, m.to_bytes, m.peer, comm, stream);
    }
    HELIX_NCCL(ncclGroupEnd());
    if (round.sum) sum(*round.sum, stream);
  }
  return travellers_.unpack(task, {stream, how.blocks, false});
}

void NcclExchange::sum(const RankSum& sum, cudaStream_t stream) {
  with_type(activations_, [&]<class T>(T*) {
    sum_in_order(sum.parts, sum.count, sum.count, reinterpret_cast<const T*>(sum.from),
                 reinterpret_cast<T*>(sum.out), {stream, 0, false});
  });
}

// As cpu::Collectives::shift.
void NcclExchange::run_shift(const Task& task, cudaStream_t stream) {
  const Place& me = schedule_.place;
  const Id out = task.writes[0];
  const bool in_place = task.reads[0] == out;
  const auto bytes =
      static_cast<int64_t>(bytes_of(schedule_[out], store_.micro_batch(shift_.receives).most));
  std::byte* const to = store_.activation_of(shift_.receives, out);
  const int from = (me.rank() - me.l.stage_ranks() + me.l.ranks()) % me.l.ranks();
  HELIX_NCCL(ncclGroupStart());
  if (shift_.receive) receive(in_place ? store_.workspace() : to, bytes, from, compute_, stream);
  if (shift_.send) {
    const auto sent = store_.bytes(task.reads[0], all_chunks);
    send(sent.data(), std::ssize(sent), task.group.first, compute_, stream);
  }
  HELIX_NCCL(ncclGroupEnd());
  if (shift_.receive && in_place)
    HELIX_CUDA(cudaMemcpyAsync(to, store_.workspace(), static_cast<size_t>(bytes),
                               cudaMemcpyDeviceToDevice, stream));
}

}  // namespace

std::unique_ptr<Exchange> make_nccl_exchange(MPI_Comm ranks, const Schedule& schedule,
                                             const Store& store, const Assignment& work) {
  return std::make_unique<NcclExchange>(ranks, schedule, store, work);
}

}  // namespace helix::cuda

#else  // no nccl.h

namespace helix::cuda {

std::unique_ptr<Exchange> make_nccl_exchange(MPI_Comm, const Schedule&, const Store&,
                                             const Assignment&) {
  throw InputError("--exchange nccl: this program was built without NCCL (NCCL_HOME)");
}

}  // namespace helix::cuda

#endif
