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


def test_what_is_refused(bench, small):
    more = len(os.sched_getaffinity(0)) + 1
    for words, ranks, what in (
            ((small, "-o", "m.json"), more, "ranks than cores"),
            ((bench.sweep("wide.json", strategy="tp", ranks=2), "-o", "m.json"), 1, "no point that 1 rank"),
            (("nowhere.json", "-o", "m.json"), 1, "nowhere.json"),
            ((small, "-o", "nowhere/m.json"), 1, "nowhere/m.json: cannot be written"),
            ((small,), 1, "--output is required")):
        result = bench("calibrate", *words, ranks=ranks)
        assert (result.code, len(result.ours)) == (2, 1), result
        assert what in result.ours[0], result
    assert not (bench.folder / "m.json").exists()
