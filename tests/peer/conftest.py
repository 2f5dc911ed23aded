"""helix-bench against transformers: exports, and what transformers computes from them."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (ROOT / os.environ.get("BUILD", "build") / "helix-bench").resolve()
MPIRUN = ROOT / "tests/mpirun.sh"
FP32 = {"weights": "fp32", "kv": "fp32", "activations": "fp32"}
# Four ranks, each strategy with more than one width where it has them.
STRATEGIES = {
    "helix": {"kvp": 2, "tpa": 2},
    "dcp": {"kvp": 2, "tpa": 2},
    "medha": {"kvp": 2, "tpa": 2},
    "tp": {"dp": 2, "tpa": 2},
    "dp_ep": {"dp": 4},
}

torch.manual_seed(1)
torch.set_num_threads(1)
torch.set_grad_enabled(False)


def export(folder, ranks=4, **point):
    """Runs `helix-bench export`; the folder that it wrote."""
    folder.mkdir(parents=True)
    sweep = {"schema": "helix-bench/sweep/1", "name": "peer", "precision": FP32, "interval": 16,
             "points": [{"ranks": ranks, **point}]}
    (folder / "point.json").write_text(json.dumps(sweep))
    result = subprocess.run(
        [MPIRUN, "-n", str(ranks), PROGRAM, "export", folder / "point.json", "-o", folder / "out"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HELIX_BENCH_CONFIGS": str(ROOT / "configs")})
    assert result.returncode == 0, result.stderr
    return folder / "out"


def layout(strategy, moe):
    """FFN widths to the strategy's attention: experts over two groups of ranks."""
    width = 2 if strategy == "medha" else 4
    widths = {"tpf": width // 2, "ep": 2} if moe else {"tpf": width, "ep": 1}
    return {"strategy": strategy, **STRATEGIES[strategy], **widths}


def relative_error(ours, theirs):
    """max |a - b| / max |b|; NaN stays NaN, which no bound holds."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(scope="session")
def report():
    """Lines printed at the end, past pytest's capture."""
    lines = []
    yield lines.append
    (ROOT / os.environ.get("BUILD", "build") / "peer/report.txt").write_text("\n".join(lines) + "\n")
