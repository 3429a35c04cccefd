"""Published training runs, from data/published_runs.csv, to compare predictions of memory and speed with."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import Any

from workbench.adapters.methods import Method
from workbench.cost.gpus import GIB, gpus
from workbench.cost.roofline import EFFICIENCY, Job, job, step_phases
from workbench.memory.closed_form import estimate
from workbench.memory.generation import generation_bytes
from workbench.memory.setup import Setup
from workbench.models.catalogue import canonical
from workbench.paths import DATA

# From the result file of each run. The mean sequence has a quarter of the longest's tokens, where memory peaks.
TOKENS, STEPS = 4_198_051, 5_000
# Each run also generates answers, 50 rows at once, of at most 800 tokens with their question.
GENERATED_ROWS, GENERATED_LENGTH = 50, 800


@dataclass(frozen=True)
class PublishedRun:
    """One row of the table.

    setup: the run's; sequence_length is the limit of its sequences, not their mean. peak_reserved_bytes: the most in
    the whole run, its evaluations included. tokens_per_second: real tokens, while the timer of the steps ran.
    """

    label: str
    model: str
    gpu: str
    setup: Setup
    peak_reserved_bytes: float
    tokens_per_second: float


def published_runs() -> list[PublishedRun]:
    """All rows; the newest runs of full fine-tuning and of LoRA come first."""
    with (DATA / "published_runs.csv").open(encoding="utf-8", newline="") as file:
        return [_run(row) for row in csv.DictReader(file)]


def _run(row: dict[str, str]) -> PublishedRun:
    name, _, variant = row["method"].partition(" ")
    options: dict[str, Any] = {variant: True} if variant else {}
    if name != "full":
        options |= {"rank": int(row["rank"]), "alpha": float(row["alpha"]), "targets": row["targets"].split(",")}
    method = Method.from_options(name, **options)
    words = "full" if name == "full" else f"{method.label} on {row['targets'].replace('_proj', '').replace(',', ', ')}"
    setup = Setup(
        method,
        int(row["batch_size"]),
        int(row["max_seq_len"]),
        row["dtype"],
        checkpointing=row["checkpointing"] == "yes",
    )
    date = row["source"].rpartition("(")[2].rstrip(")")
    return PublishedRun(
        f"{words} ({date})",
        canonical(row["model"]),
        row["gpu"].removeprefix("NVIDIA "),
        setup,
        float(row["peak_reserved_gib"]) * GIB,
        float(row["tokens_per_s"]),
    )


def predicted_job(run: PublishedRun, efficiency: float = EFFICIENCY) -> Job:
    """The job as `cost.roofline.job` predicts it, with sequences of the mean length."""
    setup = replace(run.setup, sequence_length=round(TOKENS / STEPS / run.setup.batch_size))
    return job(step_phases(estimate(run.model, setup)), gpus()[run.gpu], setup.tokens, TOKENS, efficiency)


def evaluation_bytes(run: PublishedRun) -> int:
    """The most that the run's evaluations need, to compare with the peak of a training step.

    They generate while weights, optimizer state, gradients and the outputs of the last step are kept.
    """
    return generation_bytes(run.model, run.setup, GENERATED_ROWS, GENERATED_LENGTH)


def published_pair() -> dict[str, float]:
    """memory_ratio (full / LoRA), speed_ratio (LoRA / full) and tokens, of the newest runs of both."""
    full, low_rank = published_runs()[:2]
    return {
        "memory_ratio": full.peak_reserved_bytes / low_rank.peak_reserved_bytes,
        "speed_ratio": low_rank.tokens_per_second / full.tokens_per_second,
        "tokens": TOKENS,
    }
