"""What became faster or slower between two runs of the same points, and what only looks so.

    /usr/bin/python3 -m analysis diff BEFORE AFTER

A point is better or worse when its TTL changed by more than `--threshold` and by more than the noise
of repeats explains: Welch's interval over the logarithms of the launches' medians. A point launched
once has no such noise; the spread of its steps stands in, widened, as launches differ more than
steps of one launch do. What cannot be told is ambiguous, and how many repeats would tell is said.
Exit 0: nothing is worse; 1: something is, or fails now; 2: bad input.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.results import (IDENTITY, BadInput, environments_of, failed_verification, identity_of,
                              lines_of, results_file)
from analysis.style import clean

# Student's t for 99 %, two-sided, by degrees of freedom: of 100 unchanged points one is flagged, and
# then only where its change exceeds the threshold too. Without repeats (0) a normal one stands in.
NORMAL99 = 2.576
T99 = np.array([NORMAL99, 63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169,
                3.106, 3.055, 3.012, 2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845, NORMAL99])
# Launches differ more than the steps of one tell: 1.8 times for TPOT where others have measured it.
LAUNCH_OVER_STEPS = 1.8
MOST_LAUNCHES = 50  # advised
VERDICTS = ("worse", "ambiguous", "improved", "same")
POINT = list(IDENTITY[:-1])  # what repeats have in common


def t99(freedom):
    return T99[np.minimum(np.floor(freedom + 1e-6), len(T99) - 1).astype(int)]


def launch_of(line):
    """What is compared of a launch: the logarithm of its median TTL, and its steps' spread."""
    if line["status"] != "ok":
        return {"log_us": math.nan, "steps": 0.0, "wrong": False, "line": None,
                "failure": f"{line['status']}: {line.get('reason')}"}
    ttl = line["ttl_us"]
    if not 0 < ttl["median"] < math.inf:
        raise ValueError(f"median {ttl['median']}")
    low, high = ttl.get("p05"), ttl.get("p95")
    return {"log_us": math.log(ttl["median"]), "wrong": failed_verification(line), "line": line,
            "failure": None, "steps": math.log(high / low) / (2 * 1.645) if low and high else 0.0}


def read_points(path, notes):
    """A row each point of a results file or folder: how its launches came out, and the last line of
    one that did. `launches` is 0 where none did, and `failure` says why."""
    last = {identity_of(line): line for _, _, line in lines_of(path, notes)}
    if not last:
        raise BadInput(f"{results_file(path)}: holds no line")
    rows = []
    for identity, line in last.items():
        try:
            rows.append({**dict(zip(IDENTITY, identity)), **launch_of(line)})
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{results_file(path)}: the line of {line['key']} has no TTL that "
                           f"can be read: {error!r}") from None
    return pd.DataFrame(rows).groupby(POINT, sort=False).agg(
        launches=("log_us", "count"), log_us=("log_us", "mean"), variance=("log_us", "var"),
        steps=("steps", "max"), wrong=("wrong", "any"), failure=("failure", "last"),
        line=("line", "last"))


def compare(points, threshold):
    """Adds what a point's TTL has become: `change` = log(after / before), the `noise` within which it
    is moved by chance, the `spread` of one launch, the verdict, and how many launches a side would
    tell a change of this size, or of the threshold's."""
    n, m = points.launches, points.launches_after
    parts = points.variance / n, points.variance_after / m  # NaN where launched once
    repeats = n + m - 2
    squares = points.variance.fillna(0) * (n - 1) + points.variance_after.fillna(0) * (m - 1)
    steps = points[["steps", "steps_after"]].max(axis=1)
    spread = np.sqrt(squares / repeats).fillna(LAUNCH_OVER_STEPS * steps)
    # Welch's; where one side has repeats alone, its spread is taken for both.
    error = np.sqrt(sum(parts)).fillna(spread * np.sqrt(1 / n + 1 / m))
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1))
    noise = t99(freedom.fillna(repeats)) * error
    change, limit = points.log_us_after - points.log_us, math.log1p(threshold)
    verdict = np.select(
        [points.wrong_after & ~points.wrong, change.abs() + noise <= limit,
         change > np.maximum(noise, limit), -change > np.maximum(noise, limit), change.abs() > noise],
        ["worse", "same", "worse", "improved", "same"], "ambiguous")
    wanted = np.maximum(change.abs(), limit)
    return points.assign(
        change=change, noise=noise, spread=spread,
        verdict=pd.Categorical(verdict, VERDICTS, ordered=True),
        repeats_needed=np.ceil(2 * (NORMAL99 * spread / wanted) ** 2).add(1).clip(lower=3))


@dataclass
class Difference:
    points: pd.DataFrame  # measured in both runs, what is worst first
    lost: pd.Series  # why points of BEFORE were not measured in AFTER
    new: int

    @property
    def counts(self):
        return self.points.verdict.value_counts()

    @property
    def failed(self):
        return self.lost[self.lost.str.startswith("failed")]

    @property
    def regressed(self):
        return bool(self.counts["worse"] or len(self.failed))


def difference(before, after, threshold):
    """Of what `read_points` gave of each run."""
    before, measured = before[before.launches > 0], after[after.launches > 0]
    points = compare(before.join(measured, how="inner", rsuffix="_after"), threshold)
    lost = before.index.difference(measured.index, sort=False)
    return Difference(
        points.sort_values("change", key=lambda change: -change.abs(), kind="stable").sort_values(
            "verdict", kind="stable"),
        after.failure.reindex(lost).fillna("not run").astype(str),
        len(measured.index.difference(before.index)))


def name_of(line):
    point = line["point"]
    layout = point["layout"]
    widths = [f"{name.upper()}{layout[name]}" for name in ("pp", "dp", "kvp", "tpa", "tpf", "ep")
              if layout.get(name, 1) != 1]
    hop_b = f" HOP-B {point.get('chunks')}" if point.get("hop_b") else ""
    return clean(f"{point['model']} {layout['strategy']} {'·'.join(widths) or '1 rank'} "
                 f"B{point['batch']} S{point['context']}{hop_b}", 70)


def grown_most(before, after):
    """"exchange +31 %": the task that adds most to the time between two lines."""
    a, b = before.get("tasks_us") or {}, after.get("tasks_us") or {}
    grown = {task: b[task] - a[task] for task in a if task in b and a[task]}
    if not grown or max(grown.values()) <= 0:
        return ""
    task = max(grown, key=grown.get)
    return f"{clean(task, 30)} {grown[task] / a[task]:+.0%}"


def percent(log_change):
    return f"{math.expm1(log_change):+.1%}"


def noise_words(log_noise):
    return f"±{math.expm1(log_noise):.1%}" if log_noise < math.log(10) else "beyond 10x"


def advice(diff, after_path, threshold):
    """What to do next, a line each."""
    file, points = results_file(after_path), diff.points.reset_index()
    wrong = points.wrong_after & ~points.wrong
    for key in points.key[wrong][:3]:
        yield (f"the logits of {key} are wrong now: `helix-bench run --from {file}#{key} "
               "-o again` shows whether they stay so; speed does not matter until they are right")
    for point in points[(points.verdict == "worse") & ~wrong][:3].itertuples():
        grown = grown_most(point.line, point.line_after)
        yield (f"{point.key} is slower by {percent(point.change)}"
               f"{': most in ' + grown if grown else ''}; again: "
               f"`helix-bench run --from {file}#{point.key} --trace trace.json -o again`")
    unclear = points[points.verdict == "ambiguous"]
    if len(unclear):
        have = min(*unclear.launches, *unclear.launches_after)
        spread, count = unclear.spread.max(), sorted(unclear.repeats_needed)[len(unclear) // 2]
        said = f"ambiguous: launches differ by {spread:.1%}. "
        if count > MOST_LAUNCHES:
            yield (f"{said}No number of launches worth its time tells {threshold:.0%} apart: give the runs a machine of their own, "
                   f"or ask for larger changes (--threshold {min(0.99, 2 * spread):.2f})")
        else:
            yield (f"{said}About {count:.0f} launches a side (now {have}) would tell: run both again "
                   f"with `--repeat {have + 1}`, `--repeat {have + 2}`, …")
    broken = diff.lost[diff.lost != "not run"]
    if len(broken):
        yield f"{len(broken)} points that ran before do not run now: {broken.iloc[0]}"
    if not (len(unclear) or diff.counts["worse"] or len(diff.lost)):
        yield "nothing: no point is slower than noise explains"


def machine_words(path):
    """{"EPYC, commit 0123"} of all environments beside a results file."""
    words = set()
    for facts in environments_of(path).values():
        machine, build = facts.get("machine") or {}, facts.get("build") or {}
        gpus = machine.get("gpus") or []
        words.add(clean(f"{len(gpus)} x {gpus[0]}" if gpus else machine.get("cpu", "unknown")))
    return words


def table(points):
    rows = [{"verdict": point.verdict + (", logits wrong" if point.wrong_after else ""),
             "key": clean(point.key, 16), "point": name_of(point.line_after),
             "before ms": f"{math.exp(point.log_us) / 1e3:.4g}",
             "after ms": f"{math.exp(point.log_us_after) / 1e3:.4g}",
             "change": percent(point.change), "noise": noise_words(point.noise),
             "launches": f"{point.launches}, {point.launches_after}"}
            for point in points.reset_index().itertuples()]
    columns = [[name, *column] for name, column in pd.DataFrame(rows).items()]
    widths = [max(map(len, column)) for column in columns]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in zip(*columns)]


def to_text(diff, paths, threshold, every=False):
    """The table, and what to do next."""
    before, after = map(machine_words, paths)
    text = []
    if before != after:
        text.append(f"note: not the same hardware: {', '.join(sorted(before)) or 'unknown'} before, "
                    f"{', '.join(sorted(after)) or 'unknown'} after")
    shown = diff.points if every else diff.points[diff.points.verdict != "same"]
    if len(shown):
        text += [*table(shown), ""]
    counts = ", ".join(f"{diff.counts[v]} {v}" for v in ("improved", "worse", "same", "ambiguous"))
    text.append(f"{counts} (threshold {threshold:.0%}); {len(diff.lost)} only before, {diff.new} only after")
    return "\n".join([*text, *("next: " + line for line in advice(diff, paths[1], threshold))])


def diff_runs(paths, threshold, notes):
    found = difference(*(read_points(path, notes) for path in paths), threshold)
    if found.points.empty and found.failed.empty:
        raise BadInput(f"{results_file(paths[1])}: has no point in common with "
                       f"{results_file(paths[0])}: results of different sweeps")
    return found
