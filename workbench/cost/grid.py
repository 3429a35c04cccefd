"""A grid of configurations (models, settings, batch sizes), with memory and money of each.

Lesson 04 judges the claims about memory and money on this grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from workbench.adapters.methods import full, lora, qlora
from workbench.cost.flops import meta_base
from workbench.cost.gpus import Gpu, gpus, priced
from workbench.cost.roofline import gpus_if_sharded, job, step_phases
from workbench.memory.closed_form import estimate
from workbench.memory.setup import OF_TRAINER, Setup

FULL_MASTER, FULL_BF16 = "full, float32 master", "full, bfloat16"
LORA_FEW, LORA, QLORA = "LoRA r=8 on q, v", "LoRA r=16 on all", "QLoRA r=16 on all"
# Name of a setting -> its method and dtype; `grid` chooses the other fields.
SETTINGS: dict[str, Setup] = {
    FULL_MASTER: Setup(full(), dtype="mixed", optimizer=OF_TRAINER),
    FULL_BF16: Setup(full(), optimizer=OF_TRAINER),
    LORA_FEW: Setup(lora(rank=8, targets=("q_proj", "v_proj")), optimizer=OF_TRAINER),
    LORA: Setup(lora(rank=16), optimizer=OF_TRAINER),
    QLORA: Setup(qlora(rank=16), optimizer=OF_TRAINER),
}
MODELS = (
    "smollm2-135m",
    "qwen2.5-0.5b",
    "llama-3.2-1b",
    "olmo2-1b",
    "qwen3-1.7b",
    "llama-3.2-3b",
    "qwen2.5-3b",
    "llama-3.1-8b",
    "qwen2.5-14b",
    "qwen2.5-32b",
    "llama-3.1-70b",
)
SHAPES = ((1, 512), (4, 768), (16, 1024))  # batch size, sequence length
TOKENS = 10e6  # of the job whose cost is `money`


class GridRow(TypedDict):
    """One configuration.

    setting: one of SETTINGS. reserved_bytes: the allocator's; total_bytes: with the CUDA context. a100s: how many "A100
    80 GB" if model states are sharded; None if no number is enough. money: US dollars for TOKENS tokens on the cheapest
    GPU for the job, or if one is too small, on as many as it takes, without the time that they need to communicate;
    None if no number is enough.
    """

    model: str
    parameters: int
    setting: str
    batch_size: int
    sequence_length: int
    checkpointing: bool
    reserved_bytes: int
    total_bytes: int
    trainable_parameters: int
    a100s: int | None
    money: float | None


def grid(
    models: Sequence[str] = MODELS,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    prices: Mapping[str, float] | None = None,
) -> list[GridRow]:
    """A row for each model, setting and shape (batch size, sequence length), without and with checkpointing.

    prices: as for `gpus`.
    """
    table = priced(gpus(prices))
    return [
        _row(model, name, replace(setup, batch_size=size, sequence_length=length, checkpointing=recompute), table)
        for model in models
        for name, setup in SETTINGS.items()
        for size, length in shapes
        for recompute in (False, True)
    ]


def _row(model: str, setting: str, setup: Setup, table: Mapping[str, Gpu]) -> GridRow:
    report = estimate(model, setup)
    phases = step_phases(report)
    needed = {gpu.name: gpus_if_sharded(report, gpu) for gpu in table.values()}
    jobs = [job(phases, gpu, setup.tokens, TOKENS) for gpu in table.values() if needed[gpu.name]]
    return {
        "model": model,
        "parameters": meta_base(model).model.num_parameters(),
        "setting": setting,
        "batch_size": setup.batch_size,
        "sequence_length": setup.sequence_length,
        "checkpointing": setup.checkpointing,
        "reserved_bytes": report.peak_reserved_bytes,
        "total_bytes": report.total_bytes,
        "trainable_parameters": report.trainable_parameters,
        "a100s": needed["A100 80 GB"],
        "money": min((one.money for one in jobs), default=None),
    }


def ratios_by_tokens(model: str, setting: str) -> list[tuple[int, float]]:
    """(tokens in the step, reserved bytes of `setting` / those of LORA_FEW), for 1 to 16 sequences of 768 tokens."""
    found = []
    for batch_size in (1, 2, 4, 8, 16):
        size, other = (
            estimate(model, SETTINGS[name], batch_size=batch_size, sequence_length=768).peak_reserved_bytes
            for name in (setting, LORA_FEW)
        )
        found.append((batch_size * 768, size / other))
    return found
