// One point's decode held against the judge: teacher-forced, every step, every request.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "bench/routers.h"
#include "bench/scope.h"
#include "bench/world.h"
#include "execute/executor.h"
#include "judge/judge.h"

namespace helix {

Scope scope_of(Scope wanted, const Assignment& work);

// What the judge says of one request, kept on every rank.
struct Verdict {
  std::vector<int32_t> tokens;  // [steps]
  std::vector<double> margins;  // best minus second logit, [steps]
  std::vector<float> logits;    // [steps][vocabulary], rounded once
  std::vector<int32_t>
      experts;  // [steps][layers][chosen], ascending; -1 in dense layers; empty without experts
  std::vector<float> router_logits;  // [steps][layers][experts]; 0 in dense layers
  std::vector<std::byte>
      codes;  // [steps][layers] newest tokens, as a quantised KV cache stores them
};

// Judges the requests of assignments, each on one rank, and gives the verdicts to all. Verdicts are
// kept by all that they depend on, which is no layout; judges, with their weights, as long as one
// model is judged. Collective over the world; throws on all ranks alike.
class Judges {
 public:
  explicit Judges(const World& world) : world_(&world) {}
  std::vector<const Verdict*> judge(const Assignment& work, int64_t steps);
  // Judges all that is not judged yet, so that the ranks share the work better than one by one.
  void prepare(std::span<const Assignment> all, int64_t steps);

 private:
  using Values = std::tuple<std::string, int64_t, const void*, std::string, uint64_t, double>;
  using Key = std::tuple<Values, int64_t, int64_t, int64_t, std::vector<int32_t>>;
  struct Kept;
  static Values values(const Assignment& work);
  static Key key(const Assignment& work, int64_t request, int64_t steps);
  const Judge& judge_of(const Assignment& work);
  void share_out(Verdict& verdict, const Assignment& work, int64_t steps, int root) const;

  const World* world_;
  std::map<Key, Verdict> verdicts_;
  std::map<Values, std::shared_ptr<const Kept>> judges_;  // this rank's, of one model
};

// Largest error that is still rounding, by format; tests/mpi shows what the executors reach.
double tolerance(const Precision& precision);

// Discrete choices that fall otherwise than the judge's are no errors, if they are near a tie and
// few: a share of all, for the sum over many cases. Near: a router's logits are within tolerance()
// as all logits are, and the choice is the one that they make (bench/routers.h); a code is the
// judge's or the next, but for so much of the largest value of its vector.
double routing_share(Format activations);
double code_share(Format activations);
double code_beyond(Format activations);

struct Comparison {
  double max_rel_err = 0;  // max |a - b| / max |b| over one request's logits, the worst of all; NaN
                           // counts as infinite
  int64_t tokens_differing =
      0;  // sampled tokens that differ from the judge's where its margin is above the tolerance
  int64_t hashes_differing =
      0;  // layers in which ranks of a replica did not hold the same hidden state
  RoutersMet routers;
  double allowed_router_error = 0;
  int64_t codes = 0;            // of newest tokens, each rank's counted
  int64_t codes_differing = 0;  // of these, not the judge's; the judge's were used
  double beyond = 0;            // ForcedCodes
  double allowed_beyond = 0;
  bool passed(double tolerance) const {
    return max_rel_err <= tolerance && tokens_differing == 0 && hashes_differing == 0 &&
           routers.error <= allowed_router_error && routers.wrong == 0 && beyond <= allowed_beyond;
  }
};

// Decodes `steps` tokens on an executor that stands at its history's end, teacher-forced, and
// compares. Collective over `ranks`, the executor's; the result is the same on all of them. Leaves
// the hooks as they were.
Comparison compare_steps(MPI_Comm ranks, Executor& executor, const Assignment& work,
                         const std::vector<const Verdict*>& verdicts, int64_t steps);

}  // namespace helix
