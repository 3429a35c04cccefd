"""`workbench claims`: what the articles claim, and what the study, the predictions and your own runs say about it."""

from __future__ import annotations

import argparse
import json

from workbench.cli.options import Commands, path_of


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    parser = commands.add_parser(
        "claims", help="every claim with its verdict, from the study, predictions and your runs"
    )
    parser.add_argument("--out", type=path_of, help="folder of your runs (default: runs/)")
    parser.add_argument("--json", action="store_true", help="print the ledger as JSON")
    parser.set_defaults(command=_claims)


def _claims(options: argparse.Namespace) -> int:
    from workbench.claims.book import as_text, book
    from workbench.training.store import RunStore

    listed = book(RunStore(options.out))
    print(json.dumps([one.to_dict() for one in listed], indent=1) if options.json else as_text(listed))
    return 0
