"""Results folders for tests, with every field that readers look at."""

import contextlib
import io
import itertools
import json
import random
import types
from pathlib import Path

from analysis.__main__ import run

ROOT = Path(__file__).resolve().parents[2]
SWEEP = {"schema": "helix-bench/sweep/1", "name": "small", "model": "tiny-llama",
         "strategy": ["helix", "tp"], "ranks": 8, "batch": [1, 2, 4, 8], "context": 4096,
         "precision": {"weights": "bf16", "kv": "bf16", "activations": "bf16"}, "steps": 4,
         "warmup": 1, "seed": 1}
LAYOUTS = {"helix": (4, 2), "dcp": (8, 1), "medha": (2, 4), "tp": (1, 8), "dp_ep": (1, 1)}
ENVIRONMENT = {"e": {"machine": {"cpu": "Z80", "cores": 2, "gpus": []},
                     "build": {"commit": "0123456789abcdef", "dirty": False},
                     "launches": [{"started": "now", "command": ["helix-bench", "run"]}]}}


def layout(strategy):
    kvp, tpa = LAYOUTS.get(strategy, (4, 2))
    return {"strategy": strategy, "pp": 1, "dp": 8 // (kvp * tpa), "kvp": kvp, "tpa": tpa, "tpf": 8,
            "ep": 1, "query": "replicate", "merge": "a2a", "mla": None, "ffn": "all", "moe": None}


def line(key="0123456789abcdef", strategy="helix", ttl_us=1000.0, batch=8, context=4096, gpus=None,
         ranks=8, executor="cpu", repeat=1, status="ok", hop_b=False, error=1e-6, **other):
    """A line; `other` replaces fields at its top, `model` and `precision` of its point."""
    ok = status == "ok"
    user = 1e6 / ttl_us
    point = {"model": other.pop("model", "tiny-llama"), "layout": layout(strategy), "batch": batch,
             "context": context, "precision": other.pop("precision", SWEEP["precision"]),
             "hop_b": hop_b, "chunks": 4 if hop_b else 1, "interval": 32, "depths": None,
             "query_tokens": 1, "kv_layout": "dense", "routing": None, "seed": 1}
    simulated = executor == "simulate"
    made = {
        "schema": "helix-bench/1.0", "key": key, "point": point, "steps": 4, "warmup": 1,
        "executor": executor, "exchange": "mpi", "machine": "gb200" if simulated else None,
        "shard": None, "repeat": repeat, "ranks": ranks, "gpus": gpus, "ranks_per_gpu": None,
        "threads": 1, "oversubscribed": False, "status": status,
        "reason": None if ok else "needs 16 ranks, 8 were started",
        "ttl_us": {"median": ttl_us, "p05": ttl_us * .95, "p90": ttl_us * 1.04,
                   "p95": ttl_us * 1.05, "p99": None, "min": ttl_us * .95, "max": ttl_us * 1.05},
        "samples_us": [ttl_us, ttl_us], "tokens_per_s_per_user": user,
        "tokens_per_s_per_user_p90": user / 1.04,
        "tokens_per_s_per_gpu": user * batch / gpus if gpus else None,
        "tokens_per_s_per_rank": user * batch / ranks,
        "tasks_us": {"W_Q": ttl_us * .1, "attention": ttl_us * .5, "exchange": ttl_us * .2,
                     "merge": ttl_us * .02, "W_O": ttl_us * .1},
        "exchange_us": {"alone": ttl_us * .2, "back_to_back": None, "exposed": ttl_us * .2,
                        "hidden": 0.0},
        "bytes_per_rank": {"weights": 10 ** 9, "kv": 2 * 10 ** 9, "buffers": 10 ** 6},
        "peak_resident_bytes": 4 * 10 ** 9, "experts_touched": None,
        "roofline": {"bytes": 1e6, "flops": 2e6, "floor_us": ttl_us * .5, "share": .5,
                     "tasks_us": {"W_Q": ttl_us * .05, "attention": ttl_us * .4, "exchange": 0.0}},
        "verified": None if simulated or error is None else
        {"scope": "step", "max_rel_err": error, "tolerance": 1e-2, "forced": None},
        "environment": "e", "started": None if simulated else "2026-01-31T00:00:00Z"}
    if not ok:
        made.update(dict.fromkeys(
            ("ttl_us", "samples_us", "tokens_per_s_per_user", "tokens_per_s_per_user_p90",
             "tokens_per_s_per_gpu", "tokens_per_s_per_rank", "tasks_us", "exchange_us",
             "bytes_per_rank", "peak_resident_bytes", "roofline", "verified")))
    return {**made, **other}


def story(seed=1, contexts=(4096, 65536, 1048576), batches=(1, 4, 16, 64), ranks=(8, 64)):
    """Lines with something of everything: strategies that cross, HOP-B, repeats, points simulated,
    measured, not verified and wrong, skipped and failed."""
    draw = random.Random(seed)
    lines = []

    def add(strategy, **of):
        kvp, tpa = LAYOUTS[strategy]
        spread = {"helix": of["ranks"], "dcp": of["ranks"], "medha": kvp}.get(strategy, 1)
        ttl_us = 900 + 60e3 / of["ranks"] * (1 if strategy != "medha" else 3) + \
            of["batch"] * of["context"] / 900 / spread + of["batch"] * (6 if of["hop_b"] else 9)
        if strategy == "dp_ep":
            ttl_us = 2000 + 60e3 / of["ranks"] + of["batch"] * of["context"] / 800 / of["ranks"]
        lines.append(line(f"{len(lines):016x}", strategy, ttl_us * draw.uniform(.95, 1.05), **of))

    for n, context, batch, strategy in itertools.product(ranks, contexts, batches, LAYOUTS):
        for hop_b in (False, True) if strategy == "helix" and batch > 1 else (False,):
            of = {"ranks": n, "batch": batch, "context": context, "hop_b": hop_b}
            add(strategy, executor="simulate", gpus=n, model="llama-405b", **of)
            if n == 8:
                add(strategy, gpus=n, executor="cuda", model="llama-405b", **of)
    measured = [one for one in lines if one["executor"] == "cuda"]
    for one in measured:
        for repeat in (2, 3):
            again = line(one["key"], ttl_us=one["ttl_us"]["median"] * draw.uniform(.9, 1.1),
                         executor="cuda", gpus=8, batch=one["point"]["batch"], repeat=repeat)
            lines.append({**again, "point": one["point"]})
    measured[3]["verified"] = None
    measured[7]["verified"]["max_rel_err"] = .5
    lines.append(line("f" * 16, status="failed", executor="cuda", model="llama-405b"))
    lines += [line(f"{0xe0 + i:016x}", status="skipped", model="llama-405b") for i in range(3)]
    return lines


def write_run(folder, lines, sweep=None, environment=None, tail=""):
    """A run's folder; `tail` is what a write that was cut off left."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(one) + "\n" for one in lines)
    (folder / "results.jsonl").write_text(text + tail, encoding="utf-8")
    (folder / "sweep.json").write_text(json.dumps(sweep or SWEEP))
    (folder / "environment.json").write_text(json.dumps(environment or ENVIRONMENT))
    return folder


def read_run(folder):
    return [json.loads(text) for text in (folder / "results.jsonl").read_text().splitlines()]


def analysis(*arguments):
    """What `python3 -m analysis …` says and returns, without another process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return types.SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def one_line(done, word, code=2):
    """Bad input: one line on stderr that has the word, nothing on stdout."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert word in done.stderr, done.stderr
