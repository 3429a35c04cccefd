"""The `workbench` command and its subcommands. Exit status: 0 done, 1 not as it should be, 2 usage, 130 stopped."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli_memory import add_memory
from workbench.cli_options import DEFAULT, full_modules_of, given, refuse_unused, targets_of
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.adapters.methods import Method
    from workbench.models.base import Base
    from workbench.tasks.tasks import Task
    from workbench.training.loop import StepReport
    from workbench.training.runs import Run
    from workbench.training.step import TrainConfig

QUANTIZED = ("nf4", "fp4", "int8")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if arguments is None:  # a process of its own, not a call from Python
        # A cluster, a container or a build stops a job with SIGTERM: keep what Ctrl-C keeps, and leave no process.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return options.command(options)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("workbench: stopped.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workbench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    doctor = commands.add_parser("doctor", help="what this machine can run, in under a minute")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(command=_doctor)

    train = commands.add_parser("train", help="fine-tune a model on a task and record the run")
    _add_run_options(train)
    methods = ("full", "lora", "qlora", "hybrid", "auto")
    train.add_argument("--method", default="lora", choices=methods, help=f"auto chooses for the data; {DEFAULT}")
    train.add_argument("--quantization", choices=QUANTIZED, help="of the frozen weights (default: nf4 for qlora)")
    train.add_argument("--rank", type=int, help="default: 8")
    train.add_argument("--alpha", type=float, help="default: 16")
    train.add_argument("--learning-rate", type=float, help="default: 1e-4 for full, 2e-3 for the others")
    train.add_argument("--dropout", type=float, help="default: 0")
    train.add_argument("--rslora", action="store_true", default=None, help="alpha / sqrt(rank), not alpha / rank")
    train.add_argument("--dora", action="store_true", default=None, help="weight-decomposed adapters")
    train.add_argument("--full-modules", help="hybrid: modules to train whole, e.g. layers.29.mlp")
    train.add_argument("--seed", type=int, default=0, help=DEFAULT)
    train.set_defaults(command=_train)

    sweep = commands.add_parser("sweep", help="train every combination of ranks, alphas, rates and seeds in few passes")
    _add_run_options(sweep)
    sweep.add_argument("--quantization", choices=QUANTIZED, help="of the frozen weights: QLoRA (default: plain LoRA)")
    ranks, rates = [1, 2, 4, 8, 16, 32], [2e-3]
    sweep.add_argument("--ranks", type=_list_of(int), default=ranks, metavar="1,2,4", help="default: 1,2,4,8,16,32")
    sweep.add_argument("--alphas", type=_list_of(float), default=[16], metavar="16,32", help="default: 16")
    sweep.add_argument(
        "--learning-rates", type=_list_of(float), default=rates, metavar="5e-4,2e-3", help="default: 2e-3"
    )
    sweep.add_argument("--seeds", type=_list_of(int), default=[0], metavar="0,1,2", help="default: 0")
    sweep.add_argument("--max-memory", type=float, metavar="GB", help="of tensors in one pass, the base included")
    sweep.add_argument("--compile", action="store_true", help="torch.compile first: minutes of compiling")
    sweep.add_argument("--ray", metavar="ADDRESS", help="run the passes on a Ray cluster ('auto' or host:port)")
    sweep.set_defaults(command=_sweep)

    add_memory(commands)

    notebooks = commands.add_parser("notebooks", help="execute notebooks and say how each went")
    notebooks.add_argument("names", nargs="*", metavar="NAME", help="e.g. 01_delta_w (default: all)")
    notebooks.add_argument("--tier", default="smoke", choices=("smoke", "laptop", "gpu"), help=DEFAULT)
    out = Path("build/executed")
    notebooks.add_argument("--out", type=Path, default=out, help=f"folder for the executed copies; {DEFAULT}")
    notebooks.set_defaults(command=_notebooks)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """What `train` and `sweep` have in common: model, data, length, and where the records go."""
    names = "packaged name, preset, Hub id or directory"
    parser.add_argument("--model", default="smollm2-135m", help=f"{names}; {DEFAULT}")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    dtypes = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, help="of the frozen weights (default: what `doctor` found fast)")
    data = "a shipped task, or your own CSV, JSONL, folder or Hub data set"
    parser.add_argument("--task", default="orders", help=f"{data}; {DEFAULT}")
    parser.add_argument("--prompt-column", default="prompt", help=DEFAULT)
    parser.add_argument("--completion-column", default="completion", help=DEFAULT)
    parser.add_argument("--targets", help="layer names: q_proj,v_proj (default: all-linear)")
    parser.add_argument("--steps", type=int, default=40, help=DEFAULT)
    parser.add_argument("--batch-size", type=int, default=16, help=f"rows; {DEFAULT}")
    parser.add_argument("--accumulation", type=int, default=1, help=f"batches a step; {DEFAULT}")
    parser.add_argument("--max-length", type=int, default=512, help=f"tokens of a row; {DEFAULT}")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations to save memory")
    parser.add_argument("--test-limit", type=int, help="score only so many test rows")
    parser.add_argument("--out", type=Path, help="folder for records and artifacts (default: runs/)")
    parser.add_argument("--json", action="store_true", help="print the records as JSON")


def _list_of(kind: type) -> Callable[[str], list[Any]]:
    """A type for argparse: a list of numbers with commas between them."""

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = f"list of {'whole numbers' if kind is int else 'numbers'}"  # argparse shows it in its message
    return parse


def _doctor(options: argparse.Namespace) -> int:
    from workbench.course.doctor import examine

    findings = examine()
    blocked = any(finding.level == "blocked" for finding in findings)
    if options.json:
        print(json.dumps({"ready": not blocked, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print(f"{finding.level:8} {finding.name}: {finding.value}")
            if finding.remedy:
                print(f"{'':8} -> {finding.remedy}")
        print("The laptop tier cannot run yet." if blocked else "Ready: the laptop tier runs here.")
    return 1 if blocked else 0


def _train(options: argparse.Namespace) -> int:
    from accelerate import PartialState

    from workbench.advice.recommend import recommend
    from workbench.training.lifecycle import train
    from workbench.training.store import RunStore

    method = _method(options)
    config = replace(_config(options), seed=options.seed)
    task, base = _task(options), _base(options, method.base_quantization if method else None)
    if method is None:
        method = recommend(base, task, config)
        print("\n".join([f"Chosen: {method.label}", *(f"  {reason}" for reason in method.reasons)]), file=sys.stderr)
    run = train(base, task, method, config, RunStore(options.out), on_step=_print_step)
    if not PartialState().is_main_process:
        return 0
    if options.json:
        print(json.dumps(_record(run), indent=1))
    else:
        _print_run(run)
    return 0 if run.status == "finished" and run.artifact else 1  # a full disk leaves no artifact


def _sweep(options: argparse.Namespace) -> int:
    from itertools import product

    from workbench.adapters.methods import lora, qlora
    from workbench.sweeps.sweep import sweep
    from workbench.training.store import RunStore

    make = qlora if options.quantization else lora
    grid = product(options.ranks, options.alphas, options.learning_rates)
    methods = [make(rank, alpha, rate, targets_of(options)) for rank, alpha, rate in grid]
    task, base, config = _task(options), _base(options, None), _config(options)
    limit = None if options.max_memory is None else _bytes_of(options.max_memory)
    store, settings = RunStore(options.out), {"seeds": options.seeds, "max_memory": limit, "compiled": options.compile}
    if options.ray:
        from workbench.sweeps.ray_executor import RayExecutor

        with RayExecutor(options.ray) as executor:
            runs = sweep(base, task, methods, config, store, executor, **settings)
    else:
        runs = sweep(base, task, methods, config, store, on_step=_print_step, **settings)
    if options.json:
        print(json.dumps([_record(run) for run in runs], indent=1))
    else:
        _print_sweep(runs)
    done = [run for run in runs if run.status == "diverged" or (run.status == "finished" and run.artifact)]
    return 0 if len(done) == len(methods) * len(options.seeds) else 1


def _bytes_of(gigabytes: float) -> int:
    if not 0 < gigabytes < math.inf:
        raise WorkbenchError(f"--max-memory {gigabytes:g} must be a number of GB above 0.")
    return int(gigabytes * 1e9)


def _config(options: argparse.Namespace) -> TrainConfig:
    from workbench.training.step import TrainConfig

    shared = ("steps", "batch_size", "accumulation", "max_length", "checkpointing", "test_limit")
    return TrainConfig(**{name: getattr(options, name) for name in shared})


def _task(options: argparse.Namespace) -> Task:
    from workbench.tasks.tasks import load_task

    return load_task(options.task, prompt=options.prompt_column, completion=options.completion_column)


def _base(options: argparse.Namespace, default: str | None) -> Base:
    """The base that was asked for. default: its quantization where none was given."""
    from workbench.models.base import load_base

    return load_base(
        options.model, quantization=options.quantization or default, dtype=options.dtype, revision=options.revision
    )


def _method(options: argparse.Namespace) -> Method | None:
    """The method that was asked for, None for "auto"; raises MethodError for options that it does not use."""
    from workbench.adapters.methods import Method

    of_adapters = given(options, ("rank", "alpha", "dropout", "rslora", "dora"))
    others, rate = given(options, ("targets", "full_modules")), given(options, ("learning_rate",))
    if options.method in ("full", "auto"):
        refuse_unused([*of_adapters, *others, *(rate if options.method == "auto" else ())], options.method)
        return Method.from_options("full", **rate) if options.method == "full" else None
    given_options = of_adapters | rate | {"targets": targets_of(options)}
    return Method.from_options(options.method, full_modules_of(options), **given_options)


def _record(run: Run) -> dict[str, Any]:
    """The run's record with the path of its artifact."""
    return run.to_dict() | {"artifact_dir": str(run.artifact_dir) if run.artifact_dir else None}


def _print_step(entry: StepReport) -> None:
    from workbench.console import say

    losses = [run.history[-1]["loss"] for run in entry["runs"] if run.history]
    words = " ".join(f"{loss:.3f}" for loss in losses)
    say(f"step {entry['step']}/{entry['steps']}  loss {words}  {entry['seconds_left']:.0f} s left")


def _print_run(run: Run) -> None:
    print(f"{run.id}: {run.status} in {run.seconds:.0f} s, {run.trainable_parameters:,} trainable parameters")
    for name, value in run.metrics.items():
        print(f"  {name}: {run.before[name]:.3f} -> {value:.3f}")
    if run.advice:
        print(f"  {run.advice}")
    if run.artifact_dir:
        print(f"  saved {(run.artifact_bytes or 0) / 1e6:.1f} MB in {run.artifact_dir}")


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


if __name__ == "__main__":
    sys.exit(main())
