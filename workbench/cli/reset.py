"""`workbench reset`: remove your runs, bets and progress, after saying what goes and asking."""

from __future__ import annotations

import argparse
import sys

from workbench.cli.options import Commands, path_of


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    parser = commands.add_parser("reset", help="remove your runs, bets and progress; says what goes, and asks")
    parser.add_argument("--out", type=path_of, help="folder of your runs (default: runs/)")
    parser.set_defaults(command=_reset)


def _reset(options: argparse.Namespace) -> int:
    from workbench.console import first_line
    from workbench.errors import RunError
    from workbench.learner import FOLDER
    from workbench.paths import remove_folder
    from workbench.training.store import RunStore

    store = RunStore(options.out)
    runs, learner = store.all(), store.path / FOLDER
    kept = sorted(file for file in learner.rglob("*") if file.is_file())
    if not runs and not kept:
        print(f"Nothing to remove in {store.path}.")
        return 0
    size = sum(run.artifact_bytes or 0 for run in runs)
    print(f"This removes from {store.path}, for good:")
    print(f"  {len(runs)} run{'s' * (len(runs) != 1)} with {size / 1e6:,.0f} MB of adapters and checkpoints")
    print(f"  {len(kept)} file{'s' * (len(kept) != 1)} of bets, progress and reports")
    print("Other files there, and the cache of models, stay.")
    print('Type "yes" to remove them: ', end="", flush=True)
    if not sys.stdin or sys.stdin.readline().strip().lower() != "yes":
        print("Nothing was removed.")
        return 1
    try:
        for run in runs:
            store.delete(run.id)
        remove_folder(learner)
    except OSError as error:
        raise RunError(f"Not all was removed: {first_line(error)}. Remove what is left in {store.path}.") from error
    print("Removed.")
    return 0
