// Where the tokens of one layer's KV cache stand, in memory of either executor.
#pragma once

#include <cstdint>
#include <vector>

#include "base/format.h"
#include "layout/requests.h"

namespace helix {

// Of the requests of a micro-batch that this rank attends for, and its KV heads. Dense: for each
// request and head room for `capacity` tokens of keys, then of values. Paged: for each head a pool
// of pages of keys, then of values, of which each request has those that the table names.
// Places are counted in values: nvfp4 has one plane of codes for all, then one of scales
// (base/format.h).
struct KvCache {
  std::vector<int64_t> capacity;  // tokens, a request
  std::vector<int64_t> before;    // tokens of all requests before it
  std::vector<int32_t> pages;     // paged: [requests][most_pages]; dense: none
  int64_t most_pages = 0;         // of a request
  int64_t first_head = 0;         // of the model's
  int64_t heads = 0;
  int64_t key_values = 0;    // of one token and head: D
  int64_t value_values = 0;  // D too; 0 where the value is a part of the key (MLA)
  Format format = Format::bf16;

  // One more request, with room for so many tokens.
  void add(int64_t tokens);
  // All requests have been added: theirs become pages, handed out in an order shuffled by `seed`,
  // so that no wrong table finds the right tokens.
  void hand_out_pages(uint64_t seed);
  bool paged() const { return most_pages > 0; }
  const int32_t* pages_of(int64_t row) const {  // null: dense
    return paged() ? pages.data() + row * most_pages : nullptr;
  }
  // The table with the first page and the last one in each other's place: an error to be caught.
  std::vector<int32_t> swapped_pages() const;

  int64_t bytes(int64_t values) const {  // whole numbers: nvfp4 counts blocks of 16
    return static_cast<int64_t>(static_cast<double>(values) * bytes_of(format));
  }
  int64_t token_bytes() const { return bytes(key_values + value_values); }  // of a head
  int64_t tokens() const { return capacity.empty() ? 0 : before.back() + capacity.back(); }
  int64_t count() const { return tokens() * heads * (key_values + value_values); }
  // Where a request's keys and values of a head begin, and how many tokens further on one of its
  // tokens stands.
  int64_t first_key(int64_t row, int64_t head) const {
    return (paged() ? tokens() * head : before[row] * heads + capacity[row] * head) *
           (key_values + value_values);
  }
  int64_t first_value(int64_t row, int64_t head) const {  // MLA: a value begins where its key does
    return first_key(row, head) +
           (value_values == 0 ? 0 : (paged() ? tokens() : capacity[row]) * key_values);
  }
  int64_t place(int64_t row, int64_t token) const {
    return paged() ? pages_of(row)[token / page_tokens] * page_tokens + token % page_tokens : token;
  }
};

}  // namespace helix
