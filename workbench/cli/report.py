"""`workbench report`: runs as one HTML file to read, print and pass on."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.cli.options import Commands
from workbench.console import first_line
from workbench.errors import RunError


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    parser = commands.add_parser("report", help="write runs as one HTML file, readable without a network")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="ids of runs (none: the latest that can be compared)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--title", default="", help="heading of the report")
    parser.add_argument("--runs-folder", type=Path, help="folder of the runs (default: runs/)")
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
    page = report(runs, options.title)
    try:
        options.out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{options.out} cannot be written: {first_line(error)}. Name another file.") from error
    print(f"{options.out}: {len(runs)} run{'s' * (len(runs) != 1)}, {len(page) / 1e6:.1f} MB")
    return 0
