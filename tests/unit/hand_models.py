"""The presets and conventions of hand_table.py: constants, model sizes, round-robin KV.

Written from helix.md (formulas) and design.md (names) alone, without reading the program.
"""
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
