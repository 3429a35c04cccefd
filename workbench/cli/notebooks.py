"""`workbench notebooks`: execute the lessons unattended."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.cli.options import DEFAULT, Commands, path_of
from workbench.errors import WorkbenchError


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    notebooks = commands.add_parser("notebooks", help="execute notebooks and say how each went")
    notebooks.add_argument("names", nargs="*", metavar="NAME", help="e.g. 01_delta_w (default: all)")
    notebooks.add_argument("--tier", default="smoke", choices=("smoke", "laptop", "gpu"), help=DEFAULT)
    out = Path("build/executed")
    notebooks.add_argument("--out", type=path_of, default=out, help=f"folder for the executed copies; {DEFAULT}")
    notebooks.set_defaults(command=_notebooks)


def _notebooks(options: argparse.Namespace) -> int:
    from workbench.course.runner import run_notebooks

    try:
        results = run_notebooks(options.names, options.tier, options.out)
    except ValueError as error:
        raise WorkbenchError(str(error)) from error
    passed = failed = 0
    for result in results:
        passed, failed = passed + result.passed, failed + (not result.passed)
        print(f"{'passed' if result.passed else 'FAILED'}  {result.name}  {result.seconds:.0f} s", flush=True)
        if result.failure:
            print(result.failure, flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0
