"""The results folder: what stands in the way is said, and finished lines stay whole."""

import json
import os
import resource

import pytest
from conftest import wait_until


def check_refused(bench, result, *words):
    assert result.code == 2, result
    assert len(result.ours) == 1 and all(word in result.ours[0] for word in words), result


def test_nothing_is_overwritten(bench):
    sweep = bench.sweep(batch=1, context=64)
    assert bench.run(sweep).code == 0
    before = bench.lines()
    check_refused(bench, bench.run(sweep), "--resume")
    check_refused(bench, bench.run(bench.sweep(batch=2), "--resume"), "another sweep")
    check_refused(bench, bench.run(sweep, "-n", "7", "--resume"), "another sweep")
    assert bench.lines() == before


def test_another_commit(bench):
    sweep = bench.sweep(batch=1, context=64)
    assert bench.run(sweep).code == 0
    path = bench.folder / "out/environment.json"
    known = json.loads(path.read_text())
    for facts in known.values():
        facts["build"]["commit"] = "0123456789abcdef"
    path.write_text(json.dumps(known))
    check_refused(bench, bench.run(sweep, "--resume"), "another commit", "--resume=mixed")
    assert bench.run(sweep, "--resume=mixed").code == 0


def test_locked_by_a_living_run(bench):
    sweep = bench.sweep(batch=1, context=64)
    # Stands still with the lock in its hand.
    first = bench.start("run", sweep, "-o", "out", "-T", "60",
                        env={"HELIX_BENCH_FAULT": "hang:rank=0:point=1"}, ranks=2)
    try:
        wait_until((bench.folder / "out/sweep.json").exists)
        check_refused(bench, bench.run(sweep), "locked by process")
    finally:
        first.terminate()
        first.communicate(timeout=30)
    result = bench.run(sweep)
    assert result.code == 0 and bench.lines(), result


def test_waits_for_a_living_run(bench):
    sweep = bench.sweep()
    first = bench.start("run", sweep, "-o", "out", "-n", "40", ranks=2)
    wait_until((bench.folder / "out/results.jsonl").exists)
    result = bench.run(sweep, "-n", "40", "--resume", "--lock-wait", "60")
    _, err = first.communicate(timeout=30)
    assert first.returncode == 0, err
    assert result.code == 0, result
    assert sorted(line["key"] for line in bench.lines()) == sorted(bench.keys(sweep))


def test_writes_no_more_once_taken_over(bench):
    """As where locks are not seen across hosts, and Slurm has started the job anew elsewhere."""
    sweep = bench.sweep(context=list(range(1, 100)))
    process = bench.start("run", sweep, "-o", "out", ranks=2)
    results, lock = bench.folder / "out/results.jsonl", bench.folder / "out/lock"
    wait_until(lambda: results.exists() and results.stat().st_size > 0)
    other = json.dumps({**json.loads(lock.read_text()), "host": "n2", "pid": 1, "restart": "1"})
    lock.write_text(other)
    before = results.read_text().count("\n")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3 and "taken over by process 1 on n2" in err, err
    assert len(bench.lines()) <= before + 1
    assert lock.read_text() == other


@pytest.mark.parametrize("place", ["/proc/helix-bench", "file", "file/below"])
def test_not_writable(bench, place):
    (bench.folder / "file").write_text("mine")
    sweep = bench.sweep()
    result = bench("run", sweep, "-o", place, ranks=2)
    check_refused(bench, result, place)
    assert bench.files() == ["file", "sweep.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_not_ours(bench):
    (bench.folder / "theirs").mkdir(mode=0o555)
    check_refused(bench, bench("run", bench.sweep(), "-o", "theirs/out", ranks=2), "denied")


@pytest.mark.parametrize("whole", [0, 9])
def test_disk_full(bench, whole):
    """As on a disk that is full after `whole` lines: no file may grow beyond."""
    sweep = bench.sweep(ranks=1, strategy="tp", batch=1, context=list(range(64, 74)))
    assert bench("run", sweep, "-o", "before", "--threads", "1").code == 0
    lines = (bench.folder / "before/results.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 10
    room = sum(map(len, lines[:whole])) + len(lines[whole]) // 2
    process = bench.start("run", sweep, "-o", "out", "--threads", "1")
    # MPI needs room for files of its own when it starts; a moment before the first line it has it.
    wait_until((bench.folder / "out/results.jsonl").exists)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    ours = [line for line in err.splitlines() if line.startswith("helix-bench:")]
    assert len(ours) == 1 and f"line {whole + 1} cannot be written: File too large" in ours[0], err
    assert [line["key"] for line in bench.lines()] == bench.keys(sweep)[:whole]
    full = bench.run(sweep, "--resume", "--threads", "1", ranks=0)
    assert full.code == 0, full
    assert sorted(line["key"] for line in bench.lines()) == sorted(bench.keys(sweep))
