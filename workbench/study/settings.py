"""The settings that the reference study compares: a name, the method at a learning rate, and the first rates tried.

The rate that is swept is the method's own. For a hybrid it is that of the modules trained in full; its adapters train
at LoRA's best rate on the task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from workbench import Base, Method, Task, TrainConfig, full, hybrid, load_base, load_task, lora, qlora, recommend
from workbench.adapters.inject import apply
from workbench.adapters.methods import ATTENTION, MLP
from workbench.claims.study import CHOOSING_SEED as CHOOSING
from workbench.models.base import linear_modules
from workbench.models.padding_free import completion_logits
from workbench.tasks.encoding import collate, encode
from workbench.tasks.tasks import LIVE_ROWS, SWEEP_FACTS

RATES = (5e-4, 1e-3, 2e-3, 4e-3)  # the first rates of adapters with alpha 32
FULL_RATES = (5e-5, 1e-4, 2e-4)
STEPS = {"facts": 120}  # to learn by heart takes more steps; 60 on the other tasks
LONGER = (200, 600)  # steps, of the stage that asks whether LoRA catches up
COMPARING = (1, 2, 3)  # seeds that are compared at the rate which CHOOSING has chosen
SAMPLE = 64  # training rows, whose gradients decide which modules a hybrid opens
SHARE = 0.1  # of the linear layers

# From learning rate, task, and LoRA's best rate on this task.
MakeMethod = Callable[[float, str, float], Method]


@dataclass(frozen=True)
class Setting:
    """One setting of the study.

    make: the method; a hybrid's adapters take LoRA's best rate. rates: the first ones tried. steps: None for those of
    the task. batch_size: rows a step.
    """

    make: MakeMethod
    rates: tuple[float, ...]
    steps: int | None = None
    batch_size: int = 16


@cache
def task_of(name: str) -> Task:
    """The task of that name, or half of the facts. None is scored by its labels: exact match says as much."""
    task = load_task(name)
    return task.head(SWEEP_FACTS) if name == "facts" else replace(task, labels=None)


def config_of(name: str, setting: str, seed: int = CHOOSING) -> TrainConfig:
    """The training of a setting (or of `auto`) on a task.

    The seed that chooses the learning rate is scored on the rows that lessons score live, the others on all test rows.
    """
    own = SETTINGS.get(setting, FULL)
    steps, limit = own.steps or STEPS.get(name, 60), LIVE_ROWS if seed == CHOOSING else None
    return TrainConfig(steps=steps, batch_size=own.batch_size, seed=seed, test_limit=limit)


@cache
def base(quantization: str | None) -> Base:
    """The base model, in float32 whatever the machine, so that all rows can be compared."""
    return load_base("smollm2-135m", quantization, dtype="float32")


@cache
def recommended(task: str) -> Method:
    """What `recommend` chooses for a task."""
    return recommend(base(None), task_of(task), config_of(task, "lora"))


def norms() -> list[str]:
    """The full names of all normalisation layers."""
    return [name for name, _ in base(None).model.named_modules() if name.endswith("norm")]


@cache
def largest_gradients(task: str) -> tuple[str, ...]:
    """The full names of the tenth of the linear layers with the largest gradient per weight, before any training.

    The gradient is that of the mean loss over SAMPLE training rows; its size is the root of the mean square.
    """
    start = base(None)
    model = apply(start, full())
    rows = encode(task_of(task).train[:SAMPLE], start.tokenizer, 512)
    for begin in range(0, SAMPLE, 16):
        batch = collate(rows[begin : begin + 16], pad_id=0)
        torch.nn.functional.cross_entropy(completion_logits(model, batch), batch["targets"]).backward()
    sizes = {name: _root_mean_square(model.get_submodule(name).weight) for name in linear_modules(start.model)}
    count = round(SHARE * len(sizes))
    return tuple(sorted(sorted(sizes, key=lambda name: sizes[name], reverse=True)[:count]))


def _root_mean_square(weight: object) -> float:
    assert isinstance(weight, torch.Tensor) and weight.grad is not None
    return float(weight.grad.square().mean().sqrt())


def _lora(rank: int = 8, alpha: float = 32, rates: tuple[float, ...] = RATES, **options: Any) -> Setting:
    return Setting(lambda rate, *_: lora(rank, alpha, rate, **options), rates)


def _hybrid(modules: Callable[[str], list[str]]) -> Setting:
    def make(rate: float, task: str, of_adapters: float) -> Method:
        return hybrid(modules(task), 8, 32, of_adapters, full_learning_rate=rate)

    return Setting(make, FULL_RATES)


FULL = Setting(lambda rate, *_: full(rate), FULL_RATES)
SETTINGS: dict[str, Setting] = {
    "lora": _lora(),
    "full": FULL,
    "qlora": Setting(lambda rate, *_: qlora(8, 32, rate), RATES[1:]),
    "hybrid": _hybrid(lambda task: ["layers.29.mlp"]),
    # The ladder between LoRA and full, beside `hybrid`: what is opened grows.
    "hybrid, norms": _hybrid(lambda task: norms()),
    "hybrid, last block": _hybrid(lambda task: ["layers.29"]),
    "hybrid, largest gradients": _hybrid(lambda task: list(largest_gradients(task))),
    "lora r=64": _lora(64),
    "rslora": _lora(64, rates=RATES[:3], rslora=True),  # at rank 8 it is only a larger alpha
    "alpha=8": _lora(alpha=8, rates=(4e-3, 8e-3, 1.6e-2)),
    "alpha=128": _lora(alpha=128, rates=RATES[:3]),
    # At equal parameters: as many as rank 8 on all linear layers.
    "attention": _lora(21, rates=RATES[1:], targets=ATTENTION),
    "mlp": _lora(13, rates=RATES[1:], targets=MLP),
    "rank 1": _lora(1),
    "starved": _lora(1, rates=(4e-3, 8e-3, 1.6e-2), targets=["q_proj"], layers=[15]),
    # What is said to close the gap to full.
    "dora": _lora(rates=RATES[1:], dora=True),
    "lora+": _lora(rates=RATES[:3], lora_plus=16),
    "pissa": _lora(rates=RATES[:3], pissa=True),
}
SETTINGS |= {
    f"{name}, {steps} steps": replace(SETTINGS[name], steps=steps)
    for steps in LONGER
    for name in ("lora", "full", "rslora", "lora r=64")
}
SETTINGS |= {
    f"{name}, batch {size}": replace(SETTINGS[name], batch_size=size) for size in (8, 64) for name in ("lora", "full")
}
