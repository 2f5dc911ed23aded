"""Our logits of generated models, in every strategy, are those of transformers."""

import pytest
import torch
from conftest import STRATEGIES, export, layout, relative_error
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DynamicCache

MODELS = {
    "tiny-llama": "LlamaForCausalLM",
    "tiny-qwen3-moe": "Qwen3MoeForCausalLM",
    "tiny-v2-lite": "DeepseekV2ForCausalLM",
    "tiny-deepseek": "DeepseekV3ForCausalLM",
}
TOLERANCE = 1e-4


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager")
    return model.eval()


def filled_cache(model, decode, request):
    """The history as transformers caches it. MLA: the latent and the rotated key; transformers'
    own attention expands them with kv_b_proj."""
    cache = DynamicCache(config=model.config)
    for layer in range(model.config.num_hidden_layers):
        at = f"history.{layer}.{request}."
        if at + "key" in decode:
            keys, values = decode[at + "key"], decode[at + "value"]
        else:
            keys, values = decode[at + "latent"][None], decode[at + "rotated_key"][None]
            if getattr(model.config, "rope_interleave", False):
                # DeepSeek-V3 caches the pairs' first numbers, then their second ones.
                values = torch.cat([values[..., 0::2], values[..., 1::2]], dim=-1)
        cache.update(keys[None], values[None], layer)
    return cache


def their_logits(model, decode, request):
    """[steps][vocabulary]: fed the tokens that we were fed."""
    cache = filled_cache(model, decode, request)
    logits = []
    for step, token in enumerate(decode["input_ids"][:, request].tolist()):
        position = torch.tensor([[int(decode["lengths"][request]) + step]])
        out = model(input_ids=torch.tensor([[token]]), position_ids=position, cache=cache,
                    use_cache=True)
        logits.append(out.logits[0, -1])
    return torch.stack(logits)


@pytest.fixture(scope="module")
def theirs():
    return {}


# Medha is not for MLA: such layouts are refused.
CASES = [(name, strategy) for name in MODELS for strategy in STRATEGIES
         if strategy != "medha" or name in ("tiny-llama", "tiny-qwen3-moe")]


@pytest.mark.parametrize("name, strategy", CASES)
def test_same_logits(name, strategy, theirs, report, tmp_path):
    folder = export(tmp_path / "point", model=name, batch=5, context={"uniform": [1, 200]}, steps=6,
                    **layout(strategy, moe=name != "tiny-llama"))
    if name not in theirs:
        theirs[name] = load(folder)
    model = theirs[name]
    assert type(model).__name__ == MODELS[name]
    written = load_file(folder / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in written.items() if key in state)
    decode = load_file(folder / "decode.safetensors")
    worst = 0.0
    for request in range(decode["lengths"].numel()):
        logits = their_logits(model, decode, request)
        error = relative_error(decode["logits"][:, request], logits)
        assert error <= TOLERANCE, (request, error)
        assert torch.equal(logits.argmax(-1).int(), decode["tokens"][:, request])
        worst = max(worst, error)
    report(f"{MODELS[name]:<24} {strategy:<6} worst relative error {worst:.1e}, tokens equal")


def test_a_wrong_history_is_seen(tmp_path):
    """The comparison can fail: one token of one layer's history left out is over the tolerance."""
    folder = export(tmp_path / "point", ranks=1, model="tiny-llama", batch=1, context=100, steps=1,
                    strategy="tp", tpa=1, tpf=1, ep=1)
    model, decode = load(folder), load_file(folder / "decode.safetensors")
    decode["history.1.0.key"][:, 0] = -decode["history.1.0.key"][:, 0] - 5
    assert relative_error(decode["logits"][:, 0], their_logits(model, decode, 0)) > 10 * TOLERANCE
