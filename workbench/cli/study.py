"""`workbench study`: train the beginning of a stored row of the reference study again."""

from __future__ import annotations

import argparse

from workbench.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    study = commands.add_parser("study", help="repeat the first steps of a row of the reference study")
    study.add_argument("--row", required=True, metavar="ID", help="the id of a line of data/reference/study.jsonl")
    study.set_defaults(command=_study)


def _study(options: argparse.Namespace) -> int:
    from workbench.study.repeat import TOLERANCE, repeat

    done = repeat(options.row)
    row = done.row
    print(f"{row['name']} on {row['task']}, rate {row['learning_rate']:g}, seed {row['seed']}")
    print("step  recorded  again")
    for step, (recorded, again) in enumerate(zip(done.recorded, done.again, strict=True), start=1):
        print(f"{step:4}  {recorded:8.4f}  {again:8.4f}")
    told = "Every loss is" if done.agrees else "Not every loss is"
    print(f"{told} within {TOLERANCE:.0%} of the recorded one.")
    return 0 if done.agrees else 1
