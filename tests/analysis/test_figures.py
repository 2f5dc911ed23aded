"""Figures show what the program decided, all of it, and the same bytes each time."""

import copy
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.text import Text

from analysis import figures, labels, results, style
from lines import analysis, line, one_line, write_run

ROOT = Path(__file__).resolve().parent.parent.parent


def point(strategy="helix", x=100.0, y=10.0, frontier=True, proof="verified", **other):
    return {"key": "k", "strategy": strategy, "label": "KVP4×TPA2→TPF8", "options": "",
            "batch": 8, "ranks": 8, "gpus": None, "x": x, "y": y,
            "ttl_us": {"median": 1e6 / x, "low": 1e6 / x, "high": 1e6 / x}, "repeats": 1,
            "frontier": frontier, "proof": proof, "hull": False, **other}


def panel(points, **other):
    return {"model": "tiny-llama", "context": "4096", "precision": "bf16", "routing": "",
            "kind": "executed whole", "executor": "cpu", "machine": "", "hardware": "Z80, 2 cores",
            "unit": "rank", "oversubscribed": False, "commits": ["0123456789ab"],
            "points": points, **other}


def staircase(count=5, strategy="helix", rise=1.0):
    step = min(1.5, 1e6 ** (1 / count))
    return [point(strategy, 100.0 * step ** i, rise * 1000 / (1.05 * step) ** i,
                  batch=2 ** (count - i)) for i in range(count)]


def artists(figure, gid):
    return [a for a in figure.axes[0].get_children() if a.get_gid() == gid]


def texts(figure):
    legend = [text for legend in figure.legends for text in legend.get_texts()]
    return [t.get_text() for t in figure.texts + artists(figure, "label") + legend]


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "analysis", "figures", *map(str, arguments)],
                          cwd=ROOT, capture_output=True, text=True, check=False)


def written(tmp_path, panels, name="frontier.json"):
    path = tmp_path / name
    path.write_text(json.dumps({"schema": results.FRONTIER, "panels": panels}), encoding="utf-8")
    return path


def test_both_axes_are_logarithmic():
    axes = figures.draw(panel(staircase())).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "tokens/s/user" in axes.get_xlabel() and "tokens/s/rank" in axes.get_ylabel()


def test_the_frontier_is_a_step_line_through_the_points_that_the_program_named():
    # One of them is dominated: that is not for the figure to know.
    points = staircase() + [point(x=1.0, y=1.0), point(x=5000.0, y=5000.0, frontier=False)]
    line, = artists(figures.draw(panel(points)), "frontier helix")
    assert line.get_drawstyle() == "steps-pre"
    assert sorted(line.get_xdata()) == sorted(p["x"] for p in points if p["frontier"])


def test_unproven_points_are_hollow_and_on_no_line():
    points = staircase(3) + [point(x=900.0, y=900.0, frontier=False, proof="unverified"),
                             point(x=800.0, y=800.0, frontier=False, proof="failed")]
    figure = figures.draw(panel(points))
    hollow = artists(figure, "hollow")
    assert [h.get_markerfacecolor() for h in hollow] == ["none", "none"]
    assert max(artists(figure, "frontier helix")[0].get_xdata()) < 800


def test_what_the_baseline_reaches_is_shaded_as_the_program_says():
    # One of them is dominated: that is not for the figure to know.
    rivals = [point("tp", x, y, hull=True) for x, y in ((100.0, 9.0), (200.0, 5.0), (90.0, 1.0))]
    shade, = artists(figures.draw(panel(staircase() + rivals)), "hull")
    corners = shade.get_paths()[0].vertices
    assert {9.0, 5.0, 1.0} <= set(corners[:, 1]) and max(corners[:, 0]) == 200.0
    assert "no Baseline point here" not in texts(figures.draw(panel(staircase() + rivals)))
    alone = figures.draw(panel(staircase()))
    assert not artists(alone, "hull") and "no Baseline point here" in texts(alone)


def test_simulated_frontiers_are_dashed():
    points = [point(proof="simulated"), point(x=50.0, y=20.0, proof="simulated")]
    figure = figures.draw(panel(points, kind="simulated"))
    assert artists(figure, "frontier helix")[0].get_linestyle() == "--"
    assert any("simulated on" in text for text in texts(figure))


def test_frontier_points_carry_their_layout_and_batch():
    shown = texts(figures.draw(panel(staircase(4))))
    for batch in (16, 8, 4, 2):
        assert f"KVP4×TPA2→TPF8, B{batch}" in shown


@pytest.mark.parametrize("rise", [1.0, 1.02, 1.3])
def test_labels_hide_neither_each_other_nor_leave_the_figure(rise):
    points = staircase(9) + staircase(9, "tp", rise) + staircase(9, "dcp", rise ** 2)
    figure = figures.draw(panel(points))
    renderer = figure.canvas.get_renderer()
    # Of the text alone: an annotation's own extent has its leader in it.
    for label in artists(figure, "label"):
        label.update_positions(renderer)
    boxes = [Text.get_window_extent(label, renderer) for label in artists(figure, "label")]
    assert len(boxes) > 15
    frame = figure.axes[0].get_window_extent()
    for i, box in enumerate(boxes):
        assert labels.inside(frame.padded(2), box)
        assert all(labels.overlap(box, other) == 0 for other in boxes[:i])


def test_ten_thousand_points_are_drawn_in_seconds():
    dominated = [point(x=100.0 + i, y=1.0, frontier=False) for i in range(10000)]
    before = time.monotonic()
    figures.draw(panel(dominated + staircase(200, "tp", 0.1)))
    assert time.monotonic() - before < 30


def test_a_strategy_looks_the_same_in_every_figure_and_unlike_the_others():
    def look(figure):
        line, = artists(figure, "points helix")
        return line.get_markerfacecolor(), line.get_marker()
    assert look(figures.draw(panel(staircase()))) == \
        look(figures.draw(panel(staircase(3, "tp") + staircase())))
    styles = [*style.STYLES.values(), style.OTHER]
    assert len({c for c, _ in styles}) == len({m for _, m in styles}) == len(styles)


def test_the_subtitle_says_what_where_and_how():
    text = " ".join(texts(figures.draw(panel(staircase()))))
    for word in ("tiny-llama", "context 4,096 tokens", "bf16", "8 ranks", "measured", "Z80, 2 cores",
                 "commit 0123456789ab"):
        assert word in text
    assert "not performance" not in text
    crowded = texts(figures.draw(panel(staircase(), oversubscribed=True)))
    assert any("exactness demo, not performance" in text for text in crowded)


def test_repeats_show_their_range():
    wide = point(repeats=3)
    wide["ttl_us"] = {"median": 1e4, "low": 9e3, "high": 2e4}
    figure = figures.draw(panel([wide]))
    bar, = artists(figure, "repeats")
    assert min(bar.get_xdata()) == pytest.approx(50)
    low, high = figure.axes[0].get_xlim()
    assert low < min(bar.get_xdata()) and max(bar.get_xdata()) < high
    assert "slowest to fastest launch" in texts(figure)
    assert "slowest to fastest launch" not in texts(figures.draw(panel(staircase())))


@pytest.mark.parametrize("points", [
    [point()], [point(), point()], [point(frontier=False, proof="failed")],
    [point(x=1e-9), point(x=1e9)],
    [point("a new strategy"), point("$\\frac{", label="$x_{$\n\x1b")],
    [point(x=100.0 + i / 1e6, y=50.0) for i in range(3)]])
def test_odd_panels_are_drawn(points, tmp_path):
    assert len(figures.make_figures(tmp_path, {"panels": [panel(points)]})) == 2


def test_the_same_results_give_the_same_bytes(tmp_path):
    frontier = written(tmp_path, [panel(staircase() + staircase(4, "tp", 0.7))])
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        done = command(tmp_path / name, "--frontier-json", frontier)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 2
        found.append([(tmp_path / name / "plots" / f"pareto.{kind}").read_bytes()
                      for kind in ("png", "svg")])
    assert found[0] == found[1]
    assert found[0][0].startswith(b"\x89PNG")


def test_each_panel_is_a_figure_named_by_what_differs(tmp_path):
    other = panel(staircase(), context="100–4096", kind="simulated")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "pareto-old.png").write_bytes(b"")
    panels = [panel(staircase()), other, copy.deepcopy(other)]
    made = figures.make_figures(tmp_path, {"panels": panels})
    assert {p.name for p in made} == {p.name for p in (tmp_path / "plots").iterdir()}
    assert len(made) == 6
    assert (tmp_path / "plots" / "pareto-4096-executed-whole.png") in made


@pytest.mark.parametrize("content", [
    "", "{", "[]", "{}", '{"schema": "helix-bench/frontier/1"}',
    '{"schema": "helix-bench/frontier/1", "panels": []}',
    '{"schema": "helix-bench/frontier/1", "panels": [{"points": []}]}',
    '{"schema": "helix-bench/frontier/1", "panels": [{"points": [1]}]}',
    '{"schema": "helix-bench/frontier/2", "panels": []}'])
def test_a_plot_of_nothing_is_one_line_and_exit_code_2(content, tmp_path):
    path = tmp_path / "frontier.json"
    path.write_text(content, encoding="utf-8")
    done = command(tmp_path, "--frontier-json", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "plots").exists()


def test_what_is_missing_is_one_line_and_exit_code_2(tmp_path):
    for arguments in ([tmp_path / "none"], [tmp_path, "--frontier-json", tmp_path / "none"],
                      [tmp_path, "--program", tmp_path / "none"], [tmp_path, "--program", "false"]):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_results_that_cannot_be_drawn_are_one_line(tmp_path):
    for name, lines, word in (
            ("empty", [], "no point was measured"),
            ("skipped", [line(status="skipped")], "no point was measured (1 skipped, 0 failed)"),
            ("newer", [line(schema="helix-bench/2.0"), line()], "newer"),
            ("nan", [line(ttl_us=float("nan")), line()], "results.jsonl:1")):
        one_line(analysis("figures", write_run(tmp_path / name, lines)), word)
        assert not (tmp_path / name / "plots").exists()
    torn = write_run(tmp_path / "torn", [line()], tail='{"schema": "helix')
    done = analysis("figures", torn)
    assert done.returncode == 0 and "cut off in writing" in done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_the_program_says_what_is_on_the_frontier(tmp_path):
    frontier = written(tmp_path, [panel(staircase())])
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "frontier --format json" ] && cat {frontier}\n')
    program.chmod(0o755)
    done = command(tmp_path, "--program", program)
    assert (done.returncode, done.stderr) == (0, "")
    program.write_text("#!/bin/sh\necho 'results.jsonl: no point was measured' >&2\nexit 2\n")
    done = command(tmp_path, "--program", program)
    assert (done.returncode, done.stderr) == (2, "results.jsonl: no point was measured\n")
