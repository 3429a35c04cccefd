"""What `workbench train` and `workbench sweep` have in common: options, and how runs are printed."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.cli.options import DEFAULT, add_data_options, list_of, path_of, task_options
from workbench.console import on_terminal, progress_wanted, say

if TYPE_CHECKING:
    from workbench.models.base import Base
    from workbench.tasks.tasks import Task
    from workbench.training.loop import OnStep, StepReport
    from workbench.training.runs import Run
    from workbench.training.step import TrainConfig

QUANTIZED = ("nf4", "fp4", "int8")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What `train` and `sweep` have in common: model, data, length, and where the records go."""
    names = "a name of the catalogue, Hub id or directory"
    parser.add_argument("--model", default="smollm2-135m", help=f"{names}; {DEFAULT}")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    dtypes = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, help="of the frozen weights (default: what `doctor` found fast)")
    parser.add_argument(
        "--partial-quantization", action="store_true", help="accept a base of which less than 90 %% can be quantized"
    )
    data = "a shipped task, or your own file, folder or Hub data set (see `workbench data`)"
    parser.add_argument("--task", default="orders", help=f"{data}; {DEFAULT}")
    add_data_options(parser)
    parser.add_argument("--targets", help="layer names: q_proj,v_proj (default: all-linear)")
    parser.add_argument("--layers", type=list_of(int), metavar="0,1,2", help="blocks to adapt (default: all)")
    parser.add_argument("--dropout", type=float, help="of the adapters' inputs (default: 0)")
    parser.add_argument("--steps", type=int, default=40, help=DEFAULT)
    parser.add_argument("--batch-size", type=int, default=16, help=f"rows; {DEFAULT}")
    parser.add_argument("--accumulation", type=int, default=1, help=f"batches a step; {DEFAULT}")
    parser.add_argument("--max-length", type=int, default=512, help=f"tokens of a row; {DEFAULT}")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations to save memory")
    parser.add_argument("--test-limit", type=int, help="test rows to score (default: 240 of a shipped task, else all)")
    parser.add_argument("--out", type=path_of, help="folder for records and artifacts (default: runs/)")
    parser.add_argument("--json", action="store_true", help="print the records as JSON")


def announce(options: argparse.Namespace) -> None:
    """Say what the first seconds go to; nothing else is said before the libraries are there."""
    say(f"Loading torch, transformers and PEFT, then {options.model} ...")


def config(options: argparse.Namespace) -> TrainConfig:
    """The training configuration that was asked for; of a shipped task the first LIVE_ROWS test rows are scored."""
    from workbench.tasks.example import BUILT_IN
    from workbench.tasks.tasks import LIVE_ROWS
    from workbench.training.step import TrainConfig

    shared = ("steps", "batch_size", "accumulation", "max_length", "checkpointing", "test_limit")
    asked = TrainConfig(**{name: getattr(options, name) for name in shared})
    usual = options.test_limit is None and options.task in BUILT_IN
    return replace(asked, test_limit=LIVE_ROWS) if usual else asked


def task(options: argparse.Namespace) -> Task:
    """The task that was asked for. A line on stderr says so where only some of its test rows are scored by default."""
    from workbench.tasks.tasks import load_task

    loaded = load_task(options.task, **task_options(options))
    limit, rows = config(options).test_limit, len(loaded.test)
    if options.test_limit is None and limit is not None and limit < rows:
        say(f"Of {rows:,} test rows the first {limit} will be scored; --test-limit {rows} scores all of them.")
    return loaded


def base(options: argparse.Namespace, default: str | None) -> Base:
    """The base that was asked for. default: its quantization where none was given."""
    from workbench.models.base import load_base

    return load_base(
        options.model,
        quantization=options.quantization or default,
        dtype=options.dtype,
        revision=options.revision,
        partial_quantization=options.partial_quantization,
    )


def record(run: Run) -> dict[str, Any]:
    """The run's record with the path of its artifact."""
    return run.to_dict() | {"artifact_dir": str(run.artifact_dir) if run.artifact_dir else None}


def step_printer() -> OnStep:
    """What shows each step on stderr: the losses of all its runs, tokens a second and the time left.

    One line that changes on a terminal; a line a step where stderr goes into a file.
    """
    from workbench.training.pace import duration_in_words

    bar: Any = None

    def show(entry: StepReport) -> None:
        nonlocal bar
        runs = [run for run in entry["runs"] if run.history]
        losses = " ".join(f"{run.history[-1]['loss']:.3f}" for run in runs)
        seconds = sum(run.seconds for run in runs)
        pace = f"{sum(run.tokens for run in runs) / seconds:.0f} answer tokens/s" if seconds else ""
        words = f"loss {losses}  {pace}  {duration_in_words(entry['seconds_left'])} left"
        if not (progress_wanted() and on_terminal()):
            say(f"step {entry['step']}/{entry['steps']}  {words}")
            return
        if entry["step"] == 1:
            from tqdm import tqdm

            bar = tqdm(total=entry["steps"], bar_format="step {n_fmt}/{total_fmt} {bar:20} {desc}")
        with suppress(OSError, ValueError):  # a closed stderr must not end the training
            bar.set_description_str(words, refresh=False)
            bar.update()
            if entry["step"] == entry["steps"]:
                bar.close()

    return show
