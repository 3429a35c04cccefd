"""`workbench report`: runs as one HTML file to read, print and pass on."""

from __future__ import annotations

import argparse

from workbench.cli.options import Commands, path_of
from workbench.console import first_line
from workbench.errors import RunError
from workbench.paths import write_text


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    parser = commands.add_parser("report", help="write runs as one HTML file, readable without a network")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="ids of runs (none: the latest that can be compared)")
    parser.add_argument("--out", type=path_of, required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--title", default="", help="heading of the report")
    parser.add_argument("--runs-folder", type=path_of, help="folder of the runs (default: runs/)")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> int:
    from workbench.advice.run_report import report
    from workbench.claims.book import comparable
    from workbench.training.store import RunStore

    store = RunStore(options.runs_folder)
    runs = [store.get(name) for name in options.runs] if options.runs else comparable(store.all())
    if not runs:
        finished = [run for run in store.all() if run.status == "finished"]
        runs = sorted(finished, key=lambda run: run.began)[-1:]
    if options.out.suffix == ".json":
        raise RunError(f"{options.out}: a report is HTML, and .json files are records of runs. Name another file.")
    page = report(runs, options.title)
    try:
        write_text(options.out, page)
    except (OSError, ValueError) as error:  # a title that is no text, a path without a name
        raise RunError(f"{options.out} cannot be written: {first_line(error)}. Name another file.") from error
    print(f"{options.out}: {len(runs)} run{'s' * (len(runs) != 1)}, {len(page) / 1e6:.1f} MB")
    return 0
