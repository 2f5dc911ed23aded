"""A sweep from end to end: its lines, its folder, and the options that choose among points."""

import json

from conftest import SWEEP

FIELDS = {
    "schema", "key", "point", "steps", "warmup", "executor", "exchange", "machine", "shard",
    "repeat", "ranks", "gpus", "ranks_per_gpu", "threads", "oversubscribed", "status", "reason",
    "ttl_us", "samples_us", "tokens_per_s_per_user", "tokens_per_s_per_gpu",
    "tokens_per_s_per_rank", "tasks_us", "shared_cores", "exchange_us", "bytes_per_rank", "peak_resident_bytes",
    "experts_touched", "roofline", "noise", "card", "device_bytes", "peer_memory", "verified",
    "environment", "started"}
POINT = {"model", "layout", "batch", "context", "precision", "hop_b", "chunks", "interval",
         "depths", "query_tokens", "kv_layout", "routing", "seed"}
LAYOUT = {"strategy", "pp", "dp", "kvp", "tpa", "tpf", "ep", "query", "merge", "mla", "ffn", "moe"}


def check_line(line):
    assert FIELDS <= set(line)
    assert POINT <= set(line["point"]) and LAYOUT == set(line["point"]["layout"])
    assert line["schema"].startswith("helix-bench/1.")
    if line["status"] != "ok":
        assert line["reason"] and line["samples_us"] is None
        return
    ttl, samples = line["ttl_us"], line["samples_us"]
    assert len(samples) == line["steps"] and min(samples) > 0
    assert min(samples) == ttl["min"] <= ttl["median"] <= ttl["p90"] <= ttl["max"] == max(samples)
    assert ttl["p99"] is None
    assert line["tokens_per_s_per_user"] == 1e6 / ttl["median"]
    assert line["gpus"] is None and line["tokens_per_s_per_gpu"] is None
    assert line["tasks_us"]["attention"] > 0
    cores = line["shared_cores"]
    assert cores["runs"] > len(line["tasks_us"]) and 0 <= cores["shared"] <= cores["runs"]
    assert cores["waited_us"] >= 0
    assert line["exchange_us"]["alone"] > 0 and line["exchange_us"]["back_to_back"] > 0
    assert all(line["bytes_per_rank"][kind] > 0 for kind in ("weights", "kv", "buffers"))
    assert line["peak_resident_bytes"] > sum(line["bytes_per_rank"].values())
    roofline = line["roofline"]
    assert roofline["bytes"] > line["bytes_per_rank"]["weights"] / 2 and roofline["flops"] > 0
    assert 0 < roofline["share"] < 1
    # Each task has a floor; a rank's own add up to no less than that of all it does at once, and with
    # at most as many ranks as cores they are those of the same machine.
    floors = roofline["tasks_us"]
    assert set(floors) == set(line["tasks_us"]) and min(floors.values()) >= 0
    assert line["oversubscribed"] or sum(floors.values()) > 0.999 * roofline["floor_us"]


def test_every_point_gets_a_verified_line(bench):
    sweep = bench.sweep(ranks=[2, 4], hop_b=[False, True])
    result = bench.run(sweep)
    assert result.code == 0, result
    assert result.stdout == ""
    lines = bench.lines()
    assert [line["key"] for line in lines] == bench.keys(sweep)
    for line in lines:
        check_line(line)
        assert line["status"] == ("ok" if line["ranks"] == 2 else "skipped")
        if line["status"] == "ok":
            assert line["verified"]["scope"] == "step"
            assert 0 < line["verified"]["max_rel_err"] <= line["verified"]["tolerance"]
        else:
            assert "needs 4 ranks" in line["reason"]
    assert any(line["point"]["hop_b"] for line in lines if line["status"] == "ok")
    environments = json.loads((bench.folder / "out/environment.json").read_text())
    assert {line["environment"] for line in lines} == set(environments)
    # One line a point, and one at the end.
    assert len(result.stderr.splitlines()) == len(lines) + 1
    frontier = bench("frontier", "out", "--format", "json")
    assert frontier.code == 0 and json.loads(frontier.stdout)["panels"], frontier


def test_too_little_memory_skips_the_point(bench):
    result = bench.run(bench.sweep(), env={"HELIX_BENCH_FAULT": "out_of_memory:rank=1:point=2"})
    assert result.code == 0, result
    lines = bench.lines()
    assert [line["status"] for line in lines] == ["ok", "skipped"] + ["ok"] * (len(lines) - 2)
    assert "1000 bytes wanted, 10 free" in lines[1]["reason"]


def test_ranks_without_work_wait(bench):
    result = bench.run(bench.sweep(ranks=[1, 2]), ranks=4)
    assert result.code == 0, result
    assert {line["ranks"] for line in bench.lines()} == {1, 2}
    assert {line["status"] for line in bench.lines()} == {"ok"}


def test_without_mpirun_one_rank_works(bench):
    result = bench.run(bench.sweep(ranks=1, strategy="tp"), ranks=0)
    assert result.code == 0, result
    assert all(line["ranks"] == 1 and line["status"] == "ok" for line in bench.lines())


def test_no_point_succeeds(bench):
    assert bench.run(bench.sweep(ranks=4)).code == 3


def test_a_wrong_executor_is_seen(bench):
    sweep = bench.sweep()
    result = bench.run(sweep, env={"HELIX_BENCH_FAULT": "wrong:rank=0:point=1"})
    assert result.code == 1, result
    lines = bench.lines()
    assert len(lines) == len(bench.keys(sweep))
    assert not lines[0]["verified"]["max_rel_err"] <= lines[0]["verified"]["tolerance"]
    assert lines[1]["verified"]["max_rel_err"] <= lines[1]["verified"]["tolerance"]
    assert bench.run(sweep, "--resume").code == 0
    assert len(bench.lines()) == len(lines)


def test_unverified(bench):
    assert bench.run(bench.sweep(), "--no-verify").code == 0
    assert all(line["verified"] is None for line in bench.lines())


def test_overrides(bench):
    assert bench.run(bench.sweep(), "-n", "5", "-w", "0", "--threads", "1").code == 0
    for line in bench.lines():
        assert (line["steps"], line["warmup"], line["threads"]) == (5, 0, 1)
        assert len(line["samples_us"]) == 5


def test_slices_partition_the_sweep(bench):
    sweep = bench.sweep()
    found = []
    for part in (1, 2, 3):
        assert bench("run", sweep, "--slice", f"{part}/3", "-o", f"part{part}", ranks=2).code == 0
        found += [line["key"] for line in bench.lines(f"part{part}")]
    assert sorted(found) == sorted(bench.keys(sweep))


def test_repeats_stand_side_by_side(bench):
    sweep = bench.sweep(batch=1, context=64)
    assert bench.run(sweep).code == 0
    assert bench.run(sweep, "--repeat", "2").code == 0
    keys = bench.keys(sweep)
    assert sorted((line["repeat"], line["key"]) for line in bench.lines()) == sorted(
        [(1, key) for key in keys] + [(2, key) for key in keys])


def test_dry_run_writes_nothing(bench):
    sweep = bench.sweep(ranks=[2, 4])
    before = bench.files()
    result = bench("run", sweep, "--dry-run", ranks=2)
    assert result.code == 0 and bench.files() == before
    keys = bench.keys(sweep)
    assert [line.split()[1] for line in result.stdout.splitlines()] == keys
    assert "skipped, needs 4 ranks" in result.stdout


def test_a_point_again(bench):
    assert bench.run(bench.sweep()).code == 0
    old = bench.lines()[-1]
    result = bench("run", "--from", f"out#{old['key']}", "-o", "again", ranks=2)
    assert result.code == 0, result
    assert [line["point"] for line in bench.lines("again")] == [old["point"]]


def test_default_folder(bench):
    assert bench("run", bench.sweep(batch=1, context=64), ranks=2).code == 0
    assert bench.lines("results/small")




def test_a_paged_cache_is_a_point_of_its_own(bench):
    """Pages of 64 tokens: the plan counts them, the run takes so much, and the judge agrees."""
    sweep = bench.sweep(kv_layout=["dense", "paged"], context=[64, 130], kvp=2, tpa=1, strategy="helix",
                        precision=[SWEEP["precision"], {"weights": "bf16", "kv": "nvfp4",
                                                        "activations": "bf16"}])
    result = bench.run(sweep)
    assert result.code == 0 and result.stderr.count(", paged KV, ") == 8
    planned = {point["key"]: point["bytes_per_rank"] for point in
               json.loads(bench("plan", sweep, "--format", "json").stdout)["points"]}
    lines = bench.lines()
    of = {layout: [line for line in lines if line["point"]["kv_layout"] == layout]
          for layout in ("dense", "paged")}
    assert len(of["dense"]) == len(of["paged"]) == 8 and len(planned) == 16
    for dense, paged in zip(of["dense"], of["paged"]):
        assert dense["point"] == {**paged["point"], "kv_layout": "dense"}
        assert dense["verified"]["max_rel_err"] == paged["verified"]["max_rel_err"]
        assert paged["verified"]["max_rel_err"] <= paged["verified"]["tolerance"]
        assert paged["bytes_per_rank"] == planned[paged["key"]]
        # A rank comes to hold 34 or 68 tokens at most.
        context, kv = paged["point"]["context"], paged["bytes_per_rank"]["kv"]
        assert kv == dense["bytes_per_rank"]["kv"] * (1 if context == 64 else 128 / 96)
    assert bench("plan", sweep).stdout.count(" 32 paged ") == 8
    done = bench("simulate", sweep, "--machine", "h100-sxm", "-o", "simulated")
    assert done.code == 0 and len(bench.lines("simulated")) == 16
