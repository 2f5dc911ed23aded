"""`explain`: one point's tasks against their floors, what limits it, and how to run it again."""

import json
import shlex


def explained(bench, *words):
    result = bench("explain", *words)
    assert result.code == 0, result
    return result.stdout


def again(text):
    """The words behind the program in the command that is offered."""
    command = next(line for line in text.splitlines() if line.startswith("to run it again: "))
    words = shlex.split(command.removeprefix("to run it again: "))
    return words[:words.index("build/helix-bench")], words[words.index("build/helix-bench") + 1:]


def test_executed_and_simulated_lines(bench):
    sweep = bench.sweep(model=["tiny-llama", "tiny-deepseek"], batch=2, context=100)
    bench("run", sweep, "-o", "run", ranks=2)
    bench("simulate", sweep, "--machine", "h200-sxm", "-o", "priced")
    for folder in ("run", "priced"):
        for line in bench.lines(folder):
            text = explained(bench, folder, line["key"])
            rows = {row.split()[0]: row for row in text.splitlines() if row}
            for task, us in line["tasks_us"].items():
                assert f"{us:.1f}" in rows[task], text
            assert f"TTL {line['ttl_us']['median']:.1f} us" in text
            assert "what limits it: " in text
    launcher, words = again(text)
    assert launcher == []
    assert bench(*words).code == 0
    repriced, = bench.lines(f"results/again-{line['key']}")
    assert repriced["ttl_us"] == line["ttl_us"]
    line = bench.lines("run")[0]
    launcher, words = again(explained(bench, "run", line["key"]))
    assert launcher == ["tests/mpirun.sh", "-n", "2"]
    assert bench(*words, ranks=2).code == 0
    rerun, = bench.lines(f"results/again-{line['key']}")
    assert (rerun["key"], rerun["threads"]) == (line["key"], line["threads"])


def test_says_what_limits(bench):
    bench("run", bench.sweep(strategy="helix", batch=1, context=64), "-o", "run", ranks=2)
    line, = bench.lines("run")
    tasks = {name: 1.0 for name in line["tasks_us"]}
    floors = {name: 0.1 for name in tasks}
    quiet = {"alone": 2.0, "back_to_back": None, "exposed": 2.0, "hidden": 0.0}

    def limit(times, floored=None, computing=(), exchange=None):
        changed = {**line, "tasks_us": {**tasks, **times}, "exchange_us": {**quiet, **(exchange or {})},
                   "roofline": {**line["roofline"], "tasks_us": {**floors, **(floored or {})},
                                "computing": list(computing)}}
        (bench.folder / "changed.jsonl").write_text(json.dumps(changed) + "\n")
        text = explained(bench, "changed.jsonl", line["key"])
        return next(row for row in text.splitlines() if row.startswith("what limits it: "))

    assert "reading memory, " in limit({"attention": 100}, {"attention": 99})
    assert "computing, " in limit({"W_UP": 100}, {"W_UP": 99}, ["W_UP"])
    assert "most of it in W_UP, which takes 50.0 times its floor" in limit({"W_UP": 100}, {"W_UP": 2})
    long = {"exchange": 100.0}
    assert "waiting for messages, " in limit(long, exchange={"alone": 100, "exposed": 100})
    # What is hidden limits nothing.
    assert "waiting" not in limit(long, exchange={"alone": 100, "exposed": 0.5})


def test_unknown_key(bench):
    bench("run", bench.sweep(strategy="tp", batch=1, context=64), "-o", "run", ranks=2)
    key = bench.lines("run")[0]["key"]
    wrong = ("0" if key[0] != "0" else "1") + key[1:]
    for words, what in ((("run", wrong), f'did you mean "{key}"?'), (("run", "x"), "no line has the key"),
                        (("nowhere", key), "nowhere")):
        result = bench("explain", *words)
        assert (result.code, len(result.ours)) == (2, 1), result
        assert what in result.ours[0]


def test_what_did_not_run(bench):
    bench("run", bench.sweep(strategy="tp", batch=1, context=64, ranks=[2, 4]), "-o", "run", ranks=2)
    skipped = next(line for line in bench.lines("run") if line["status"] == "skipped")
    text = explained(bench, "run", skipped["key"])
    assert "skipped: needs 4 ranks, 2 were started" in text
