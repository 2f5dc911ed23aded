"""A rank that dies, throws or hangs ends all; --resume completes the sweep, each point once."""

import time

import pytest


def check_complete(bench, sweep):
    result = bench.run(sweep, "--resume")
    assert result.code == 0, result
    lines = bench.lines()
    assert sorted(line["key"] for line in lines) == sorted(bench.keys(sweep))
    assert all(line["status"] == "ok" for line in lines)
    # Nothing is left to do, and that is no failure.
    assert bench.run(sweep, "--resume").code == 0
    assert bench.lines() == lines


@pytest.mark.parametrize("fault, words", [("kill", []), ("throw", ["HELIX_BENCH_FAULT throws"]),
                                          ("hang", ["2 s (-T)", "measuring"])])
def test_a_rank_ends(bench, fault, words):
    sweep = bench.sweep()
    began = time.monotonic()
    result = bench.run(sweep, "-T", "2", env={"HELIX_BENCH_FAULT": f"{fault}:rank=1:point=3"})
    assert time.monotonic() - began < 12 + 3
    assert result.code not in (0, 1, 2, 75), result
    assert fault == "kill" or result.code == 3, result
    assert all(word in result.stderr for word in words), result
    assert not words or any(": rank " in line for line in result.ours), result
    assert len(bench.lines()) == 2
    check_complete(bench, sweep)


def test_all_agree_on_a_failure_while_loading(bench):
    sweep = bench.sweep()
    result = bench.run(sweep, env={"HELIX_BENCH_FAULT": "throw_load:rank=1:point=2"})
    assert result.code == 3, result
    lines = bench.lines()
    assert [line["status"] for line in lines] == ["ok", "failed"] + ["ok"] * (len(lines) - 2)
    assert "throws while loading" in lines[1]["reason"]
    check_complete(bench, sweep)


def test_a_torn_line_is_redone(bench):
    sweep = bench.sweep()
    assert bench.run(sweep).code == 0
    path = bench.folder / "out/results.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    result = bench.run(sweep, "--resume")
    assert result.code == 0 and "cut off" in result.stderr, result
    check_complete(bench, sweep)


def test_memory(bench):
    """A point that no host holds is skipped with its reason; the others run."""
    sweep = bench.sweep(batch=1, context=[64, 400_000_000], strategy="tp")
    result = bench.run(sweep)
    assert result.code == 0, result
    assert [line["status"] for line in bench.lines()] == ["ok", "skipped"]
    assert "GB" in bench.lines()[1]["reason"]
