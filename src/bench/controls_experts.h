// Negative controls of the mixture of experts: wrong choices and weights, made by a router of their
// own and written over the executor's.
//
// Forced routing would put the judge's choice in the place of a wrong one. These are made after it,
// so that a wrong choice is carried out and shows in the logits.
#pragma once

#include "execute/executor.h"

namespace helix {

// Weights are scores that were not divided by their sum.
void gates_not_renormalised(Executor& executor, const Assignment& work);
// The first expert of each token is run twice, and both outputs are summed.
void expert_run_twice(Executor& executor, const Assignment& work);
// Weights are made of scores with bias.
void bias_as_weight(Executor& executor, const Assignment& work);
// Experts outside the best groups score 0 instead of -inf: they win against negative ones. The tiny
// models' biases make all scores that compete negative (model/marks.cpp).
void groups_masked_with_zero(Executor& executor, const Assignment& work);

}  // namespace helix
