"""Many configurations at once: models, ways to train and shapes of a step, each with its memory and money.

Lesson 04 judges the claims about memory and money on this grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.flops import skeleton
from workbench.hardware import Gpu, gpus, gpus_if_sharded, job, step_phases
from workbench.memory import estimate
from workbench.methods import Method, full, lora, qlora

FULL_MASTER, FULL_BF16 = "full, float32 master", "full, bfloat16"
LORA_FEW, LORA, QLORA = "LoRA r=8 on q, v", "LoRA r=16 on all", "QLoRA r=16 on all"
# setting -> method, and dtype as `memory.estimate` takes it
SETTINGS: dict[str, tuple[Method, str]] = {
    FULL_MASTER: (full(), "mixed"),
    FULL_BF16: (full(), "bfloat16"),
    LORA_FEW: (lora(rank=8, targets=("q_proj", "v_proj")), "bfloat16"),
    LORA: (lora(rank=16), "bfloat16"),
    QLORA: (qlora(rank=16), "bfloat16"),
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
        configuration(model, setting, batch_size, sequence_length, checkpointing, table)
        for model in models
        for setting in SETTINGS
        for batch_size, sequence_length in shapes
        for checkpointing in (False, True)
    ]


def configuration(
    model: str, setting: str, batch_size: int, sequence_length: int, checkpointing: bool, table: Mapping[str, Gpu]
) -> dict:
    """One row: what was asked, parameters and trainable_parameters, reserved_bytes (the allocator's), total_bytes (with
    the CUDA context), a100s (80 GB, how many if the states were sharded; None if no number is enough) and money.

    money: US dollars for TOKENS tokens on the GPU that is cheapest for it; where one is too small, on as many as it
    takes, as if no time were lost between them (None if no number is enough).
    """
    method, dtype = SETTINGS[setting]
    options = {"batch_size": batch_size, "sequence_length": sequence_length, "checkpointing": checkpointing}
    report = estimate(model, method, dtype=dtype, **options)
    phases = step_phases(model, method, report, **options)
    needed = {gpu.name: gpus_if_sharded(report, gpu) for gpu in table.values()}
    jobs = [job(phases, gpu, batch_size * sequence_length, TOKENS) for gpu in table.values() if needed[gpu.name]]
    return {
        "model": model,
        "parameters": skeleton(model).model.num_parameters(),
        "setting": setting,
        **options,
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
        sizes = []
        for setting in (whole, LORA_FEW):
            method, dtype = SETTINGS[setting]
            sizes.append(estimate(model, method, batch_size, 768, dtype).peak_reserved_bytes)
        found.append((batch_size * 768, sizes[0] / sizes[1]))
    return found
