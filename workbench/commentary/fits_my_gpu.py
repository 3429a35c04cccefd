"""What lesson 04 says in words: the bytes of a step as a sum, what fits which GPU, and how far off predictions are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.adapters.quantization import stored_bytes
from workbench.cost.flops import meta_base
from workbench.cost.gpus import Gpu, gpus, priced
from workbench.cost.grid import FULL_MASTER, LORA, QLORA, SETTINGS
from workbench.cost.published import PublishedRun, predicted_job
from workbench.memory.closed_form import estimate
from workbench.memory.report import MemoryReport

MODELS = {"1B": "llama-3.2-1b", "3B": "llama-3.2-3b", "7B": "mistral-7b-v0.3", "8B": "llama-3.1-8b"}
METHODS = {"QLoRA": QLORA, "LoRA": LORA, "full": FULL_MASTER}  # from the least memory to the most
TRAINED_BYTES, FROZEN_BYTES = 16, 2  # of a number that trains, and of one that is frozen

Needs = Mapping[str, Mapping[str, MemoryReport]]  # size -> method -> what it needs


def sum_in_words(rank: int = 16) -> str:
    """A Markdown table: model states at rest, by the sum of 16 bytes a trained number and 2 a frozen one."""
    lines = [
        "| model | full: 16 bytes each | LoRA: 2 each, adapters 16 | QLoRA: 0.52 each, adapters 16 |",
        "|---" * 4 + "|",
    ]
    for size, name in MODELS.items():
        numbers = meta_base(name).model.num_parameters()
        adapters = estimate(name, replace(SETTINGS[LORA], batch_size=1, sequence_length=1)).trainable_parameters
        cells = [
            TRAINED_BYTES * numbers,
            FROZEN_BYTES * numbers + TRAINED_BYTES * adapters,
            stored_bytes(numbers, "nf4", double_quantization=True) + TRAINED_BYTES * adapters,
        ]
        shown = " | ".join(f"{cell / 1e9:.1f} GB" for cell in cells)
        lines.append(f"| {size} ({numbers / 1e9:.2f} billion numbers) | {shown} |")
    return "\n".join(lines)


def needs(batch_size: int, sequence_length: int, checkpointing: bool = True) -> dict[str, dict[str, MemoryReport]]:
    """Size -> method -> the estimate for one step of so many sequences and tokens."""
    setups = {
        method: replace(
            SETTINGS[setting],
            batch_size=batch_size,
            sequence_length=sequence_length,
            checkpointing=checkpointing,
        )
        for method, setting in METHODS.items()
    }
    return {
        size: {method: estimate(model, setup) for method, setup in setups.items()} for size, model in MODELS.items()
    }


def needs_in_words(found: Needs) -> str:
    """A Markdown table: gigabytes for each size and method, and the smallest GPU of the table that has them."""
    lines = [f"| model | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
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
    ratios = [
        reports[name].total_bytes / reports[f"{name}, checkpointing"].total_bytes
        for name in METHODS
        if name in reports and f"{name}, checkpointing" in reports
    ]
    return f"Checkpointing cuts memory {min(ratios):.2g} to {max(ratios):.2g} times"


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
    largest = {
        method: max((size for size in found if gpu.fits(found[size][method].total_bytes)), default=None, key=_billions)
        for method in METHODS
    }
    size = max(found, key=_billions)
    one = found[size]
    told = ", ".join(f"{method} {f'up to {most}' if most else 'none'}" for method, most in largest.items())
    setup = one["LoRA"].setup
    ratio = one["full"].total_bytes / one["LoRA"].total_bytes
    return (
        f"**The answer:** Of models of {', '.join(found)}, {_an(gpu.name)} with {gpu.usable_bytes / 1e9:.0f} GB holds: "
        f"{told}. At {size} full fine-tuning needs {one['full'].total_bytes / 1e9:.0f} GB, {ratio:.1f} times what LoRA "
        f"needs, because a trained number takes 16 bytes and a frozen one 2. QLoRA brings LoRA's "
        f"{one['LoRA'].total_bytes / 1e9:.0f} GB down to {one['QLoRA'].total_bytes / 1e9:.0f}.\n\n"
        f"That is predicted for steps of {setup.batch_size} x {setup.sequence_length} tokens with checkpointing; on "
        f"PEFT's published runs of a 3B model, without QLoRA, predictions were within {memory_error:.0%}. What would "
        "change it: more tokens in a step add activations to all three alike; without checkpointing they can be most "
        "of the memory; an 8-bit optimizer, or a second GPU with sharding, helps full fine-tuning most."
    )


def _billions(size: str) -> float:
    return float(size.removesuffix("B"))


def _an(name: str) -> str:
    return f"{'an' if name[0] in 'AHLR' else 'a'} {name}"
