// One rank's share of a request's attention, as the judge has it: some query heads over some
// positions of one KV head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "judge/tensors.h"

namespace helix {

// A head's output, [Dv], and the natural logarithm of the sum of its weights: 0 and -inf where
// there are no positions.
struct PartialOutput {
  Vector output;
  double log_sum_exp;
};

struct PartialAttention {
  int64_t layer = 0;
  int64_t request = 0;
  int64_t history = 0;  // tokens of the whole request
  int64_t kv_head = 0;
  Generator::Positions positions;  // of the history
  // The newest token's, before they are rounded to the cache's format; empty: it is not here. MLA
  // has no value.
  Vector newest_key = {};
  Vector newest_value = {};

  // Of query heads, [D] each.
  std::vector<PartialOutput> outputs(const Tensors& tensors, std::span<const Vector> queries) const;
};

}  // namespace helix
