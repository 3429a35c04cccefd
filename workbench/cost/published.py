"""Published training runs of others, from data/published_runs.csv, to hold predictions of memory and speed against."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace

from workbench.adapters.methods import Method, full, lora, qlora
from workbench.cost.gpus import GIB, gpus
from workbench.cost.roofline import EFFICIENCY, Job, job, step_phases
from workbench.memory.report import estimate
from workbench.memory.setup import Setup
from workbench.models.catalogue import canonical
from workbench.paths import DATA

# Each run's own result file gives both: the mean row is a quarter as long as the limit, near which memory peaks.
TOKENS, STEPS = 4_198_051, 5_000


@dataclass(frozen=True)
class PublishedRun:
    """One row of the table. setup: as the run was trained; its sequence_length is the limit, not the mean length."""

    label: str
    model: str
    gpu: str
    setup: Setup
    peak_reserved_bytes: float
    tokens_per_second: float

    @property
    def method(self) -> Method:
        return self.setup.method


def published_runs() -> list[PublishedRun]:
    """All rows, the newest pair of full fine-tuning and LoRA first."""
    with (DATA / "published_runs.csv").open(encoding="utf-8", newline="") as file:
        return [_run(row) for row in csv.DictReader(file)]


def _run(row: dict[str, str]) -> PublishedRun:
    method, words = full(), "full"
    if row["method"] != "full":
        name, _, variant = row["method"].partition(" ")
        make, targets = {"lora": lora, "qlora": qlora}[name], row["targets"].split(",")
        method = make(int(row["rank"]), float(row["alpha"]), targets=targets, **({variant: True} if variant else {}))
        words = f"{method.label} on {row['targets'].replace('_proj', '').replace(',', ', ')}"
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
    """The speed that `cost.gpus.job` gives for the run, with rows of the mean length."""
    setup = replace(run.setup, sequence_length=round(TOKENS / STEPS / run.setup.batch_size))
    return job(step_phases(estimate(run.model, setup)), gpus()[run.gpu], setup.tokens, TOKENS, efficiency)


def published_pair() -> dict[str, float]:
    """The newest pair of full fine-tuning and LoRA: memory_ratio (full / LoRA), speed_ratio (LoRA / full), tokens."""
    whole, low_rank = published_runs()[:2]
    return {
        "memory_ratio": whole.peak_reserved_bytes / low_rank.peak_reserved_bytes,
        "speed_ratio": low_rank.tokens_per_second / whole.tokens_per_second,
        "tokens": TOKENS,
    }
