"""Reads what runs have written: lines, sweeps, environments, and the program's word on frontiers."""

import json
import os
import re
import subprocess
from pathlib import Path

from analysis.style import clean

PROGRAM = Path(__file__).resolve().parent.parent / "build/helix-bench"
FRONTIER = "helix-bench/frontier/1"
MAJOR = 1
IDENTITY = ("key", "executor", "exchange", "machine", "shard", "repeat")


class BadInput(Exception):
    """One line for the user, exit 2."""


def refuse_constant(name):
    raise BadInput(f"{name} is no JSON number")


def parse(text, place):
    """Strict JSON; ValueError where it is none, BadInput where it holds NaN or Infinity."""
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None
    except RecursionError:
        raise BadInput(f"{place}: is nested too deeply") from None


def read_json(path):
    try:
        return parse(Path(path).read_bytes(), path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}") from None


def results_file(path):
    """A results file, or that of a run's folder."""
    path = Path(path)
    return path / "results.jsonl" if path.is_dir() else path


def folder_of(path):
    return Path(path) if Path(path).is_dir() else Path(path).parent


def check_line(line, place):
    """What every reader refuses: not a line of ours, or one that means what nobody here knows."""
    schema = line.get("schema") if isinstance(line, dict) else None
    found = re.fullmatch(r"helix-bench/(\d+)\.\d+", schema) if isinstance(schema, str) else None
    if not found:
        raise BadInput(f"{place}: /schema: {clean(schema)!r} is no result line")
    if int(found[1]) > MAJOR:
        raise BadInput(f"{place}: /schema: {schema!r} is newer than this program, which reads "
                       f"helix-bench/{MAJOR}.x")
    for name in ("key", "executor", "status"):
        if not isinstance(line.get(name), str):
            raise BadInput(f"{place}: /{name}: must be a string")
    for name in ("exchange", "machine", "shard", "environment"):
        if not isinstance(line.get(name), (str, type(None))):
            raise BadInput(f"{place}: /{name}: must be a string or null")
    if not isinstance(line.get("repeat"), int):
        raise BadInput(f"{place}: /repeat: must be an integer")
    if not isinstance(line.get("point"), dict) or not isinstance(line["point"].get("layout"), dict):
        raise BadInput(f"{place}: /point: must be an object with a layout")


def lines_of(path, notes):
    """(number, bytes, line) of each line, one in memory at a time. A last line that was cut off in
    writing is left out, with a note."""
    path = results_file(path)
    try:
        file = open(path, "rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        for number, text in enumerate(file, 1):
            place = f"{path}:{number}"
            try:
                line = parse(text, place)
            except ValueError as error:
                if file.read(1):
                    raise BadInput(f"{place}: not JSON: {error}") from None
                notes.append(f"{place}: the last line was cut off in writing and is left out")
                return
            check_line(line, place)
            yield number, text, line


def identity_of(line):
    return tuple(line.get(name) or "" for name in IDENTITY)


def failed_verification(line):
    """Whether the logits were held against the judge and were wrong; NaN (null) is wrong."""
    verified = line.get("verified")
    if not verified:
        return False
    error, tolerance = verified.get("max_rel_err"), verified.get("tolerance")
    return not (isinstance(error, (int, float)) and isinstance(tolerance, (int, float)) and
                error <= tolerance)


def is_done(line):
    """What `run --resume` need not run again."""
    return line["status"] == "ok" and not failed_verification(line)


def environments_of(path):
    """{hash: facts} beside a results file; empty where there is none."""
    file = folder_of(path) / "environment.json"
    known = read_json(file) if file.exists() else {}
    if not isinstance(known, dict):
        raise BadInput(f"{file}: is no map of environments")
    return known


def run_program(program, arguments):
    """What the program printed. Its refusal becomes ours."""
    # One process of its own, also in a job of many: it takes these for the launcher's words.
    launched = ("SLURM_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(launched)}
    try:
        done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True,
                              check=False, env=environment)
    except OSError as error:
        raise BadInput(f"{program}: cannot be run ({error.strerror}); build it with `make`, or "
                       "give --program") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise BadInput(said[-1].removeprefix("helix-bench: "))
    return done.stdout


def read_frontier(results, program=PROGRAM, frontier_json=None):
    """The program's word on which points of the results stand on a frontier."""
    if frontier_json:
        frontier = read_json(frontier_json)
    else:
        text = run_program(program, ["frontier", "--format", "json", *results])
        try:
            frontier = parse(text, program)
        except ValueError as error:
            raise BadInput(f"{program}: not JSON: {error}") from None
    if not isinstance(frontier, dict) or frontier.get("schema") != FRONTIER:
        raise BadInput(f"{frontier_json or program}: no {FRONTIER}")
    return frontier
