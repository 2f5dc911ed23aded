"""The ReFrame check on this machine: good where all points are exact, bad where one is not."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, SWEEP

REFRAME = ROOT / os.environ.get("BUILD", "build") / "reframe/bin/reframe"
SYSTEM = {
    "systems": [{
        "name": "here", "hostnames": [".*"], "partitions": [{
            "name": "ranks", "scheduler": "local", "launcher": "mpirun", "environs": ["builtin"]}]}]}


@pytest.fixture
def reframe(tmp_path):
    (tmp_path / "system.py").write_text(f"site_configuration = {SYSTEM!r}\n")
    (tmp_path / "bin").mkdir()
    mpirun = tmp_path / "bin/mpirun"
    mpirun.write_text(f'#!/bin/sh\nPATH="${{PATH#*:}}" exec "{ROOT}/tests/mpirun.sh" "$@"\n')
    mpirun.chmod(0o755)
    sweep = tmp_path / "small.json"
    sweep.write_text(json.dumps({**SWEEP, "name": "small", "context": [1, 2]}))

    def run(**environment):
        result = subprocess.run(
            [REFRAME, "-C", tmp_path / "system.py", "-c", ROOT / "jobs/reframe/helix_bench.py", "-r",
             "-S", f"sweep={sweep}", "-S", "num_tasks=2", "--performance-report",
             "--report-file", tmp_path / "report.json", "--prefix", tmp_path / "rfm"],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HELIX_BENCH_CONFIGS": str(ROOT / "configs"),
                 "HOME": str(tmp_path),
                 "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **environment})
        [[case]] = [run["testcases"] for run in json.loads(
            (tmp_path / "report.json").read_text())["runs"]]
        return result, case
    return run


def test_good(reframe):
    result, case = reframe()
    assert result.returncode == 0 and case["result"] == "pass", f"{result.stdout}{result.stderr}"
    figures = {name.split(":")[-1] for name in case["perfvalues"]}
    assert figures == {f"{strategy}_tokens_per_s_per_{whom}" for strategy in ("helix", "tp")
                       for whom in ("user", "rank")}


def test_wrong_numbers_are_seen(reframe):
    result, case = reframe(HELIX_BENCH_FAULT="wrong:rank=0:point=2")
    assert result.returncode != 0 and case["result"] == "fail", result.stdout
    assert case["fail_phase"] == "sanity" and "1 != 0" in case["fail_reason"], case["fail_reason"]
