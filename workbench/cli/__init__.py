"""The `workbench` command and its subcommands, one module each.

Exit status: 0 done, 1 not as it should be, 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys

from workbench.cli import doctor, memory, notebooks, sweep, train
from workbench.errors import WorkbenchError


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status. arguments: those of this process by default."""
    options = parser().parse_args(arguments)
    if arguments is None:  # a process of its own, not a call from Python
        # Clusters, containers and builds stop a job with SIGTERM: treat it like Ctrl-C, so that runs are kept.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status: int = options.command(options)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("workbench: stopped.", file=sys.stderr)
        return 130
    return status


def parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    whole = argparse.ArgumentParser(prog="workbench", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="command")
    for subcommand in (doctor, train, sweep, memory, notebooks):
        subcommand.add(commands)
    return whole
