"""`workbench prefetch`: a folder from which a computer without a network installs and runs the course."""

from __future__ import annotations

import argparse

from workbench.cli.options import Commands, list_of, path_of


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    parser = commands.add_parser("prefetch", help="make a folder that installs and runs the course without a network")
    parser.add_argument("--to", type=path_of, required=True, metavar="DIR", help="the folder to make")
    # `box` knows which there are and says so of others; its imports would slow every command down.
    systems, versions = "linux,mac,windows", "3.11,3.12,3.13"
    parser.add_argument(
        "--platforms", type=list_of(str), default=[], metavar=systems, help="whose wheels (default: this computer's)"
    )
    parser.add_argument(
        "--pythons", type=list_of(str), default=[], metavar=versions, help="for these versions (default: this one's)"
    )
    parser.set_defaults(command=_prefetch)


def _prefetch(options: argparse.Namespace) -> int:
    from workbench.course.box import make_box, targets_of
    from workbench.paths import CHECKOUT

    print(make_box(options.to, targets_of(options.platforms, options.pythons), CHECKOUT))
    return 0
