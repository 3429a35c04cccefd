"""Numbers, sentences and tables of lesson 03."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import t

from workbench.adapters.methods import Method, lora, qlora
from workbench.adapters.quantized_models import model_bytes
from workbench.course.lessons import START_ALPHA, START_MODELS, START_RANK, as_quote
from workbench.memory.closed_form import estimate
from workbench.memory.setup import OF_TRAINER
from workbench.models.base import Base
from workbench.results.noise import two_standard_errors
from workbench.training.runs import Run

LARGE = "llama-3.1-8b"


@dataclass(frozen=True)
class Change:
    """By how much a perplexity has changed: 0.1 is 10 % more. low, high: the 95 % interval over texts."""

    share: float
    low: float
    high: float

    @property
    def give_or_take(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def change(before: Sequence[float], after: Sequence[float], tokens: Sequence[int]) -> Change:
    """The change of perplexity from the same texts scored twice, paired, with Student's t.

    before, after: nats of each text. tokens: of each text. Every text counts the same.
    """
    gained = [(new - old) / count for old, new, count in zip(before, after, tokens, strict=True)]
    reach = t.ppf(0.975, len(gained) - 1) * stdev(gained) / math.sqrt(len(gained))
    middle = mean(gained)
    return Change(*(math.expm1(value) for value in (middle, middle - reach, middle + reach)))


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> float:
    """Of all texts together."""
    return math.exp(sum(nats) / sum(tokens))


def title_of_settings(found: Mapping[str, Change]) -> str:
    """What the best and the worst storage add to the perplexity, for the figure of settings."""
    told = [
        f"{name} ({round(100 * found[name].share):+d} %)" for name in sorted(found, key=lambda one: found[one].share)
    ]
    most = f", most with {told[-1]}" if len(told) > 1 else ""
    return f"Perplexity rises least with {told[0]}{most}"


def title_of_merges(found: Mapping[str, Change]) -> str:
    """Which ways to merge raise the perplexity of the right answers for certain. found: way -> change by it."""
    lost = [name for name, change in found.items() if change.low > 0]
    return f"What loses the training: {' and '.join(lost)}" if lost else "No way to merge loses anything for certain"


def merge_advice(found: Mapping[str, Change]) -> str:
    """Which merged model to ship, from the change of perplexity that each way makes."""
    kept = [name for name, change in found.items() if change.low <= 0]
    lost = [
        f"*{name}* has {_plain(1 + change.share)} times the perplexity"
        for name, change in found.items()
        if change.low > 0
    ]
    parts = []
    if kept:
        parts.append(f"No loss is visible for {' and '.join(f'*{name}*' for name in kept)}: merge in 16 bits.")
    if lost:
        parts.append(f"But {' and '.join(lost)}: do not quantize a merged model again without testing it.")
    parts.append("Next to 4-bit weights, ship the adapter as it is.")
    return " ".join(parts)


def table_of_settings(megabytes: Mapping[str, float], values: Mapping[str, float], written: Mapping[str, str]) -> str:
    """A Markdown table: setting, size, perplexity, and what the model writes."""
    rows = ["| linear layers | weights | perplexity | how it goes on |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {name} | {megabytes[name]:.0f} MB | {values[name]:.1f} | {as_quote(written[name])} |" for name in values
    ]
    return "\n".join(rows)


def gpu_gigabytes(model: str, method: Method, checkpointing: bool) -> float:
    """Memory that one step of 4 rows of 512 tokens needs on a GPU, in GB, by `workbench.memory.estimate`."""
    return estimate(model, method, 4, 512, optimizer=OF_TRAINER, checkpointing=checkpointing).total_bytes / 1e9


def lean_peaks(runs: Mapping[str, Run], base: Base) -> tuple[float, float]:
    """Peak bytes of a LoRA and a QLoRA run, with all frozen weights but the 4-bit codes counted in 16 bits.

    base: the one that LoRA was trained on. Where it is in 16 bits, these are the measured peaks.
    """
    peaks = []
    for name, kind in (("lora", None), ("qlora", "nf4")):
        here, in_16 = (model_bytes(base.model, kind, other=size) for size in (base.dtype.itemsize, 2))
        peaks.append(_measured(runs[name].peak_memory_bytes, "peak memory") - here + in_16)
    return peaks[0], peaks[1]


def here_and_on_a_gpu(runs: Mapping[str, Run], base: Base) -> str:
    """A Markdown table: memory and seconds of a step, measured here, and memory predicted on a GPU.

    runs: "lora" and "qlora". base: the one that LoRA was trained on.
    """
    pair = [runs[name] for name in ("lora", "qlora")]
    measured = [_measured(run.peak_memory_bytes, "peak memory") for run in pair]
    rows = [["", "LoRA", "QLoRA", "QLoRA needs"], ["---"] * 4]
    rows.append([f"**here, measured:** {base.name} in {base.dtype_name}, memory", *megabytes(measured)])
    if base.dtype.itemsize > 2:
        rows.append(["the same, with the frozen weights counted in 16 bits", *megabytes(lean_peaks(runs, base))])
    seconds = [_measured(run.step_seconds, "time of a step") for run in pair]
    rows.append(["seconds a step here", *(f"{each:.2f}" for each in seconds), compared(*seconds)])
    for words, checkpointing in (("checkpointing on for both", True), ("off for both", False)):
        needs = [gpu_gigabytes(LARGE, make(START_RANK, START_ALPHA), checkpointing) for make in (lora, qlora)]
        sizes = [f"{each:.1f} GB" for each in needs]
        rows.append([f"**on a GPU, predicted:** {LARGE} in bfloat16, {words}", *sizes, compared(*needs)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _measured(value: float | None, what: str) -> float:
    """A measure that the table cannot do without."""
    if value is None:
        raise ValueError(f"The run has no {what}; train it again, to its end.")
    return value


def megabytes(sizes: Sequence[float]) -> list[str]:
    """Two sizes in bytes, and the second against the first, for a table."""
    return [*(f"{size / 1e6:,.0f} MB" for size in sizes), compared(*sizes)]


def compared(first: float, second: float) -> str:
    """The second number against the first: "34% less"."""
    share = second / first - 1
    return f"{abs(share):.0%} {'more' if share > 0 else 'less'}"


def starting_table() -> str:
    """A Markdown table: QLoRA's settings and memory for models of 1B, 7B and 8B parameters, and LoRA's memory."""
    rows = [
        "| model | rank r | alpha | learning rate | QLoRA needs | LoRA needs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, rate in START_MODELS.items():
        needs = [f"{gpu_gigabytes(name, make(START_RANK, START_ALPHA), True):.1f} GB" for make in (qlora, lora)]
        settings = [str(START_RANK), str(START_ALPHA), f"{rate:.0e}".replace("e-0", "e-")]
        rows.append(f"| {' | '.join([name, *settings, *needs])} |")
    return "\n".join(rows)


def four_bit_answer(cost: Change, bits: float, runs: Mapping[str, Run], base: Base, rows: int) -> str:
    """The answer of lesson 03, in Markdown.

    cost: perplexity in NF4 against the model as loaded. bits: stored for a weight. runs: "lora", trained on `base`, and
    "qlora", scored on `rows` test rows.
    """
    scores = [runs[name].metrics["exact_match"] for name in ("qlora", "lora")]
    noise = 100 * max(two_standard_errors(score, rows) for score in scores)
    here = compared(*lean_peaks(runs, base))
    there = [gpu_gigabytes(LARGE, make(START_RANK, START_ALPHA), True) for make in (lora, qlora)]
    before = runs["qlora"].before["exact_match"]
    learned = "Yes, it still learns" if scores[0] > max(before, 0) + noise / 100 else "It has not clearly learned yet"
    return (
        f"**The answer:** In NF4 a weight takes {bits:.2f} bits instead of 16, and the model's perplexity on ordinary "
        f"text goes {'up' if cost.share > 0 else 'down'} by {abs(cost.share):.0%} (give or take "
        f"{100 * cost.give_or_take:.0f} points). {learned}: with QLoRA the exact answers went from {before:.0%} to "
        f"{scores[0]:.0%} of {rows} test rows, with LoRA at the same settings to {scores[1]:.0%} (give or take "
        f"{noise:.0f} points each). What QLoRA buys is memory: {here} in training here (other weights in 16 bits), and "
        f"{compared(*there)} for an 8B model on a GPU ({there[1]:.0f} against {there[0]:.0f} GB, predicted).\n\n"
        "What would change it: a larger model, whose weights are more of its memory and usually lose less in 4 bits; "
        "long rows or large batches, whose activations no quantization of weights makes smaller; and weights that, "
        "unlike ours, were never in 4 bits before: they may lose more."
    )


def merge_table(scores: Mapping[str, Mapping[str, float]], rows: int, megabytes: Mapping[str, float]) -> str:
    """A Markdown table: exact match with its noise, perplexity and size of the tuned model in several forms."""
    lines = ["| the model | exact match | perplexity of the right answers | weights |", "| --- | --- | --- | --- |"]
    for name, found in scores.items():
        share = found["exact_match"]
        noise = 100 * two_standard_errors(share, rows)
        right = f"{share:.0%} (give or take {noise:.0f} points)"
        lines.append(f"| {name} | {right} | {_plain(math.exp(found['loss']))} | {megabytes[name]:.0f} MB |")
    return "\n".join(lines)


def _plain(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
