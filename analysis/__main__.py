"""figures, report, diff, merge, export, accuracy: what is made of results.

    /usr/bin/python3 -m analysis COMMAND --help
"""

import argparse
import importlib
import sys
from pathlib import Path

from analysis.results import PROGRAM, BadInput, read_frontier
from analysis.style import clean

# A command imports its own module alone: matplotlib and pandas take a second to load.


def run_figures(options, notes):
    from analysis import figures
    frontier = read_frontier([options.results], options.program, options.frontier_json)
    notes += frontier.get("notes", [])
    for path in figures.make_figures(options.results, frontier):
        print(path)
    return 0


def run_report(options, notes):
    from analysis import report
    print(report.write_report(options.results, options.output, options.program, notes))
    return 0


def run_diff(options, notes):
    from analysis import diff
    found = diff.diff_runs((options.before, options.after), options.threshold, notes)
    print(diff.to_text(found, (options.before, options.after), options.threshold, options.all))
    return 1 if found.regressed else 0


def run_merge(options, notes):
    from analysis import merge
    words, whole = merge.merge(options.out, options.slices, options.program, notes)
    print(f"{options.out}: {words}")
    return 0 if whole else 3


def run_export(options, notes):
    from analysis import export
    if options.format == "markdown":
        frontier = read_frontier(options.results, options.program)
        notes += frontier.get("notes", [])
        print(export.to_markdown(frontier), end="")
        return 0
    lines = export.last_lines(options.results, notes)
    to_text = {"csv": lambda: export.to_csv(lines),
               "inferencex": lambda: export.to_inferencex(lines, notes)}[options.format]
    print(to_text(), end="")
    return 0


def run_accuracy(options, _):
    from analysis import fit
    return fit.run(options)


def threshold(text):
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError("must be a share of the TTL, 0.02 or 2%")
    return value


def parser(arguments):
    top = argparse.ArgumentParser(prog="analysis", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, module, text):
        about = importlib.import_module(module).__doc__ if name in arguments else None
        command = commands.add_parser(name, help=text, description=about,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add_argument("--program", type=Path, default=PROGRAM, help="build/helix-bench")
        command.set_defaults(run=run)
        return command

    command = add("figures", run_figures, "analysis.figures",
                  "Pareto plots of a folder, PNG and SVG in its plots/")
    command.add_argument("results", help="a run's folder, results/NAME")
    command.add_argument("--frontier-json", help="what `frontier --format json` said")
    command = add("report", run_report, "analysis.report", "one page that tells the story")
    command.add_argument("results", nargs="+", help="results files or folders")
    command.add_argument("-o", "--output", type=Path, help="default: report.html beside the results")
    command = add("diff", run_diff, "analysis.diff",
                  "what became faster or slower, and what only looks so")
    command.add_argument("before")
    command.add_argument("after")
    command.add_argument("--threshold", type=threshold, default=0.02,
                         help="changes up to this are none (0.02)")
    command.add_argument("--all", action="store_true", help="unchanged points too")
    command = add("merge", run_merge, "analysis.merge", "puts the slices of one sweep together")
    command.add_argument("out", help="the folder to write")
    command.add_argument("slices", nargs="*", help="folders of `run --slice I/N`")
    command = add("export", run_export, "analysis.export", "CSV, InferenceX rows, a Markdown table")
    command.add_argument("results", nargs="+", help="results files or folders")
    command.add_argument("--format", choices=("csv", "inferencex", "markdown"), required=True)
    command = add("accuracy", run_accuracy, "analysis.fit",
                  "a machine file against rows that others measured")
    command.add_argument("rows", help="a file like results/published/gb300-rows.json")
    command.add_argument("--machine", default="gb300-nvl72", help="a name or a file")
    command.add_argument("--fit", action="store_true", help="find its fitted factors, write them there")
    command.add_argument("--leave-one-out", action="store_true", help="and errors of rows left out")
    command.add_argument("-o", "--output", type=Path, default=Path("results/accuracy"))
    return top


def run(arguments=None):
    """The exit code; whatever is wrong with the input is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    notes = []
    try:
        options = parser(arguments).parse_args(arguments)
        code = options.run(options, notes)
    except ImportError as error:
        print(f"{error}: `make deps` installs what is missing", file=sys.stderr)
        return 2
    except (BadInput, OSError) as error:
        print(clean(error, 500), file=sys.stderr)
        return 2
    # A field that is missing or of another type, which the program need not have looked at.
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        print(clean(f"a line is not as configs/result.schema.json has it: {error!r}", 500),
              file=sys.stderr)
        return 2
    for note in notes:
        print(clean(note, 500), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(run())
