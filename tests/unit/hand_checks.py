"""hand_table.py's rows and formulas against the numbers that helix.md prints."""
from fractions import Fraction

from hand_models import BF16, FP32, MODELS, S, ceil_div, local_history, owner, parameter_total


def check_parameters(whole_model):
    """whole_model(name): its row at N = 1."""
    totals = {}
    for name, m in MODELS.items():
        total = parameter_total(m)
        assert total == m["published"], (name, total, m["published"])
        # the row builder at N = 1 must hold exactly the whole model
        n_dense, moe = m["dense_first"], m["L"] > m["dense_first"]
        whole = whole_model(name)
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
