"""What `workbench train` and `workbench sweep` have in common: options, and how runs are printed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.options import DEFAULT, given, list_of

if TYPE_CHECKING:
    from workbench.models.base import Base
    from workbench.tasks.tasks import Task
    from workbench.training.loop import StepReport
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
    data = "a shipped task, or your own CSV, JSONL, folder or Hub data set"
    parser.add_argument("--task", default="orders", help=f"{data}; {DEFAULT}")
    parser.add_argument("--prompt-column", default="prompt", help=DEFAULT)
    parser.add_argument("--completion-column", default="completion", help=DEFAULT)
    parser.add_argument("--subset", help="configuration of a Hub data set (default: its only one)")
    parser.add_argument("--labelled", action="store_true", help="a task of labels: score label accuracy too")
    parser.add_argument(
        "--test-fraction", type=float, help="of the prompts, where there are no test rows (default: 0.2)"
    )
    parser.add_argument("--targets", help="layer names: q_proj,v_proj (default: all-linear)")
    parser.add_argument("--layers", type=list_of(int), metavar="0,1,2", help="blocks to adapt (default: all)")
    parser.add_argument("--dropout", type=float, help="of the adapters' inputs (default: 0)")
    parser.add_argument("--steps", type=int, default=40, help=DEFAULT)
    parser.add_argument("--batch-size", type=int, default=16, help=f"rows; {DEFAULT}")
    parser.add_argument("--accumulation", type=int, default=1, help=f"batches a step; {DEFAULT}")
    parser.add_argument("--max-length", type=int, default=512, help=f"tokens of a row; {DEFAULT}")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations to save memory")
    parser.add_argument("--test-limit", type=int, help="score only so many test rows")
    parser.add_argument("--out", type=Path, help="folder for records and artifacts (default: runs/)")
    parser.add_argument("--json", action="store_true", help="print the records as JSON")


def config(options: argparse.Namespace) -> TrainConfig:
    """The training configuration that was asked for."""
    from workbench.training.step import TrainConfig

    shared = ("steps", "batch_size", "accumulation", "max_length", "checkpointing", "test_limit")
    return TrainConfig(**{name: getattr(options, name) for name in shared})


def task(options: argparse.Namespace) -> Task:
    """The task that was asked for."""
    from workbench.tasks.tasks import load_task

    columns = {"prompt": options.prompt_column, "completion": options.completion_column}
    fraction = given(options, ("test_fraction",))
    return load_task(options.task, **columns, **fraction, labelled=options.labelled, subset=options.subset)


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


def print_step(entry: StepReport) -> None:
    """Print the losses of all runs of a step, and the time left, on stderr."""
    from workbench.console import say

    losses = [run.history[-1]["loss"] for run in entry["runs"] if run.history]
    words = " ".join(f"{loss:.3f}" for loss in losses)
    say(f"step {entry['step']}/{entry['steps']}  loss {words}  {entry['seconds_left']:.0f} s left")
