"""`simulate` without ranks: a line names the point that prices the same again."""


def simulate(bench, *words):
    result = bench("simulate", *words, "--machine", "h200-sxm")
    assert result.code == 0, result
    return result


def test_from_a_line(bench):
    simulate(bench, bench.sweep(ranks=[2, 4]), "-o", "all")
    lines = bench.lines("all")
    for number in (0, len(lines) - 1):
        simulate(bench, "--from", f"all/results.jsonl#{lines[number]['key']}", "-o", f"one-{number}")
        again, = bench.lines(f"one-{number}")
        assert {**again, "environment": ""} == {**lines[number], "environment": ""}


def test_neither_or_both(bench):
    for words in ([], [bench.sweep(), "--from", "x#y"], ["--from", "x"], ["--from", "x#y"]):
        result = bench("simulate", *words, "--machine", "h200-sxm")
        assert (result.code, len(result.ours)) == (2, 1), result


def test_lines_are_those_of_a_run(bench):
    simulate(bench, bench.sweep(), "-o", "priced")
    bench("run", bench.sweep(), "-o", "run", ranks=2)
    for ours, executed in zip(bench.lines("priced"), bench.lines("run"), strict=True):
        assert list(ours) == list(executed)
        assert (ours["key"], ours["point"]) == (executed["key"], executed["point"])
        assert ours["executor"], ours["machine"] == ("simulate", "h200-sxm")
        assert ours["verified"] is None and ours["started"] is None
        assert ours["gpus"] == ours["ranks"] == 2
        assert ours["tokens_per_s_per_gpu"] == ours["tokens_per_s_per_rank"]
        assert ours["samples_us"] == [ours["ttl_us"]["median"]]
        assert ours["bytes_per_rank"]["kv"] == executed["bytes_per_rank"]["kv"]
        assert set(ours["roofline"]["tasks_us"]) == set(ours["tasks_us"])


def test_the_same_bytes_again(bench):
    sweep = bench.sweep(model=["tiny-llama", "tiny-deepseek"], ranks=[2, 8], strategy="all",
                        hop_b=[False, True])
    for folder in ("one", "two"):
        simulate(bench, sweep, "-o", folder)
    first, second = ((bench.folder / folder / "results.jsonl").read_bytes()
                     for folder in ("one", "two"))
    assert first == second


def test_what_does_not_fit_is_a_line(bench):
    sweep = bench.sweep(model="llama-3.1-405b", ranks=[8, 64], batch=[1, 64], context=1000000,
                        precision={"weights": "bf16", "kv": "bf16", "activations": "bf16"})
    simulate(bench, sweep, "-o", "out")
    lines = bench.lines("out")
    skipped = [line for line in lines if line["status"] == "skipped"]
    assert 0 < len(skipped) < len(lines)
    for line in skipped:
        assert "GB a rank, h200-sxm has 133.9 GB" in line["reason"]
        assert line["ttl_us"] is None


def test_nothing_fits(bench):
    sweep = bench.sweep(model="llama-3.1-405b", ranks=1, strategy="tp")
    result = bench("simulate", sweep, "--machine", "h200-sxm", "-o", "out")
    assert result.code == 3, result


def test_resumes_and_does_not_mix_machines(bench):
    simulate(bench, bench.sweep(), "-o", "out")
    again = bench("simulate", bench.sweep(), "--machine", "h200-sxm", "-o", "out")
    assert (again.code, len(again.ours)) == (2, 1), again
    before = (bench.folder / "out/results.jsonl").read_bytes()
    simulate(bench, bench.sweep(), "-o", "out", "--resume")
    assert (bench.folder / "out/results.jsonl").read_bytes() == before
    other = bench("simulate", bench.sweep(), "--machine", "b200", "-o", "out", "--resume")
    assert (other.code, len(other.ours)) == (2, 1), other
    assert "another machine file" in other.ours[0]


def test_accountings_are_lines_of_their_own(bench):
    sweep = bench.sweep(batch=8, hop_b=True, strategy="helix", context=100000)
    simulate(bench, sweep, "-o", "chunks")
    simulate(bench, sweep, "-o", "paper", "--accounting", "paper")
    for ours, papers in zip(bench.lines("chunks"), bench.lines("paper"), strict=True):
        assert ours["key"] == papers["key"]
        assert papers["machine"] == "h200-sxm, HOP-B as in the paper"


def test_bad_machines(bench):
    for name, what in (("gb200-nvl27", 'did you mean "gb200-nvl72"?'), ("no/such.json", "no/such"),
                       (bench.sweep(), "unknown key")):
        result = bench("simulate", bench.sweep(), "--machine", name, "-o", "out")
        assert (result.code, len(result.ours)) == (2, 1), result
        assert what in result.ours[0]
        assert not (bench.folder / "out").exists()


def test_a_torn_last_line_is_named(bench):
    simulate(bench, bench.sweep(), "-o", "out")
    with open(bench.folder / "out/results.jsonl", "a", encoding="utf-8") as file:
        file.write('{"schema": "helix')
    result = bench("frontier", "out")
    assert result.code == 0 and "cut off in writing" in result.stderr, result
