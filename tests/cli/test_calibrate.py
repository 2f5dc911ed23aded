"""`calibrate`: this machine as a file that prices, and what it refuses to measure."""

import json
import os

import pytest


@pytest.fixture
def small(bench):
    return bench.sweep(strategy="tp", ranks=1, batch=[1, 4], context=[64, 1000])


def test_writes_a_machine_that_prices(bench, small):
    result = bench("calibrate", small, "-o", "here.json", ranks=1)
    assert result.code == 0, result
    machine = json.loads((bench.folder / "here.json").read_text())
    assert (machine["name"], machine["processor"]) == ("here", "cpu")
    assert machine["factors"]["kernel_us"]["from"] == "measured"
    assert "helix-bench calibrate at " in machine["factors"]["kernel_us"]["source"]
    bench("run", small, "-o", "run", ranks=1)
    timed = set(bench.lines("run")[0]["tasks_us"])
    assert timed == set(machine["covers"]) == set(machine["calibration"]["covers"])
    for task in timed:
        assert task in result.stdout
    found = json.loads(bench("compare", "run", "--machine", "here.json", "--format", "json").stdout)
    assert len(found["points"]) == len(bench.lines("run"))
    assert bench("simulate", small, "--machine", "here.json", "-o", "priced").code == 0
    assert all(line["machine"] == "here" for line in bench.lines("priced"))


def test_more_ranks_than_there_are(bench):
    """A rank alone, at some of the layers; `compare` takes what `run --shard` writes."""
    shape = {"model": "tiny-deepseek", "strategy": "helix", "ranks": 4, "kvp": 4, "tpa": 1, "tpf": 2, "ep": 2}
    sweep = bench.sweep(**shape, batch=[1, 4], context=[64, 1000], depths=[1, 2])
    assert bench("calibrate", sweep, "-o", "here.json", ranks=1).code == 0
    machine = json.loads((bench.folder / "here.json").read_text())
    assert machine["calibration"]["steps"]["points"] == 4
    assert "experts_up" in machine["covers"] and "exchange" not in machine["covers"]
    shapes = machine["covers"]["W_Q"]["value"]["shapes"]
    assert len(shapes) == 2 and all(len(shape) == 5 for shape in shapes)  # a batch each
    run = bench("run", bench.sweep(**shape, batch=4, context=1000, steps=2), "--shard", "1/4",
                "--machine", "gb200-nvl72", "-o", "run", "--no-verify", ranks=1)
    assert run.code == 0, run
    (line,) = bench.lines("run")
    found = json.loads(bench("compare", "run", "--machine", "here.json", "--format", "json").stdout)
    (point,) = found["points"]
    assert point["shard"] == "1/4" and point["simulated_us"] > 0
    assert point["measured_us"] == line["not_executed"]["step_us"]
    assert {cover["name"] for cover in point["covers"]} == set(line["tasks_us"])
    text = bench("compare", "run", "--machine", "here.json").stdout
    assert "rank 1/4 alone" in text and "step, nothing exchanged" in text


def test_what_is_refused(bench, small):
    more = len(os.sched_getaffinity(0)) + 1
    for words, ranks, what in (
            ((small, "-o", "m.json"), more, "ranks than cores"),
            ((bench.sweep("stages.json", strategy="tp", ranks=2, pp=2), "-o", "m.json"), 2,
             "no point that can be sampled"),
            (("nowhere.json", "-o", "m.json"), 1, "nowhere.json"),
            ((small, "-o", "nowhere/m.json"), 1, "nowhere/m.json: cannot be written"),
            ((small,), 1, "--output is required")):
        result = bench("calibrate", *words, ranks=ranks)
        assert (result.code, len(result.ours)) == (2, 1), result
        assert what in result.ours[0], result
    assert not (bench.folder / "m.json").exists()
