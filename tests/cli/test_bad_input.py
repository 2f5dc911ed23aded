"""Whatever is wrong with the input: one line of ours on stderr, exit 2, nothing written."""

import json
import os

import pytest
from conftest import SWEEP


def without(key):
    return json.dumps({name: value for name, value in SWEEP.items() if name != key})


def changed(**changes):
    return json.dumps({**SWEEP, **changes})


# What the file holds, and what the line must say.
BAD = {
    "unknown key": (changed(batches=1), ["/", "batches", '"batch"']),
    "missing key": (without("batch"), ["batch"]),
    "wrong type": (changed(batch="many"), ["/batch"]),
    "empty list": (changed(batch=[]), ["/batch", "empty"]),
    "zero": (changed(batch=0), ["/batch", "0"]),
    "negative": (changed(context=-1), ["/context", "-1"]),
    "out of range": (changed(ranks=1 << 40), ["/ranks"]),
    "fraction": (changed(steps=1.5), ["/steps", "1.5"]),
    "overflow": ('{"batch": 1e999}', ["1e999"]),
    "overflow of integers": (changed(batch=1 << 70), ["/batch"]),
    "not JSON": ('{"schema": ]', ["line 1, column 12"]),
    "nothing": ("", ["line 1"]),
    "duplicate key": ('{"name": "a", "name": "b"}', ["name"]),
    "nested": ("[" * 100_000, ["nest"]),
    "no object": ("[1]", []),
    "other schema": (changed(schema="helix-bench/sweep/9"), ["/schema"]),
    "unknown model": (changed(model="tiny-lama"), ["/model", "tiny-llama"]),
    "unknown strategy": (changed(strategy="heliks"), ["/strategy", "helix"]),
    "illegal layout": (changed(points=[{"strategy": "helix", "ranks": 3, "kvp": 3, "tpa": 1,
                                        "tpf": 3, "batch": 1, "context": 64}]), ["/points/0"]),
    "no legal layout": (changed(ranks=7, strategy="tp"), []),
    "path in the name": (changed(name="../x"), ["/name"]),
    "not supported": (changed(prefill=True), ["prefill"]),
}


def refuse(bench, result, *words):
    assert result.code == 2, result
    assert len(result.ours) == 1, result
    assert all(word in result.ours[0] for word in words), result
    assert result.stdout == ""
    return result.ours[0]


@pytest.mark.parametrize("case", BAD)
def test_sweep(bench, case):
    text, words = BAD[case]
    sweep = bench.folder / "sweep.json"
    sweep.write_text(text)
    line = refuse(bench, bench("run", "sweep.json", "-o", "out"), *words)
    assert "sweep.json" in line and bench.files() == ["sweep.json"]


@pytest.mark.parametrize("case", ["unknown key", "not JSON", "no legal layout"])
def test_one_rank_speaks(bench, case):
    text, words = BAD[case]
    (bench.folder / "sweep.json").write_text(text)
    refuse(bench, bench.run("sweep.json", ranks=3), *words)
    assert bench.files() == ["sweep.json"]


def test_plan_refuses_alike(bench):
    refuse(bench, bench("plan", bench.sweep(batches=1)), "batches")


def test_no_file(bench):
    refuse(bench, bench.run("none.json"), "none.json", "No such file")
    assert bench.files() == []


def test_a_folder(bench):
    refuse(bench, bench.run(bench.folder), "directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(bench):
    sweep = bench.sweep()
    sweep.chmod(0)
    refuse(bench, bench.run(sweep), "denied")


def test_a_huge_file(bench):
    with open(bench.folder / "huge.json", "wb") as file:
        file.truncate(100 << 20)
    refuse(bench, bench.run("huge.json"), "huge.json")


def test_model_file(bench):
    (bench.folder / "model.json").write_text('{"name": "mine", "layer": 2}')
    line = refuse(bench, bench.run(bench.sweep(model="model.json")), "model.json")
    assert "out" not in bench.files(), line


COMMANDS = {
    "no command": [],
    "unknown command": ["walk"],
    "unknown option": ["run", "sweep.json", "--fast"],
    "no sweep": ["run"],
    "cuda": ["run", "sweep.json", "--executor", "cuda"],
    "unknown executor": ["run", "sweep.json", "--executor", "abacus"],
    "nccl": ["run", "sweep.json", "--exchange", "nccl"],
    "slice 0": ["run", "sweep.json", "--slice", "0/2"],
    "slice 3/2": ["run", "sweep.json", "--slice", "3/2"],
    "slice x": ["run", "sweep.json", "--slice", "1/2x"],
    "no steps": ["run", "sweep.json", "-n", "0"],
    "resume what": ["run", "sweep.json", "--resume=maybe"],
    "negative limit": ["run", "sweep.json", "--time-limit", "-1"],
    "from nowhere": ["run", "--from", "out#0123"],
    "from no key": ["run", "--from", "out"],
    "both": ["run", "sweep.json", "--from", "out#0123"],
    "trace nowhere": ["run", "sweep.json", "--trace", "none/trace.json"],
    "list what": ["list", "sweeps"],
    "part": ["verify", "--part", "2/1"],
    "fault": ["run", "sweep.json"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_command_line(bench, case):
    bench.sweep()
    env = {"HELIX_BENCH_FAULT": "explode:rank=1:point=1"} if case == "fault" else {}
    refuse(bench, bench(*COMMANDS[case], env=env))
    assert bench.files() == ["sweep.json"]


def test_one_rank_speaks_of_the_command_line(bench):
    refuse(bench, bench("run", "--fast", ranks=3))


def test_worlds_of_one_rank(bench):
    result = bench.run(bench.sweep(), ranks=0, env={"OMPI_COMM_WORLD_SIZE": "4"})
    refuse(bench, result, "world of its own", "mpirun")
    assert "out" not in bench.files()


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["list", "models"],
                                   ["list", "machines"], ["list", "layouts"]])
def test_what_needs_no_launcher(bench, words):
    result = bench(*words)
    assert result.code == 0 and result.stdout and not result.stderr, result
