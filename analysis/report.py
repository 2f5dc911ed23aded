"""One self-contained page of results: HTML that needs no network and nothing beside it.

    /usr/bin/python3 -m analysis report RESULTS… [-o PAGE.html]

The page draws what the program says: which points stand on a frontier comes from `helix-bench
frontier`, everything else from the lines. Traces (`run --trace DIR/trace….json`) that lie in a
results folder come along.
"""

import base64
import gzip
import hashlib
import html
import json
import os
import re
import shlex
from pathlib import Path

from analysis.results import (BadInput, environments_of, folder_of, identity_of, lines_of, read_frontier,
                              read_json, results_file)
from analysis.style import OTHER, STYLES, clean

PAGE = Path(__file__).with_name("page")
# In this order: one module scope, constants before their use at load time.
PARTS = ("data", "frontier", "state", "text", "select", "surface", "axis", "plot", "hover", "filters",
         "story", "lanes", "pins", "map", "table", "runs", "download", "main")
# Columns of a row that are a field of its line, by path.
FIELDS = {
    "steps": "steps", "warmup": "warmup", "threads": "threads", "started": "started",
    "environment": "environment", "hop_b": "point.hop_b", "chunks": "point.chunks",
    "interval": "point.interval", "pp": "point.layout.pp", "dp": "point.layout.dp",
    "kvp": "point.layout.kvp", "tpa": "point.layout.tpa", "tpf": "point.layout.tpf",
    "ep": "point.layout.ep", "p05": "ttl_us.p05", "p90": "ttl_us.p90", "p95": "ttl_us.p95",
    "p99": "ttl_us.p99", "user_p90": "tokens_per_s_per_user_p90", "alone_us": "exchange_us.alone",
    "exposed_us": "exchange_us.exposed", "hidden_us": "exchange_us.hidden",
    "weight_bytes": "bytes_per_rank.weights", "kv_bytes": "bytes_per_rank.kv",
    "buffer_bytes": "bytes_per_rank.buffers", "peak_bytes": "peak_resident_bytes",
    "touched": "experts_touched.mean", "floor_us": "roofline.floor_us",
}
# The program's own: read as they are, for ties are decided by the last bit.
EXACT = ("x", "y")
TRACE_EVENTS = 20000


def field(line, path):
    for name in path.split("."):
        line = line.get(name) if isinstance(line, dict) else None
    return line


def rounded(value):
    return float(f"{value:.6g}") if isinstance(value, float) else value


def pack(values, exact=False):
    """Numbers as they are, words by their place in a list of distinct ones."""
    if any(isinstance(value, str) for value in values):
        words = list(dict.fromkeys(values))
        places = {word: i for i, word in enumerate(words)}
        return {"words": words, "at": [places[value] for value in values]}
    return {"values": values if exact else [rounded(value) for value in values]}


def lines_by_place(paths, notes):
    """{"FILE:LINE": line}, and the last line of each identity that did not end well."""
    lines, last = {}, {}
    for path in paths:
        for number, _, line in lines_of(path, notes):
            lines[f"{results_file(path)}:{number}"] = line
            last[(str(results_file(path)), identity_of(line))] = line
    return lines, [line for line in last.values() if line["status"] != "ok"]


def layer_of(panel):
    """"measured (cpu): EPYC, 2 cores"."""
    how = "simulated" if panel["kind"] == "simulated" else \
        f"measured ({panel['executor']}{', in part' if panel['kind'] == 'executed in part' else ''})"
    return clean(f"{how}: {panel['machine'] or panel['hardware']}", 80)


def panel_of(panel):
    head = {name: panel[name] for name in (
        "model", "context", "precision", "routing", "kind", "executor", "machine", "hardware", "unit",
        "oversubscribed", "commits")}
    if panel["routing"]:
        head["precision"] += f", routing {panel['routing']}"
    return {**head, "layer": layer_of(panel), "count": len(panel["points"])}


def rows_of(frontier, lines):
    """A dictionary a point, in the order of the program, and its line."""
    for number, panel in enumerate(frontier["panels"]):
        for point in panel["points"]:
            line = lines.get(point["line"])
            if line is None or line["key"] != point["key"]:
                raise BadInput(f"{point['line']}: changed while it was read; run this again")
            row = {name: point[name] for name in (
                "key", "strategy", "label", "options", "batch", "ranks", "gpus", "x", "y", "repeats",
                "floor_share", "max_rel_err", "tolerance", "proof", "frontier", "hull", "line")}
            row.update({"panel": number, "exchange": point["exchange"] or None,
                        "shard": point["shard"] or None, "ttl": point["ttl_us"]["median"],
                        "low": point["ttl_us"]["low"], "high": point["ttl_us"]["high"],
                        "file": point["line"].rpartition(":")[0]})
            row.update({name: field(line, path) for name, path in FIELDS.items()})
            yield row, line


def columns_of(rows):
    return {name: pack([row[name] for row in rows], name in EXACT) for name in rows[0]}


def tasks_of(lines):
    """[{name, us, floor}], a column each, in the order of the step."""
    times = [field(line, "tasks_us") or {} for line in lines]
    floors = [field(line, "roofline.tasks_us") or {} for line in lines]
    names = dict.fromkeys(name for tasks in times for name in tasks)
    return [{"name": name, "us": pack([tasks.get(name) for tasks in times]),
             "floor": pack([tasks.get(name) for tasks in floors])} for name in names]


def unmeasured_of(lines):
    """[{status, reason, count, key}] of points that were skipped or failed, the most frequent first.
    Reasons that differ in numbers alone are one, said by the first."""
    found = {}
    for line in lines:
        reason = line.get("reason")
        kind = line["status"], re.sub(r"\d[\d.]*", "#", str(reason))
        entry = found.setdefault(kind, {"status": line["status"], "reason": reason, "count": 0,
                                        "key": line["key"]})
        entry["count"] += 1
    return sorted(found.values(), key=lambda entry: -entry["count"])


def trace_of(path):
    """A Chrome trace as columns: the lowest ranks first, whole ranks as far as there is room."""
    document = read_json(path)
    events = [event for event in document["traceEvents"] if event.get("ph") == "X"]
    events.sort(key=lambda event: (event["pid"], event["ts"]))
    ranks = {event["pid"] for event in events[:TRACE_EVENTS]}
    if len(events) > TRACE_EVENTS and len(ranks) > 1:
        ranks.discard(max(ranks))
    events = [event for event in events if event["pid"] in ranks][:TRACE_EVENTS]
    names = list(dict.fromkeys(event["name"] for event in events))
    about = document.get("otherData") or {}
    return {"key": about.get("key"), "file": path.name, "names": names,
            "name": [names.index(event["name"]) for event in events],
            "begin": [rounded(event["ts"]) for event in events],
            "us": [rounded(event["dur"]) for event in events],
            "rank": [event["pid"] for event in events], "lane": [event["tid"] for event in events],
            "layer": [event["args"]["layer"] for event in events],
            "chunk": [event["args"]["chunk"] for event in events]}


def traces_beside(paths, notes):
    traces = []
    for folder in dict.fromkeys(folder_of(path) for path in paths):
        for path in sorted(folder.glob("trace*.json")):
            try:
                traces.append(trace_of(path))
            except (KeyError, TypeError, AttributeError) as error:
                notes.append(f"{path}: no trace that can be drawn: {error!r}")
    return traces


def collect(paths, program, notes):
    """Everything the page shows."""
    frontier = read_frontier(paths, program)
    lines, unmeasured = lines_by_place(dict.fromkeys(paths), notes)
    rows, their_lines = map(list, zip(*rows_of(frontier, lines)))
    environments = {}
    for path in paths:
        environments.update(environments_of(path))
    used = dict.fromkeys(filter(None, (row["environment"] for row in rows)))
    return {
        "panels": [panel_of(panel) for panel in frontier["panels"]], "columns": columns_of(rows),
        "tasks": tasks_of(their_lines), "baseline": frontier["baseline"], "styles": STYLES,
        "other": OTHER, "environments": {name: environments.get(name) for name in used},
        "unmeasured": unmeasured_of(unmeasured), "notes": list(dict.fromkeys(notes)),
        "traces": traces_beside(paths, notes), "sources": [str(results_file(path)) for path in paths],
        "command": "make report " + shlex.quote("RESULTS=" + " ".join(map(str, paths))),
        "subtitle": subtitle_of(frontier["panels"], len(rows))}


def subtitle_of(panels, count):
    models = sorted({panel["model"] for panel in panels})
    kinds = sorted({layer_of(panel) for panel in panels})
    commits = sorted({commit for panel in panels for commit in panel["commits"]})
    return clean(f"{count:,} points of {', '.join(models)}; {'; '.join(kinds)}; commit "
                 f"{', '.join(commits)}", 400)


def policy_of(script, style):
    """The browser runs this page's script and nothing else, whatever text stands in the results."""
    # Between its tags each stands on lines of its own.
    digests = [hashlib.sha256(f"\n{part}\n".encode()).digest() for part in (script, style)]
    hashes = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    return (f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'")


def assemble(data, title):
    """The page's text."""
    script = "".join((PAGE / f"{part}.js").read_text(encoding="utf-8") for part in PARTS)
    style = (PAGE / "page.css").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {"POLICY": policy_of(script, style), "TITLE": html.escape(clean(title)), "STYLE": style,
             "DATA": base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode(),
             "SCRIPT": script}
    # In one pass: what is put in is not searched again, so no title can name another part.
    return re.sub(f"@({'|'.join(parts)})@", lambda found: parts[found[1]],
                  (PAGE / "page.html").read_text(encoding="utf-8"))


def write_report(paths, output, program, notes):
    """Writes the page, by default beside the results; its path."""
    output = output or folder_of(paths[0]) / "report.html"
    names = [folder_of(path).resolve().name for path in paths]
    page = assemble(collect(paths, program, notes), ", ".join(dict.fromkeys(names)))
    new = output.with_name(output.name + ".new")
    new.write_text(page, encoding="utf-8")
    os.replace(new, output)
    return output
