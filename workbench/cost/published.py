"""Published training runs, from data/published_runs.csv, to compare predictions of memory and speed with."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import Any

from workbench.adapters.methods import Method
from workbench.cost.gpus import GIB, gpus
from workbench.cost.roofline import EFFICIENCY, Job, job, step_phases
from workbench.memory.closed_form import estimate
from workbench.memory.setup import Setup
from workbench.models.catalogue import canonical
from workbench.paths import DATA

# From the result file of each run. The mean sequence has a quarter of the longest's tokens, where memory peaks.
TOKENS, STEPS = 4_198_051, 5_000


@dataclass(frozen=True)
class PublishedRun:
    """One row of the table. setup: the run's; sequence_length is the length of its longest sequences, not the mean."""

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


def published_pair() -> dict[str, float]:
    """memory_ratio (full / LoRA), speed_ratio (LoRA / full) and tokens, of the newest runs of both."""
    full, low_rank = published_runs()[:2]
    return {
        "memory_ratio": full.peak_reserved_bytes / low_rank.peak_reserved_bytes,
        "speed_ratio": low_rank.tokens_per_second / full.tokens_per_second,
        "tokens": TOKENS,
    }
