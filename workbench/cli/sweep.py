"""`workbench sweep`: train every combination of ranks, alphas, learning rates and seeds in few passes."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from workbench.cli.options import Commands, given, list_of, targets_of
from workbench.cli.runs import QUANTIZED, add_run_options, announce, base, config, record, step_printer, task
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.training.runs import Run


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    sweep = commands.add_parser("sweep", help="train every combination of ranks, alphas, rates and seeds in few passes")
    add_run_options(sweep)
    sweep.add_argument("--quantization", choices=QUANTIZED, help="of the frozen weights: QLoRA (default: plain LoRA)")
    ranks, rates = [1, 2, 4, 8, 16, 32], [2e-3]
    sweep.add_argument("--ranks", type=list_of(int), default=ranks, metavar="1,2,4", help="default: 1,2,4,8,16,32")
    sweep.add_argument("--alphas", type=list_of(float), default=[16], metavar="16,32", help="default: 16")
    sweep.add_argument(
        "--learning-rates", type=list_of(float), default=rates, metavar="5e-4,2e-3", help="default: 2e-3"
    )
    sweep.add_argument("--seeds", type=list_of(int), default=[0], metavar="0,1,2", help="default: 0")
    sweep.add_argument("--max-memory", type=float, metavar="GB", help="of tensors in one pass, the base included")
    sweep.add_argument("--ray", metavar="ADDRESS", help="run the passes on a Ray cluster ('auto' or host:port)")
    sweep.set_defaults(command=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    announce(options)
    from workbench.adapters.methods import lora, qlora
    from workbench.sweeps.sweep import sweep
    from workbench.training.runs import FAILED
    from workbench.training.store import RunStore

    make = qlora if options.quantization else lora
    grid = product(options.ranks, options.alphas, options.learning_rates)
    others = given(options, ("layers", "dropout"))
    methods = [make(rank, alpha, rate, targets_of(options), **others) for rank, alpha, rate in grid]
    data = task(options)  # before the base, which takes longer to load
    asked = base(options, None), data, methods, config(options), RunStore(options.out)
    limit = None if options.max_memory is None else _bytes_of(options.max_memory)
    settings = {"seeds": options.seeds, "max_memory": limit}
    if options.ray:
        from workbench.sweeps.ray_executor import RayExecutor

        with RayExecutor(options.ray) as executor:
            runs = sweep(*asked, executor, **settings)
    else:
        runs = sweep(*asked, on_step=step_printer(), **settings)
    if options.json:
        print(json.dumps([record(run) for run in runs], indent=1))
    else:
        _print_sweep(runs)
    done = [run for run in runs if run.status in FAILED or (run.status == "finished" and run.artifact)]
    return 0 if len(done) == len(methods) * len(options.seeds) else 1


def _bytes_of(gigabytes: float) -> int:
    if not 0 < gigabytes < math.inf:
        raise WorkbenchError(f"--max-memory {gigabytes:g} must be a number of GB above 0.")
    return int(gigabytes * 1e9)


def _print_sweep(runs: Sequence[Run]) -> None:
    from workbench.training.runs import table

    columns = ("rank", "alpha", "learning_rate", "seed", "status", "loss", "exact_match", "trainable_parameters")
    rows = [[_short(row[column]) for column in columns] for row in table(runs)]
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
