"""The paper's figures, drawn from what `helix-bench claims -o DIR` wrote: DIR/plots/*.png, *.svg.

    /usr/bin/python3 -m analysis.paper results/paper
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures import Figure, FigureCanvasAgg, save, scale_axis
from analysis.labels import place_labels
from analysis.results import BadInput, read_json
from analysis.style import GREY, INK, clean, letters_of, style_of

SCHEMA = "helix-bench/paper/1"
PER_USER = "Interactivity (tokens/s/user)"
PER_GPU = "Output token throughput per GPU (tokens/s/GPU)"


def new_figure(title, subtitle, panels=1):
    """A figure with axes side by side."""
    figure = Figure(figsize=(11, 7) if panels == 1 else (12, 6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.035, 0.955, clean(title, 120), size=12.5, weight="bold", color=INK)
    figure.text(0.035, 0.917, clean(subtitle, 180), size=9.5, color=GREY)
    room = 0.9 / panels
    height = 0.71 if panels == 1 else 0.68  # panels have titles of their own
    return figure, [figure.add_axes((0.08 + i * (room + 0.01), 0.1, room - 0.05 * (panels > 1), height))
                    for i in range(panels)]


def plain(axes, x_label, y_label):
    axes.grid(color="#e8e8e8", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def log_axes(axes, dots):
    axes.set_xscale("log")
    axes.set_yscale("log")
    scale_axis(axes.xaxis, [d["x"] for d in dots], axes.set_xlim, (0.03, 0.16))
    scale_axis(axes.yaxis, [d["y"] for d in dots], axes.set_ylim, (0.03, 0.08))
    plain(axes, PER_USER, PER_GPU)


def key(canvas, handles):
    """In a row under the title."""
    canvas.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.07, 0.885), frameon=False,
                  ncol=len(handles), columnspacing=1.4, handletextpad=0.5)


def line_of(name, color, marker, line="-"):
    return Line2D([], [], color=color, marker=marker, ls=line, ms=6, mec="white", label=name)


def step(axes, dots, color, marker, line="--"):
    """A frontier; dashed, as all simulated ones are."""
    xs, ys = [d["x"] for d in dots], [d["y"] for d in dots]
    axes.plot(xs, ys, line, drawstyle="steps-pre", color=color, lw=1.5, zorder=4)
    axes.plot(xs, ys, marker, ms=5, mfc=color, mec="white", mew=0.6, zorder=5)


def words(dot):
    chunks = f", HOP-B {dot['chunks']}" if dot["chunks"] > 1 else ""
    return clean(f"{dot['label']}, B{dot['batch']}{chunks}")


def load_of(figure):
    precision = figure["precision"]
    formats = sorted({v for k, v in precision.items() if k != "activations"})
    low, high = figure["gpus"]
    return f"{'/'.join(formats)} weights and KV, {low if low == high else f'{low}–{high}'} GPUs"


def in_thousands(tokens):
    return f"{tokens / 1e6:g}M" if tokens >= 1e6 else f"{tokens / 1e3:g}K"


def context_words(tokens):
    for size, name in ((1 << 20, "M"), (1 << 10, "K")):
        if tokens % size == 0:
            return f"{tokens // size}{name}"
    return f"{tokens / 1e6:g} million"


def draw_frontier(figure, machine):
    """Figures 5 and 6: a curve each strategy, the Baseline's hull shaded, all points grey."""
    canvas, (axes,) = new_figure(
        f"{figure['model']}, context {context_words(figure['context'])}: throughput against "
        "interactivity",
        f"simulated on {machine}, {load_of(figure)}; {figure['points']:,} points, "
        f"{figure['fit']:,} fit")
    curves = {name: dots for name, dots in figure["curves"].items() if dots}
    log_axes(axes, [dot for dots in curves.values() for dot in dots])
    axes.plot(*zip(*figure["cloud"]), ".", ms=2, color="#cccccc", zorder=1, rasterized=True)
    hull = figure["baseline"]
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    xs = [left, *[d["x"] for d in hull], hull[-1]["x"]]
    ys = [hull[0]["y"], *[d["y"] for d in hull], bottom]
    axes.fill_between(xs, ys, bottom, step="pre", color="#d8d8d8", alpha=0.5, lw=0, zorder=0)
    handles = []
    for name, dots in sorted(curves.items(), key=lambda item: item[0] == "helix"):
        color, marker = style_of(name)
        step(axes, dots, color, marker)
        handles.append(line_of(name, color, marker, "--"))
    labelled = curves.get("helix", [])
    labels = [(d["x"], d["y"], words(d), f"B{d['batch']}", letters_of("helix"))
              for d in labelled[::len(labelled) // 12 + 1]]
    place_labels(axes, labels, [(d["x"], d["y"]) for dots in curves.values() for d in dots],
                 [[(d["x"], d["y"]) for d in dots] for dots in curves.values()])
    rivals = ", ".join(name for name in ("tp", "dp_ep", "medha") if name in curves)
    handles += [Patch(color="#d8d8d8", alpha=0.5, label=f"Baseline: best of {rivals}"),
                Line2D([], [], color="#cccccc", marker=".", ls="none", label="all points")]
    key(canvas, handles)
    return canvas


def draw_hop_b(figures, machine):
    """Figure 7: Helix with HOP-B and without, in both accountings."""
    canvas, axes = new_figure("HOP-B, on and off",
                              f"Helix simulated on {machine}; real chunks pay the exchange's "
                              "latency each, the paper's accounting pays it once", len(figures))
    color, marker = style_of("helix")
    for figure, panel in zip(figures, axes):
        hop_b = figure["hop_b"]
        curves = [("off", hop_b["paper"]["off"], GREY, "X", "--"),
                  ("on, paper's accounting", hop_b["paper"]["on"], color, marker, "--"),
                  ("on, real chunks", hop_b["chunks"]["on"], "#56B4E9", "P", ":")]
        log_axes(panel, [d for _, dots, *_ in curves for d in dots])
        for _, dots, *look in curves:
            step(panel, dots, *look)
        panel.set_title(f"{figure['model']}, context {context_words(figure['context'])}", size=10)
    key(canvas, [line_of(name, *look) for name, _, *look in curves])
    return canvas


def draw_roofline(figure, machine):
    """Figure 1: what a layer reads, by TP width and by context."""
    canvas, (by_width, by_context) = new_figure(
        "Time to read one layer's KV and weights, batch 8",
        f"at {figure['read_gb_per_s']:g} GB/s ({machine}), F 65536, {load_of(figure)}; weights with "
        "W_O at its own width (solid) and as the paper's formula charges it (dotted)", 2)
    layouts = pd.DataFrame(figure["layouts"])
    million = layouts[layouts.context == 1_000_000]
    for axes, label in ((by_width, "GPUs, at one million tokens"), (by_context, "context (tokens)")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        plain(axes, label, "time (µs)")
    widest = layouts[layouts.gpus == layouts.gpus.max()].sort_values("context", kind="stable")
    for name in ("tp", "helix"):
        color, marker = style_of(name)
        mine = million[million.strategy == name]
        by_width.plot(mine.gpus, mine.kv_us, "--", marker=marker, color=color, label=f"{name}: KV")
        by_width.plot(mine.gpus, mine.weights_us, "-", marker=marker, mfc="white", color=color,
                      label=f"{name}: weights")
        by_width.plot(mine.gpus, mine.weights_formula_us, ":", color=color)
        mine = widest[widest.strategy == name]
        label = f"{name} {mine.label.iloc[0]}"
        by_context.plot(mine.context, mine.kv_us, "--", marker=marker, color=color,
                        label=f"{label}: KV")
        by_context.plot(mine.context, mine.weights_us, "-", color=color, label=f"{label}: weights")
    by_width.set_xticks(sorted(set(million.gpus)))
    contexts = sorted(set(widest.context))
    for axes in (by_width, by_context):
        axes.legend(frameon=False)
    by_width.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    by_context.set_xticks(contexts, [in_thousands(c) for c in contexts])
    return canvas


def shade(color, margin):
    """Paler where the winner is barely ahead; full from twice as fast on."""
    strength = 0.15 + 0.75 * min(1, max(0, margin - 1))
    return tuple(1 - strength * (1 - part) for part in to_rgb(color))


def draw_crossover(figure, machine):
    """Who is fastest for so many requests of such a context, and by how much over the next."""
    contexts = sorted({cell["context"] for cell in figure["cells"]})
    batches = sorted({cell["batch"] for cell in figure["cells"]})
    canvas, (axes,) = new_figure(
        f"{figure['model']} on {figure['gpus'][1]} GPUs: which strategy is fastest",
        f"simulated on {machine}, {load_of(figure)}; the number: the next strategy's TTL "
        "over the winner's, each with its best layout")
    winners = set()
    for cell in figure["cells"]:
        x, y = contexts.index(cell["context"]), batches.index(cell["batch"])
        if cell["winner"] is None:
            axes.fill_between([x - 0.48, x + 0.48], y - 0.48, y + 0.48, color="#eeeeee", lw=0)
            continue
        winners.add(cell["winner"])
        color, marker = style_of(cell["winner"])
        margin = cell["margin"] or 2
        axes.fill_between([x - 0.48, x + 0.48], y - 0.48, y + 0.48, color=shade(color, margin), lw=0)
        axes.plot(x - 0.3, y, marker, ms=5, mfc=color, mec="white", mew=0.5)
        text = f"{cell['margin']:.2f}" if cell["margin"] else "alone"
        axes.text(x + 0.08, y, text, ha="center", va="center", size=8, color=INK)
    axes.set_xticks(range(len(contexts)), [context_words(c) for c in contexts])
    axes.set_yticks(range(len(batches)), [str(b) for b in batches])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("context (tokens of history a request)")
    axes.set_ylabel("requests in the batch")
    handles = [line_of(name, *style_of(name), line="none") for name in sorted(winners)]
    handles.append(Patch(color="#eeeeee", label="does not fit"))
    key(canvas, handles)
    return canvas


def draw_all(document):
    """{file name: figure}; the paper's numbers where it has one."""
    machine, figures = document["machine"], document["figures"]
    numbers = {"deepseek-r1": "figure5", "llama-3.1-405b": "figure6"}
    drawn = {}
    frontiers = [figure for figure in figures if figure["kind"] == "frontier" and figure["baseline"]]
    for figure in figures:
        if figure["kind"] == "roofline":
            drawn["figure1-roofline"] = draw_roofline(figure, machine)
        elif figure["kind"] == "crossover":
            drawn[f"crossover-{figure['model']}"] = draw_crossover(figure, machine)
    for figure in frontiers:
        name = f"{numbers.get(figure['model'], 'frontier')}-{figure['model']}"
        drawn[name] = draw_frontier(figure, machine)
    if frontiers:
        drawn["figure7-hop-b"] = draw_hop_b(frontiers, machine)
    return drawn


def main():
    if len(sys.argv) != 2:
        print("usage: python3 -m analysis.paper DIR", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        document = read_json(folder / "paper.json")
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise BadInput(f"{folder / 'paper.json'}: no {SCHEMA}")
        try:
            drawn = draw_all(document)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise BadInput(f"{folder / 'paper.json'}: cannot be drawn: {error!r}") from None
        (folder / "plots").mkdir(exist_ok=True)
        for name, figure in drawn.items():
            save(figure, folder / "plots" / name)
            print(folder / "plots" / f"{name}.png")
    except (BadInput, OSError) as error:
        print(clean(error, 500), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
