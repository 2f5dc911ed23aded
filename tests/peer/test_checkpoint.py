"""Checkpoints that transformers wrote, decoded from a prompt: its tokens over 32 greedy steps, in every layout."""

import json
import os
import subprocess

import pytest
import torch
from conftest import MPIRUN, PROGRAM, ROOT, export, relative_error
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, DeepseekV2Config, DeepseekV3Config, LlamaConfig,
                          Qwen3MoeConfig)

TOLERANCE = 1e-4
STEPS = 32
BLOCK = 128  # rows and columns that share an fp8 scale
COMMON = {"vocab_size": 307, "max_position_embeddings": 4096, "initializer_range": 0.12}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 0.9, "mscale_all_dim": 0.9, "original_max_position_embeddings": 64}
LATENT = {"kv_lora_rank": 48, "qk_nope_head_dim": 24, "qk_rope_head_dim": 16, "v_head_dim": 40,
          "first_k_dense_replace": 1, "rope_parameters": YARN}
CONFIGS = {
    "llama": LlamaConfig(
        hidden_size=144, intermediate_size=320, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=4, head_dim=24, tie_word_embeddings=True,
        rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0,
                         "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64}, **COMMON),
    "qwen3_moe": Qwen3MoeConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4,
        head_dim=32, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=96,
        norm_topk_prob=True, **COMMON),
    "deepseek_v2": DeepseekV2Config(
        hidden_size=160, intermediate_size=288, num_hidden_layers=3, num_attention_heads=8,
        q_lora_rank=None, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2,
        moe_intermediate_size=80, topk_method="greedy", routed_scaling_factor=1.0, **LATENT,
        **COMMON),
    "deepseek_v3": DeepseekV3Config(
        hidden_size=320, intermediate_size=384, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=8, q_lora_rank=80, n_routed_experts=16, num_experts_per_tok=4,
        n_shared_experts=1, n_group=4, topk_group=2, moe_intermediate_size=144,
        routed_scaling_factor=2.5, norm_topk_prob=True, **LATENT, **COMMON),
}
# What the folder stores, and what we execute: nothing is lost on the way.
STORED = {"llama": (torch.bfloat16, "bf16"), "qwen3_moe": (torch.float32, "fp32"),
          "deepseek_v2": (torch.float16, "fp32"), "deepseek_v3": ("fp8", "fp32")}


def in_fp8(state):
    """The matrices of the layers, but for the routers', in blocks with a scale each."""
    stored, meant = {}, {}
    for name, weight in state.items():
        if weight.dim() != 2 or ".layers." not in name or name.endswith("mlp.gate.weight"):
            stored[name] = meant[name] = weight
            continue
        rows, columns = weight.shape
        scales = torch.zeros(-(-rows // BLOCK), -(-columns // BLOCK))
        codes = torch.zeros(rows, columns, dtype=torch.float8_e4m3fn)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                at = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
                scales[i, j] = weight[at].abs().max() / 448
                codes[at] = (weight[at] / scales[i, j]).to(torch.float8_e4m3fn)
        stored[name], stored[name + "_scale_inv"] = codes, scales
        spread = scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :columns]
        meant[name] = codes.float() * spread
    return stored, meant


def write_folder(name, folder):
    """A random model, written by transformers; the fp8 one's tensors are then replaced. Its folder
    as the reference has it."""
    dtype, _ = STORED[name]
    model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager").eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("e_score_correction_bias"):
            buffer.copy_(0.2 * torch.randn_like(buffer) - 0.5)  # some scores turn negative
    if dtype != "fp8":
        model.to(dtype).save_pretrained(folder, max_shard_size="300KB")
        assert len(list(folder.glob("*.safetensors"))) > 2
        return folder
    reference = folder.parent / "reference"
    model.save_pretrained(reference)
    stored, meant = in_fp8(load_file(reference / "model.safetensors"))
    save_file(meant, reference / "model.safetensors", {"format": "pt"})
    folder.mkdir()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((reference / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3",
                                     "weight_block_size": [BLOCK, BLOCK],
                                     "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(config))
    return reference


def greedy(folder, prompt):
    """Logits [STEPS][vocabulary] of transformers, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    out = model(input_ids=torch.tensor([prompt]), use_cache=True)
    logits = [out.logits[0, -1]]
    while len(logits) < STEPS:
        out = model(input_ids=logits[-1].argmax()[None, None], cache=out.cache, use_cache=True)
        logits.append(out.logits[0, -1])
    return torch.stack(logits)


def layouts(folder):
    """Every legal layout of 1, 2 and 4 ranks."""
    sweep = {"schema": "helix-bench/sweep/1", "name": "all", "weights": str(folder), "batch": 2,
             "ranks": [1, 2, 4], "dp": "all", "pp": [1, 2], "tpa": "all", "prompt": [1, 2],
             "precision": {"weights": "fp32", "kv": "fp32", "activations": "fp32"}, "steps": 1}
    path = folder.parent / "all.json"
    path.write_text(json.dumps(sweep))
    result = subprocess.run([PROGRAM, "plan", path, "--format", "json"], capture_output=True,
                            text=True)
    assert result.returncode == 0, result.stderr
    for entry in json.loads(result.stdout)["points"]:
        layout = entry["point"]["layout"]
        yield {key: value for key, value in layout.items() if value is not None}


def compare(decode, theirs):
    """Tokens up to the first margin that leaves a doubt: how many, and the worst error."""
    worst, same = 0.0, 0
    for step, logits in enumerate(theirs):
        best = logits.topk(2).values
        for request in range(decode["lengths"].numel()):
            worst = max(worst, relative_error(decode["logits"][step, request], logits))
            sure = best[0] - best[1] > 2 * TOLERANCE * logits.abs().max()
            if not sure:
                return same, worst
            assert decode["tokens"][step, request] == logits.argmax(), (step, request)
        same += 1
    return same, worst


@pytest.mark.parametrize("name", CONFIGS)
def test_same_tokens(name, report, tmp_path):
    folder = tmp_path / name
    reference = write_folder(name, folder)
    prompt = torch.randint(0, COMMON["vocab_size"], (21,)).tolist()
    theirs = greedy(reference, prompt)
    assert theirs.argmax(-1).unique().numel() > 4  # no token repeated for ever
    _, weights = STORED[name]
    precision = {"weights": weights, "kv": "fp32", "activations": "fp32"}
    fewest, worst, count = STEPS, 0.0, 0
    for layout in layouts(folder):
        ranks = layout["pp"] * layout["dp"] * layout["kvp"] * layout["tpa"]
        count += 1
        out = export(tmp_path / f"layout{count}", ranks=ranks, weights=str(folder), batch=2,
                     prompt=prompt, steps=STEPS, precision=precision, hop_b=layout["kvp"] > 1,
                     interval=4, **layout)
        same, error = compare(load_file(out / "decode.safetensors"), theirs)
        assert error <= TOLERANCE, (layout, error)
        fewest, worst = min(fewest, same), max(worst, error)
    assert count > 10 and fewest >= STEPS // 2
    report(f"{name:<12} {STORED[name][0]}: {count} layouts, tokens equal over {fewest} of {STEPS} "
           f"steps, worst relative error {worst:.1e}")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_judge_reads_the_same(name, tmp_path):
    """Its own way of reading the folder, against the executor's in several layouts."""
    folder = tmp_path / name
    write_folder(name, folder)
    sweep = {"schema": "helix-bench/sweep/1", "name": "judged", "weights": str(folder), "batch": 2,
             "prompt": list(range(9)), "ranks": 4, "steps": 3, "dp": [1, 2],
             "precision": {"weights": STORED[name][1], "kv": "fp32", "activations": "fp32"}}
    (tmp_path / "judged.json").write_text(json.dumps(sweep))
    result = subprocess.run(
        [MPIRUN, "-n", "4", PROGRAM, "verify", tmp_path / "judged.json"], capture_output=True,
        text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1",
                                     "HELIX_BENCH_CONFIGS": str(ROOT / "configs")})
    assert result.returncode == 0 and "VERIFIED" in result.stdout, result.stdout + result.stderr
