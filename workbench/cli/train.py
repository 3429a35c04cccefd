"""`workbench train`: fine-tune a model on a task and record the run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.cli.options import DEFAULT, Commands, full_modules_of, given, refuse_unused, targets_of
from workbench.cli.runs import QUANTIZED, add_run_options, announce, base, config, record, step_printer, task
from workbench.errors import MethodError

if TYPE_CHECKING:
    from workbench.adapters.methods import Method
    from workbench.training.runs import Run


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    train = commands.add_parser("train", help="fine-tune a model on a task and record the run")
    add_run_options(train)
    methods = ("full", "lora", "qlora", "hybrid", "auto")
    train.add_argument("--method", default="lora", choices=methods, help=f"auto chooses for the data; {DEFAULT}")
    train.add_argument("--quantization", choices=QUANTIZED, help="of the frozen weights (default: nf4 for qlora)")
    train.add_argument("--rank", type=int, help="default: 8")
    train.add_argument("--alpha", type=float, help="default: 16")
    train.add_argument("--learning-rate", type=float, help="default: 1e-4 for full, 2e-3 for the others")
    train.add_argument("--rslora", action="store_true", default=None, help="alpha / sqrt(rank), not alpha / rank")
    train.add_argument("--dora", action="store_true", default=None, help="weight-decomposed adapters")
    train.add_argument("--pissa", action="store_true", default=None, help="start from the weight's singular vectors")
    train.add_argument("--lora-plus", type=float, help="learning rate of B over that of A (LoRA+, about 16)")
    train.add_argument("--full-modules", help="hybrid: modules to train whole, e.g. layers.29.mlp")
    train.add_argument("--full-learning-rate", type=float, help="hybrid: of these modules (default: a tenth)")
    train.add_argument("--budget-minutes", type=float, help="auto: try settings for so long (default: a rule)")
    train.add_argument("--seed", type=int, default=0, help=DEFAULT)
    train.set_defaults(command=_train)


def _train(options: argparse.Namespace) -> int:
    announce(options)
    from accelerate import PartialState

    from workbench.advice.recommend import recommend
    from workbench.training.lifecycle import train
    from workbench.training.store import RunStore

    method = _method(options)
    if method is not None and options.budget_minutes is not None:
        raise MethodError("--budget-minutes is for --method auto, which tries settings; leave it out.")
    settings = replace(config(options), seed=options.seed)
    data, start = task(options), base(options, method.base_quantization if method else None)
    if method is None:
        method = recommend(start, data, settings, options.budget_minutes)
        print("\n".join([f"Chosen: {method.label}", *(f"  {reason}" for reason in method.reasons)]), file=sys.stderr)
    run = train(start, data, method, settings, RunStore(options.out), on_step=step_printer())
    if not PartialState().is_main_process:
        return 0
    if options.json:
        print(json.dumps(record(run), indent=1))
    else:
        _print_run(run)
    return 0 if run.status == "finished" and run.artifact else 1  # a full disk leaves no artifact


def _method(options: argparse.Namespace) -> Method | None:
    """The method that was asked for, None for "auto"; raises MethodError for options that it does not use."""
    from workbench.adapters.methods import Method

    of_adapters = given(options, ("rank", "alpha", "layers", "dropout", "rslora", "dora", "pissa", "lora_plus"))
    opened, rate = given(options, ("full_learning_rate",)), given(options, ("learning_rate",))
    others = given(options, ("targets", "full_modules"))
    if options.method in ("full", "auto"):
        refuse_unused([*of_adapters, *opened, *others, *(rate if options.method == "auto" else ())], options.method)
        return Method.from_options("full", **rate) if options.method == "full" else None
    given_options = of_adapters | rate | opened | {"targets": targets_of(options)}
    return Method.from_options(options.method, full_modules_of(options), **given_options)


def _print_run(run: Run) -> None:
    print(f"{run.id}: {run.status} in {run.seconds:.0f} s, {run.trainable_parameters:,} trainable parameters")
    for name, value in run.metrics.items():
        print(f"  {name}: {run.before[name]:.3f} -> {value:.3f}" if name in run.before else f"  {name}: {value:.3f}")
    if run.advice:
        print(f"  {run.advice}")
    if run.artifact_dir:
        print(f"  saved {(run.artifact_bytes or 0) / 1e6:.1f} MB in {run.artifact_dir}")
