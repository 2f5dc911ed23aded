"""What changed is called so, what is noise is not, and what cannot be told says what would tell it."""

import random

import pytest

from analysis import diff
from lines import analysis, line, one_line, write_run


def launches(key, median_us, noise, count, draw, **other):
    return [line(key, ttl_us=median_us * draw.lognormvariate(0, noise), repeat=n + 1, **other)
            for n in range(count)]


def verdicts(tmp_path, before, after, threshold=0.02):
    paths = [write_run(tmp_path / name, lines) for name, lines in (("a", before), ("b", after))]
    found = diff.diff_runs(paths, threshold, [])
    return dict(zip(found.points.index.get_level_values("key"), found.points.verdict)), found


def test_a_change_beyond_noise_is_found_in_both_directions(tmp_path):
    draw = random.Random(1)
    before, after = [], []
    for n, factor in enumerate((1.2, 1 / 1.2, 1.0)):
        before += launches(f"{n:016x}", 1000, 0.001, 5, draw)
        after += launches(f"{n:016x}", 1000 * factor, 0.001, 5, draw)
    found, _ = verdicts(tmp_path, before, after)
    assert list(found.values()) == ["worse", "improved", "same"]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("noise", [0.002, 0.02, 0.1])
def test_noise_is_no_change(tmp_path, count, noise):
    """Of 300 unchanged points at most a few are called changed, at any noise and number of launches.
    The steps of the lines spread by 5 % each way, so one launch alone excuses noise of that size."""
    draw = random.Random(2)
    before, after = [], []
    for n in range(300):
        before += launches(f"{n:016x}", 1000, noise, count, draw)
        after += launches(f"{n:016x}", 1000, noise, count, draw)
    found, _ = verdicts(tmp_path, before, after)
    changed = sum(verdict in ("worse", "improved") for verdict in found.values())
    assert changed <= (300 * 0.03 if count > 1 or noise < 0.1 else 300 * 0.25)


def test_more_launches_tell_more(tmp_path):
    """A real 5 % under noise of 3 %: two launches leave it open, the number that is advised tells."""
    draw = random.Random(3)
    before, after = [], []
    for n in range(40):
        before += launches(f"{n:016x}", 1000, 0.03, 2, draw)
        after += launches(f"{n:016x}", 1050, 0.03, 2, draw)
    few, found = verdicts(tmp_path, before, after)
    assert sum(verdict == "ambiguous" for verdict in few.values()) > 30
    needed = int(found.points.repeats_needed[found.points.verdict == "ambiguous"].max())
    before, after = [], []
    for n in range(40):
        before += launches(f"{n:016x}", 1000, 0.03, needed + 5, draw)
        after += launches(f"{n:016x}", 1050, 0.03, needed + 5, draw)
    many, _ = verdicts(tmp_path, before, after)
    assert sum(verdict == "worse" for verdict in many.values()) > 30


def test_one_launch_each_tells_only_what_steps_cannot_explain(tmp_path):
    found, _ = verdicts(tmp_path, [line("a" * 16), line("b" * 16)],
                        [line("a" * 16, ttl_us=1030.0), line("b" * 16, ttl_us=5000.0)])
    assert found == {"a" * 16: "ambiguous", "b" * 16: "worse"}


def test_wrong_logits_are_worse_however_fast(tmp_path):
    found, _ = verdicts(tmp_path, [line()], [line(ttl_us=10.0, error=0.5)])
    assert list(found.values()) == ["worse"]
    found, _ = verdicts(tmp_path, [line(error=0.5)], [line(error=0.5)])
    assert list(found.values()) == ["ambiguous"]


def test_the_table_says_what_grew_and_what_to_do_next(tmp_path):
    draw = random.Random(4)
    before = launches("a" * 16, 1000, 0.001, 4, draw) + [line("b" * 16), line("c" * 16)]
    after = launches("a" * 16, 1500, 0.001, 4, draw, tasks_us={"attention": 500.0, "exchange": 700.0})
    after += [line("b" * 16, ttl_us=1030.0), line("c" * 16, status="failed")]
    write_run(tmp_path / "a", before)
    write_run(tmp_path / "b", after, environment={"e": {"machine": {"gpus": ["H200"] * 8}}})
    done = analysis("diff", tmp_path / "a", tmp_path / "b")
    assert done.returncode == 1, done
    for word in ("0 improved, 1 worse, 0 same, 1 ambiguous", "1 only before", "most in exchange +250%",
                 f"run --from {tmp_path}/b/results.jsonl#{'a' * 16}", "launches a side (now 1)",
                 "not the same hardware: Z80 before, 8 x H200 after", "needs 16 ranks",
                 "tiny-llama helix KVP4·TPA2·TPF8 B8 S4096"):
        assert word in done.stdout, (word, done.stdout)


def test_hopeless_noise_is_called_so(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, launches("a" * 16, 1000, 0.5, 3, random.Random(5)))
    text = analysis("diff", tmp_path / "a", tmp_path / "b").stdout
    assert "a machine of their own" in text and "launches a side" not in text
    assert diff.noise_words(0.1) == "±10.5%" and diff.noise_words(15.0) == "beyond 10x"


def test_exit_codes(tmp_path):
    write_run(tmp_path / "a", [line()])
    write_run(tmp_path / "same", [line()])
    write_run(tmp_path / "slow", [line(ttl_us=9000.0)])
    assert analysis("diff", tmp_path / "a", tmp_path / "same").returncode == 0
    assert analysis("diff", tmp_path / "a", tmp_path / "slow").returncode == 1
    assert analysis("diff", tmp_path / "slow", tmp_path / "a").returncode == 0
    write_run(tmp_path / "broken", [line(status="failed")])
    broken = analysis("diff", tmp_path / "a", tmp_path / "broken")
    assert broken.returncode == 1 and "1 points that ran before do not run now" in broken.stdout
    assert "nothing: no point is slower" in analysis(
        "diff", tmp_path / "a", tmp_path / "same", "--threshold", "30%", "--all").stdout


def test_bad_input_is_one_line(tmp_path):
    good = write_run(tmp_path / "good", [line()])
    one_line(analysis("diff", good, write_run(tmp_path / "other", [line("b" * 16)])),
             "has no point in common")
    one_line(analysis("diff", good, tmp_path / "absent"), "cannot be read")
    one_line(analysis("diff", good, write_run(tmp_path / "empty", [])), "holds no line")
    one_line(analysis("diff", good, write_run(tmp_path / "skipped", [line(status="skipped")])),
             "has no point in common")
    one_line(analysis("diff", good, write_run(tmp_path / "newer", [line(schema="helix-bench/2.0")])),
             "newer")
    for ttl in ({}, {"median": "x"}, {"median": -1}, {"median": None}):
        one_line(analysis("diff", good, write_run(tmp_path / "odd", [line(ttl_us=1.0) |
                                                                   {"ttl_us": ttl}])), "no TTL")
    torn = write_run(tmp_path / "torn", [line()], tail='{"schema": "helix')
    done = analysis("diff", good, torn)
    assert done.returncode == 0 and "cut off in writing" in done.stderr
