"""`export`: a point's model and decode as files for others' programs."""

import json
import struct

import pytest
from test_bad_input import refuse

POINT = {"ranks": 2, "strategy": "helix", "kvp": 2, "tpa": 1, "batch": 3, "context": 20, "steps": 2,
         "model": "tiny-llama"}


def point(bench, **changes):
    path = bench.folder / "point.json"
    path.write_text(json.dumps({
        "schema": "helix-bench/sweep/1", "name": "one", "points": [{**POINT, **changes}]}))
    return path


def header(path):
    with open(path, "rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))


@pytest.mark.parametrize("changes", [{}, {"pp": 2, "kvp": 1, "tpa": 1, "strategy": "tp"}])
def test_files(bench, changes):
    result = bench("export", point(bench, **changes), "-o", "out", ranks=2)
    assert result.code == 0, result
    out = bench.folder / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "decode.safetensors", "model.safetensors"]
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["torch_dtype"] == "bfloat16"
    model, decode = header(out / "model.safetensors"), header(out / "decode.safetensors")
    assert model["model.embed_tokens.weight"]["dtype"] == "BF16"
    assert "lm_head.weight" not in model  # tied
    assert decode["logits"]["shape"] == [2, 3, config["vocab_size"]]
    assert decode["history.3.2.key"]["shape"] == [4, 20, 16]


def test_the_bias_of_a_router_is_fp32(bench):
    """As in DeepSeek's checkpoints, whatever the weights are: not what bf16 would make of it."""
    result = bench("export", point(bench, model="tiny-deepseek", tpf=2, ep=1), "-o", "out", ranks=2)
    assert result.code == 0, result
    path = bench.folder / "out" / "model.safetensors"
    biases = {name: tensor for name, tensor in header(path).items()
              if name.endswith("e_score_correction_bias")}
    data = path.read_bytes()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    assert biases
    for tensor in biases.values():
        assert tensor["dtype"] == "F32"
        first, last = tensor["data_offsets"]
        words = struct.unpack(f"<{(last - first) // 4}I", data[begin + first:begin + last])
        assert any(word & 0xffff for word in words)


def test_nothing_is_overwritten(bench):
    (bench.folder / "out").mkdir()
    (bench.folder / "out" / "mine").touch()
    refuse(bench, bench("export", point(bench), "-o", "out", ranks=2), "out", "not empty")


BAD = {
    "two points": ({"batch": [1, 2]}, ["/points/0/batch"]),
    "too few ranks": ({"ranks": 4, "kvp": 4}, ["point.json", "4 ranks"]),
    "skewed routing": ({"model": "tiny-qwen3-moe", "routing": {"zipf": 1}, "tpf": 2, "ep": 1},
                       ["routing"]),
    "depths": ({"depths": [1, 2]}, ["depths"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(bench, case):
    changes, words = BAD[case]
    refuse(bench, bench("export", point(bench, **changes), "-o", "out", ranks=2), *words)
    assert bench.files() == ["point.json"]


def test_sweeps_have_several_points(bench):
    refuse(bench, bench("export", bench.sweep(), "-o", "out", ranks=2), "sweep.json", "one")
