"""A sweep that is interrupted again and again ends as one that was not: each point once, whole."""

import json
import os
import random
import signal
import time
from pathlib import Path

from conftest import wait_until

POINTS = 200
SEED = 8


def processes_of(session):
    """{process: name} of a session: mpirun and its ranks."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue  # ended meanwhile
        fields = fields.split()
        if int(fields[3]) == session and fields[0] != "Z":
            found[int(stat.parent.name)] = name
    return found


def interrupt(process, kind, chance):
    """mpirun passes USR1 on; TERM goes to a rank, as srun sends it."""
    found = processes_of(process.pid)
    ranks = sorted(pid for pid, name in found.items() if name == "helix-bench")
    victims = {"USR1": [process.pid], "KILL all": list(found)}.get(kind) or [chance.choice(ranks)]
    for pid in victims:
        try:
            os.kill(pid, getattr(signal, f"SIG{kind.split()[0]}"))
        except ProcessLookupError:
            pass  # done already


def holds_lock(process, path):
    """Whether the folder is this launch's; one that was killed leaves its lock's text behind."""
    try:
        return json.loads(path.read_text())["pid"] in processes_of(process.pid)
    except (OSError, ValueError):
        return False


def whole_lines(path):
    """Of a file that may be in the middle of a write: lines, and how much of one more there is."""
    text = path.read_text() if path.exists() else ""
    whole, _, torn = text.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()], torn


def test_ten_interruptions(bench):
    sweep = bench.sweep(strategy="tp", batch=1, context={"from": 1, "to": POINTS, "step": 1},
                        steps=1, warmup=0)
    keys = sorted(bench.keys(sweep))
    assert len(set(keys)) == POINTS
    chance = random.Random(SEED)
    kinds = ["USR1", "TERM", "KILL", "KILL all"] * 2 + chance.choices(["USR1", "KILL all"], k=2)
    chance.shuffle(kinds)
    path = bench.folder / "out/results.jsonl"
    codes = []
    before = 0
    for kind in kinds:
        process = bench.start("run", sweep, "-o", "out", "--resume", ranks=2,
                              start_new_session=True)
        # Anywhere: while it starts, or some points later, in the middle of one.
        wanted = before + chance.choice([0, *range(1, 25)])
        wait_until(lambda: holds_lock(process, bench.folder / "out/lock")
                   and len(whole_lines(path)[0]) >= wanted)
        time.sleep(chance.uniform(0, 0.04))
        interrupt(process, kind, chance)
        _, err = process.communicate(timeout=60)
        wait_until(lambda: not processes_of(process.pid))
        codes.append((kind, process.returncode))
        assert process.returncode == 75 if kind in ("USR1", "TERM") else process.returncode != 0, (
            f"{codes}\n{err}")
        lines, torn = whole_lines(path)
        assert before <= len(lines) < POINTS and (not torn or kind.startswith("KILL")), codes
        before = len(lines)
    result = bench.run(sweep, "--resume")
    assert result.code == 0, result
    lines = bench.lines()
    assert sorted(line["key"] for line in lines) == keys
    assert {line["status"] for line in lines} == {"ok"}
    assert all(line["verified"]["max_rel_err"] <= line["verified"]["tolerance"] for line in lines)
