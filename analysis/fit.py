"""A machine file held against rows that others measured, and its fitted factors found from them.

    /usr/bin/python3 -m analysis accuracy results/published/gb300-rows.json --machine gb300-nvl72

The program prices the rows; here its factors are only turned. Those that the machine file marks as
"fitted" are free, at most four. Errors are of tokens/s/user, simulated against measured; a row's
leave-one-out error is that of factors found without it.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from analysis.results import BadInput, read_json

MOST_FACTORS = 4
STEP = 0.01  # of a factor's logarithm, for its derivative
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def machine_path(name):
    return Path(name) if "/" in name or name.endswith(".json") else CONFIGS / f"machines/{name}.json"


def fitted_factors(machine):
    names = [key for key, factor in machine["factors"].items() if factor["from"] == "fitted"]
    if not 1 <= len(names) <= MOST_FACTORS:
        raise BadInput(f"{machine['name']} has {len(names)} fitted factors, "
                       f"allowed are 1 to {MOST_FACTORS}")
    return names


def read_rows(path):
    rows = read_json(path)
    if rows.get("schema") != "helix-bench/rows/1":
        raise BadInput(f"{path}: /schema: is not helix-bench/rows/1")
    return rows


def label_of(point):
    widths = [f"{key.upper()} {point[key]}" for key in ("dp", "kvp", "tpa", "tpf", "ep")
              if point.get(key, 1) > 1]
    return f"{point['strategy']} {' '.join(widths)}, batch {point['batch']}"


class Simulator:
    """Tokens/s/user of the rows' points, by the program, with some factors of a machine changed."""

    def __init__(self, rows, machine, program):
        self.points = [row["point"] for row in rows["rows"]]
        self.sweep = {"schema": "helix-bench/sweep/1", "name": "rows", **rows["sweep"],
                      "points": self.points}
        self.machine = machine
        self.program = program

    def price(self, factors):
        machine = json.loads(json.dumps(self.machine))
        for name, value in factors.items():
            machine["factors"][name]["value"] = float(value)
        with tempfile.TemporaryDirectory() as folder:
            files = {"sweep": self.sweep, "machine": machine}
            for name, content in files.items():
                Path(folder, f"{name}.json").write_text(json.dumps(content))
            done = subprocess.run(
                [self.program, "simulate", f"{folder}/sweep.json", "--machine",
                 f"{folder}/machine.json", "-o", f"{folder}/results"],
                capture_output=True, text=True)
            if done.returncode:
                raise BadInput(done.stderr.strip())
            lines = [json.loads(line) for line in Path(folder, "results/results.jsonl").open()]
        return np.array([self.line_of(point, lines)["tokens_per_s_per_user"]
                         for point in self.points])

    @staticmethod
    def line_of(point, lines):
        def says(line, key):
            facts = {**line["point"]["layout"], "batch": line["point"]["batch"],
                     "ranks": line["ranks"]}
            return facts[key]
        found = [one for one in lines if all(says(one, key) == point[key] for key in point)]
        if len(found) != 1 or found[0]["status"] != "ok":
            raise BadInput(f"{label_of(point)}: " + (found[0]["reason"] if len(found) == 1 else
                                                     f"{len(found)} lines are of this row"))
        return found[0]


def fit(simulator, names, start, measured, rows, rounds):
    """Gauss-Newton on the logarithms: the sum of the squared relative errors of `rows`."""
    most = np.log([1.0 if name.endswith("efficiency") else 1e6 for name in names])
    x = np.log(start)
    for _ in range(rounds):
        price = lambda logs: np.log(simulator.price(dict(zip(names, np.exp(logs)))))
        here = price(x)
        slopes = np.array([(here - price(x - STEP * unit)) / STEP for unit in np.eye(len(names))]).T
        change = np.linalg.lstsq(slopes[rows], (np.log(measured) - here)[rows], rcond=None)[0]
        x = np.minimum(x + np.clip(change, -0.7, 0.7), most)
    return dict(zip(names, np.exp(x)))


def leave_one_out(simulator, names, start, measured):
    errors = []
    for row in range(len(measured)):
        others = [i for i in range(len(measured)) if i != row]
        found = fit(simulator, names, start, measured, others, rounds=2)
        errors.append(simulator.price(found)[row] / measured[row] - 1)
    return np.array(errors)


def write_factors(path, factors):
    """The values alone: everything else in the file stays as it is written."""
    text = path.read_text()
    for name, value in factors.items():
        text, count = re.subn(rf'("{name}": {{\s*"value": )[^,]+', rf"\g<1>{value:.4g}", text)
        assert count == 1, name
    path.write_text(text)


def table(labels, measured, simulated, left_out):
    rows = [("row", "measured tok/s/user", "simulated", "error", "left out")]
    for label, real, ours, alone in zip(labels, measured, simulated, left_out):
        rows.append((label, f"{real:.2f}", f"{ours:.2f}", f"{ours / real - 1:+.1%}",
                     "" if np.isnan(alone) else f"{alone:+.1%}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))) for row in rows]
    for what, errors in (("", simulated / measured - 1), ("left out: ", left_out)):
        if not np.isnan(errors).any():
            sizes = abs(errors)
            lines.append(f"{what}median {np.median(sizes):.1%}, worst {sizes.max():.1%}")
    return "\n".join(lines)


def plot(path, machine, labels, measured, simulated):
    from analysis import figures  # sets matplotlib up
    figure = figures.Figure(figsize=(6.5, 6))
    figures.FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", yscale="log")
    values = [*measured, *simulated]
    for axis, set_limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        figures.scale_axis(axis, values, set_limits, room=(0.1, 0.1))
    ends = axes.get_xlim()
    axes.plot(ends, ends, color=figures.GREY, lw=1, label="equal")
    axes.fill_between(ends, [0.92 * end for end in ends], [1.08 * end for end in ends],
                      color=figures.GREY, alpha=0.15, lw=0, label="within 8 %")
    middle = np.sqrt(ends[0] * ends[1])
    for label, x, y in zip(labels, measured, simulated):
        color, marker = figures.style_of(label.split()[0])
        axes.plot(x, y, marker, color=color, ms=6)
        side = 1 if x < middle else -1  # into the figure, and away from the line
        axes.annotate(label, (x, y), (9 * side, -3 - 7 * side), textcoords="offset points", fontsize=7,
                      ha="left" if side > 0 else "right")
    axes.set(xlabel="measured tokens/s/user", ylabel="simulated tokens/s/user",
             title=f"Simulated on {machine} against measured")
    axes.legend(loc="upper left")
    figure.tight_layout()
    path.mkdir(parents=True, exist_ok=True)
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        figure.savefig(path / f"parity.{kind}", dpi=150, metadata=metadata)


def run(options):
    path = machine_path(options.machine)
    machine = read_json(path)
    rows = read_rows(options.rows)
    simulator = Simulator(rows, machine, options.program)
    measured = np.array([row["tokens_per_s_per_user"] for row in rows["rows"]])
    names = fitted_factors(machine)
    factors = {name: machine["factors"][name]["value"] for name in names}
    if options.fit:
        factors = fit(simulator, names, list(factors.values()), measured, range(len(measured)), 5)
        factors = {name: float(f"{value:.4g}") for name, value in factors.items()}
        write_factors(path, factors)
    simulated = simulator.price(factors)
    left_out = np.full(len(measured), np.nan)
    if options.leave_one_out:
        left_out = leave_one_out(simulator, names, list(factors.values()), measured)
    labels = [label_of(point) for point in simulator.points]
    print(f"{machine['name']}: fitted "
          + ", ".join(f"{name} {value:.4g}" for name, value in factors.items()))
    print(table(labels, measured, simulated, left_out))
    plot(options.output, machine["name"], labels, measured, simulated)
    print(options.output / "parity.png")
    return 0
