"""Puts the slices of one sweep together: each point once, its best line.

    /usr/bin/python3 -m analysis merge OUT SLICE…

OUT, where it is there already, is one of the slices: merging again adds and loses nothing.
Exit 0: every point of the sweep is there; 3: some failed or are missing, and which; 2: bad input.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pandas as pd

from analysis.results import (IDENTITY, BadInput, environments_of, identity_of, is_done, lines_of, read_json,
                              results_file, run_program)


def first_difference(a, b, pointer=""):
    """The JSON pointer at which two documents differ, None where they do not."""
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [(key, a.get(key), b.get(key)) for key in sorted({*a, *b})]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(i, x, y) for i, (x, y) in enumerate(zip(a, b))]
    else:
        return None if a == b else pointer or "/"
    found = (first_difference(x, y, f"{pointer}/{key}") for key, x, y in pairs)
    return next((difference for difference in found if difference), None)


def common_sweep(folders):
    """The one resolved sweep of all folders."""
    sweeps = [read_json(folder / "sweep.json") for folder in folders]
    for folder, sweep in zip(folders, sweeps):
        difference = first_difference(sweeps[0], sweep)
        if difference:
            raise BadInput(f"{folder / 'sweep.json'}: {difference}: another sweep than that of "
                           f"{folders[0]}: their results are not mixed")
    return sweeps[0]


def lines_that_count(folders, notes):
    """A row each identity: its last line that is done, else its last, and where that stands. The
    lines themselves stay on disk."""
    rows = []
    for index, folder in enumerate(folders):
        offset = 0
        for _, text, line in lines_of(folder, notes):
            rows.append((*identity_of(line), line["status"], is_done(line), index, offset, len(text)))
            offset += len(text)
    lines = pd.DataFrame(rows, columns=[*IDENTITY, "status", "done", "folder", "offset", "size"])
    return lines.sort_values("done", kind="stable").drop_duplicates(
        list(IDENTITY), keep="last").sort_index()


def write_lines(lines, folders, path):
    """The copy takes the place of the file at once."""
    new = path.with_name(path.name + ".new")
    with contextlib.ExitStack() as opened, open(new, "wb") as out:
        files = [opened.enter_context(open(results_file(folder), "rb")) for folder in folders]
        for folder, offset, size in zip(lines["folder"], lines["offset"], lines["size"]):
            files[folder].seek(offset)
            text = files[folder].read(size)
            out.write(text if text.endswith(b"\n") else text + b"\n")
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, path)


def merge_environments(folders):
    merged = {}
    for folder in folders:
        for name, facts in environments_of(folder).items():
            known = merged.setdefault(name, facts)
            if known is not facts and isinstance(facts, dict) and isinstance(known, dict):
                launches = known.setdefault("launches", [])
                launches += [new for new in facts.get("launches", []) if new not in launches]
    return merged


def write_json(path, document):
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, path)


def wanted_keys(sweep, program):
    """{key: what it is} of all points of a sweep, in the program's words."""
    keys = {}
    for text in run_program(program, ["run", sweep, "--dry-run"]).splitlines():
        _, key, what = text.split(None, 2)
        keys.setdefault(key, what.rpartition(": ")[0])
    return keys


def report(lines, out, program, notes):
    """Words on which points are there and which are not, and whether all are."""
    ok = set(lines.key[lines.done])
    skipped = set(lines.key[(lines.status == "skipped") & ~lines.done])
    failed = set(lines.key[(lines.status != "skipped") & ~lines.done])
    wanted = dict.fromkeys(lines.key, "")
    if shutil.which(str(program)):
        wanted = wanted_keys(out / "sweep.json", program)
    else:
        notes.append(f"{program} is not there: points that no slice has begun are not known")
    known = ok | skipped | failed
    unwell = {"failed": [key for key in wanted if key in failed],
              "missing": [key for key in wanted if key not in known]}
    counts = {"skipped": len(skipped - ok - failed), **{what: len(keys) for what, keys in unwell.items()}}
    for what, keys in unwell.items():
        notes += [f"{what}: {key} {wanted[key]}".rstrip() for key in keys[:20]]
        if len(keys) > 20:
            notes.append(f"{what}: and {len(keys) - 20} more")
    words = [f"{len(ok & wanted.keys())} of {len(wanted)} points ok",
             *(f"{count} {what}" for what, count in counts.items() if count)]
    return ", ".join(words), not any(unwell.values())


def merge(out, slices, program, notes):
    """Writes OUT; (words, whether every point of the sweep is there)."""
    out = Path(out)
    folders = []
    for folder in dict.fromkeys([out, *map(Path, slices)]):
        if results_file(folder).is_file():
            folders.append(folder)
        elif folder != out:
            notes.append(f"{folder}: has no results.jsonl (yet)")
    if not folders:
        raise BadInput(f"{out}: nothing to merge, no folder has a results.jsonl")
    sweep = common_sweep(folders)
    lines = lines_that_count(folders, notes)
    if lines.empty:
        raise BadInput(f"{folders[0]}: nothing to merge, no folder has a line")
    environments = merge_environments(folders)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "sweep.json", sweep)
    write_json(out / "environment.json", environments)
    write_lines(lines, folders, out / "results.jsonl")
    words, whole = report(lines, out, program, notes)
    return f"{len(lines)} lines of {len(folders)} folders, {words}", whole
