"""`--trace`: what overlapped what, as Perfetto shows it."""

import json
import os

import pytest


def events_of(bench, name):
    return json.loads((bench.folder / name).read_text())["traceEvents"]


def test_lanes_and_names(bench):
    result = bench.run(bench.sweep(batch=2, hop_b=True), "--trace", "trace.json")
    assert result.code == 0, result
    about = json.loads((bench.folder / "trace.json").read_text())["otherData"]
    assert about["key"] in {line["key"] for line in bench.lines()}
    events = events_of(bench, "trace.json")
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {(rank, lane): name for rank in (0, 1)
                     for lane, name in enumerate(["compute", "exchange"])}
    tasks = [e for e in events if e["ph"] == "X"]
    assert {e["pid"] for e in tasks} == {0, 1} and {e["tid"] for e in tasks} == {0, 1}
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in tasks)
    attention = [e for e in tasks if e["name"] == "attention"]
    # 4 layers, 2 chunks, 2 ranks
    assert sorted((e["pid"], e["args"]["layer"], e["args"]["chunk"]) for e in attention) == [
        (rank, layer, chunk) for rank in (0, 1) for layer in range(4) for chunk in (0, 1)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing can overlap")
def test_hop_b_overlaps(bench):
    """The exchange of a chunk is over before attention of the next one is."""
    sweep = bench.sweep(batch=8, context=32768, strategy="helix", kvp=2, hop_b=True, chunks=4,
                        precision={"weights": "bf16", "kv": "bf16", "activations": "bf16"})
    result = bench.run(sweep, "--trace", "trace.json", "--no-verify")
    assert result.code == 0, result
    ends = {(e["name"], e["pid"], e["args"]["layer"], e["args"]["chunk"]): e["ts"] + e["dur"]
            for e in events_of(bench, "trace.json") if e["ph"] == "X"}
    overlapped = [end < ends["attention", rank, layer, chunk + 1]
                  for (name, rank, layer, chunk), end in ends.items()
                  if name == "exchange" and chunk < 3]
    assert len(overlapped) == 2 * 4 * 3
    assert sum(overlapped) >= 0.8 * len(overlapped)
