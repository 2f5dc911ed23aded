"""One cluster for all tests here, and a checkout of links, whose results are its own."""

import json
import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path

import pytest
from cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (ROOT / os.environ.get("BUILD", "build") / "helix-bench").resolve()
# What containers, root and fewer cores than ranks need (see tests/mpirun.sh). Ranks talk by TCP:
# virtual nodes have one /dev/shm, where Open MPI's files would meet.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl": "tcp,self", "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_MCA_oob_tcp_if_include": "lo", "OMPI_MCA_mpi_yield_when_idle": "1",
    "PMIX_MCA_pcompress_base_silence_warning": "1", "OMP_NUM_THREADS": "1",
    "HELIX_BENCH_CONFIGS": str(ROOT / "configs"), "BIND": "none"}
# A fault strikes the first start of a job alone, and one slice may be slow; a rank can note which GPUs
# it is shown.
WRAPPER = f"""\
#!/bin/sh
[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || unset HELIX_BENCH_FAULT
[ "$1" != run ] || [ -z "$SEEN" ] || echo "$SLURM_NODEID $SLURM_LOCALID ${{CUDA_VISIBLE_DEVICES-unset}}" > "$SEEN-$SLURM_PROCID"
[ "$1 $SLURM_ARRAY_TASK_ID" != "run ${{SLOW_SLICE:-none}}" ] || sleep 5
exec {shlex.quote(str(PROGRAM))} "$@"
"""
SWEEP = {
    "schema": "helix-bench/sweep/1", "model": "tiny-llama", "strategy": ["helix", "tp"], "ranks": 2,
    "batch": 1, "precision": {"weights": "fp32", "kv": "fp32", "activations": "fp32"},
    "steps": 2, "warmup": 1, "seed": 1}


@pytest.fixture(scope="session")
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    cluster = Cluster(folder / "c", nodes=3, cpus=8, gpus=4)
    cluster.start()
    try:
        yield cluster
    finally:
        left = cluster.stop()
        shutil.rmtree(folder)
    assert not left, "processes that Slurm left behind"


class Checkout:
    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, folder
        for entry in ROOT.iterdir():
            if entry.name not in ("build", "results", ".git", "Makefile"):
                (folder / entry.name).symlink_to(entry)
        shutil.copy(ROOT / "Makefile", folder)
        (folder / "results").mkdir()
        (folder / "build").mkdir()
        wrapper = folder / "build/helix-bench"
        wrapper.write_text(WRAPPER)
        wrapper.chmod(0o755)

    def sweep(self, points, name="small", **changes):
        """`points` of each of the sweep's layouts."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps({**SWEEP, "name": name, "context": list(range(1, points + 1)),
                                    **changes}))
        return path.name

    def run(self, *words, **environment):
        return self.cluster.run(*words, cwd=self.folder, env={
            **self.cluster.environment, **ENVIRONMENT, **environment})

    def submit(self, *words, **environment):
        """Job numbers: of the job, or of an array and the job that collects it."""
        result = self.run("jobs/submit.sh", *words, **environment)
        assert result.returncode == 0, result
        return re.findall(r"^job (\d+)", result.stdout, re.MULTILINE)

    def lines(self, name="small"):
        path = self.folder / f"results/{name}/results.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def plan(self, sweep, slices=1):
        result = self.run("build/helix-bench", "plan", sweep, "--format", "json", "--slices", slices)
        return json.loads(result.stdout)["points"]

    def check_complete(self, sweep, name="small"):
        """Each point of the sweep once, all good."""
        lines = self.lines(name)
        assert sorted(line["key"] for line in lines) == sorted(p["key"] for p in self.plan(sweep))
        assert all(line["status"] == "ok" for line in lines)
        assert all(line["verified"]["max_rel_err"] <= line["verified"]["tolerance"]
                   for line in lines)

    def log(self):
        return "".join(f"--- {path.name}\n{path.read_text()}"
                       for path in sorted((self.folder / "results").glob("*.out")))

    def finished(self, job, state="COMPLETED", code="0:0", seconds=90):
        job = self.cluster.wait_job(job, seconds=seconds)
        assert (job["JobState"], job["ExitCode"]) == (state, code), f"{job}\n{self.log()}"
        return job


@pytest.fixture
def checkout(cluster, tmp_path):
    return Checkout(cluster, tmp_path)
