"""`--shard RANK/N`: one rank of a layout alone, in one process."""

import json

import pytest

SHAPE = {"model": "tiny-deepseek", "strategy": "helix", "ranks": 4, "kvp": 4, "tpa": 1, "tpf": 2,
         "ep": 2, "batch": 4, "context": 300, "steps": 4}


def planned(bench, sweep, *words):
    result = bench("plan", sweep, "--format", "json", *words)
    assert result.code == 0, result
    return json.loads(result.stdout)["points"][0]["bytes_per_rank"]


@pytest.mark.parametrize("rank, kv_layout", [(0, "dense"), (3, "paged")])
def test_one_rank_alone(bench, rank, kv_layout):
    sweep = bench.sweep(**SHAPE, kv_layout=kv_layout)
    result = bench("run", sweep, "--shard", f"{rank}/4", "-o", "out")
    assert result.code == 0, result
    (line,) = bench.lines()
    assert line["shard"] == f"{rank}/4" and line["ranks"] == 4
    assert line["exchange"] is None and line["exchange_us"] is None and line["machine"] is None
    assert line["bytes_per_rank"] == planned(bench, sweep, "--shard", f"{rank}/4")
    verified = line["verified"]
    assert verified["scope"] == "tasks" and 0 < verified["max_rel_err"] <= verified["tolerance"]
    # What was left out has no time of its own, here or there.
    left_out = line["not_executed"]
    assert set(left_out["tasks_us"]) == {"reduce_embedding", "exchange", "reduce_attention",
                                         "reduce_ffn", "gather_best"}
    assert not set(left_out["tasks_us"]) & (set(line["tasks_us"]) | set(line["roofline"]["tasks_us"]))
    assert set(left_out["tasks_us"].values()) == {None}
    assert left_out["priced_on"] is None and left_out["exposed_us"] is None
    # Two consecutive ranks share an EP rank's 8 of 16 experts, and get the most that one gets.
    assert left_out["experts"] == {"first": rank // 2 * 8, "count": 8, "busiest_of": 2}
    assert 4 < line["experts_touched"]["mean"] <= 8
    assert line["tasks_us"]["attention"] > 0 and line["tasks_us"]["merge"] > 0
    assert left_out["step_us"] == line["ttl_us"]["median"]


def test_exchanges_priced(bench):
    sweep = bench.sweep(**SHAPE, hop_b=[False, True], chunks=2)
    result = bench("run", sweep, "--shard", "1/4", "--machine", "gb200-nvl72", "-o", "out")
    assert result.code == 0, result
    plain, hop_b = bench.lines()
    for line in plain, hop_b:
        left_out = line["not_executed"]
        assert line["machine"] == left_out["priced_on"] == "gb200-nvl72"
        exchanges = sum(left_out["tasks_us"].values())
        assert abs(exchanges - left_out["exposed_us"] - left_out["hidden_us"]) < 0.01
        assert abs(line["ttl_us"]["median"] - left_out["exposed_us"] - left_out["step_us"]) < 0.01
        assert line["exchange_us"] is None
    assert plain["not_executed"]["hidden_us"] == 0 < hop_b["not_executed"]["hidden_us"]
    again = bench("explain", "out", plain["key"])
    assert again.code == 0 and "rank 1/4 alone, nothing exchanged" in again.stdout, again
    assert "us without exchanges, which gb200-nvl72 is priced at" in again.stdout
    assert "--shard 1/4 --machine" in again.stdout


def test_a_lost_token_is_caught(bench):
    result = bench("run", bench.sweep(**SHAPE), "--shard", "1/4", "-o", "out",
                   env={"HELIX_BENCH_FAULT": "wrong:rank=0:point=1"})
    assert result.code == 1, result
    (line,) = bench.lines()
    assert line["verified"]["max_rel_err"] > 10 * line["verified"]["tolerance"]


def test_depths(bench):
    result = bench("run", bench.sweep(**SHAPE, depths=[1, 3]), "--shard", "2/4", "--machine",
                   "gb200-nvl72", "-o", "out")
    assert result.code in (0, 3), result  # on a busy machine a layer may drown in noise
    (line,) = bench.lines()
    if line["status"] == "failed":
        assert "drowns in noise" in line["reason"]
        return
    # An exchange a layer, of four.
    one = bench("run", bench.sweep(**SHAPE), "--shard", "2/4", "--machine", "gb200-nvl72", "-o",
                "whole")
    assert one.code == 0, one
    (whole,) = bench.lines("whole")
    for name, us in whole["not_executed"]["tasks_us"].items():
        assert abs(line["not_executed"]["tasks_us"][name] / us - 1) < 1e-3, name


REFUSED = {
    "beyond": (["--shard", "4/4"], "RANK/N"),
    "no number": (["--shard", "one"], "RANK/N"),
    "negative": (["--shard=-1/4"], "RANK/N"),
    "other ranks": (["--shard", "1/8"], "4 ranks"),
    "whole step": (["--shard", "1/4", "--scope", "step"], "--scope step"),
    "exchange": (["--shard", "1/4", "--exchange", "mpi"], "nothing is exchanged"),
    "machine": (["--shard", "1/4", "--machine", "gb200"], "gb200-nvl72"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(bench, case):
    words, says = REFUSED[case]
    result = bench("run", bench.sweep(**SHAPE), *words, "-o", "out")
    assert result.code == 2 and len(result.ours) == 1, result
    assert says in result.ours[0] and bench.files() == ["sweep.json"]


def test_more_processes_are_refused(bench):
    result = bench.run(bench.sweep(**SHAPE), "--shard", "1/4", ranks=2)
    assert result.code == 2 and len(result.ours) == 1, result
    assert "one process; 2 were started" in result.ours[0]


def test_a_prompt_is_refused(bench):
    sweep = bench.sweep(**{**SHAPE, "context": None, "prompt": [1, 2, 3]})
    text = json.loads(sweep.read_text())
    del text["context"]
    sweep.write_text(json.dumps(text))
    result = bench("run", sweep, "--shard", "1/4", "-o", "out")
    assert result.code == 2 and len(result.ours) == 1 and "prompt" in result.ours[0], result
