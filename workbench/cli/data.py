"""`workbench data`: show how a file is read, and what to look at before training on it."""

from __future__ import annotations

import argparse
import json

from workbench.cli.options import Commands, add_data_options, task_options
from workbench.errors import TaskError


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    parser = commands.add_parser("data", help="show how your file is read, three rows, and what to look at in it")
    parser.add_argument("file", help="a file, a folder, a shipped task or a Hub data set")
    add_data_options(parser)
    parser.add_argument("--model", help="count tokens as this model does, for --max-length and --chat model")
    parser.add_argument("--max-length", type=int, help="tokens of a row (default: 512)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(command=_data)


def _data(options: argparse.Namespace) -> int:
    if options.chat == "model" and not options.model:
        raise TaskError("--chat model needs --model, whose template it is.")
    if options.max_length is not None and (options.max_length < 1 or not options.model):
        raise TaskError("--max-length must be at least 1, and needs --model, whose tokens it counts.")
    asked = task_options(options)
    if options.model:
        from workbench.models.base import load_tokenizer

        asked["tokenizer"] = load_tokenizer(options.model)
    from workbench.tasks.report import data_report

    report = data_report(options.file, **asked, max_length=options.max_length or 512)
    print(json.dumps(report.to_dict(), indent=1, default=str) if options.json else report.text())
    return 0
