"""The `workbench` command and its subcommands, one module each.

Exit status: 0 done, 1 not as it should be, 2 wrong usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys

from workbench.cli import (
    claims,
    data,
    doctor,
    fits,
    gpu_check,
    memory,
    notebooks,
    prefetch,
    report,
    reset,
    retrieval,
    serving,
    study,
    sweep,
    train,
)
from workbench.console import tell
from workbench.errors import WorkbenchError


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status. arguments: those of this process by default."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path or a name that the terminal's encoding lacks
    try:
        status = _run(arguments)
        if sys.stdout:
            sys.stdout.flush()
        return status
    except WorkbenchError as error:
        tell(f"workbench: {error}")
        return 2
    except KeyboardInterrupt:
        tell("workbench: stopped.")
        return 130
    except OSError as error:
        if not _output_is_lost():
            raise
        tell(f"workbench: the output could not be written ({error.strerror}); runs that were recorded are kept.")
        return 1


def _run(arguments: list[str] | None) -> int:
    options = parser().parse_args(arguments)
    if arguments is None:  # a process of its own, not a call from Python
        # Clusters, containers and builds stop a job with SIGTERM: treat it like Ctrl-C, so that runs are kept.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    status: int = options.command(options)
    return status


def _output_is_lost() -> bool:
    """Whether stdout cannot be written to (a full disk, a closed pipe); the rest of the output is then discarded."""
    try:
        print(flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python writes what is left when it ends
        os.close(nowhere)
        return True
    return False


def parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    whole = argparse.ArgumentParser(prog="workbench", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="command")
    for subcommand in (
        doctor,
        data,
        claims,
        train,
        sweep,
        study,
        memory,
        fits,
        gpu_check,
        serving,
        notebooks,
        prefetch,
        report,
        reset,
        retrieval,
    ):
        subcommand.add(commands)
    return whole
