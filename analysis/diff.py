"""What became faster or slower between two runs of the same points, and what only looks so.

    /usr/bin/python3 -m analysis diff BEFORE AFTER

A point is better or worse when its TTL changed by more than `--threshold` and by more than the noise
of repeats explains: Welch's interval over the logarithms of the launches' medians. A point launched
once has no such noise; the spread of its steps stands in, widened, as launches differ more than
steps of one launch do. What cannot be told is ambiguous, and how many repeats would tell is said.
Exit 0: nothing is worse; 1: something is, or fails now; 2: bad input.
"""

import math
from dataclasses import dataclass, field

from analysis.results import (BadInput, environments_of, failed_verification, identity_of, lines_of,
                              results_file)
from analysis.style import clean

# Student's t for 99 %, two-sided, by degrees of freedom: of 100 unchanged points one is flagged, and
# then only where its change exceeds the threshold too.
T99 = (63.66, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012,
       2.977, 2.947, 2.921, 2.898, 2.878, 2.861, 2.845)
NORMAL99 = 2.576
# Launches differ more than the steps of one tell: 1.8 times for TPOT where others have measured it.
LAUNCH_OVER_STEPS = 1.8
MOST_LAUNCHES = 50  # advised
VERDICTS = ("worse", "ambiguous", "improved", "same")


def t99(freedom):
    return T99[int(freedom) - 1] if 1 <= freedom < len(T99) + 1 else NORMAL99


@dataclass
class Side:
    """One point's launches in one run."""
    line: dict = None  # the last one read
    medians_us: list = field(default_factory=list)
    step_spread: float = 0.0  # the widest standard deviation of log step time
    wrong: bool = False

    def add(self, line):
        self.line = line
        self.wrong |= failed_verification(line)
        ttl = line["ttl_us"]
        if not 0 < ttl["median"] < math.inf:
            raise ValueError(f"median {ttl['median']}")
        self.medians_us.append(ttl["median"])
        low, high = ttl.get("p05"), ttl.get("p95")
        if low and high:
            self.step_spread = max(self.step_spread, math.log(high / low) / (2 * 1.645))

    def moments(self):
        logs = [math.log(value) for value in self.medians_us]
        mean = sum(logs) / len(logs)
        return len(logs), mean, sum((value - mean) ** 2 for value in logs)


@dataclass
class Change:
    """log(after / before), and the half width within which noise moves it."""
    change: float
    noise: float
    spread: float  # of one launch
    launches: tuple

    def verdict(self, threshold):
        limit = math.log1p(threshold)
        low, high = self.change - self.noise, self.change + self.noise
        if -limit <= low and high <= limit:
            return "same"
        if low > 0:
            return "worse" if self.change > limit else "same"
        if high < 0:
            return "improved" if self.change < -limit else "same"
        return "ambiguous"

    def repeats_needed(self, threshold):
        """So many launches a side would tell a change of this size, or of the threshold's."""
        wanted = max(abs(self.change), math.log1p(threshold))
        return max(3, math.ceil(2 * (NORMAL99 * self.spread / wanted) ** 2) + 1)


def compare(before, after):
    (n, mean_a, squares_a), (m, mean_b, squares_b) = before.moments(), after.moments()
    change = mean_b - mean_a
    freedom = n + m - 2
    if n > 1 and m > 1:
        parts = squares_a / (n - 1) / n, squares_b / (m - 1) / m
        error = math.sqrt(sum(parts))
        bottom = parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1)
        freedom = sum(parts) ** 2 / bottom if bottom else freedom
        spread = math.sqrt((squares_a + squares_b) / (n + m - 2))
        return Change(change, t99(max(1, freedom)) * error, spread, (n, m))
    if freedom >= 1:  # one side has repeats: its spread is taken for both
        spread = math.sqrt((squares_a + squares_b) / freedom)
        quantile = t99(freedom)
    else:
        spread = LAUNCH_OVER_STEPS * max(before.step_spread, after.step_spread)
        quantile = NORMAL99
    return Change(change, quantile * spread * math.sqrt(1 / n + 1 / m), spread, (n, m))


def read_side(path, notes):
    """({point: Side}, {point: why it has none}) of a results file or folder."""
    last = {}
    for _, _, line in lines_of(path, notes):
        last[identity_of(line)] = line
    if not last:
        raise BadInput(f"{results_file(path)}: holds no line")
    sides, broken = {}, {}
    for identity, line in last.items():
        point = identity[:-1]
        if line["status"] == "ok":
            try:
                sides.setdefault(point, Side()).add(line)
            except (KeyError, TypeError, ValueError) as error:
                raise BadInput(f"{results_file(path)}: the line of {line['key']} has no TTL that "
                               f"can be read: {error!r}") from None
        else:
            broken[point] = f"{line['status']}: {line.get('reason')}"
    return sides, {point: why for point, why in broken.items() if point not in sides}


def name_of(line):
    point = line["point"]
    layout = point["layout"]
    widths = [f"{name.upper()}{layout[name]}" for name in ("pp", "dp", "kvp", "tpa", "tpf", "ep")
              if layout.get(name, 1) != 1]
    hop_b = f" HOP-B {point.get('chunks')}" if point.get("hop_b") else ""
    return clean(f"{point['model']} {layout['strategy']} {'·'.join(widths) or '1 rank'} "
                 f"B{point['batch']} S{point['context']}{hop_b}", 70)


def grown_most(before, after):
    """"exchange +31 %": the task that adds most to the time."""
    a, b = before.line.get("tasks_us") or {}, after.line.get("tasks_us") or {}
    grown = {task: b[task] - a[task] for task in a if task in b and a[task]}
    if not grown or max(grown.values()) <= 0:
        return ""
    task = max(grown, key=grown.get)
    return f"{clean(task, 30)} {grown[task] / a[task]:+.0%}"


def percent(log_change):
    return f"{math.expm1(log_change):+.1%}"


def noise_words(log_noise):
    return f"±{math.expm1(log_noise):.1%}" if log_noise < math.log(10) else "beyond 10x"


@dataclass
class Difference:
    rows: list  # (verdict, point, before, after, Change or None)
    lost: dict  # points of BEFORE that AFTER has not measured: why
    new: int

    @property
    def counts(self):
        return {verdict: sum(row[0] == verdict for row in self.rows) for verdict in VERDICTS}

    @property
    def failed(self):
        return [point for point, why in self.lost.items() if why.startswith("failed")]

    @property
    def regressed(self):
        return bool(self.counts["worse"] or self.failed)


def difference(before, after, threshold):
    """Of (sides, broken) each."""
    rows = []
    for point, old in before[0].items():
        new = after[0].get(point)
        if new is None:
            continue
        change = compare(old, new)
        verdict = "worse" if new.wrong and not old.wrong else change.verdict(threshold)
        rows.append((verdict, point, old, new, change))
    lost = {point: after[1].get(point, "not run") for point in before[0] if point not in after[0]}
    rows.sort(key=lambda row: (VERDICTS.index(row[0]), -abs(row[4].change)))
    return Difference(rows, lost, sum(point not in before[0] for point in after[0]))


def advice(diff, after_path, threshold):
    """What to do next, a line each."""
    file = results_file(after_path)
    wrong = [row for row in diff.rows if row[3].wrong and not row[2].wrong]
    for _, point, _, _, _ in wrong[:3]:
        yield (f"the logits of {point[0]} are wrong now: `helix-bench run --from {file}#{point[0]} "
               "-o again` shows whether they stay so; speed does not matter until they are right")
    for _, point, old, new, change in [row for row in diff.rows
                                       if row[0] == "worse" and row not in wrong][:3]:
        grown = grown_most(old, new)
        yield (f"{point[0]} is slower by {percent(change.change)}"
               f"{': most in ' + grown if grown else ''}; again: "
               f"`helix-bench run --from {file}#{point[0]} --trace trace.json -o again`")
    unclear = [row[4] for row in diff.rows if row[0] == "ambiguous"]
    if unclear:
        needed = sorted(change.repeats_needed(threshold) for change in unclear)
        have = min(min(change.launches) for change in unclear)
        spread, count = max(change.spread for change in unclear), needed[len(needed) // 2]
        said = f"ambiguous: launches differ by {spread:.1%}. "
        if count > MOST_LAUNCHES:
            yield (f"{said}No number of launches worth its time tells {threshold:.0%} apart: give the runs a machine of their own, "
                   f"or ask for larger changes (--threshold {min(0.99, 2 * spread):.2f})")
        else:
            yield (f"{said}About {count} launches a side (now {have}) would tell: run both again "
                   f"with `--repeat {have + 1}`, `--repeat {have + 2}`, …")
    broken = [point for point, why in diff.lost.items() if why != "not run"]
    if broken:
        yield f"{len(broken)} points that ran before do not run now: {diff.lost[broken[0]]}"
    if not (unclear or diff.counts["worse"] or diff.lost):
        yield "nothing: no point is slower than noise explains"


def machine_words(path):
    """{"EPYC, commit 0123"} of all environments beside a results file."""
    words = set()
    for facts in environments_of(path).values():
        machine, build = facts.get("machine") or {}, facts.get("build") or {}
        gpus = machine.get("gpus") or []
        words.add(clean(f"{len(gpus)} x {gpus[0]}" if gpus else machine.get("cpu", "unknown")))
    return words


def to_text(diff, paths, threshold, every=False):
    """The table, and what to do next."""
    before, after = map(machine_words, paths)
    text = []
    if before != after:
        text.append(f"note: not the same hardware: {', '.join(sorted(before)) or 'unknown'} before, "
                    f"{', '.join(sorted(after)) or 'unknown'} after")
    rows = [["verdict", "key", "point", "before ms", "after ms", "change", "noise", "launches"]]
    for verdict, point, old, new, change in diff.rows:
        if verdict == "same" and not every:
            continue
        rows.append([verdict + (", logits wrong" if new.wrong else ""), clean(point[0], 16),
                     name_of(new.line),
                     *(f"{math.exp(side.moments()[1]) / 1e3:.4g}" for side in (old, new)),
                     percent(change.change), noise_words(change.noise),
                     f"{change.launches[0]}, {change.launches[1]}"])
    widths = [max(map(len, column)) for column in zip(*rows)]
    if len(rows) > 1:
        text += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                 for row in rows]
        text.append("")
    counts = diff.counts
    text.append(", ".join(f"{counts[v]} {v}" for v in ("improved", "worse", "same", "ambiguous")) +
                f" (threshold {threshold:.0%}); {len(diff.lost)} only before, {diff.new} only after")
    return "\n".join([*text, *("next: " + line for line in advice(diff, paths[1], threshold))])


def diff_runs(paths, threshold, notes):
    sides = [read_side(path, notes) for path in paths]
    found = difference(*sides, threshold)
    if not found.rows and not found.failed:
        raise BadInput(f"{results_file(paths[1])}: has no point in common with "
                       f"{results_file(paths[0])}: results of different sweeps")
    return found
