"""The record of one fine-tuning run, as its JSON file holds it, and tables of such records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, NotRequired, TypedDict

import torch

from workbench.adapters.methods import targets_in_words
from workbench.errors import RunError
from workbench.machine import HardwareRecord
from workbench.models import catalogue
from workbench.models.base import Base

# A run is "training", then "scoring", then complete: "finished", "diverged" (its loss is no number) or "destroyed" (its
# loss is far above the base's own). A run that is stopped, or runs out of memory, keeps what it has.
UNDER_WAY = ("training", "scoring")
FAILED = ("diverged", "destroyed")  # complete, and the same again if it were repeated
COMPLETE = ("finished", *FAILED)
STATUSES = (*UNDER_WAY, *COMPLETE, "interrupted", "out_of_memory")


class BaseRecord(TypedDict):
    """The base model that was trained; name: as `load_base` was given it, revision: `Base.identity`, of its weights.

    quantized_share: of its linear weights, how many are quantized; None without quantization.
    """

    name: str
    revision: str
    source: str
    quantization: str | None
    quantized_share: NotRequired[float | None]
    architecture: str


class TaskRecord(TypedDict):
    """The data: sha256 is that of all rows in order, train_rows and test_rows are how many there were.

    test_sha256: of the test rows alone, which tasks with other training rows may share.
    """

    name: str
    source: str
    sha256: str
    test_sha256: NotRequired[str]
    train_rows: int
    test_rows: int


class MethodRecord(TypedDict):
    """The fields of a `Method`, its label and the factor in front of B A (None for full fine-tuning).

    adapted_share: of the base's linear weights, experts included, how many lie in layers with an adapter.
    """

    name: str
    learning_rate: float
    rank: int | None
    alpha: float | None
    targets: str | list[str]
    layers: list[int] | None
    dropout: float
    rslora: bool
    dora: bool
    full_modules: list[str]
    init_seed: int | None
    full_learning_rate: NotRequired[float | None]
    lora_plus: NotRequired[float]
    pissa: NotRequired[bool]
    reasons: NotRequired[list[str]]
    label: str
    scaling: float | None
    adapted_share: NotRequired[float | None]


class ConfigRecord(TypedDict):
    """The fields of a `TrainConfig`."""

    steps: int
    batch_size: int
    seed: int
    accumulation: int
    warmup: float
    clip: float
    weight_decay: float
    checkpointing: bool
    max_length: int
    evaluate: bool
    test_limit: int | None
    save: bool


class PrecisionRecord(TypedDict):
    """The dtype of what is frozen ("nf4" for 4-bit codes), of what trains, of the computation and of the scoring.

    padding_free: whether the steps computed real tokens only; False where the model needs rows of equal length.
    """

    frozen: str
    trained: str
    compute: str
    scores: str
    padding_free: NotRequired[bool]


class HistoryEntry(TypedDict):
    """One training step, counted from 1; loss: nats per completion token, before the update."""

    step: int
    loss: float
    learning_rate: float
    seconds: float


class TogetherRecord(TypedDict):
    """The pass of a sweep that a run shared: how many configurations, and the peak of live tensor bytes of all."""

    configurations: int
    peak_memory_bytes: int | None


@dataclass
class Run:
    """Everything needed to read, compare and repeat one fine-tuning run. Bytes, seconds and tokens throughout.

    before, metrics: the scores of the base and of the tuned model (see `evaluation.evaluate`), empty if it was not
    scored; forgetting: their differences. before_right, right: by measure, which test rows were right (see
    `scores.unpack_rows`); records of earlier versions have none. together: in a sweep; seconds are then the run's share
    of its pass.
    """

    id: str
    status: str
    base: BaseRecord
    task: TaskRecord
    method: MethodRecord
    config: ConfigRecord
    precision: PrecisionRecord
    versions: dict[str, str]
    hardware: HardwareRecord
    created: str
    before: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    before_right: dict[str, str] = field(default_factory=dict)
    right: dict[str, str] = field(default_factory=dict)
    forgetting: dict[str, float] = field(default_factory=dict)
    history: list[HistoryEntry] = field(default_factory=list)
    trainable_parameters: int = 0
    total_parameters: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    artifact_bytes: int | None = None
    artifact: str | None = None  # a folder name inside the store
    general_text_sha256: str | None = None
    together: TogetherRecord | None = None
    advice: str | None = None
    # Not written to the record: the store's folder, and what the store holds of this run.
    folder: str = field(default="", compare=False)
    as_stored: str = field(default="", compare=False, repr=False)

    @property
    def artifact_dir(self) -> Path | None:
        """The folder of the saved adapter or checkpoint; None if nothing was saved."""
        return Path(self.folder) / self.artifact if self.artifact else None

    def to_dict(self) -> dict[str, Any]:
        """The record as it is stored."""
        stored = {name: value for name, value in asdict(self).items() if name not in NOT_STORED}
        return {name: value for name, value in stored.items() if value or name not in IF_KNOWN}

    @property
    def began(self) -> datetime:
        """When the run began; runs of two time zones, or around the end of summer time, are ordered by it."""
        return datetime.fromisoformat(self.created).astimezone()

    @property
    def label(self) -> str:
        """The method, short, for legends."""
        return self.method["label"]

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of a training step."""
        return median(entry["seconds"] for entry in self.history) if self.history else None

    def load(self, base: Base) -> Base:
        """The tuned model: `base` with this run's adapter in a stock PEFT wrapper, or the run's full checkpoint.

        Raises RunError for a run that was not saved and for another base, AdapterError for damaged files.
        """
        from workbench.adapters.saved import checkpoints
        from workbench.adapters.saved.origin import CHANGED

        if self.artifact_dir is None or not self.artifact_dir.is_dir():
            raise RunError(
                f"Run {self.id} has no saved artifact (status {self.status}); train it again with save=True."
            )
        same_name = catalogue.canonical(base.name) == catalogue.canonical(self.base["name"])
        same_name |= base.source == self.base["source"] == "directory"  # which may have moved: its content counts
        if not (same_name and base.is_at(self.base["revision"])):
            raise RunError(
                f"Run {self.id} was trained on {self.base['name']} ({self.base['revision']}), "
                f"not on {base.name} ({base.identity}); load that base."
            )
        # Plain LoRA fits a base in any storage; these two were trained to make up for the errors of one storage.
        wanted = self.base["quantization"]
        if base.quantization != wanted and self.method["name"] in ("qlora", "hybrid"):
            kind = wanted or "unquantized"
            raise RunError(f"Run {self.id} was trained on {kind} weights; load_base(..., quantization={wanted!r}).")
        tuned = base.with_model(checkpoints.load(base, self.artifact_dir), f"{base.revision}{CHANGED}{self.id}")
        if self.method["name"] == "full":
            return replace(tuned, quantization=None, dtype=torch.float32)
        return tuned


NOT_STORED = ("folder", "as_stored")
IF_KNOWN = ("before_right", "right")  # left out where they are empty, so that an old record is written as it was read


def provenance(run: Run) -> dict[str, Any]:
    """What a row that ships with the course says of its making."""
    return {
        "task_sha256": run.task["sha256"],
        "test_sha256": run.task.get("test_sha256"),
        "precision": run.precision["compute"],
        "versions": run.versions,
        "processor": run.hardware["processor"],
    }


def table(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """One flat row a run, for tables and plots: sizes in MB (10^6 bytes), times in seconds.

    right and right_labels: which test rows had the exact answer and the right label (see `scores.unpack_rows`).
    """
    return [
        {
            "method": run.label,
            "task": run.task["name"],
            **{
                name: run.method.get(name) for name in ("rank", "alpha", "scaling", "learning_rate", "layers", "rslora")
            },
            "targets": targets_in_words(run.method.get("targets", "all-linear")),
            "steps": run.config.get("steps"),
            "seed": run.config["seed"],
            "status": run.status,
            **{name: run.metrics.get(name) for name in ("loss", "exact_match", "label_accuracy")},
            "right": run.right.get("exact_match"),
            "right_labels": run.right.get("label_accuracy"),
            "forgetting": run.forgetting.get("general_loss"),
            "trainable_parameters": run.trainable_parameters,
            "step_seconds": run.step_seconds,
            "peak_memory_mb": run.peak_memory_bytes and run.peak_memory_bytes / 1e6,
            "artifact_mb": run.artifact_bytes and run.artifact_bytes / 1e6,
        }
        for run in runs
    ]


def comparable_row(run: Run) -> dict[str, Any]:
    """The run's row of `table` with its `provenance`, as `results.paired.compare_rows` takes it."""
    return table([run])[0] | provenance(run)
