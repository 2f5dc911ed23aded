// Routers held against the judge. Which experts win is no number that rounding moves a little, so
// two things are said instead: a router's logits are the judge's, as near as all logits are; and
// the choice is the one that the judge's rule makes of these very logits. A choice other than the
// judge's is then as near a tie as the logits are off, in every scoring and with any bias.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "execute/executor.h"

namespace helix {

struct Verdict;

// Of one rank's routers.
struct RoutersMet {
  int64_t choices = 0;    // experts chosen
  int64_t differing = 0;  // of these, not the judge's; the judge's were used
  double error = 0;  // max |a - b| of a router's logits, relative to the largest |b| that its layer
                     // gave any token; NaN counts as infinite
  int64_t wrong = 0;  // tokens whose experts are not those that their logits choose
};

class RouterCheck {
 public:
  // Both outlive this.
  RouterCheck(const Assignment& work, const std::vector<const Verdict*>& verdicts);

  // For ForcedRouting (execute/executor.h).
  std::span<const int32_t> judged(int64_t step, int layer, int64_t request) const;
  void note(int64_t step, int layer, int64_t request, std::span<const float> logits,
            std::span<const int32_t> choice);

  const RoutersMet& met() const { return met_; }

 private:
  bool rightly_chosen(int layer, std::span<const float> logits, std::span<const int32_t> choice);

  const Assignment& work_;
  const std::vector<const Verdict*>& verdicts_;
  // |b| of the judge's logits, a layer. Rounding leaves a logit off by a share of what its sum is
  // made of, which the norm makes alike for all tokens: not of the logit, nor of the largest of a
  // few that one token has.
  std::vector<double> largest_;
  std::map<int, std::vector<double>> biases_;  // a layer
  RoutersMet met_;
};

}  // namespace helix
