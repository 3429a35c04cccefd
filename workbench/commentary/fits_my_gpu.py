"""What lesson 04 says in words: the bytes of a step as a sum, what fits which GPU, and how far off predictions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.adapters.quantization import stored_bytes
from workbench.cost.flops import meta_base
from workbench.cost.gpus import Gpu, gpus, priced
from workbench.cost.grid import FULL_BF16, FULL_MASTER, LORA, QLORA, SETTINGS
from workbench.cost.published import PublishedRun, predicted_job
from workbench.memory.closed_form import estimate
from workbench.memory.report import MemoryReport
from workbench.memory.setup import SetupFields
from workbench.models.base import linear_modules

MODELS = {"1B": "llama-3.2-1b", "3B": "llama-3.2-3b", "7B": "mistral-7b-v0.3", "8B": "llama-3.1-8b"}
METHODS = {"QLoRA": QLORA, "LoRA": LORA, "full": FULL_MASTER}  # from the least memory to the most
TRAINED_BYTES, FROZEN_BYTES = 16, 2  # of a number that trains, and of one that is frozen

Needs = Mapping[str, Mapping[str, MemoryReport]]  # size -> method -> what it needs


def sum_in_words() -> str:
    """A Markdown table: model states at rest, by the sum of 16 bytes a trained number and 2 a frozen one.

    QLoRA's linear layers are in 4 bits, all other weights in float32, as PEFT prepares them.
    """
    lines = [
        "| model | full: 16 bytes each | LoRA: 2, adapters 16 | QLoRA: 0.52 in linear layers, else 4; adapters 16 |",
        "|---" * 4 + "|",
    ]
    for size, name in MODELS.items():
        model = meta_base(name).model
        numbers, linear = model.num_parameters(), sum(out * into for out, into in linear_modules(model).values())
        adapters = estimate(name, replace(SETTINGS[LORA], batch_size=1, sequence_length=1)).trainable_parameters
        cells = [
            TRAINED_BYTES * numbers,
            FROZEN_BYTES * numbers + TRAINED_BYTES * adapters,
            stored_bytes(linear, "nf4", double_quantization=True) + 4 * (numbers - linear) + TRAINED_BYTES * adapters,
        ]
        shown = " | ".join(f"{cell / 1e9:.1f} GB" for cell in cells)
        lines.append(f"| {size} ({numbers / 1e9:.2f} billion numbers) | {shown} |")
    return "\n".join(lines)


def needs(batch_size: int, sequence_length: int, checkpointing: bool = True) -> dict[str, dict[str, MemoryReport]]:
    """Size -> method -> the estimate for one step of so many sequences and tokens."""
    shape: SetupFields = {
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "checkpointing": checkpointing,
    }
    return {size: {method: need(size, setting, shape) for method, setting in METHODS.items()} for size in MODELS}


def need(size: str, setting: str, shape: SetupFields) -> MemoryReport:
    """The estimate for a step of one of MODELS. setting: a name of `cost.grid.SETTINGS`, with the fields of `shape`."""
    return estimate(MODELS[size], replace(SETTINGS[setting], **shape))


def needs_in_words(found: Needs) -> str:
    """A Markdown table: gigabytes for each size and method, and the smallest GPU of the table that has them."""
    heads = [f"{name}, float32 weights" if name == "full" else name for name in METHODS]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(METHODS) + 1) + "|"]
    for size, reports in found.items():
        cells = [f"{one.total_bytes / 1e9:.0f} GB: {smallest(one.total_bytes)}" for one in reports.values()]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def smallest(total_bytes: float) -> str:
    """The GPU with a price and the least memory that holds so many bytes, "no single GPU" if none does."""
    fitting = [gpu for gpu in priced(gpus()).values() if gpu.fits(total_bytes)]
    return min(fitting, key=lambda gpu: gpu.usable_bytes).name if fitting else "no single GPU"


def checkpointing_title(reports: Mapping[str, MemoryReport]) -> str:
    """A title for bars that are labelled "METHOD" and "METHOD, checkpointing": how many times less memory it is."""
    ratios = {
        name: reports[name].total_bytes / reports[f"{name}, checkpointing"].total_bytes
        for name in METHODS
        if name in reports and f"{name}, checkpointing" in reports
    }
    return f"Checkpointing cuts memory {', '.join(f'{ratio:.2g} times ({name})' for name, ratio in ratios.items())}"


def published_in_words(runs: Sequence[PublishedRun]) -> tuple[str, float, float]:
    """A Markdown table of published runs against predictions, and the largest errors of memory and of speed."""
    lines = ["| run | memory | predicted | | tokens a second | predicted | |", "|---" * 7 + "|"]
    errors = []
    for run in runs:
        said, found = estimate(run.model, run.setup).peak_reserved_bytes, run.peak_reserved_bytes
        speed, measured = predicted_job(run).tokens_per_second, run.tokens_per_second
        errors.append((abs(said / found - 1), abs(speed / measured - 1)))
        memory = f"{found / 1e9:.1f} GB | {said / 1e9:.1f} GB | {said / found - 1:+.0%}"
        lines.append(f"| {run.label} | {memory} | {measured:,.0f} | {speed:,.0f} | {speed / measured - 1:+.0%} |")
    memory_error, speed_error = (max(column) for column in zip(*errors, strict=True))
    return "\n".join(lines), memory_error, speed_error


def answer(gpu: Gpu, found: Needs, memory_error: float) -> str:
    """The answer of lesson 04, in Markdown: what fits the learner's GPU."""
    setup = next(iter(found.values()))["LoRA"].setup
    shape: SetupFields = {
        "batch_size": setup.batch_size,
        "sequence_length": setup.sequence_length,
        "checkpointing": setup.checkpointing,
    }
    in_bf16 = {size: need(size, FULL_BF16, shape).total_bytes for size in found}
    names = {"QLoRA": "QLoRA", "LoRA": "LoRA", "full with float32 weights": "full"}
    needed = {
        words: {size: reports[name].total_bytes for size, reports in found.items()} for words, name in names.items()
    } | {"full in bfloat16": in_bf16}
    told = ", ".join(f"{method} {_largest(sizes, gpu)}" for method, sizes in needed.items())
    size = max(found, key=_billions)
    one, lower = found[size], in_bf16[size]
    ratio, in_bf16_ratio = (needs / one["LoRA"].total_bytes for needs in (one["full"].total_bytes, lower))
    return (
        f"**The answer:** Of models of {', '.join(found)}, {_an(gpu.name)} with {gpu.usable_bytes / 1e9:.0f} GB holds: "
        f"{told}. At {size} full fine-tuning needs {one['full'].total_bytes / 1e9:.0f} GB, {ratio:.1f} times what LoRA "
        f"needs, because a trained number takes 16 bytes and a frozen one 2 (with the model in bfloat16 8 bytes, "
        f"{lower / 1e9:.0f} GB and {in_bf16_ratio:.1f} times). QLoRA brings LoRA's "
        f"{one['LoRA'].total_bytes / 1e9:.0f} GB down to {one['QLoRA'].total_bytes / 1e9:.0f}.\n\n"
        f"That is predicted for steps of {setup.batch_size} x {setup.sequence_length} tokens with checkpointing; on "
        f"PEFT's published runs of a 3B model, without QLoRA, predictions were within {memory_error:.0%}. What would "
        "change it: more tokens in a step add activations to all three alike; without checkpointing they can be most "
        "of the memory; an 8-bit optimizer, or a second GPU with sharding, helps full fine-tuning most."
    )


def _largest(needed: Mapping[str, float], gpu: Gpu) -> str:
    """The largest size that fits: "up to 3B", or "none". needed: size -> bytes."""
    fitting = [size for size, total in needed.items() if gpu.fits(total)]
    return f"up to {max(fitting, key=_billions)}" if fitting else "none"


def _billions(size: str) -> float:
    return float(size.removesuffix("B"))


def _an(name: str) -> str:
    return f"{'an' if name[0] in 'AHLR' else 'a'} {name}"
