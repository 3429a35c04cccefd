"""What is measured: steps of every method, and pairs of ways to do the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from workbench.adapters.methods import Method, full, hybrid, lora, qlora
from workbench.memory.setup import Setup
from workbench.memory.shapes import shape_of

STEP, ADAPTERS, PADDING, FLOAT16 = "step", "adapters at once", "padding-free", "float16"
COMPARISONS = {
    ADAPTERS: "four adapters in one pass, against one by one",
    PADDING: "rows of unequal length without padding, against padded",
    FLOAT16: "float16 with loss scaling, against bfloat16",
}


@dataclass(frozen=True)
class Scale:
    """The sizes of a check. model: a name of the catalogue, or the fields of a transformers configuration."""

    model: str | dict[str, Any]
    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    rank: int = 16
    timed_steps: int = 5


GPU_SCALE = Scale("llama-3.2-1b", lengths=(256, 1024, 2048), batches=(1, 4))
SMALL_MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
SMALL_SCALE = Scale(SMALL_MODEL, lengths=(16, 24, 32), batches=(1, 2), rank=4, timed_steps=2)


@dataclass(frozen=True)
class Case:
    """One measurement, which a process of its own takes. kind: STEP, or one of COMPARISONS, which has no setup."""

    kind: str
    model: str | dict[str, Any]
    setup: Setup | None
    rank: int
    length: int
    timed_steps: int

    @property
    def label(self) -> str:
        """The kind and the settings in a line."""
        if self.setup is None:
            return COMPARISONS[self.kind]
        setup, method = self.setup, self.setup.method
        name = {"lora": "DoRA" if method.dora else "LoRA", "qlora": "QLoRA"}.get(method.name, method.name)
        parts = [name, f"{setup.batch_size} x {setup.sequence_length}"]
        return ", ".join(parts + ["checkpointing"] * setup.checkpointing)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**vars(self), "setup": self.setup.to_dict() if self.setup else None}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Case:
        """The case that `to_dict` describes."""
        setup = values["setup"]
        if setup is not None:
            options = {name: value for name, value in setup["method"].items() if value is not None}
            for name in ("targets", "layers", "full_modules"):
                if isinstance(options.get(name), list):
                    options[name] = tuple(options[name])
            setup = Setup(**{**setup, "method": Method(**options)})
        return Case(**{**values, "setup": setup})


def cases(scale: Scale, device: str) -> list[Case]:
    """All cases of a scale: the comparisons and the middle of the grid first, in case time runs out."""
    steps = [
        Case(STEP, scale.model, setup, scale.rank, setup.sequence_length, scale.timed_steps) for setup in _setups(scale)
    ]
    steps = [replace(case, setup=replace(case.setup, device=device)) for case in steps if case.setup]
    middle = scale.lengths[len(scale.lengths) // 2]
    first = [case for case in steps if case.length == middle]
    compared = [Case(kind, scale.model, None, scale.rank, middle, scale.timed_steps) for kind in COMPARISONS]
    return [*first, *compared, *(case for case in steps if case.length != middle)]


def _setups(scale: Scale) -> Iterator[Setup]:
    from workbench.cost.gpu_check.models import configuration

    last = shape_of(configuration(scale.model)).layers - 1
    methods = [
        lora(scale.rank),
        qlora(scale.rank),
        full(),
        lora(scale.rank, dora=True),
        hybrid([f"layers.{last}.mlp"], scale.rank),
    ]
    for batch in scale.batches:
        for checkpointing in (False, True):
            for method in methods:
                for length in scale.lengths:
                    yield Setup(method, batch, length, checkpointing=checkpointing)
