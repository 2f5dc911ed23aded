"""Slices of a sweep become one folder: each point once, its best line, nothing lost, nothing mixed."""

import json
import random
import subprocess
import sys

from analysis import merge, results
from lines import ENVIRONMENT, ROOT, SWEEP, analysis, line, one_line, read_run, write_run


def merged(out, *folders, program="none"):
    notes = []
    words, whole = merge.merge(out, folders, program, notes)
    return words, whole, notes


def identities(folder):
    return [results.identity_of(one) for one in read_run(folder)]


def test_each_point_is_there_once(tmp_path):
    folders = [write_run(tmp_path / f"slice-{i}", [line(f"{4 * n + i:016x}") for n in range(5)])
               for i in range(4)]
    assert merged(tmp_path / "out", *folders)[1]
    assert sorted(one["key"] for one in read_run(tmp_path / "out")) == [f"{n:016x}" for n in range(20)]
    assert json.loads((tmp_path / "out/sweep.json").read_text()) == SWEEP
    assert json.loads((tmp_path / "out/environment.json").read_text()) == ENVIRONMENT


def test_any_split_and_order_of_launches_gives_the_best_line_of_each_identity(tmp_path):
    """Against a plain restatement of the rule, on random histories."""
    draw = random.Random(1)
    for round_ in range(20):
        folders, lines = [], []
        for i in range(draw.randint(1, 5)):
            mine = [line(f"{draw.randrange(6):016x}", ttl_us=draw.randint(1, 10 ** 6),
                         repeat=draw.randint(1, 2), error=draw.choice((1e-6, 1.0, None)),
                         status=draw.choice(("ok", "ok", "failed", "skipped")))
                    for _ in range(draw.randint(0, 8))]
            lines += mine
            folders.append(write_run(tmp_path / f"{round_}-{i}", mine))
        if not lines:
            continue
        merged(tmp_path / f"{round_}", *folders)
        expected = {}
        for one in lines:
            known = expected.get(results.identity_of(one))
            if known is None or results.is_done(one) or not results.is_done(known):
                expected[results.identity_of(one)] = one
        found = read_run(tmp_path / f"{round_}")
        assert {results.identity_of(one): one for one in found} == expected
        assert len(found) == len(expected)


def test_merging_again_adds_and_loses_nothing(tmp_path):
    first = write_run(tmp_path / "a", [line("a" * 16)])
    merged(tmp_path / "out", first)
    before = (tmp_path / "out/results.jsonl").read_bytes()
    merged(tmp_path / "out", first)
    assert (tmp_path / "out/results.jsonl").read_bytes() == before
    merged(tmp_path / "out", write_run(tmp_path / "b", [line("b" * 16)]))
    assert {one["key"] for one in read_run(tmp_path / "out")} == {"a" * 16, "b" * 16}


def test_a_torn_last_line_is_left_out_and_said(tmp_path):
    whole = line("a" * 16)
    torn = write_run(tmp_path / "a", [whole], tail=json.dumps(line("b" * 16))[:100])
    _, _, notes = merged(tmp_path / "out", torn)
    assert read_run(tmp_path / "out") == [whole]
    assert any("results.jsonl:2: the last line was cut off" in note for note in notes)
    # One that is whole but for its line break is a line.
    write_run(tmp_path / "c", [], tail=json.dumps(whole))
    merged(tmp_path / "other", tmp_path / "c", write_run(tmp_path / "d", [line("d" * 16)]))
    assert len(read_run(tmp_path / "other")) == 2


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    """The program says which points the sweep has, also in a job of many tasks; a slice died, one never
    began."""
    monkeypatch.setenv("SLURM_NTASKS", "64")
    monkeypatch.setenv("SLURM_PROCID", "0")
    program = results.PROGRAM
    sweep = tmp_path / "sweep.json"
    sweep.write_text(json.dumps(SWEEP))
    keys = list(merge.wanted_keys(sweep, program))
    assert len(keys) > 6
    write_run(tmp_path / "1", [line(key) for key in keys[2:]])
    write_run(tmp_path / "2", [line(keys[1], status="failed")])
    done = analysis("merge", tmp_path / "out", tmp_path / "1", tmp_path / "2", tmp_path / "3")
    assert done.returncode == 3, done
    assert f"{len(keys) - 2} of {len(keys)} points ok, 1 failed, 1 missing" in done.stdout
    assert f"failed: {keys[1]}" in done.stderr and f"missing: {keys[0]}" in done.stderr
    assert "3: has no results.jsonl (yet)" in done.stderr
    write_run(tmp_path / "3", [line(key) for key in keys[:2]])
    done = analysis("merge", tmp_path / "out", tmp_path / "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(keys)} of {len(keys)} points ok" in done.stdout


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path):
    good = write_run(tmp_path / "good", [line()])
    other = write_run(tmp_path / "other", [line()], sweep={**SWEEP, "batch": [1, 2, 4, 16]})
    bad = {
        "newer": ([line(schema="helix-bench/2.0")], "", "is newer than this program"),
        "strange": ([{"schema": "x"}], "", "is no result line"),
        "middle": ([], '{"torn\n' + json.dumps(line()) + "\n", "results.jsonl:1: not JSON"),
        "nan": ([], json.dumps(line(ttl_us=float("nan"))) + "\n", "NaN is no JSON number"),
        "deep": ([], "[" * 100000 + "\n", "nested too deeply"),
    }
    one_line(analysis("merge", tmp_path / "out", good, other), "/batch/3: another sweep")
    for name, (lines, tail, word) in bad.items():
        write_run(tmp_path / name, lines, tail=tail)
        one_line(analysis("merge", tmp_path / "out", good, tmp_path / name), word)
    write_run(tmp_path / "empty", [])
    for folder in ("empty", "absent"):
        done = analysis("merge", tmp_path / "out", tmp_path / folder)
        one_line(done, "nothing to merge")
    (tmp_path / "good/sweep.json").unlink()
    one_line(analysis("merge", tmp_path / "out", good), "sweep.json: cannot be read")
    assert not (tmp_path / "out").exists()


def test_first_difference_is_a_pointer():
    assert merge.first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "/a/1/b"
    assert merge.first_difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None
    assert merge.first_difference([1], [1, 2]) == "/"
    assert merge.first_difference({"a": 0}, {"a": False}) is None


def test_a_hundred_thousand_lines_of_64_slices(tmp_path):
    """Streams: the lines of all slices (200 MB) never are in memory. Its time is printed, not judged."""
    text = json.dumps(line("KEY", samples_us=[1234.567] * 40))
    for i in range(64):
        folder = write_run(tmp_path / f"{i}", [])
        with open(folder / "results.jsonl", "w", encoding="utf-8") as file:
            for n in range(i, 100000, 64):
                file.write(text.replace("KEY", f"{n:016x}", 1) + "\n")
    script = ("import re, sys, time; from analysis import merge; start = time.monotonic(); "
              "print(*merge.merge(sys.argv[1], sys.argv[2:], 'none', [])); "
              "print(time.monotonic() - start, time.process_time(), "
              "*re.findall(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()))")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out"),
                           *(str(tmp_path / f"{i}") for i in range(64))],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100000 lines of 64 folders, 100000 of 100000 points ok" in done.stdout
    seconds, of_cpu, kilobytes = done.stdout.split()[-3:]
    print(f"merge of 100 000 lines: {float(seconds):.1f} s, of CPU {float(of_cpu):.1f} s, "
          f"{int(kilobytes) / 1024:.0f} MiB")
    assert int(kilobytes) < 1024 * 1024
    size = (tmp_path / "out/results.jsonl").stat().st_size
    assert size == sum((tmp_path / f"{i}/results.jsonl").stat().st_size for i in range(64))
