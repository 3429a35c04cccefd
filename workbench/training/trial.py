"""A trial: one base, task, method and configuration to be trained, and the record that its run starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from types import NoneType
from typing import Any, cast

import torch

from workbench import machine
from workbench.adapters.inject import adapted_share, adapter_parameters, opened_modules
from workbench.adapters.methods import Method
from workbench.errors import TrainingError
from workbench.models.base import Base
from workbench.scoring import evaluation
from workbench.tasks.tasks import Task
from workbench.training.runs import ConfigRecord, MethodRecord, PrecisionRecord, Run
from workbench.training.step import TrainConfig
from workbench.training.store import RunStore

TOKENIZER_BYTES = 8_000_000  # of a large one, which a full checkpoint has beside its weights

KINDS: dict[str, tuple[Any, str]] = {
    "base": (Base, "what load_base() returns"),
    "task": (Task, "what load_task() returns"),
    "method": (Method, "one of lora(), qlora(), hybrid() and full()"),
    "config": (TrainConfig, "TrainConfig(steps=...)"),
    "store": (RunStore, "RunStore(folder)"),
    "on_step": ((Callable, NoneType), "a function that takes a report"),
}


@dataclass(frozen=True)
class Trial:
    """Everything that determines one run, and the store that keeps it. `id` names the run and its files."""

    id: str
    base: Base
    task: Task
    method: Method
    config: TrainConfig
    store: RunStore

    def new_run(self) -> Run:
        """The record as far as it is known before the first step; raises RunError if the store could not keep it."""
        described = self.method.to_dict() | {"label": self.method.label, "scaling": self.method.scaling}
        described["adapted_share"] = adapted_share(self.base, self.method)
        run = Run(
            id=self.id,
            status="training",
            base={
                "name": self.base.name,
                "revision": self.base.identity,
                "source": self.base.source,
                "quantization": self.base.quantization,
                "quantized_share": self.base.quantized_share,
                "architecture": type(self.base.model).__name__,
            },
            task={
                "name": self.task.name,
                "source": self.task.source,
                "sha256": self.task.sha256,
                "test_sha256": self.task.test_sha256,
                "train_rows": len(self.task.train),
                "test_rows": len(self.task.test),
            },
            method=cast("MethodRecord", described),
            config=cast("ConfigRecord", asdict(self.config)),
            precision=self.precision,
            versions=machine.versions(),
            hardware=machine.hardware(),
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            general_text_sha256=evaluation.general_text()[1],
            folder=str(self.store.path),
        )
        self.store.check(run)
        return run

    @property
    def artifact_bytes(self) -> int:
        """How much of the disk the artifact will take, about; 0 if none is saved."""
        tokenizer = TOKENIZER_BYTES if self.method.name == "full" else 0
        return 4 * self.trained_numbers + tokenizer if self.config.save else 0

    @property
    def trained_numbers(self) -> int:
        """How many parameters will train: those of the base, or of adapters and opened modules."""
        if self.method.name == "full":
            return sum(parameter.numel() for parameter in self.base.model.parameters())
        opened = [self.base.model.get_submodule(name) for name in opened_modules(self.base, self.method)]
        whole = sum(parameter.numel() for module in opened for parameter in module.parameters())
        return adapter_parameters(self.base, self.method) + whole

    @property
    def precision(self) -> PrecisionRecord:
        """The dtype of what is frozen, of what trains, of the computation (under autocast) and of the scoring."""
        frozen = "nothing" if self.method.name == "full" else self.base.quantization or self.base.dtype_name
        return {"frozen": frozen, "trained": "float32", "compute": self.base.dtype_name, "scores": "float32"}


def check_kinds(**arguments: object) -> None:
    """Raise TrainingError for an argument of the wrong type, such as a model's name where a loaded base is wanted.

    Raises it also where new tensors would be of a dtype in which no part of a model here computes.
    """
    if torch.get_default_dtype() != torch.float32:
        raise TrainingError(f"torch's default is {torch.get_default_dtype()}; torch.set_default_dtype(torch.float32).")
    for name, value in arguments.items():
        kind, wanted = KINDS[name]
        if not isinstance(value, kind):
            raise TrainingError(f"{name}={value!r} must be {wanted}.")
    task = arguments.get("task")
    if isinstance(task, Task) and not task.train:
        raise TrainingError(f"The task {task.name} has no rows to train on.")
