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
from fractions import Fraction

BF16 = 2          # bytes of a weight, a KV number, an activation
FP32 = 4          # bytes of an LSE
PAIR = 8          # bytes of one (value, lowest index) pair in sampling
S = 1_000_000     # tokens of history of each request; the newest token is position S
INTERVAL = 32     # round-robin interval I


def ceil_div(a, b):
    return -(-a // b)


def exact(a, b):
    assert a % b == 0, (a, b)
    return a // b


# ---------------------------------------------------------------------------------------------------------------------
# Model presets (helix.md, "Model presets")
# ---------------------------------------------------------------------------------------------------------------------
def llama(layers, hidden, ffn, heads, head_size, tied, published):
    return dict(attention="gqa", L=layers, dense_first=layers, H=hidden, F=ffn, Q=heads, K=8, D=head_size, qk_norm=False,
                V=128256, tied=tied, M=0, E=0, k=0, shared=0, router_bias=False, published=published, active=None)


def mla(layers, dense_first, hidden, heads, q_lora, ffn, m, e, k, shared, bias, vocab, published, active):
    return dict(attention="mla", L=layers, dense_first=dense_first, H=hidden, F=ffn, Q=heads, K=1, q_lora=q_lora,
                kv_lora=512, nope=128, rope=64, v=128, V=vocab, tied=False, M=m, E=e, k=k, shared=shared,
                router_bias=bias, published=published, active=active)


MODELS = {
    "llama-3.1-405b": llama(126, 16384, 53248, 128, 128, False, 405_853_388_800),
    "llama-3.1-70b": llama(80, 8192, 28672, 64, 128, False, 70_553_706_496),
    "llama-3.1-8b": llama(32, 4096, 14336, 32, 128, False, 8_030_261_248),
    "llama-3.2-1b": llama(16, 2048, 8192, 32, 64, True, 1_235_814_400),
    "deepseek-r1": mla(61, 3, 7168, 128, 1536, 18432, 2048, 256, 8, 1, True, 129280, 671_026_419_200, "37.55"),
    "deepseek-v2-lite": mla(27, 1, 2048, 16, None, 10944, 1408, 64, 6, 2, False, 102400, 15_706_484_224, "2.66"),
    "kimi-k2": mla(61, 1, 7168, 64, 1536, 18432, 2048, 384, 8, 1, True, 163840, 1_026_408_232_448, "32.86"),
    "qwen3-235b-a22b": dict(attention="gqa", L=94, dense_first=0, H=4096, F=0, Q=64, K=4, D=128, qk_norm=True, V=151936,
                            tied=False, M=1536, E=128, k=8, shared=0, router_bias=False, published=235_093_634_560,
                            active="22.19"),
}


def parameter_total(m, experts_counted=None):
    """All parameters from the shapes, undivided. experts_counted: routed experts a token (for the active count)."""
    H, Q = m["H"], m["Q"]
    if m["attention"] == "gqa":
        attention = H * Q * m["D"]                    # W_Q: H x Q*D
        attention += 2 * H * m["K"] * m["D"]          # W_K, W_V: H x K*D each
        attention += Q * m["D"] * H                   # W_O: Q*D x H
        attention += 2 * m["D"] if m["qk_norm"] else 0  # RMSNorm over D, one for q and one for k
    else:
        head = m["nope"] + m["rope"]
        if m["q_lora"] is None:
            attention = H * Q * head                  # W_Q: H x Q*(nope+rope) (no query latent)
        else:
            attention = H * m["q_lora"]               # W_DQ: H x q_lora
            attention += m["q_lora"]                  # RMSNorm of the query latent
            attention += m["q_lora"] * Q * head       # W_UQ: q_lora x Q*(nope+rope)
        attention += H * (m["kv_lora"] + m["rope"])   # W_DKV: H x (kv_lora+rope)
        attention += m["kv_lora"]                     # RMSNorm of the KV latent
        attention += m["kv_lora"] * Q * m["nope"]     # W_UK: kv_lora x Q*nope
        attention += m["kv_lora"] * Q * m["v"]        # W_UV: kv_lora x Q*v
        attention += Q * m["v"] * H                   # W_O: Q*v x H
    norms = 2 * H                                     # attention norm, FFN norm
    dense = 3 * H * m["F"]                            # W_GATE, W_UP, W_DOWN
    experts = m["E"] if experts_counted is None else experts_counted
    moe = H * m["E"]                                  # router
    moe += m["E"] if m["router_bias"] else 0          # router bias (DeepSeek-V3/R1, Kimi-K2)
    moe += experts * 3 * H * m["M"]                   # routed experts
    moe += 3 * H * m["shared"] * m["M"]               # shared expert: one MLP of shared*M
    n_dense = m["dense_first"]
    n_moe = m["L"] - n_dense
    embedding = m["V"] * H * (1 if m["tied"] else 2)  # embedding and LM head
    return m["L"] * (attention + norms) + n_dense * dense + n_moe * moe + embedding + H  # + final norm


# ---------------------------------------------------------------------------------------------------------------------
# Round-robin KV (helix.md, "Round-robin KV")
# ---------------------------------------------------------------------------------------------------------------------
def local_history(s, r, kvp, interval=INTERVAL):
    # local(r) = floor(S/(KVP*I))*I + clamp(S mod (KVP*I) - r*I, 0, I)
    return s // (kvp * interval) * interval + min(max(s % (kvp * interval) - r * interval, 0), interval)


def owner(position, kvp, interval=INTERVAL):
    # position p lives on KVP rank (p / I) mod KVP
    return position // interval % kvp


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


def row(model, strategy, N, batch, lay):
    m = MODELS[model]
    check_legal(m, lay, N)
    H, Q = m["H"], m["Q"]
    dp, kvp, tpa, tpf, ep = lay["dp"], lay["kvp"], lay["tpa"], lay["tpf"], lay["ep"]
    A = kvp * tpa                                     # A = KVP x TPA
    rows = ceil_div(batch, dp)                        # requests of replica 0
    is_mla = m["attention"] == "mla"
    gathered = dp > 1 and lay["moe"] != "dispatch"    # tokens gathered over DP before the FFN
    dispatched = lay["moe"] == "dispatch"

    # -- heads of rank 0 --
    heads_attn = exact(Q, tpa)                        # query heads attended: Q/TPA
    # replicate: "every KVP rank computes the Q, K, V projections of its TPA slice, redundantly"; gather: "Q projected at width A"
    heads_query = exact(Q, A) if lay["query"] == "gather" else heads_attn
    # a2a, ag_rs: after the merge Q/A heads; all_reduce (medha): Q/TPA heads, W_O at width TPA
    heads_out = heads_attn if lay["merge"] == "all_reduce" else exact(Q, A)
    kv_heads = 1 if is_mla else ceil_div(m["K"], tpa)  # ceil(K/TPA); MLA: one KV head shared by all query heads
    # W_UV after the merge (latent, or no merge at all): heads_out; before it (value): heads_attn
    heads_uv = heads_attn if lay["mla"] == "value" else heads_out

    # -- tokens of rank 0 --
    history = local_history(S, 0, kvp)
    owns = owner(S, kvp) == 0                         # "only the owner appends, and only the owner attends to" the new token
    newest = 1 if owns else 0

    # ---- attention weights and FLOPs (2 per multiply-add) ----
    w, f = {}, {}
    if is_mla:
        nope, rope, v, c = m["nope"], m["rope"], m["v"], m["kv_lora"]
        if m["q_lora"] is None:
            w["W_Q"] = H * heads_query * (nope + rope)                 # by heads
            f["W_Q"] = 2 * rows * w["W_Q"]
        else:
            w["W_DQ"] = H * m["q_lora"]                                # replicated
            w["W_UQ"] = m["q_lora"] * heads_query * (nope + rope)      # by heads
            f["W_DQ"] = 2 * rows * w["W_DQ"]                           # 2*B*H*q_lora
            f["W_UQ"] = 2 * rows * w["W_UQ"]                           # 2*B*q_lora*heads*(nope+rope)
        w["W_DKV"] = H * (c + rope)                                    # replicated
        f["W_DKV"] = 2 * rows * w["W_DKV"]                             # 2*B*H*(kv_lora+rope)
        w["W_UK"] = c * heads_query * nope                             # by heads, where the query is absorbed
        f["W_UK"] = 2 * rows * w["W_UK"]                               # q_nope*W_UK: 2*B*heads*nope*kv_lora
        w["W_UV"] = c * heads_uv * v                                   # by heads, where W_UV is applied
        f["W_UV"] = 2 * rows * w["W_UV"]                               # 2*B*heads*kv_lora*v
        w["W_O"] = heads_out * v * H                                   # row-parallel over A
        f["W_O"] = 2 * rows * w["W_O"]                                 # 2*B*heads*v*H
        if m["q_lora"] is not None:
            w["q_latent_norm"] = m["q_lora"]                           # replicated
        w["kv_latent_norm"] = c                                        # replicated
        d_qk, d_v = c + rope, c                                        # q.k over 576, p.v over 512
        kv_numbers = c + rope                                          # the cache holds 576 numbers a token
        d_query_gathered = c + rope                                    # dcp gathers the absorbed query, 576 a head
        d_exchange = v if lay["mla"] == "value" else c                 # Dv sent: 512 latent, 128 value
    else:
        D = m["D"]
        w["W_Q"] = H * heads_query * D
        w["W_K"] = H * kv_heads * D
        w["W_V"] = H * kv_heads * D
        w["W_O"] = heads_out * D * H                                   # row-parallel over A (medha: TPA)
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            f[name] = 2 * rows * w[name]                               # 2*B*in*out
        if m["qk_norm"]:
            w["q_norm"] = D                                            # RMSNorm over D, replicated
            w["k_norm"] = D
        d_qk, d_v = D, D
        kv_numbers = 2 * kv_heads * D                                  # 2*ceil(K/TPA)*D numbers a token
        d_query_gathered = D
        d_exchange = D
    w["attention_norm"] = H
    w["ffn_norm"] = H
    # attention: 2*(Dqk + Dv) for each request, query head held and local token (newest only where owned)
    f["attention"] = rows * heads_attn * (history + newest) * 2 * (d_qk + d_v)

    # ---- KV read by attention in one layer ----
    kv = dict(numbers_per_token=kv_numbers, history_tokens_per_request=history, owns_newest=owns,
              history_bytes=rows * history * kv_numbers * BF16,        # B*2*ceil(K/TPA)*D*local(0)*bytes (T_KV's numerator)
              newest_bytes=rows * newest * kv_numbers * BF16)

    # ---- attention exchanges ----
    x = []
    slice_elements = rows * heads_out                                  # requests x heads of one KVP peer's slice
    if lay["query"] == "gather":                                       # dcp: all-gather of Q in the KVP group
        x += per_peer("query_all_gather", "kvp", kvp, rows * heads_query * d_query_gathered * BF16)
    if lay["merge"] == "a2a":
        # to each peer: B*Q*Dv/(KVP*TPA) outputs and B*Q/(KVP*TPA) LSEs, one message
        x += per_peer("all_to_all", "kvp", kvp, slice_elements * (d_exchange * BF16 + FP32))
    if lay["merge"] == "ag_rs":
        x += per_peer("lse_all_gather", "kvp", kvp, rows * heads_attn * FP32)              # LSEs of all Q/TPA heads
        x += per_peer("output_reduce_scatter", "kvp", kvp, slice_elements * d_exchange * BF16)  # a peer's Q/A heads
    if lay["merge"] == "all_reduce":
        x += per_peer("lse_all_gather", "kvp", kvp, rows * heads_attn * FP32)
        x += all_reduce("output_all_reduce", "kvp", kvp, rows * heads_attn * d_exchange)   # [B, Q/TPA, Dv]
        x += all_reduce("attention_all_reduce", "tpa", tpa, rows * H)                      # W_O at width TPA
    else:
        x += all_reduce("attention_all_reduce", "a", A, rows * H)                          # [B, H] over A

    # ---- FFN: who runs it, how wide, on how many rows ----
    if lay["ffn"] == "replica":
        dense_width, shared_width, ffn_rows = tpa, tpa, rows           # each replica's TPA ranks
    elif dispatched:
        dense_width, shared_width, ffn_rows = A, A, rows               # shared expert, leading dense layers: per replica at width A
    else:
        dense_width, shared_width, ffn_rows = N, N, batch              # Dense: TPF = N; shared expert at TPF = N

    def ffn_exchange(kind):
        if lay["ffn"] == "replica":
            return all_reduce("ffn_all_reduce", "tpa", tpa, rows * H)
        if gathered:  # gathered over DP before, reduce-scatter over DP after, then all-reduce in A
            assert batch % dp == 0
            return (per_peer("ffn_all_gather", "dp", dp, rows * H * BF16)
                    + per_peer("ffn_reduce_scatter", "dp", dp, rows * H * BF16)
                    + all_reduce("ffn_all_reduce", "a", A, rows * H))
        if dispatched:
            if kind == "dense":  # per replica at width A, nothing over DP
                return all_reduce("ffn_all_reduce", "a", A, rows * H)
            assert A == 1
            return unknown_bytes("dispatch", "dp", dp) + unknown_bytes("combine", "dp", dp)
        return all_reduce("ffn_all_reduce", "n", N, rows * H)          # one all-reduce over N

    layers = {}
    n_dense = m["dense_first"]
    n_moe = m["L"] - n_dense
    if n_dense:
        dw, df = dict(w), dict(f)
        width = ceil_div(m["F"], dense_width)
        for name in ("W_GATE", "W_UP", "W_DOWN"):                      # column, column, row parallel
            dw[name] = H * width
            df[name] = 2 * ffn_rows * H * width
        layers["dense"] = dict(count=n_dense, weight_elements=dw, weight_elements_total=sum(dw.values()),
                               router_bias_elements=0, kv=dict(kv), flops=df, flops_total=sum(df.values()),
                               flops_per_routed_pair=None, exchanges=x + ffn_exchange("dense"))
    if n_moe:
        mw, mf = dict(w), dict(f)
        mw["router"] = H * m["E"]                                      # replicated
        mf["router"] = 2 * ffn_rows * H * m["E"]                       # of the gathered batch where gathered, else the replica's rows
        experts = exact(m["E"], ep)                                    # experts [0, E/EP)
        width = exact(m["M"], tpf)                                     # M/TPF
        for name in ("experts_gate", "experts_up", "experts_down"):
            mw[name] = experts * H * width
        if m["shared"]:
            shared = ceil_div(m["shared"] * m["M"], shared_width)
            for name in ("shared_gate", "shared_up", "shared_down"):
                mw[name] = H * shared
                mf[name] = 2 * ffn_rows * H * shared
        layers["moe"] = dict(count=n_moe, weight_elements=mw, weight_elements_total=sum(mw.values()),
                             router_bias_elements=m["E"] if m["router_bias"] else 0, kv=dict(kv), flops=mf,
                             flops_total=sum(mf.values()),
                             flops_per_routed_pair=2 * 3 * H * width,  # gate, up, down of one token in one expert shard
                             exchanges=x + ffn_exchange("moe"))
    for layer in layers.values():
        total_exchanges(layer)

    # ---- prologue and epilogue ----
    vocabulary_rows = ceil_div(m["V"], N)                              # rows of ceil(V/N); nothing divides H
    prologue = dict(weight_elements=dict(embedding=vocabulary_rows * H), flops={}, flops_total=0,
                    # The summed [B, H].  helix.md says only that a replica needs its own rows; the first version of this
                    # table all-reduced all rows over N.  With dp > 1 the program's choice is taken over: a reduce-scatter
                    # over DP, then an all-reduce in the replica, like the end of a gathered FFN; half the bytes.
                    exchanges=(per_peer("embedding_reduce_scatter", "dp", dp, rows * H * BF16)
                               + all_reduce("embedding_all_reduce", "a", A, rows * H)))
    lm_head = 0 if m["tied"] else vocabulary_rows * H                  # tied: one tensor at PP 1, counted as the embedding
    epilogue = dict(weight_elements=dict(final_norm=H, lm_head=lm_head),
                    flops=dict(lm_head=2 * batch * H * vocabulary_rows),   # every rank sees every request
                    flops_total=2 * batch * H * vocabulary_rows,
                    exchanges=per_peer("hidden_all_gather", "dp", dp, rows * H * BF16)
                    + per_peer("sample_gather", "n", N, batch * PAIR))     # (value, lowest index), 8 bytes a request
    total_exchanges(prologue)
    total_exchanges(epilogue)

    everything = (sum(l["count"] * l["weight_elements_total"] for l in layers.values())
                  + sum(prologue["weight_elements"].values()) + sum(epilogue["weight_elements"].values()))
    widths = f"kvp{kvp}.tpa{tpa}.dp{dp}.tpf{tpf}.ep{ep}"
    suffix = "".join("." + lay[key] for key in ("mla", "moe") if lay[key])
    return dict(id=f"{model}/{strategy}/n{N}/{widths}{suffix}", model=model, strategy=strategy, ranks=N, batch=batch,
                context=S, interval=INTERVAL, layout=lay, rank=dict(stage=0, dp=0, kvp=0, tpa=0),
                shares=dict(requests=rows, ffn_rows=ffn_rows, query_heads_projected=heads_query,
                            query_heads_attended=heads_attn, heads_after_merge=heads_out, kv_heads=kv_heads,
                            newest_owner_kvp=owner(S, kvp), vocabulary_rows=vocabulary_rows,
                            experts=exact(m["E"], ep) if m["E"] else 0),
                layers=layers, prologue=prologue, epilogue=epilogue,
                rank_weight_elements=everything,
                rank_router_bias_elements=sum(l["count"] * l["router_bias_elements"] for l in layers.values()),
                rank_kv_history_bytes=m["L"] * kv["history_bytes"])


def total_exchanges(part):
    part["messages_total"] = sum(e["messages"] for e in part["exchanges"])
    counts = [e["bytes"] for e in part["exchanges"]]
    part["bytes_sent_total"] = None if None in counts else sum(counts)


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


# ---------------------------------------------------------------------------------------------------------------------
# Checks against numbers printed in helix.md
# ---------------------------------------------------------------------------------------------------------------------
def check_parameters():
    totals = {}
    for name, m in MODELS.items():
        total = parameter_total(m)
        assert total == m["published"], (name, total, m["published"])
        # the row builder at N = 1 must hold exactly the whole model
        n_dense, moe = m["dense_first"], m["L"] > m["dense_first"]
        whole = row(name, "tp", 1, 8, layout("tp", 1, 1, 1, 1))
        assert whole["rank_weight_elements"] + whole["rank_router_bias_elements"] == total, name
        assert (n_dense > 0) == ("dense" in whole["layers"]) and moe == ("moe" in whole["layers"])
        entry = dict(total=total)
        if m["active"]:
            entry["active"] = parameter_total(m, m["k"])     # with input embedding
            hundredths = Fraction(entry["active"], 10**7)    # billions to two decimals, nearest
            assert round(hundredths) == round(Fraction(m["active"]) * 100), (name, entry["active"])
        totals[name] = entry
    return totals


def near(value, printed):
    """value rounds to the printed decimal."""
    decimals = len(printed.split(".")[1]) if "." in printed else 0
    return abs(value - Fraction(printed)) <= Fraction(1, 2 * 10**decimals)


def check_roofline():
    """Figure 1, microseconds, FP4, 8000 GB/s."""
    B, Q, K, D, H, F, s = 8, 128, 8, 128, 16384, 65536, 1_000_000
    byte, bandwidth = Fraction(1, 2), 8000 * 10**9

    def t_kv(tpa, kvp):   # B*2*ceil(K/TPA)*D*(S/KVP)*bytes/BW
        return B * 2 * ceil_div(K, tpa) * D * Fraction(s, kvp) * byte / bandwidth * 10**6

    def t_w(tpa, tpf):    # (2*H*(Q/TPA)*D + 2*H*ceil(K/TPA)*D + 3*H*F/TPF)*bytes/BW
        return (2 * H * Fraction(Q, tpa) * D + 2 * H * ceil_div(K, tpa) * D + Fraction(3 * H * F, tpf)) * byte / bandwidth * 10**6

    def t_w_output_at_n(tpa, tpf, n):   # the same with W_O at width N
        return (H * Fraction(Q, tpa) * D + H * Fraction(Q, n) * D + 2 * H * ceil_div(K, tpa) * D
                + Fraction(3 * H * F, tpf)) * byte / bandwidth * 10**6

    printed = [(t_kv(8, 1), "128"), (t_w(8, 8), "29.6"), (t_kv(64, 1), "128"), (t_w(64, 64), "3.9"),
               (t_kv(8, 8), "16"), (t_w(8, 64), "7.6"), (t_w_output_at_n(8, 64, 64), "5.8")]
    for value, text in printed:
        assert near(value, text), (float(value), text)


def hop_b(B, c, a, on):
    # off B*(c+a); on B*c + a if a <= c, else c + B*a
    if not on:
        return B * (c + a)
    return B * c + a if a <= c else c + B * a


def check_hop_b():
    """Figure 3: B 8, c 2, a 1.2: 25.6 off, 17.2 on; nothing at B = 1."""
    c, a = Fraction(2), Fraction("1.2")
    assert hop_b(8, c, a, False) == Fraction("25.6")
    assert hop_b(8, c, a, True) == Fraction("17.2")
    for a in (Fraction("1.2"), Fraction(3)):
        assert hop_b(1, c, a, True) == hop_b(1, c, a, False)
    assert hop_b(8, c, c, True) == c + 8 * c                 # both branches meet at a = c


def check_round_robin():
    for kvp in (1, 2, 3, 4, 8):
        for interval in (1, 16, 32):
            for s in (0, 1, 31, 32, 33, 255, 256, 257, 1000):
                for r in range(kvp):
                    assert local_history(s, r, kvp, interval) == sum(owner(p, kvp, interval) == r for p in range(s))
    for kvp in (1, 2, 4, 8, 16, 64):
        assert sum(local_history(S, r, kvp) for r in range(kvp)) == S


def check_rows(rows):
    """Sentences of helix.md that name numbers."""
    for name, heads, printed in (("deepseek-r1", 128, "242"), ("kimi-k2", 64, "121"), ("deepseek-v2-lite", 16, "30")):
        m = MODELS[name]  # MLA intensity at TPA 1: 2*Q*(576+512) FLOPs on 576*2 bytes a token
        assert m["Q"] == heads and near(Fraction(2 * heads * (576 + 512), 576 * BF16), printed)
    assert MODELS["qwen3-235b-a22b"]["Q"] * 128 == 8192 and 128 * 512 == 65536 and 128 * 128 == 16384
    by_id = {r["id"]: r for r in rows}
    for r in rows:
        if r["strategy"] != "helix":
            continue
        m, lay = MODELS[r["model"]], r["layout"]
        d_v = {"latent": 512, "value": 128, None: 128}[lay["mla"]]
        for layer in r["layers"].values():
            a2a = layer["exchanges"][0]
            # sent in all: (B*Q*Dv/TPA)*(KVP-1)/KVP elements (and as many LSEs / Dv)
            elements = Fraction(8 * m["Q"] * d_v * (lay["kvp"] - 1), lay["tpa"] * lay["kvp"])
            assert a2a["name"] == "all_to_all" and a2a["bytes"] == elements * BF16 + elements / d_v * FP32
    small = by_id["llama-3.1-405b/helix/n64/kvp8.tpa8.dp1.tpf64.ep1"]["layers"]["dense"]["exchanges"][0]
    assert small["bytes_per_message"] == 8 * (512 + 2 * FP32)          # "512 bytes a peer at N = 64", and 2 LSEs, a request
    # where nothing is replicated, 8 equal ranks hold the model: Llama TP 8, norms apart
    tp = by_id["llama-3.1-405b/tp/n8/kvp1.tpa8.dp1.tpf8.ep1"]
    norms = (2 * 126 + 1) * 16384
    assert 8 * (tp["rank_weight_elements"] - norms) + norms == MODELS["llama-3.1-405b"]["published"]


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
    totals = check_parameters()
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
