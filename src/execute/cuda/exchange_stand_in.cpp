// A shard's exchange: nothing is carried out, and what others would have sent is drawn
// (exchange/stand_in.h).
#include <map>

#include "execute/cuda/copies.h"
#include "execute/cuda/exchange.h"
#include "execute/exchange/stand_in.h"

namespace helix::cuda {

namespace {

class Alone final : public Exchange {
 public:
  Alone(const Schedule& schedule, const Store& store, const Assignment& work)
      : store_(store), stand_in_(schedule, store, work), arrived_(1) {}

  // Of a dispatch the host has to note what it met.
  bool captures(const Task& task) const override { return task.op != Op::dispatch; }
  void prepare(const Task& task, int64_t*) override { static_cast<void>(kept(task)); }
  bool run(const Task& task, const Launch& how) override;
  void plan(const Shift&) override {}
  void observe(StepState& state) const override { stand_in_.observe(state); }
  const int32_t* arrived() const override { return arrived_.data(); }
  void stage_barrier() const override {}
  void barrier() const override {}

 private:
  struct Kept {  // what each exchange brings anew, on the card
    std::byte* to;
    Buffer<std::byte> bytes;
  };
  const std::vector<Kept>& kept(const Task& task);

  const Store& store_;
  StandIn stand_in_;
  Buffer<int32_t> arrived_;
  std::map<std::pair<const Task*, int>, std::vector<Kept>> kept_;  // a micro-batch
};

const std::vector<Alone::Kept>& Alone::kept(const Task& task) {
  const auto [at, isnew] = kept_.try_emplace({&task, store_.now_index()});
  if (!isnew) return at->second;
  for (const Received& r : stand_in_.receive(task)) {
    write(std::span<const std::byte>(r.bytes), r.to);
    if (r.overwritten) at->second.push_back({r.to, Buffer<std::byte>(std::span(r.bytes))});
  }
  if (task.op == Op::dispatch) {
    StepState met;
    stand_in_.observe(met);
    const auto arrived = static_cast<int32_t>(met.arrived);
    at->second.push_back({reinterpret_cast<std::byte*>(arrived_.data()),
                          Buffer<std::byte>(std::as_bytes(std::span(&arrived, 1)))});
  }
  return at->second;
}

// Where nothing is launched, what follows may begin as early as this task might have.
bool Alone::run(const Task& task, const Launch& how) {
  bool copies = false;
  const auto copy = [&](std::byte* to, const std::byte* from, int64_t bytes) {
    HELIX_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                               how.stream));
    copies = true;
  };
  for (const Kept& again : kept(task)) copy(again.to, again.bytes.data(), again.bytes.bytes());
  if (const auto own = stand_in_.own_part(task))
    copy(own->to, own->from.data(), std::ssize(own->from));
  return !copies && how.dependent;
}

}  // namespace

std::unique_ptr<Exchange> make_stand_in(const Schedule& schedule, const Store& store,
                                        const Assignment& work) {
  return std::make_unique<Alone>(schedule, store, work);
}

}  // namespace helix::cuda
