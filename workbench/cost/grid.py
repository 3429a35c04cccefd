"""Many configurations at once: models, ways to train and shapes of a step, each with its memory and money.

Lesson 04 judges the claims about memory and money on this grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.adapters.methods import full, lora, qlora
from workbench.cost.flops import skeleton
from workbench.cost.gpus import Gpu, gpus
from workbench.cost.roofline import gpus_if_sharded, job, step_phases
from workbench.memory.report import estimate
from workbench.memory.setup import Setup

FULL_MASTER, FULL_BF16 = "full, float32 master", "full, bfloat16"
LORA_FEW, LORA, QLORA = "LoRA r=8 on q, v", "LoRA r=16 on all", "QLoRA r=16 on all"
# Name of a setting -> its method and dtype, with the shape of the step still to be chosen.
SETTINGS: dict[str, Setup] = {
    FULL_MASTER: Setup(full(), dtype="mixed"),
    FULL_BF16: Setup(full()),
    LORA_FEW: Setup(lora(rank=8, targets=("q_proj", "v_proj"))),
    LORA: Setup(lora(rank=16)),
    QLORA: Setup(qlora(rank=16)),
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
SHAPES = ((1, 512), (4, 768), (16, 1024))  # sequences, tokens in each
TOKENS = 10e6  # of the job that `money` is for


def grid(
    models: Sequence[str] = MODELS,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    prices: Mapping[str, float] | None = None,
) -> list[dict]:
    """A row for each model, setting and shape of the step, without and with checkpointing; see `configuration`."""
    table = gpus(prices)
    return [
        configuration(model, setting, replace(setup, **step, checkpointing=checkpointing), table)
        for model in models
        for setting, setup in SETTINGS.items()
        for step in ({"batch_size": rows, "sequence_length": tokens} for rows, tokens in shapes)
        for checkpointing in (False, True)
    ]


def configuration(model: str, setting: str, setup: Setup, table: Mapping[str, Gpu]) -> dict:
    """One row: what was asked, parameters and trainable_parameters, reserved_bytes (the allocator's), total_bytes (with
    the CUDA context), a100s (80 GB, how many if the states were sharded; None if no number is enough) and money.

    setting: the name by which the row calls `setup`. table: the GPUs to choose from, an "A100 80 GB" among them.

    money: US dollars for TOKENS tokens on the GPU that is cheapest for it; where one is too small, on as many as it
    takes, as if no time were lost between them (None if no number is enough).
    """
    report = estimate(model, setup)
    phases = step_phases(report)
    needed = {gpu.name: gpus_if_sharded(report, gpu) for gpu in table.values()}
    jobs = [job(phases, gpu, setup.tokens, TOKENS) for gpu in table.values() if needed[gpu.name]]
    return {
        "model": model,
        "parameters": skeleton(model).model.num_parameters(),
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


def ratios_by_tokens(model: str, whole: str) -> list[tuple[int, float]]:
    """(tokens in the step, reserved bytes of the setting `whole` / those of LORA_FEW), for 1 to 16 x 768 tokens."""
    found = []
    for batch_size in (1, 2, 4, 8, 16):
        size, other = (
            estimate(model, SETTINGS[setting], batch_size=batch_size, sequence_length=768).peak_reserved_bytes
            for setting in (whole, LORA_FEW)
        )
        found.append((batch_size * 768, size / other))
    return found
