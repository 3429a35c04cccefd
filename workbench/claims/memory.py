"""Rules on the claims about memory, time and money, over a grid of predicted configurations. Lesson 04 uses them.

A claim that names no model, batch or precision is neither true nor false as it stands. Each rule here goes through the
configurations of the grid (see `cost.grid`) and says in how many of them the claim holds, and how far they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED
from workbench.claims.rules import NotTested, Outcome, rule
from workbench.cost.gpus import Gpu
from workbench.cost.grid import FULL_BF16, FULL_MASTER, LORA, LORA_FEW, QLORA, GridRow

FULLS, LORAS, ADAPTERS = (FULL_MASTER, FULL_BF16), (LORA_FEW, LORA), (LORA_FEW, LORA, QLORA)
A100, CONSUMER, SMALLEST = "A100 80 GB", "RTX 4090", "T4"

MOSTLY = 0.5  # the share of configurations from which on a claim counts as supported
A_FEW_MILLION = 20e6
BELOW_500M, ABOUT_1B, ABOUT_3B, FROM_1B = (0, 0.5e9), (0.9e9, 1.6e9), (2.4e9, 3.6e9), (0.9e9, 1e12)
FRACTION = 0.5  # of the money
UNEQUAL = 1.2  # ratios further apart than this are not equal
TRILLION = 1e12


def pairs(rows: Sequence[GridRow], first: Sequence[str], second: Sequence[str]) -> list[tuple[GridRow, GridRow]]:
    """Rows of the settings `first`, each with the rows of `second` of the same model and the same shape of the step."""
    return [
        (one, other)
        for one in rows
        if one["setting"] in first
        for other in rows
        if other["setting"] in second and _where(one) == _where(other)
    ]


@rule("params")
def _params(grid: Sequence[GridRow]) -> Outcome:
    found = _of(grid, ADAPTERS)
    if not found:
        raise _lacks("adapters")
    counts = [row["trainable_parameters"] for row in found]
    shares = [row["trainable_parameters"] / row["parameters"] for row in found]
    few = [count <= A_FEW_MILLION for count in counts]
    evidence = (
        f"{min(counts) / 1e6:.1f} to {max(counts) / 1e6:.0f} million numbers train, {min(shares):.2%} to "
        f"{max(shares):.1%} of the model; {A_FEW_MILLION / 1e6:.0f} million or fewer in {_share(few)}."
    )
    return _mostly(few), evidence, f"{A_FEW_MILLION / 1e6:.0f} million or fewer, mostly"


@rule("memory-ratio")
def _memory_ratio(grid: Sequence[GridRow], published: Mapping[str, float]) -> Outcome:
    found = pairs(grid, FULLS, LORAS)
    if not found:
        raise _lacks("pair of full fine-tuning and LoRA")
    ratios = [full["reserved_bytes"] / lora["reserved_bytes"] for full, lora in found]
    far = [ratio >= 5 for ratio in ratios]
    least, most = (_in_words(*found[ratios.index(pick(ratios))]) for pick in (min, max))
    evidence = (
        f"5 times or more in {_share(far)}: from {min(ratios):.1f} ({least}) to {max(ratios):.1f} ({most}). "
        f"A published pair of runs, full in bfloat16, has {published['memory_ratio']:.1f}."
    )
    return _mostly(far), evidence, "5 times or more, mostly"


@rule("memory-1b")
def _memory_1b(grid: Sequence[GridRow]) -> Outcome:
    small, large = ([row["total_bytes"] / 1e9 for row in _of(grid, group, ABOUT_1B)] for group in (LORAS, FULLS))
    if not (small and large):
        raise _lacks("models of about 1B, full and with LoRA")
    below, above = [size <= 8 for size in small], [size >= 24 for size in large]
    both = _mostly(below) == _mostly(above) == SUPPORTED
    verdict = SUPPORTED if both else DEPENDS if any(below) and any(above) else NOT_SUPPORTED
    evidence = (
        f"LoRA takes {min(small):.1f} to {max(small):.1f} GB, at most 8 in {_share(below)}; full takes "
        f"{min(large):.1f} to {max(large):.1f} GB, 24 or more in {_share(above)}."
    )
    return verdict, evidence, "LoRA within 8 GB and full from 24 GB on, both mostly"


@rule("consumer-3b")
def _consumer_3b(grid: Sequence[GridRow], gpus: Mapping[str, Gpu]) -> Outcome:
    gpu = gpus[CONSUMER]
    sizes = [row["total_bytes"] for row in _of(grid, LORAS, ABOUT_3B)]
    if not sizes:
        raise _lacks("models of about 3B with LoRA")
    fits = [gpu.fits(size) for size in sizes]
    evidence = (
        f"{min(sizes) / 1e9:.1f} to {max(sizes) / 1e9:.1f} GB; fits the {gpu.name} ({gpu.usable_bytes / 1e9:.1f} GB "
        f"usable) in {_share(fits)}."
    )
    return _mostly(fits), evidence, f"fits the {gpu.name}, mostly"


@rule("eight-to-one")
def _eight_to_one(grid: Sequence[GridRow], gpus: Mapping[str, Gpu]) -> Outcome:
    gpu = gpus[A100]
    fewest: dict[str, GridRow] = {}  # of each model, the full configuration that takes the fewest GPUs
    for row in sorted(_of(grid, (FULL_MASTER,)), key=lambda row: row["a100s"] or float("inf")):
        fewest.setdefault(row["model"], row)
    eight = [row for row in fewest.values() if (row["a100s"] or 0) >= 8]
    if not eight:
        raise _lacks(f"model that takes eight {gpu.name} in full")
    plain, four_bit = (
        [gpu.fits(lora["total_bytes"]) for _, lora in pairs([*eight, *_of(grid, ADAPTERS)], (FULL_MASTER,), group)]
        for group in (LORAS, (QLORA,))
    )
    if not (plain and four_bit):
        raise _lacks("LoRA and QLoRA of a model that takes eight GPUs in full")
    verdict = _mostly(plain) if any(plain) else DEPENDS if any(four_bit) else NOT_SUPPORTED
    counts = ", ".join(f"{row['a100s']} for {row['model']}" for row in fewest.values() if row["parameters"] >= 7e9)
    evidence = (
        f"in full with float32 master weights, sharded, it takes at least {counts}. Where it is eight or more, LoRA "
        f"fits one in {_share(plain)} configurations, QLoRA in {_share(four_bit)}."
    )
    return verdict, evidence, f"LoRA fits one {gpu.name}, mostly; depends: QLoRA, or sometimes"


@rule("qlora")
def _qlora(grid: Sequence[GridRow], gpus: Mapping[str, Gpu]) -> Outcome:
    gpu = gpus[CONSUMER]
    shares = [four_bit["total_bytes"] / lora["total_bytes"] for lora, four_bit in pairs(grid, (LORA,), (QLORA,))]
    fitting = {
        setting: [row for row in _of(grid, (setting,)) if gpu.fits(row["total_bytes"])] for setting in (LORA, QLORA)
    }
    if not (shares and all(fitting.values())):
        raise _lacks(f"pair of LoRA and QLoRA, each of a model that trains on the {gpu.name}")
    largest = {setting: max(found, key=lambda row: row["parameters"]) for setting, found in fitting.items()}
    lower = [share < 1 for share in shares]
    larger = largest[QLORA]["parameters"] > largest[LORA]["parameters"]
    verdict = SUPPORTED if all(lower) and larger else DEPENDS if any(lower) else NOT_SUPPORTED
    evidence = (
        f"{min(shares):.0%} to {max(shares):.0%} of LoRA's memory. The largest model of the grid that trains on the "
        f"{gpu.name}: {largest[LORA]['model']} with LoRA, {largest[QLORA]['model']} with QLoRA."
    )
    return verdict, evidence, "always below LoRA, and a larger model fits; depends: one of them"


@rule("small-models")
def _small_models(grid: Sequence[GridRow], gpus: Mapping[str, Gpu]) -> Outcome:
    gpu = gpus[SMALLEST]
    small, large = (
        [(full["total_bytes"], lora["total_bytes"]) for full, lora in pairs(_of(grid, None, size), FULLS, LORAS)]
        for size in (BELOW_500M, FROM_1B)
    )
    if not (small and large):
        raise _lacks("pair of full fine-tuning and LoRA both below 500M and from 1B on")
    fits = [gpu.fits(full) for full, _ in small]
    saved, saved_large = (median(full - lora for full, lora in group) / 1e9 for group in (small, large))
    ratio, ratio_large = (median(full / lora for full, lora in group) for group in (small, large))
    less = saved < saved_large and ratio < ratio_large
    verdict = SUPPORTED if less and _mostly(fits) == SUPPORTED else DEPENDS if less or any(fits) else NOT_SUPPORTED
    evidence = (
        f"below 500M LoRA saves {saved:.1f} GB (median; full takes {ratio:.1f} times as much), from 1B on "
        f"{saved_large:.0f} GB ({ratio_large:.1f} times). Below 500M full fits the {gpu.name} in {_share(fits)}."
    )
    return verdict, evidence, f"saves less, and full fits the {gpu.name}, mostly"


@rule("architectures")
def _architectures(grid: Sequence[GridRow]) -> Outcome:
    by_shape: dict[tuple[int, int, bool], list[float]] = {}
    for full, lora in pairs(_of(grid, None, ABOUT_1B), (FULL_MASTER,), (LORA,)):
        by_shape.setdefault(_where(full)[1:], []).append(full["reserved_bytes"] / lora["reserved_bytes"])
    spans = [max(ratios) / min(ratios) for ratios in by_shape.values() if len(ratios) > 1]
    if not spans:
        raise _lacks("two models of about 1B at the same shape of the step")
    unequal = [span >= UNEQUAL for span in spans]
    evidence = (
        f"among models of about 1B the ratio of full to LoRA differs by a factor of {min(spans):.2f} to "
        f"{max(spans):.2f} at the same shape of the step."
    )
    return _mostly(unequal), evidence, f"a factor of {UNEQUAL} or more, mostly"


@rule("cost")
def _cost(grid: Sequence[GridRow], published: Mapping[str, float]) -> Outcome:
    shares = [
        lora["money"] / full["money"]
        for full, lora in pairs(grid, FULLS, LORAS)
        if lora["money"] is not None and full["money"] is not None
    ]
    if not shares:
        raise _lacks("pair of full fine-tuning and LoRA, both with a price")
    cheap = [share <= FRACTION for share in shares]
    evidence = (
        f"LoRA takes {min(shares):.0%} to {max(shares):.0%} of the money, half or less in {_share(cheap)}, each on the "
        f"GPUs that are cheapest for it. Published: {published['speed_ratio']:.1f} times as fast on the same GPU."
    )
    return _mostly(cheap), evidence, "half the money or less, mostly"


@rule("tokens")
def _tokens(published: Mapping[str, float]) -> Outcome:
    share = published["tokens"] / TRILLION
    verdict = SUPPORTED if share >= 1 else NOT_SUPPORTED
    evidence = (
        f"a published full fine-tuning run took {published['tokens'] / 1e6:.1f} million tokens, 1/{1 / share:,.0f} of "
        "a trillion. Trillions are what pre-training takes."
    )
    return verdict, evidence, "a trillion or more in a published full run"


def _of(
    rows: Sequence[GridRow], settings: Sequence[str] | None = None, size: tuple[float, float] = (0, 1e12)
) -> list[GridRow]:
    """The rows of these settings (None: all) with at least size[0] and fewer than size[1] parameters."""
    low, high = size
    return [row for row in rows if low <= row["parameters"] < high and (settings is None or row["setting"] in settings)]


def _where(row: GridRow) -> tuple[str, int, int, bool]:
    return row["model"], row["batch_size"], row["sequence_length"], row["checkpointing"]


def _lacks(what: str) -> NotTested:
    return NotTested(f"The grid has no {what}.")


def _mostly(flags: Sequence[bool]) -> str:
    if not flags:
        return UNTESTED
    return SUPPORTED if sum(flags) >= MOSTLY * len(flags) else DEPENDS if any(flags) else NOT_SUPPORTED


def _share(flags: Sequence[bool]) -> str:
    return f"{sum(flags)} of {len(flags)}"


def _in_words(full: GridRow, lora: GridRow) -> str:
    again = ", checkpointing" if full["checkpointing"] else ""
    shape = f"{full['batch_size']} x {full['sequence_length']} tokens{again}"
    return f"{full['model']}, {shape}, {full['setting']} against {lora['setting']}"
