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
