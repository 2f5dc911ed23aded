"""Starts helix-bench as users do: through tests/mpirun.sh, or alone."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (ROOT / os.environ.get("BUILD", "build") / "helix-bench").resolve()
MPIRUN = ROOT / "tests/mpirun.sh"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HELIX_BENCH_CONFIGS": str(ROOT / "configs")}
SWEEP = {
    "schema": "helix-bench/sweep/1", "name": "small", "model": "tiny-llama",
    "strategy": ["helix", "tp"], "ranks": 2, "batch": [1, 2], "context": [64, 100],
    "precision": {"weights": "fp32", "kv": "fp32", "activations": "fp32"},
    "steps": 2, "warmup": 1, "seed": 1}


class Result:
    def __init__(self, code, stdout, stderr):
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def ours(self):
        """What our program said on its own account; not progress, and not mpirun's words."""
        return [line for line in self.stderr.splitlines() if line.startswith("helix-bench:")]

    def __repr__(self):
        return f"exit {self.code}\n{self.stdout}\n{self.stderr}"


class Bench:
    """One test's folder, and ways to start the program in it."""

    def __init__(self, folder):
        self.folder = folder

    def sweep(self, name="sweep.json", **changes):
        path = self.folder / name
        path.write_text(json.dumps({**SWEEP, **changes}))
        return path

    def command(self, *words, ranks):
        launcher = [MPIRUN, "-n", str(ranks)] if ranks else []
        return [str(word) for word in [*launcher, PROGRAM, *words]]

    def start(self, *words, ranks=0, env=None, **options):
        return subprocess.Popen(
            self.command(*words, ranks=ranks), cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**ENVIRONMENT, **(env or {})}, **options)

    def __call__(self, *words, timeout=60, **options):
        process = self.start(*words, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return Result(process.returncode, out, err)

    def run(self, sweep, *words, ranks=2, **options):
        return self("run", sweep, "-o", "out", *words, ranks=ranks, **options)

    def lines(self, folder="out"):
        path = self.folder / folder / "results.jsonl"
        if not path.exists():
            return []
        text = path.read_text()
        assert not text or text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]

    def keys(self, sweep):
        """Of all points, in order."""
        result = self("run", sweep, "--dry-run")
        assert result.code == 0, result
        return [line.split()[1] for line in result.stdout.splitlines()]

    def files(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
