#!/usr/bin/env python3
"""Hand calculation of one decode step's weights, KV bytes, FLOPs and messages, for rank 0.

Written from helix.md (formulas) and design.md (names, layout fields, rank order, cost conventions) alone, without
reading the program: it is a second opinion for the program's own cost model.  Integers and fractions only.

    hand_table.py            writes hand_table.json beside this file
    hand_table.py --check    asserts that hand_table.json is what this file produces
"""
import json
import pathlib
import sys
from types import SimpleNamespace

from hand_checks import check_hop_b, check_parameters, check_roofline, check_round_robin, check_rows
from hand_models import BF16, FP32, INTERVAL, MODELS, PAIR, S, ceil_div, exact, local_history, owner

# ---------------------------------------------------------------------------------------------------------------------
# Exchanges: (messages, bytes) sent by rank 0.  A collective over one rank is nothing.
# ---------------------------------------------------------------------------------------------------------------------
def split(n, g):
    """n elements over g ranks, remainders to the lowest index."""
    return [n // g + (1 if i < n % g else 0) for i in range(g)]


def per_peer(name, over, g, payload_bytes):
    """all-to-all, all-gather, reduce-scatter with equal shares: g-1 messages of one per-peer payload."""
    if g == 1:
        return []
    return [dict(name=name, over=over, ranks=g, messages=g - 1, bytes_per_message=payload_bytes,
                 bytes=(g - 1) * payload_bytes)]


def all_reduce(name, over, g, elements):
    """reduce-scatter (to each peer its slice) then all-gather (rank 0's own slice to each peer): 2(g-1) messages."""
    if g == 1:
        return []
    share = split(elements, g)
    sent = sum(share[1:]) + (g - 1) * share[0]
    return [dict(name=name, over=over, ranks=g, messages=2 * (g - 1), bytes_per_message=share[0] * BF16,
                 bytes=sent * BF16)]


def unknown_bytes(name, over, g):
    """dispatch and combine: bytes depend on routing."""
    if g == 1:
        return []
    return [dict(name=name, over=over, ranks=g, messages=g - 1, bytes_per_message=None, bytes=None)]


def total_exchanges(part):
    part["messages_total"] = sum(e["messages"] for e in part["exchanges"])
    counts = [e["bytes"] for e in part["exchanges"]]
    part["bytes_sent_total"] = None if None in counts else sum(counts)
    return part


# ---------------------------------------------------------------------------------------------------------------------
# One row: one (model, layout), rank 0
# ---------------------------------------------------------------------------------------------------------------------
def check_legal(m, lay, N):
    A = lay["kvp"] * lay["tpa"]
    assert lay["dp"] * A == N                                         # N = DP x A
    width = N if lay["ffn"] == "all" else lay["tpa"]
    assert lay["tpf"] * lay["ep"] == width                            # tpf*ep = N (all) or tpa (replica)
    exact(m["Q"], lay["tpa"])                                         # tpa divides Q
    if lay["merge"] in ("a2a", "ag_rs"):
        exact(m["Q"], A)                                              # A divides Q where heads are exchanged
    if m["attention"] == "gqa":
        assert m["K"] % lay["tpa"] == 0 or lay["tpa"] % m["K"] == 0   # tpa divides K or K divides tpa
    if m["E"]:
        exact(m["M"], lay["tpf"])
        exact(m["E"], lay["ep"])


def shares_of(m, lay, N, batch):
    """What rank 0 has of requests, heads, tokens and vocabulary."""
    Q, tpa, kvp = m["Q"], lay["tpa"], lay["kvp"]
    A = kvp * tpa                                     # A = KVP x TPA
    rows = ceil_div(batch, lay["dp"])                 # requests of replica 0
    heads_attn = exact(Q, tpa)                        # query heads attended: Q/TPA
    # replicate: "every KVP rank computes the Q, K, V projections of its TPA slice, redundantly"; gather: "Q projected at width A"
    heads_query = exact(Q, A) if lay["query"] == "gather" else heads_attn
    # a2a, ag_rs: after the merge Q/A heads; all_reduce (medha): Q/TPA heads, W_O at width TPA
    heads_out = heads_attn if lay["merge"] == "all_reduce" else exact(Q, A)
    owns = owner(S, kvp) == 0                         # "only the owner appends, and only the owner attends to" the new token
    # FFN: who runs it, how wide, on how many rows
    if lay["ffn"] == "replica":
        dense_width, ffn_rows = tpa, rows             # each replica's TPA ranks
    elif lay["moe"] == "dispatch":
        dense_width, ffn_rows = A, rows               # shared expert, leading dense layers: per replica at width A
    else:
        dense_width, ffn_rows = N, batch              # Dense: TPF = N; shared expert at TPF = N
    return SimpleNamespace(
        N=N, A=A, batch=batch, rows=rows, heads_attn=heads_attn, heads_query=heads_query, heads_out=heads_out,
        kv_heads=1 if m["attention"] == "mla" else ceil_div(m["K"], tpa),  # ceil(K/TPA); MLA: one, shared by all query heads
        # W_UV after the merge (latent, or no merge at all): heads_out; before it (value): heads_attn
        heads_uv=heads_attn if lay["mla"] == "value" else heads_out,
        history=local_history(S, 0, kvp), owns=owns, newest=1 if owns else 0, dense_width=dense_width, ffn_rows=ffn_rows,
        vocabulary_rows=ceil_div(m["V"], N))          # rows of ceil(V/N); nothing divides H


def gqa_weights(m, r):
    H, D = m["H"], m["D"]
    w = {"W_Q": H * r.heads_query * D, "W_K": H * r.kv_heads * D, "W_V": H * r.kv_heads * D,
         "W_O": r.heads_out * D * H}                                   # row-parallel over A (medha: TPA)
    f = {name: 2 * r.rows * elements for name, elements in w.items()}  # 2*B*in*out
    if m["qk_norm"]:
        w["q_norm"] = D                                                # RMSNorm over D, replicated
        w["k_norm"] = D
    return w, f


def mla_weights(m, r):
    H, nope, rope, v, c = m["H"], m["nope"], m["rope"], m["v"], m["kv_lora"]
    w = {}
    if m["q_lora"] is None:
        w["W_Q"] = H * r.heads_query * (nope + rope)                   # by heads
    else:
        w["W_DQ"] = H * m["q_lora"]                                    # replicated; 2*B*H*q_lora
        w["W_UQ"] = m["q_lora"] * r.heads_query * (nope + rope)        # by heads; 2*B*q_lora*heads*(nope+rope)
    w["W_DKV"] = H * (c + rope)                                        # replicated; 2*B*H*(kv_lora+rope)
    w["W_UK"] = c * r.heads_query * nope                               # by heads, where the query is absorbed; q_nope*W_UK: 2*B*heads*nope*kv_lora
    w["W_UV"] = c * r.heads_uv * v                                     # by heads, where W_UV is applied; 2*B*heads*kv_lora*v
    w["W_O"] = r.heads_out * v * H                                     # row-parallel over A; 2*B*heads*v*H
    f = {name: 2 * r.rows * elements for name, elements in w.items()}
    if m["q_lora"] is not None:
        w["q_latent_norm"] = m["q_lora"]                               # replicated
    w["kv_latent_norm"] = c                                            # replicated
    return w, f


def attention_of(m, lay, r):
    """Weights, FLOPs (2 per multiply-add), KV read and exchanges of one layer's attention."""
    if m["attention"] == "mla":
        w, f = mla_weights(m, r)
        c, rope, v = m["kv_lora"], m["rope"], m["v"]
        d_qk, d_v = c + rope, c                                        # q.k over 576, p.v over 512
        kv_numbers = c + rope                                          # the cache holds 576 numbers a token
        d_query_gathered = c + rope                                    # dcp gathers the absorbed query, 576 a head
        d_exchange = v if lay["mla"] == "value" else c                 # Dv sent: 512 latent, 128 value
    else:
        w, f = gqa_weights(m, r)
        d_qk = d_v = d_query_gathered = d_exchange = m["D"]
        kv_numbers = 2 * r.kv_heads * m["D"]                           # 2*ceil(K/TPA)*D numbers a token
    w["attention_norm"] = m["H"]
    w["ffn_norm"] = m["H"]
    # attention: 2*(Dqk + Dv) for each request, query head held and local token (newest only where owned)
    f["attention"] = r.rows * r.heads_attn * (r.history + r.newest) * 2 * (d_qk + d_v)
    kv = dict(numbers_per_token=kv_numbers, history_tokens_per_request=r.history, owns_newest=r.owns,
              history_bytes=r.rows * r.history * kv_numbers * BF16,    # B*2*ceil(K/TPA)*D*local(0)*bytes (T_KV's numerator)
              newest_bytes=r.rows * r.newest * kv_numbers * BF16)
    return w, f, kv, attention_exchanges(m, lay, r, d_query_gathered, d_exchange)


def attention_exchanges(m, lay, r, d_query_gathered, d_exchange):
    kvp, rows, H = lay["kvp"], r.rows, m["H"]
    x = []
    slice_elements = rows * r.heads_out                                # requests x heads of one KVP peer's slice
    if lay["query"] == "gather":                                       # dcp: all-gather of Q in the KVP group
        x += per_peer("query_all_gather", "kvp", kvp, rows * r.heads_query * d_query_gathered * BF16)
    if lay["merge"] == "a2a":
        # to each peer: B*Q*Dv/(KVP*TPA) outputs and B*Q/(KVP*TPA) LSEs, one message
        x += per_peer("all_to_all", "kvp", kvp, slice_elements * (d_exchange * BF16 + FP32))
    if lay["merge"] == "ag_rs":
        x += per_peer("lse_all_gather", "kvp", kvp, rows * r.heads_attn * FP32)            # LSEs of all Q/TPA heads
        x += per_peer("output_reduce_scatter", "kvp", kvp, slice_elements * d_exchange * BF16)  # a peer's Q/A heads
    if lay["merge"] == "all_reduce":
        x += per_peer("lse_all_gather", "kvp", kvp, rows * r.heads_attn * FP32)
        x += all_reduce("output_all_reduce", "kvp", kvp, rows * r.heads_attn * d_exchange)  # [B, Q/TPA, Dv]
        x += all_reduce("attention_all_reduce", "tpa", lay["tpa"], rows * H)               # W_O at width TPA
    else:
        x += all_reduce("attention_all_reduce", "a", r.A, rows * H)                        # [B, H] over A
    return x


def ffn_exchanges(kind, m, lay, r):
    dp, elements = lay["dp"], r.rows * m["H"]
    if lay["ffn"] == "replica":
        return all_reduce("ffn_all_reduce", "tpa", lay["tpa"], elements)
    if lay["moe"] == "dispatch":
        if kind == "dense":  # per replica at width A, nothing over DP
            return all_reduce("ffn_all_reduce", "a", r.A, elements)
        assert r.A == 1
        return unknown_bytes("dispatch", "dp", dp) + unknown_bytes("combine", "dp", dp)
    if dp > 1:  # gathered over DP before, reduce-scatter over DP after, then all-reduce in A
        assert r.batch % dp == 0
        return (per_peer("ffn_all_gather", "dp", dp, elements * BF16)
                + per_peer("ffn_reduce_scatter", "dp", dp, elements * BF16)
                + all_reduce("ffn_all_reduce", "a", r.A, elements))
    return all_reduce("ffn_all_reduce", "n", r.N, elements)            # one all-reduce over N


def layer(kind, m, lay, r):
    """One layer of a kind (dense, moe): `count` of them in the model."""
    w, f, kv, exchanges = attention_of(m, lay, r)
    H, routed = m["H"], None
    if kind == "dense":
        width = ceil_div(m["F"], r.dense_width)
        for name in ("W_GATE", "W_UP", "W_DOWN"):                      # column, column, row parallel
            w[name] = H * width
            f[name] = 2 * r.ffn_rows * H * width
    else:
        w["router"] = H * m["E"]                                       # replicated
        f["router"] = 2 * r.ffn_rows * H * m["E"]                      # of the gathered batch where gathered, else the replica's rows
        experts = exact(m["E"], lay["ep"])                             # experts [0, E/EP)
        width = exact(m["M"], lay["tpf"])                              # M/TPF
        routed = 2 * 3 * H * width                                     # gate, up, down of one token in one expert shard
        for name in ("experts_gate", "experts_up", "experts_down"):
            w[name] = experts * H * width
        if m["shared"]:
            shared = ceil_div(m["shared"] * m["M"], r.dense_width)
            for name in ("shared_gate", "shared_up", "shared_down"):
                w[name] = H * shared
                f[name] = 2 * r.ffn_rows * H * shared
    return total_exchanges(dict(
        count=m["dense_first"] if kind == "dense" else m["L"] - m["dense_first"], weight_elements=w,
        weight_elements_total=sum(w.values()),
        router_bias_elements=m["E"] if kind == "moe" and m["router_bias"] else 0, kv=kv, flops=f,
        flops_total=sum(f.values()), flops_per_routed_pair=routed, exchanges=exchanges + ffn_exchanges(kind, m, lay, r)))


def prologue_of(m, lay, r):
    H, elements = m["H"], r.rows * m["H"]
    return total_exchanges(dict(
        weight_elements=dict(embedding=r.vocabulary_rows * H), flops={}, flops_total=0,
        # The summed [B, H].  helix.md says only that a replica needs its own rows; the first version of this
        # table all-reduced all rows over N.  With dp > 1 the program's choice is taken over: a reduce-scatter
        # over DP, then an all-reduce in the replica, like the end of a gathered FFN; half the bytes.
        exchanges=(per_peer("embedding_reduce_scatter", "dp", lay["dp"], elements * BF16)
                   + all_reduce("embedding_all_reduce", "a", r.A, elements))))


def epilogue_of(m, lay, r):
    H = m["H"]
    lm_head = 0 if m["tied"] else r.vocabulary_rows * H                # tied: one tensor at PP 1, counted as the embedding
    flops = 2 * r.batch * H * r.vocabulary_rows                        # every rank sees every request
    return total_exchanges(dict(
        weight_elements=dict(final_norm=H, lm_head=lm_head), flops=dict(lm_head=flops), flops_total=flops,
        exchanges=per_peer("hidden_all_gather", "dp", lay["dp"], r.rows * H * BF16)
        + per_peer("sample_gather", "n", r.N, r.batch * PAIR)))        # (value, lowest index), 8 bytes a request


def row(model, strategy, N, batch, lay):
    m = MODELS[model]
    check_legal(m, lay, N)
    r = shares_of(m, lay, N, batch)
    kinds = ["dense"] * (m["dense_first"] > 0) + ["moe"] * (m["L"] > m["dense_first"])
    layers = {kind: layer(kind, m, lay, r) for kind in kinds}
    prologue, epilogue = prologue_of(m, lay, r), epilogue_of(m, lay, r)
    everything = (sum(l["count"] * l["weight_elements_total"] for l in layers.values())
                  + sum(prologue["weight_elements"].values()) + sum(epilogue["weight_elements"].values()))
    widths = "kvp{kvp}.tpa{tpa}.dp{dp}.tpf{tpf}.ep{ep}".format(**lay)
    suffix = "".join("." + lay[key] for key in ("mla", "moe") if lay[key])
    return dict(id=f"{model}/{strategy}/n{N}/{widths}{suffix}", model=model, strategy=strategy, ranks=N, batch=batch,
                context=S, interval=INTERVAL, layout=lay, rank=dict(stage=0, dp=0, kvp=0, tpa=0),
                shares=dict(requests=r.rows, ffn_rows=r.ffn_rows, query_heads_projected=r.heads_query,
                            query_heads_attended=r.heads_attn, heads_after_merge=r.heads_out, kv_heads=r.kv_heads,
                            newest_owner_kvp=owner(S, lay["kvp"]), vocabulary_rows=r.vocabulary_rows,
                            experts=exact(m["E"], lay["ep"]) if m["E"] else 0),
                layers=layers, prologue=prologue, epilogue=epilogue,
                rank_weight_elements=everything,
                rank_router_bias_elements=sum(l["count"] * l["router_bias_elements"] for l in layers.values()),
                rank_kv_history_bytes=m["L"] * layers[kinds[0]]["kv"]["history_bytes"])


# ---------------------------------------------------------------------------------------------------------------------
# Layouts
# ---------------------------------------------------------------------------------------------------------------------
def layout(strategy, kvp, tpa, tpf, ep, dp=1, mla_exchange=None, moe=None):
    query, merge = {"helix": ("replicate", "a2a"), "dcp": ("gather", "ag_rs"), "medha": ("replicate", "all_reduce"),
                    "tp": (None, None), "dp_ep": (None, None)}[strategy]
    return dict(strategy=strategy, pp=1, dp=dp, kvp=kvp, tpa=tpa, tpf=tpf, ep=ep, query=query, merge=merge,
                mla=mla_exchange, ffn="replica" if strategy == "medha" else "all", moe=moe)


def cases():
    def case(model, n, strategy, *widths, batch=8, **extra):
        return row(model, strategy, n, batch, layout(strategy, *widths, **extra))

    out = []
    name = "llama-3.1-405b"                            # widths: kvp, tpa, tpf, ep
    for strategy in ("helix", "dcp"):
        out += [case(name, 8, strategy, 8, 1, 8, 1), case(name, 8, strategy, 2, 4, 8, 1),
                case(name, 64, strategy, 8, 8, 64, 1)]
    out += [case(name, 8, "medha", 2, 4, 4, 1), case(name, 64, "medha", 8, 8, 8, 1)]
    out += [case(name, n, "tp", 1, n, n, 1) for n in (8, 64)]

    name = "qwen3-235b-a22b"
    for strategy in ("helix", "dcp"):
        out += [case(name, 8, strategy, 4, 2, 2, 4), case(name, 64, strategy, 16, 4, 8, 8)]
    out += [case(name, 8, "medha", 4, 2, 2, 1), case(name, 64, "medha", 16, 4, 4, 1)]
    out += [case(name, 8, "tp", 1, 8, 2, 4), case(name, 64, "tp", 1, 64, 8, 8)]
    out += [case(name, n, "dp_ep", 1, 1, 1, n, dp=n, moe=moe, batch=128)
            for moe in ("dispatch", "gather") for n in (8, 64)]

    name = "deepseek-r1"
    for strategy, exchange in (("helix", "latent"), ("helix", "value"), ("dcp", "latent")):
        out += [case(name, 8, strategy, 8, 1, 1, 8, mla_exchange=exchange),
                case(name, 64, strategy, 64, 1, 8, 8, mla_exchange=exchange)]
    out += [case(name, 8, "tp", 1, 8, 1, 8), case(name, 64, "tp", 1, 64, 8, 8)]
    out += [case(name, n, "dp_ep", 1, 1, 1, n, dp=n, moe=moe, batch=128)
            for moe in ("dispatch", "gather") for n in (8, 64)]
    assert len({r["id"] for r in out}) == len(out)
    return out


CONVENTIONS = [
    "Rank 0 of the stage (pp=1, dp=0, kvp=0, tpa=0); FFN rank r=0 (tpf 0, ep 0). One decode step, one query token a request, HOP-B off (one chunk).",
    "S = 1000000 tokens of history (positions 0..S-1); the newest token is position S, on KVP rank (S/32) mod KVP. history_bytes leaves it out; newest_bytes is its K and V (MLA: 576 numbers) where rank 0 owns it, else 0. FLOPs of attention include it where owned.",
    "requests = ceil(B/dp). B is 8; 128 for dp_ep.",
    "Bytes: weights, KV, activations bf16 (2), LSEs fp32 (4), a sampling pair 8. Weights are given in elements.",
    "FLOPs are 2 per multiply-add of matrix products and attention (q.k over D, p.v over Dv; MLA 576 and 512) only: norms, RoPE, softmax, merge, activation function, gate weighting, residuals, embedding lookup and sampling count 0.",
    "flops, weight_elements and exchanges are of ONE layer of the kind; multiply by count. flops_total leaves routed experts out: add flops_per_routed_pair for each (token, expert) pair whose expert shard is on this rank.",
    "query=replicate: W_Q (MLA: W_UQ, W_UK) hold Q/TPA heads and run on all the replica's requests. query=gather (dcp): Q/A heads. W_K and W_V hold ceil(K/TPA) heads on every KVP rank in every strategy, and every KVP rank computes them for all its replica's requests (owner or not).",
    "MLA: W_DQ, W_DKV and both latent norms are replicated and computed on every rank. W_UV holds and runs Q/A heads (latent, tp, dp_ep, dcp), or Q/TPA heads (value). W_UV runs on all the replica's requests in both.",
    "mla is null where KVP = 1 (nothing is exchanged), and latent for dcp; query and merge are null for tp and dp_ep; moe is null where DP = 1; ep is 1 for dense models. ffn is replica for medha, else all.",
    "Dense FFN: F/N on the whole batch (gathered over DP when DP > 1); medha F/TPA; under dispatch F/A on the replica's rows. In MoE models the leading dense layers ignore tpf and ep. Shared expert (one MLP of shared*M): likewise N, medha TPA, dispatch A.",
    "Router: replicated; runs on the replica's requests, or on the gathered batch of B rows under moe=gather (every rank routes the gathered batch by itself). router_bias_elements (E numbers, R1) stands apart: not in weight_elements and not in rank_weight_elements; its type is left to the reader.",
    "Under moe=gather the leading dense layers are gathered and scattered too.",
    "Experts: E/EP experts of M/TPF each for gate, up, down.",
    "Norms (attention, FFN, q/k, latent, final) are whole on every rank. attention_norm and ffn_norm are counted in their own layer, final_norm in the epilogue.",
    "Collectives: g-1 messages of the per-peer payload; an all-reduce is a reduce-scatter then an all-gather, 2(g-1) messages of 1/g of the payload; over one rank it is absent. bytes = sent by rank 0 to other ranks (nothing for its own share). Sizes here all divide evenly.",
    "lse_all_gather carries the LSEs of all Q/TPA heads a rank attended, to each KVP peer. all_to_all carries outputs (activation type) and LSEs in one message. medha's output_all_reduce and dcp's output_reduce_scatter carry the activation type (bf16).",
    "dispatch and combine: messages only (dp-1 each), bytes null; then bytes_sent_total of the layer is null.",
    "Prologue: reduce-scatter over DP of the whole [B, H] (absent for dp = 1), then an all-reduce over A of the replica's [B/dp, H]. Epilogue: with dp > 1 an all-gather of [B/dp, H] over DP, LM head of all B rows at ceil(V/N) rows a rank, then an all-gather of B pairs over all N ranks (every rank samples by itself).",
]


def build():
    check_roofline()
    check_hop_b()
    check_round_robin()
    totals = check_parameters(lambda name: row(name, "tp", 1, 8, layout("tp", 1, 1, 1, 1)))
    rows = cases()
    check_rows(rows)
    return dict(schema="helix-bench/hand-table/1", source="tests/unit/hand_table.py",
                precision=dict(weights="bf16", kv="bf16", activations="bf16", lse="fp32"),
                conventions=CONVENTIONS, parameters=totals, rows=rows)


def main():
    path = pathlib.Path(__file__).with_suffix(".json")
    text = json.dumps(build(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        assert path.read_text() == text, f"{path} is stale: run {__file__}"
        return
    assert not sys.argv[1:], __doc__
    path.write_text(text)


if __name__ == "__main__":
    main()
