"""Results for other tools: every field as CSV, rows as InferenceX has them, a table for a text.

    /usr/bin/python3 -m analysis export RESULTS… --format csv|inferencex|markdown
"""

import json

import pandas as pd

from analysis.results import BadInput, identity_of, lines_of, results_file
from analysis.style import clean


def flatten(value, name=""):
    """{"point.layout.kvp": 8, …}; lists as JSON, samples left out."""
    if isinstance(value, dict):
        flat = {}
        for key, inner in value.items():
            flat.update(flatten(inner, f"{name}.{key}" if name else str(key)))
        return flat
    return {name: json.dumps(value) if isinstance(value, list) else value}


def last_lines(paths, notes):
    """Of each identity in each file the line that counts."""
    lines = []
    for path in paths:
        last = {identity_of(line): line for _, _, line in lines_of(path, notes)}
        lines += last.values()
    if not lines:
        raise BadInput(f"{results_file(paths[0])}: nothing to export, it holds no line")
    return lines


def to_csv(lines):
    rows = [flatten({key: value for key, value in line.items() if key != "samples_us"})
            for line in lines]
    return pd.DataFrame(rows, dtype=object).to_csv(index=False)  # object: integers beside nulls stay


def to_inferencex(lines, notes):
    """InferenceX's names: seconds without suffix, interactivity `intvty`. Decode alone, so that only
    the output throughput is known; its tput_per_gpu counts input tokens too."""
    rows = []
    for line in lines:
        if line["status"] != "ok" or not line.get("gpus"):
            continue
        point, ttl = line["point"], line["ttl_us"]
        layout = point["layout"]
        row = {"hw": line.get("machine") or "unknown", "framework": "helix-bench",
               "model": point["model"], "precision": point["precision"]["weights"],
               "tp": layout["kvp"] * layout["tpa"], "dcp_size": layout["kvp"],
               "pp": layout["pp"], "ep": layout["ep"], "dp_attention": layout["dp"] > 1,
               "conc": point["batch"], "isl": point["context"], "num_gpus": line["gpus"],
               "output_tput_per_gpu": line["tokens_per_s_per_gpu"],
               "strategy": layout["strategy"], "hop_b": point["hop_b"],
               "simulated": line["executor"] == "simulate", "key": line["key"]}
        for name in ("median", "p90", "p95", "p99"):
            if ttl.get(name):
                row[f"{name}_tpot"] = ttl[name] / 1e6
                row[f"{name}_intvty"] = 1e6 / ttl[name]
        rows.append(row)
    if not rows:
        raise BadInput("nothing to export for InferenceX: no line was measured or simulated on GPUs")
    if len(rows) < len(lines):
        notes.append(f"{len(lines) - len(rows)} lines that failed or ran on no GPU are left out")
    return json.dumps(rows, indent=1) + "\n"


def cell(text):
    """Nothing in it ends the cell or begins markup."""
    return clean(text, 60).translate({ord(c): f"\\{c}" for c in "\\|`<>*_[]"})


def number(value):
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def to_markdown(frontier):
    """The frontiers, a table each."""
    text = []
    for panel in frontier["panels"]:
        where = panel["machine"] or panel["hardware"]
        text += [f"**{cell(panel['model'])}**, context {cell(panel['context'])}, "
                 f"{cell(panel['precision'])}: {cell(panel['kind'])} ({cell(panel['executor'])}), "
                 f"{cell(where)}, commit {cell(', '.join(panel['commits']))}", ""]
        unit = panel["unit"]
        text += [f"| strategy | layout | options | batch | ranks | TTL ms | tok/s/user | "
                 f"tok/s/{unit} | of floor | max rel err |",
                 "|---|---|---|--:|--:|--:|--:|--:|--:|--:|"]
        for p in panel["points"]:
            if not p["frontier"]:
                continue
            share = "–" if p["floor_share"] is None else f"{p['floor_share']:.1%}"
            error = p["proof"] if p["max_rel_err"] is None else f"{p['max_rel_err']:.1e}"
            text.append(f"| {cell(p['strategy'])} | {cell(p['label'])} | {cell(p['options'])} | "
                        f"{p['batch']} | {p['ranks']} | {number(p['ttl_us']['median'] / 1e3)} | "
                        f"{number(p['x'])} | {number(p['y'])} | {share} | {error} |")
        text.append("")
    return "\n".join(text)
