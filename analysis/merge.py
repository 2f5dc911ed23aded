"""Puts the slices of one sweep together: each point once, its best line.

    /usr/bin/python3 -m analysis merge OUT SLICE…

OUT, where it is there already, is one of the slices: merging again adds and loses nothing.
Exit 0: every point of the sweep is there; 3: some failed or are missing, and which; 2: bad input.
"""

import json
import os
import shutil
from pathlib import Path

from analysis.results import (BadInput, environments_of, identity_of, is_done, lines_of, read_json,
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


class Merged:
    """Of each identity the line that counts, as a place in its file: the lines stay on disk."""

    def __init__(self, folders, notes):
        self.folders = folders
        self.best = {}  # identity: (rank, folder, offset, size, status)
        self.replaced = 0
        for index, folder in enumerate(folders):
            offset = 0
            for _, text, line in lines_of(folder, notes):
                self.add(line, index, offset, len(text))
                offset += len(text)

    def add(self, line, index, offset, size):
        """A done line stands over one to be redone; else the later one counts."""
        identity = identity_of(line)
        rank = 1 if is_done(line) else 0
        known = self.best.get(identity)
        self.replaced += known is not None
        if known is None or rank >= known[0]:
            self.best[identity] = (rank, index, offset, size, line["status"])

    def write(self, path):
        """The copy takes the place of the file at once."""
        new = path.with_name(path.name + ".new")
        with open(new, "wb") as out:
            files = [open(results_file(folder), "rb") for folder in self.folders]
            try:
                for _, index, offset, size, _ in sorted(self.best.values(),
                                                        key=lambda place: place[1:3]):
                    files[index].seek(offset)
                    text = files[index].read(size)
                    out.write(text if text.endswith(b"\n") else text + b"\n")
            finally:
                for file in files:
                    file.close()
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


def report(merged, out, program, notes):
    """Words on what is there and what is not, and whether all is."""
    keys = {}
    for identity, (rank, _, _, _, status) in merged.best.items():
        keys.setdefault(identity[0], set()).add("ok" if rank else
                                                "skipped" if status == "skipped" else "failed")
    wanted = dict.fromkeys(keys, "")
    if shutil.which(str(program)):
        wanted = wanted_keys(out / "sweep.json", program)
    else:
        notes.append(f"{program} is not there: points that no slice has begun are not known")
    missing = [key for key in wanted if key not in keys]
    failed = [key for key in wanted if "failed" in keys.get(key, ())]
    skipped = sum(states == {"skipped"} for states in keys.values())
    words = [f"{len(merged.best)} lines of {len(merged.folders)} folders",
             f"{sum('ok' in keys.get(key, ()) for key in wanted)} of {len(wanted)} points ok"]
    words += [f"{count} {what}" for count, what in
              ((skipped, "skipped"), (len(failed), "failed"), (len(missing), "missing")) if count]
    for what, found in (("failed", failed), ("missing", missing)):
        for key in found[:20]:
            notes.append(f"{what}: {key} {wanted[key]}".rstrip())
        if len(found) > 20:
            notes.append(f"{what}: and {len(found) - 20} more")
    return ", ".join(words), not missing and not failed


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
    merged = Merged(folders, notes)
    if not merged.best:
        raise BadInput(f"{folders[0]}: nothing to merge, no folder has a line")
    environments = merge_environments(folders)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "sweep.json", sweep)
    write_json(out / "environment.json", environments)
    merged.write(out / "results.jsonl")
    return report(merged, out, program, notes)
