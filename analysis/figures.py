"""Pareto plots of a results folder, as PNG and SVG in its plots/.

    /usr/bin/python3 -m analysis figures results/NAME [--frontier-json FILE]
"""

import math
import re
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
# Names come out of files: a dollar sign in one is no formula. Nothing of today is in a figure.
matplotlib.rcParams.update({
    "text.parse_math": False, "svg.hashsalt": "helix-bench", "font.family": "DejaVu Sans",
    "font.size": 9, "axes.edgecolor": "#888888", "axes.labelcolor": "#333333",
    "xtick.color": "#444444", "ytick.color": "#444444", "legend.fontsize": 9})

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.legend_handler import HandlerTuple  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.markers import MarkerStyle  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402
from matplotlib.transforms import Affine2D  # noqa: E402

from analysis.labels import place_labels  # noqa: E402
from analysis.results import BadInput  # noqa: E402
from analysis.style import GREY, INK, clean, letters_of, style_of  # noqa: E402


def frame_of(points):
    """A row a point, and for one on a frontier that was launched several times what of its place
    the slowest and the fastest launch reach."""
    frame = pd.DataFrame(points)
    ttl = pd.DataFrame(list(frame.ttl_us))
    repeated = frame.frontier & (frame.repeats > 1) & (ttl.high > ttl.low)
    return frame.assign(repeated=repeated, slowest=(ttl["median"] / ttl.high).where(repeated, 1.0),
                        fastest=(ttl["median"] / ttl.low).where(repeated, 1.0))


def pairs(points):
    return list(zip(points.x, points.y))


def label_of(point):
    return clean(", ".join(filter(None, [point.label, f"B{point.batch}", point.options])))


def span(values):
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low}–{high}"


def subtitle_of(panel):
    """Under which load, and how and where the numbers came about."""
    context = panel["context"]
    load = [f"context {int(context):,} tokens" if context.isdecimal() else f"context {context} tokens",
            f"{span([p['ranks'] for p in panel['points']])} {panel['unit']}s"]
    if panel["routing"]:
        load.append(f"routing {panel['routing']}")
    simulated = panel["kind"] == "simulated"
    how = "simulated" if simulated else f"measured ({panel['kind']}, {panel['executor']})"
    where = panel["machine"] or panel["hardware"]
    commits = ", ".join(panel["commits"])
    return (clean(", ".join([panel["model"], *load]), 110),
            clean(f"{panel['precision']}, {how} on {where}, commit {commits}", 170))


def ticks(low, high):
    """Round numbers, at least three where the axis has them."""
    for steps in ([1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7], [1 + i / 10 for i in range(90)]):
        found = [step * 10.0 ** decade for decade in range(-12, 16) for step in steps]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) >= 3:
            return found[::len(found) // 10 + 1]
    return found


def scale_axis(axis, values, set_limits, room):
    """Logarithmic, with `room` (below, above) as a share of the range."""
    low, high = min(values), max(values)
    if high / low < 2:
        middle = (low * high) ** 0.5
        low, high = middle / 1.5, middle * 1.5
    width = high / low
    low, high = low / width ** room[0], high * width ** room[1]
    set_limits(low, high)
    axis.set_major_locator(FixedLocator(ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def by_x(points):
    return points.sort_values(["x", "y"], ascending=[True, False])


def draw_hull(axes, points):
    """What the Baseline's strategies reach together, shaded."""
    hull = by_x(points[points.hull])
    if len(hull):
        left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
        axes.fill_between([left, *hull.x], [hull.y.iloc[0], *hull.y], bottom, step="pre",
                          color="#8a8a8a", alpha=0.13, lw=0, zorder=0, gid="hull")


def draw_points(axes, points):
    """What stands on no frontier: small where a better point was found, hollow where nothing was
    proven, hollow and crossed where the logits were wrong."""
    for (strategy, proof), mine in points[~points.frontier].groupby(["strategy", "proof"]):
        at = mine.x, mine.y
        color, marker = style_of(strategy)
        if proof in ("verified", "simulated"):
            axes.plot(*at, marker, ms=4, mfc=color, mec="none", alpha=0.3, zorder=2,
                      gid="dominated")
            continue
        axes.plot(*at, marker, ms=6.5, mfc="none", mec=color, mew=1.1, zorder=4, gid="hollow")
        if proof == "failed":
            axes.plot(*at, "x", ms=4, mec=color, mew=1.1, zorder=4)


def draw_repeats(axes, point, color):
    """From the slowest to the fastest launch; both axes follow the TTL, so that the bar leans."""
    xs, ys = ([at * end for end in (point.slowest, point.fastest)] for at in (point.x, point.y))
    (x0, y0), (x1, y1) = axes.transData.transform(list(zip(xs, ys)))
    cap = MarkerStyle("|", transform=Affine2D().rotate(math.atan2(y1 - y0, x1 - x0)))
    axes.plot(xs, ys, "-", marker=cap, ms=9, mew=1.2, color=color, lw=1.2, alpha=0.8, zorder=3,
              gid="repeats")


def draw_frontier(axes, strategy, curve, dashed):
    """A step line: between two points nothing was measured, and the better of both holds."""
    color, marker = style_of(strategy)
    axes.plot(curve.x, curve.y, "--" if dashed else "-", drawstyle="steps-pre", color=color, lw=1.6,
              zorder=5, gid=f"frontier {strategy}")
    # What the ends dominate.
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    (x0, y0), (x1, y1) = pairs(curve)[0], pairs(curve)[-1]
    for line in (([left, x0], [y0, y0]), ([x1, x1], [y1, bottom])):
        axes.plot(*line, ":", color=color, lw=0.9, alpha=0.6, zorder=1)
    for point in curve[curve.repeated].itertuples():
        draw_repeats(axes, point, color)
    axes.plot(curve.x, curve.y, marker, ms=7.5, mfc=color, mec="white", mew=0.9, zorder=6,
              gid=f"points {strategy}")


def draw_legend(figure, points):
    handles = []
    for strategy in sorted(set(points.strategy)):
        color, marker = style_of(strategy)
        handles.append(Line2D([], [], color=color, marker=marker, ms=7, mec="white", lw=1.6,
                              label=clean(strategy, 30)))
    hollow = {"marker": "o", "ls": "none", "ms": 6.5, "mfc": "none", "mec": GREY}
    proofs = set(points.proof)
    labels = [handle.get_label() for handle in handles]
    if (~points.frontier & points.proof.isin(("verified", "simulated"))).any():
        handles.append(Line2D([], [], marker="o", ls="none", ms=4, mfc=GREY, mec="none", alpha=0.5))
        labels.append("dominated")
    if "unverified" in proofs:
        handles.append(Line2D([], [], **hollow))
        labels.append("not verified")
    if "failed" in proofs:
        handles.append((Line2D([], [], **hollow),
                        Line2D([], [], marker="x", ls="none", ms=4, mec=GREY)))
        labels.append("failed verification")
    if points.repeated.any():
        handles.append(Line2D([], [], color=GREY, marker="|", ms=9, lw=1.2))
        labels.append("slowest to fastest launch")
    if points.hull.any():
        handles.append(Patch(color="#8a8a8a", alpha=0.2, lw=0))
        labels.append("within the Baseline's reach")
    else:
        handles.append(Patch(alpha=0))
        labels.append("no Baseline point here")
    figure.legend(handles, labels, handler_map={tuple: HandlerTuple(ndivide=1)},
                  loc="lower left", bbox_to_anchor=(0.075, 0.822), frameon=False,
                  ncol=len(handles) if len(handles) < 9 else (len(handles) + 1) // 2,
                  columnspacing=1.6, handletextpad=0.5, borderaxespad=0)


def draw(panel):
    """The figure of one panel."""
    points = frame_of(panel["points"])
    figure = Figure(figsize=(11, 7), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.085, 0.895, 0.725))
    axes.set_xscale("log")
    axes.set_yscale("log")
    reach = 1.0, points.slowest, points.fastest
    scale_axis(axes.xaxis, pd.concat(points.x * end for end in reach), axes.set_xlim, (0.04, 0.26))
    scale_axis(axes.yaxis, pd.concat(points.y * end for end in reach), axes.set_ylim, (0.05, 0.08))
    axes.grid(color="#e8e8e8", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)
    axes.set_xlabel("Interactivity (tokens/s/user)")
    axes.set_ylabel(f"Output token throughput per {panel['unit']} (tokens/s/{panel['unit']})")
    draw_hull(axes, points)
    draw_points(axes, points)
    curves = dict(list(by_x(points[points.frontier]).groupby("strategy")))
    for strategy, curve in curves.items():
        draw_frontier(axes, strategy, curve, panel["kind"] == "simulated")
    labels = [(p.x, p.y, label_of(p), f"B{p.batch}", letters_of(strategy))
              for strategy, curve in curves.items() for p in curve.itertuples()]
    # Of very many points some are labelled, and pale ones may lie under a label.
    seen = points[points.frontier | (points.proof == "unverified") | (len(points) < 500)]
    place_labels(axes, labels[::len(labels) // 60 + 1], pairs(seen), map(pairs, curves.values()))
    load, how = subtitle_of(panel)
    figure.text(0.035, 0.955, "Throughput against interactivity: " + load, size=12.5, weight="bold",
                color=INK)
    figure.text(0.035, 0.922, how, size=9.5, color=GREY)
    if panel["oversubscribed"]:
        figure.text(0.035, 0.894, "exactness demo, not performance: more ranks than cores",
                    size=9.5, weight="bold", color="#A3320B")
    draw_legend(figure, points)
    return figure


def file_name(panel, panels):
    """pareto, and what tells the panel from the others."""
    parts = ["pareto"]
    for field in ("model", "context", "precision", "routing", "kind", "executor", "machine",
                  "hardware", "unit"):
        if len({str(p[field]) for p in panels}) > 1:
            parts.append(re.sub(r"[^a-z0-9.]+", "-", str(panel[field]).lower()).strip("-.")[:40])
    return "-".join(filter(None, parts))


def save(figure, path):
    figure.savefig(path.with_name(path.name + ".png"), metadata={"Software": None})
    figure.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None, "Creator": None})


def draw_all(results, frontier):
    """{file name: figure} of each panel."""
    try:
        panels = [panel for panel in frontier["panels"] if panel["points"]]
        figures = {}
        for panel in panels:
            name = file_name(panel, panels)
            while name in figures:
                name += "-2"
            figures[name] = draw(panel)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"{results}: no frontier that can be drawn: {error!r}") from None
    if not figures:
        raise BadInput(f"{results}: nothing to draw, no point was measured")
    return figures


def make_figures(results, frontier):
    """Draws each panel into results/plots; the paths of what was made."""
    figures = draw_all(results, frontier)
    plots = Path(results, "plots")
    plots.mkdir(exist_ok=True)
    for old in [*plots.glob("pareto*.png"), *plots.glob("pareto*.svg")]:
        old.unlink()
    for name, figure in figures.items():
        save(figure, plots / name)
    return [plots / f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
