"""Weights out of a Hugging Face folder, and a prompt in place of a generated history."""

import json
import os
import struct

import pytest
from test_bad_input import refuse

FP32 = {"weights": "fp32", "kv": "fp32", "activations": "fp32"}
POINT = {"ranks": 2, "strategy": "helix", "kvp": 2, "tpa": 1, "tpf": 2, "ep": 1,
         "batch": 2, "steps": 3, "interval": 4,
         "prompt": [3, 1, 4, 1, 5, 9, 2, 6, 5]}


def sweep(bench, name, **changes):
    path = bench.folder / name
    path.write_text(json.dumps({"schema": "helix-bench/sweep/1", "name": "one", "precision": FP32,
                                "points": [{**POINT, **changes}]}))
    return path


def export(bench, name, **changes):
    result = bench("export", sweep(bench, f"{name}.json", **changes), "-o", name, ranks=2)
    assert result.code == 0, result
    return bench.folder / name


class Tensors:
    """A safetensors file in pieces, to be put together wrongly."""

    def __init__(self, path):
        self.path, data = path, path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        self.header, self.data = json.loads(data[8:8 + length]), data[8 + length:]

    def write(self):
        header = json.dumps(self.header).encode()
        self.path.write_bytes(struct.pack("<Q", len(header)) + header + self.data)


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-qwen3-moe", "tiny-v2-lite", "tiny-deepseek"])
def test_there_and_back(bench, model):
    """What was exported gives the same bits when it is read; the judge reads it in its own way."""
    first = export(bench, "first", model=model)
    again = export(bench, "again", weights="first")
    decode = [Tensors(folder / "decode.safetensors") for folder in (first, again)]
    assert decode[0].data == decode[1].data and len(decode[0].data) > 0
    assert not (again / "config.json").exists()
    path = sweep(bench, "judged.json", weights="first", batch=1)
    result = bench("verify", path, ranks=2)
    assert result.code == 0 and "VERIFIED" in result.stdout, result


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-deepseek"])
def test_quantised_as_it_is_read(bench, model):
    """To nvfp4, with one scale for the whole tensor, whoever holds which part of it."""
    export(bench, "first", model=model)
    path = sweep(bench, "judged.json", weights="first", batch=1,
                 precision={**FP32, "weights": "nvfp4"})
    result = bench("verify", path, ranks=2)
    assert result.code == 0 and "VERIFIED" in result.stdout, result


def test_run_writes_what_it_read(bench):
    export(bench, "first", model="tiny-llama")
    result = bench.run(sweep(bench, "sweep.json", weights="first", steps=2))
    line = bench.lines()[0]
    assert result.code == 0 and line["status"] == "ok" and line["verified"], result
    assert line["point"]["model"] == "first" and line["point"]["prompt"] == POINT["prompt"]
    assert line["point"]["weights"] == str(bench.folder / "first")
    again = bench("run", "--from", f"out#{line['key']}", "-o", "again", ranks=2)
    assert again.code == 0 and bench.lines("again")[0]["key"] == line["key"], again


def shorten(tensors):
    tensors.data = tensors.data[:-5]


def change(name, **entry):
    return lambda tensors: tensors.header[name].update(entry)


KEY = "model.layers.1.self_attn.k_proj.weight"
BROKEN = {
    "cut short": (shorten, ["model.safetensors", "cut short"]),
    "missing": (lambda t: t.header.update({"other": t.header.pop(KEY)}), [KEY, "missing"]),
    "other shape": (change(KEY, shape=[192, 64]), [KEY, "[192, 64]", "[64, 192]"]),
    "other dtype": (change(KEY, dtype="I32"), [KEY, "I32"]),
    "wrong size": (change(KEY, shape=[64, 191]), [KEY, "64, 191"]),
    "overlap": (lambda t: t.header[KEY].update(
        data_offsets=[x - 4 for x in t.header[KEY]["data_offsets"]]), ["model.safetensors", "overlap"]),
    "a bias": (lambda t: t.header.update({KEY[:-6] + "bias": {
        "dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}), ["k_proj.bias", "not supported"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tensors(bench, case):
    break_it, words = BROKEN[case]
    tensors = Tensors(export(bench, "folder", model="tiny-llama") / "model.safetensors")
    break_it(tensors)
    tensors.write()
    refuse(bench, bench.run(sweep(bench, "sweep.json", weights="folder")), *words)
    assert not (bench.folder / "out").exists()


CONFIGS = {
    "biased": ({"attention_bias": True}, ["config.json", "/attention_bias"]),
    "unknown key": ({"logits_scaling": 2.0}, ["/logits_scaling"]),
    "activation": ({"hidden_act": "gelu"}, ["/hidden_act", "gelu", "silu"]),
    "scaling": ({"rope_scaling": {"rope_type": "longrope"}}, ["/rope_scaling/rope_type"]),
    "windows": ({"layer_types": ["sliding_attention"] * 4}, ["/layer_types"]),
    "other model": ({"model_type": "gpt2"}, ["/model_type"]),
    "other shape": ({"intermediate_size": 100}, ["model.safetensors", "mlp.gate_proj", "[100, 192]"]),
    "more layers": ({"num_hidden_layers": 5}, ["model.layers.4.", "missing"]),
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, ["/quantization_config", "awq"]),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs(bench, case):
    changes, words = CONFIGS[case]
    config = export(bench, "folder", model="tiny-llama") / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    refuse(bench, bench("plan", sweep(bench, "sweep.json", weights="folder")), *words)


PROMPTS = {
    "outside": ({"prompt": [1, 1003]}, ["/prompt/1", "1003", "1002"]),
    "negative": ({"prompt": [-1]}, ["/prompt/0", "-1"]),
    "empty": ({"prompt": []}, ["/prompt", "empty"]),
    "too long": ({"prompt": [1] * 131072}, ["/prompt", "131072"]),
    "no list": ({"prompt": 3}, ["/prompt"]),
    "and a context": ({"context": 9}, ["/context", "prompt"]),
    "no folder": ({"weights": "none", "model": None}, ["none/config.json", "No such file"]),
    "two models": ({"weights": "none"}, ["/weights", "model"]),
    "fp8": ({"precision": {"weights": "fp8", "kv": "fp32", "activations": "fp32"},
             "weights": "folder", "model": None}, ["/precision", "fp8"]),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts(bench, case):
    changes, words = PROMPTS[case]
    point = {"model": "tiny-llama", **changes}
    if "folder" in point.values():
        export(bench, "folder", model="tiny-llama")
    path = sweep(bench, "sweep.json", **{key: value for key, value in point.items() if value is not None})
    refuse(bench, bench("plan", path), *words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(bench):
    folder = export(bench, "folder", model="tiny-llama")
    folder.chmod(0)
    refuse(bench, bench.run(sweep(bench, "sweep.json", weights="folder")), "folder", "denied")
    folder.chmod(0o755)
