// Who holds what: the widths of a layout, a rank's place in it, its groups and its shards.
// Everything a rank owns is a Slice, and every group is an arithmetic sequence of ranks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/slice.h"

namespace helix {

// `null` stands where a choice does not apply.
enum class Query : uint8_t { null, replicate, gather };       // how a KVP rank gets its queries
enum class Merge : uint8_t { null, a2a, ag_rs, all_reduce };  // how partial outputs become one
enum class Mla : uint8_t { null, latent, value };             // what an MLA exchange carries
enum class Ffn : uint8_t { all, replica };                    // which ranks run the FFN
enum class Moe : uint8_t { null, gather, dispatch };  // how tokens of DP replicas reach experts

struct Layout {
  std::string_view strategy = "tp";  // a name of the table in strategy.h
  int pp = 1, dp = 1, kvp = 1, tpa = 1, tpf = 1, ep = 1;
  Query query = Query::null;
  Merge merge = Merge::null;
  Mla mla = Mla::null;
  Ffn ffn = Ffn::all;
  Moe moe = Moe::null;

  int replica_ranks() const { return kvp * tpa; }           // A
  int stage_ranks() const { return dp * replica_ranks(); }  // N
  int ranks() const { return pp * stage_ranks(); }
  // How many ranks share a dense FFN and the shared expert.
  int dense_width() const {
    return ffn == Ffn::replica ? tpa : moe == Moe::dispatch ? replica_ranks() : stage_ranks();
  }
  // Tokens of all replicas are gathered before the FFN and scattered after it.
  bool gathers() const { return dp > 1 && ffn == Ffn::all && moe != Moe::dispatch; }
  friend bool operator==(const Layout&, const Layout&) = default;
};

std::string_view name_of(Query), name_of(Merge), name_of(Mla), name_of(Ffn),
    name_of(Moe);  // null: "null"

// "helix KVP 4 x TPA 2 -> TPF 8", with what differs from the plain case: DP, PP, EP and options.
std::string describe(const Layout& layout);

struct Group {  // member i is rank first + i * stride
  int size = 1;
  int index = 0;  // mine
  int first = 0;
  int stride = 1;
};

// One rank of a layout: rank = ((pp * DP + dp) * TPA + tpa) * KVP + kvp. KVP ranks are consecutive.
struct Place {
  Layout l;
  int pp = 0, dp = 0, tpa = 0, kvp = 0;

  Place(const Layout& layout, int rank)
      : l(layout),
        pp(rank / layout.stage_ranks()),
        dp(rank / layout.replica_ranks() % layout.dp),
        tpa(rank / layout.kvp % layout.tpa),
        kvp(rank % layout.kvp) {}

  int in_replica() const {
    return tpa * l.kvp + kvp;
  }  // also the index of its heads after the merge
  int in_stage() const { return dp * l.replica_ranks() + in_replica(); }
  int rank() const { return pp * l.stage_ranks() + in_stage(); }

  Group kvp_group() const { return {l.kvp, kvp, rank() - kvp, 1}; }
  Group tpa_group() const { return {l.tpa, tpa, rank() - tpa * l.kvp, l.kvp}; }
  Group replica() const { return {l.replica_ranks(), in_replica(), rank() - in_replica(), 1}; }
  Group dp_group() const { return {l.dp, dp, rank() - dp * l.replica_ranks(), l.replica_ranks()}; }
  Group stage() const { return {l.stage_ranks(), in_stage(), pp * l.stage_ranks(), 1}; }

  bool merges_whole() const { return l.merge == Merge::all_reduce && l.kvp > 1; }
  Group output_group() const { return merges_whole() ? tpa_group() : replica(); }  // shares W_O
  // The all-reduce after the FFN; when tokens were gathered, what is left after the reduce-scatter
  // over DP.
  Group dense_group() const { return l.ffn == Ffn::replica ? tpa_group() : replica(); }
  int dense_index() const {
    return l.ffn == Ffn::replica ? tpa : l.moe == Moe::dispatch ? in_replica() : in_stage();
  }
  int expert_rank() const { return l.ffn == Ffn::replica ? tpa : in_stage(); }  // = ep * TPF + tpf

  Slice heads(int64_t q) const { return share(q, l.tpa, tpa); }  // of the attention
  Slice merged_heads(int64_t q) const {
    return merges_whole() ? heads(q) : share(q, l.replica_ranks(), in_replica());
  }
  Slice kv_heads(int64_t k) const {
    return l.tpa <= k ? share(k, l.tpa, tpa) : Slice{tpa * k / l.tpa, 1};
  }
};

}  // namespace helix
