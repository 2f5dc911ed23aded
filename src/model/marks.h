// How the tiny models are made peaky, so that one lost token is seen.
//
// Hidden channel 0 holds a constant. Each query head turns it into one strong number; every history
// key holds a negative number there that grows with ln(length), so that the whole background weighs
// no more than one token; a marked key, and every key that the model itself appends, holds 0 there.
// So the marked positions and the newest share the attention about evenly, whatever the length.
#pragma once

#include <cstdint>
#include <vector>

#include "model/weights.h"

namespace helix {

// Positions worth losing: 0 to 8, the last 8, both sides of multiples of 16 within 272 of either
// end. Ascending.
std::vector<int64_t> mark_candidates(int64_t length);

// Marks are dealt round-robin over (layer, group). A group is a KV head; MLA: the query heads h
// with h % 4 == group.
int64_t mark_groups(const Model& model);
// The marked positions of one (layer, group): at most 8, ascending.
std::vector<int64_t> marks_of(const Model& model, int64_t layer, int64_t group, int64_t length);

// What stands at a weight's global index in a marked model, given what its generator drew for it.
float marked_weight(const Model& model, W weight, int64_t layer, const Extents& index, float drawn);
// Writes the marked numbers into history keys [count][head_size].
void mark_keys(const Model& model, int64_t layer, int64_t kv_head, int64_t length,
               const Generator::Positions& positions, float* keys);

}  // namespace helix
