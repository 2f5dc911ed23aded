"""What can be wrong with a card, and what is looked at on one, on a real card.

faults.py PROGRAM FOLDER: faulty_driver.so and nvtx_names.so stand in tests/cuda beside PROGRAM.
A refusal is exit code 2, one line of ours, and nothing written. Exits 1 where a check fails.
"""
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM, FOLDER = (Path(word).resolve() for word in sys.argv[1:3])
HELPERS = PROGRAM.parent / "tests/cuda"
MPS = [ROOT / "jobs/with-mps.sh"] if shutil.which("nvidia-cuda-mps-control") else []
# One card, which ranks share.
CARD = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2", **CARD}
BF16 = {"weights": "bf16", "kv": "bf16", "activations": "bf16"}
NUMBERS = itertools.count()


class Done:
    def __init__(self, process, seconds):
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr
        self.ours = [line for line in self.err.splitlines() if line.startswith("helix-bench:")]
        self.seconds, self.folder = seconds, None

    def __repr__(self):
        return f"exit {self.code} after {self.seconds:.1f} s\n{self.out}{self.err}"


def start(*words, ranks=1, mps=False, victim=None, **environment):
    """On `ranks` ranks; `victim` alone has the environment, else all have."""
    program = [PROGRAM, *words]
    faulty = ["env", *(f"{name}={value}" for name, value in environment.items()), *program]
    command = faulty
    if ranks > 1:
        parts = [["-n", "1", *(faulty if victim in (None, rank) else program)] for rank in range(ranks)]
        command = [ROOT / "tests/mpirun.sh", *parts[0]]
        for part in parts[1:]:
            command += [":", *part]
    began = time.monotonic()
    process = subprocess.run([str(word) for word in [*(MPS if mps else []), *command]], cwd=FOLDER,
                             env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             timeout=60, check=False)
    return Done(process, time.monotonic() - began)


def sweep(name, **changes):
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({
        "schema": "helix-bench/sweep/1", "name": name, "model": "tiny-llama", "strategy": "tp",
        "ranks": 1, "batch": 2, "context": 64, "precision": BF16, "steps": 4, "warmup": 1, **changes}))
    return path


def run(point, *words, executor="cuda", **how):
    folder = FOLDER / f"run-{next(NUMBERS)}"
    done = start("run", point, "--executor", executor, "--no-verify", "-o", folder, *words, **how)
    done.folder = folder
    return done


def lines(done):
    return [json.loads(line) for line in (done.folder / "results.jsonl").read_text().splitlines()]


def refused(done, pattern):
    assert done.code == 2 and len(done.ours) == 1 and done.out == "", done
    assert re.search(pattern, done.ours[0]), (pattern, done)
    assert not done.folder.exists(), done
    return done.ours[0]


def at_once(check, cases):
    with ThreadPoolExecutor() as pool:
        for outcome in [pool.submit(check, *case) for case in cases]:
            outcome.result()


def doctor(**how):
    """Its findings: (health, text) of each check."""
    done = start("doctor", "--executor", "cuda", **how)
    found = {line[9:25].strip(): (line[:9].strip(), line[25:]) for line in done.out.splitlines()}
    faulty = "fault" in {health for health, _ in found.values()}
    assert done.code == (2 if faulty else 0) and not done.ours, done
    return found


def driver_with(fault):
    return {"LD_PRELOAD": HELPERS / "faulty_driver.so", "FAULT": fault}


def a_card_that_cannot_be_used():
    """`run` says it in one line, `doctor` in the same words."""
    one, two = sweep("one"), sweep("two", ranks=2)

    def said(check, pattern, environment):
        line = refused(run(one, **environment), pattern)
        health, text = doctor(**environment)[check]
        assert health == "fault" and line == f"helix-bench: --executor cuda: {text}", (line, text)
        refused(run(two, ranks=2, victim=1, **environment), pattern)

    at_once(said, [
        ("cards", "no GPU can be used here: no CUDA-capable device", {"CUDA_VISIBLE_DEVICES": ""}),
        ("driver", r"driver is for CUDA 12\.4, older than the toolkit", driver_with("old")),
        # What the driver would have to translate first: this program has no PTX.
        ("kernels", r"no kernels for .* \(compute capability .*NVCC_GENCODE", {"CUDA_FORCE_PTX_JIT": "1"})])


def an_exchange_that_cannot_be_had():
    two = sweep("two", ranks=2)

    def said(pattern, words, how):
        refused(run(two, "--exchange", *words, ranks=2, **how), pattern)

    no_ipc = r"CUDA IPC is refused \(.+\): containers need .*--ipc=host"
    at_once(said, [
        ("nccl: 2 ranks share a GPU, and NCCL takes one", ["nccl"], {}),
        ("2 ranks share a GPU, with 128 blocks each .* more than half of its",
         ["fused", "--exchange-blocks", "128"], {}),
        (no_ipc, ["fused"], driver_with("ipc")),
        (no_ipc, ["fused"], {"victim": 1, **driver_with("ipc")})])
    done = run(two, "--exchange", "auto", ranks=2, mps=True, **driver_with("ipc"))
    assert done.code == 0 and lines(done)[0]["exchange"] == "mpi", done
    health, text = doctor(ranks=2, **driver_with("ipc"))["CUDA IPC"]
    assert health == "warning" and "cannot map its neighbour's memory" in text, text


def too_little_memory():
    """Points that fit run, before and after one that does not; also where the card itself says so."""
    points = sweep("room", batch=[1, 1 << 20, 2], context=1 << 16)
    for environment, pattern in [
            ({}, r"needs (\d+) bytes of memory on a GPU that has (\d+) free"),
            (driver_with("room"), r"out of GPU memory: (\d+) bytes wanted, (\d+) free")]:
        done = run(points, **environment)
        assert done.code == 0 and "2 of 3 points ok, 1 skipped" in done.err, done
        small, large, after = lines(done)
        assert (small["status"], large["status"], after["status"]) == ("ok", "skipped", "ok"), done
        wanted, free = map(int, re.fullmatch(pattern, large["reason"]).groups())
        assert wanted > 1 << 40 and free > 1 << 30 and (environment or wanted > free), large["reason"]


def a_rank_that_ends():
    """While another one's kernels wait for it: all end, and leave the card."""
    two = sweep("two", ranks=2)
    for fault, code in [("kill", 137), ("throw", 3)]:
        done = run(two, "--exchange", "fused", ranks=2, mps=True,
                   HELIX_BENCH_FAULT=f"{fault}:rank=1:point=1")
        assert done.code == code and done.seconds < 20, done
        mark = str(done.folder).encode()
        left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in contents(path)]
        assert not left, left


def contents(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""  # ended meanwhile


def tasks_of(trace):
    """(rank, layer, chunk, name) of each task; what ran as one is taken apart."""
    events = [e for e in json.loads((FOLDER / trace).read_text())["traceEvents"] if e["ph"] == "X"]
    assert events and all(e["dur"] >= 0 and e["ts"] >= 0 for e in events)
    return ({e["name"] for e in events},
            sorted((e["pid"], e["args"]["layer"], str(e["args"]["chunk"]), name)
                   for e in events for name in e["name"].split("+")))


def names_are_the_schedules():
    """--trace has each task of the schedule, as the CPU's has; ranges for profilers have its names;
    and steps are repeated as often as --noise-target's bounds say."""
    point = sweep("traced", model="tiny-deepseek", strategy="helix", ranks=2, kvp=2, ep=2, hop_b=True,
                  chunks=2, batch=4, context=300)
    done = run(point, "--trace", "cpu.json", executor="cpu", ranks=2)
    assert done.code == 0, done
    for path in FOLDER.glob("names.*"):
        path.unlink()
    done = run(point, "--exchange", "fused", "--trace", "gpu.json", "--noise-target", "0.001",
               "--min-steps", "8", "--max-steps", "30", ranks=2, mps=True,
               NVTX_INJECTION64_PATH=HELPERS / "nvtx_names.so", NVTX_NAMES=FOLDER / "names")
    assert done.code == 0, done
    line, = lines(done)
    assert len(line["samples_us"]) == 30 and line["noise"]["reached_percent"] > 0.001, line["noise"]
    names, tasks = tasks_of("gpu.json")
    assert tasks == tasks_of("cpu.json")[1], sorted(set(tasks) ^ set(tasks_of("cpu.json")[1]))[:20]
    assert "exchange+merge" in names, names
    files = list(FOLDER.glob("names.*"))
    assert len(files) == 2 and all(ranges_of(path) == names | {"passage"} for path in files), [
        ranges_of(path) ^ names for path in files]


def ranges_of(path):
    """Those that hold others; the innermost are kernels'."""
    holding, opened = set(), []
    for name in path.read_text().splitlines():
        if not name:
            opened.pop()
            continue
        holding.update(opened[-1:])
        opened.append(name)
    assert not opened, opened
    return holding


def steps_until_quiet():
    done = run(sweep("small"), "--noise-target", "50", "--min-steps", "20", "--max-steps", "4000")
    assert done.code == 0, done
    line, = lines(done)
    assert 20 <= len(line["samples_us"]) < 4000 and line["noise"]["reached_percent"] <= 50, line["noise"]


def a_sound_card():
    found = doctor(ranks=2, mps=True)
    assert {health for health, _ in found.values()} <= {"ok", "warning"}, found
    for check, words in [("driver", "the driver is for CUDA"), ("cards", "2 ranks on 1 of 1 visible"),
                         ("kernels", "has kernels for compute capability"),
                         ("sharing", "2 ranks share a card under MPS" if MPS else "one of them at a time"),
                         ("CUDA IPC", "map each other's memory"), ("device memory", "free on")]:
        assert words in found[check][1], (check, found[check])
    assert len(doctor()) == len(found) == 18, found


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    failed = 0
    checks = [a_sound_card, a_card_that_cannot_be_used, an_exchange_that_cannot_be_had,
              too_little_memory, a_rank_that_ends, names_are_the_schedules, steps_until_quiet]
    for check in checks:
        began = time.monotonic()
        try:
            check()
            said = "ok"
        except Exception as error:  # whatever it is, the others run
            failed += 1
            said = f"FAILED: {type(error).__name__}: {error}"
        print(f"{check.__name__}, {time.monotonic() - began:.1f} s: {said}", flush=True)
    print(f"{len(checks) - failed} of {len(checks)} checks of faults passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
