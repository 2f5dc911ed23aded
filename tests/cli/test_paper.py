"""claims and the figures drawn from it: the same bytes from run to run, and bad input."""

import hashlib
import json
import subprocess

import pytest
from conftest import ENVIRONMENT, ROOT

PAPER = {
    "schema": "helix-bench/sweep/1", "name": "small", "model": "llama-3.1-405b",
    "strategy": "all", "ranks": [32, 64], "batch": [1, 2, 8], "context": 1000000,
    "hop_b": [False, True],
    "precision": {"weights": "fp4", "kv": "fp4", "activations": "bf16"}}


@pytest.fixture
def sweeps(bench):
    def write(name, **changes):
        path = bench.folder / f"{name}.json"
        path.write_text(json.dumps({**PAPER, "name": name, **changes}))
        return path
    return [write("frontier"), write("crossover", ranks=64, context=[16384, 1048576]),
            ROOT / "configs/sweeps/paper/figure1.json"]


def drawn(bench, sweeps, folder):
    """All that a run writes, by name."""
    result = bench("claims", *sweeps, "-o", folder)
    assert result.code == 0, result
    python = subprocess.run(["/usr/bin/python3", "-m", "analysis.paper", bench.folder / folder],
                            cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert python.returncode == 0, python.stderr
    files = sorted(path for path in (bench.folder / folder).rglob("*") if path.is_file())
    return result.stdout, {path.relative_to(bench.folder / folder).as_posix():
                           hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_bytes_from_run_to_run(bench, sweeps):
    first = drawn(bench, sweeps, "first")
    assert first == drawn(bench, sweeps, "second")
    plots = {name.removeprefix("plots/") for name in first[1] if name.startswith("plots/")}
    names = ("figure1-roofline", "figure6-llama-3.1-405b", "figure7-hop-b",
             "crossover-llama-3.1-405b")
    assert plots == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {"claims.md", "paper.json"} <= set(first[1])
    assert "| Llama-405B: highest interactivity | 1.13x |" in first[0]


def test_sensitivity_varies_each_factor(bench, sweeps):
    result = bench("claims", sweeps[0], "--sensitivity")
    assert result.code == 0, result
    head = next(line for line in result.stdout.splitlines() if line.startswith("| claim | paper | as"))
    assert [f"{name} {by}" in head for name in ("read efficiency", "kernel time", "collective time")
            for by in ("/ 2", "x 2")] == [True] * 6


@pytest.mark.parametrize("words, said", [
    (["--machine", "gb200-nvl27"], "gb200-nvl72"),
    (["none.json"], "none.json"),
])
def test_bad_input(bench, words, said):
    result = bench("claims", *words, "-o", "out")
    assert result.code == 2 and len(result.ours) == 1 and said in result.ours[0], result
    assert bench.files() == []


def test_what_cannot_be_drawn(bench):
    (bench.folder / "paper.json").write_text('{"schema": "helix-bench/paper/2"}')
    python = subprocess.run(["/usr/bin/python3", "-m", "analysis.paper", bench.folder], cwd=ROOT,
                            env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert python.returncode == 2 and python.stderr.count("\n") == 1, python
