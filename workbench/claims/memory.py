"""What predicted memory, time and money say of the claims about them, over many configurations. Used in lesson 04.

A claim that names no model, batch or precision is neither true nor false as it stands. Each verdict here goes through
the configurations of a grid (see `cost.grid`) and says in how many of them the claim holds, and how far they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, Verdict
from workbench.cost.gpus import Gpu
from workbench.cost.grid import FULL_BF16, FULL_MASTER, LORA, LORA_FEW, QLORA

FULLS, LORAS, ADAPTERS = (FULL_MASTER, FULL_BF16), (LORA_FEW, LORA), (LORA_FEW, LORA, QLORA)
A100, CONSUMER, SMALLEST = "A100 80 GB", "RTX 4090", "T4"

MOSTLY = 0.5  # the share of configurations from which on a claim counts as supported
A_FEW_MILLION = 20e6
BELOW_500M, ABOUT_1B, ABOUT_3B, FROM_1B = (0, 0.5e9), (0.9e9, 1.6e9), (2.4e9, 3.6e9), (0.9e9, 1e12)
FRACTION = 0.5  # of the money
UNEQUAL = 1.2  # ratios further apart than this are not equal
TRILLION = 1e12


def judge_memory(rows: Sequence[Mapping], gpus: Mapping[str, Gpu], published: Mapping[str, float]) -> list[Verdict]:
    """The verdicts of lesson 04.

    rows: one a configuration, as `cost.grid.grid` gives them. gpus: by name, from `cost.gpus.gpus`. published: of one
    published pair of runs, memory_ratio (full / LoRA), speed_ratio (LoRA / full) and tokens (of the full run).
    """
    return [
        _params(rows),
        _memory_ratio(rows, published),
        _memory_1b(rows),
        _consumer_3b(rows, gpus[CONSUMER]),
        _eight_to_one(rows, gpus[A100]),
        _qlora(rows, gpus[CONSUMER]),
        _small_models(rows, gpus[SMALLEST]),
        _architectures(rows),
        _cost(rows, published),
        _tokens(published),
    ]


def pairs(rows: Sequence[Mapping], first: Sequence[str], second: Sequence[str]) -> list[tuple[Mapping, Mapping]]:
    """Rows of the settings `first` beside rows of the settings `second`: the same model, the same shape of the step."""
    return [
        (one, other)
        for one in rows
        if one["setting"] in first
        for other in rows
        if other["setting"] in second and _where(one) == _where(other)
    ]


def _params(rows) -> Verdict:
    found = _of(rows, ADAPTERS)
    if not found:
        return _untested("params", "adapters")
    counts = [row["trainable_parameters"] for row in found]
    shares = [row["trainable_parameters"] / row["parameters"] for row in found]
    few = [count <= A_FEW_MILLION for count in counts]
    evidence = (
        f"{min(counts) / 1e6:.1f} to {max(counts) / 1e6:.0f} million numbers train, {min(shares):.2%} to "
        f"{max(shares):.1%} of the model; {A_FEW_MILLION / 1e6:.0f} million or fewer in {_share(few)}."
    )
    return Verdict("params", _mostly(few), evidence, f"{A_FEW_MILLION / 1e6:.0f} million or fewer, mostly")


def _memory_ratio(rows, published) -> Verdict:
    found = pairs(rows, FULLS, LORAS)
    if not found:
        return _untested("memory-ratio", "full fine-tuning beside LoRA")
    ratios = [full["reserved_bytes"] / lora["reserved_bytes"] for full, lora in found]
    far = [ratio >= 5 for ratio in ratios]
    least, most = (_in_words(*found[ratios.index(pick(ratios))]) for pick in (min, max))
    evidence = (
        f"5 times or more in {_share(far)}: from {min(ratios):.1f} ({least}) to {max(ratios):.1f} ({most}). "
        f"A published pair of runs, full in bfloat16, has {published['memory_ratio']:.1f}."
    )
    return Verdict("memory-ratio", _mostly(far), evidence, "5 times or more, mostly")


def _memory_1b(rows) -> Verdict:
    small, large = ([row["total_bytes"] / 1e9 for row in _of(rows, group, ABOUT_1B)] for group in (LORAS, FULLS))
    if not (small and large):
        return _untested("memory-1b", "models of about 1B, full and with LoRA")
    below, above = [size <= 8 for size in small], [size >= 24 for size in large]
    both = _mostly(below) == _mostly(above) == SUPPORTED
    verdict = SUPPORTED if both else DEPENDS if any(below) and any(above) else NOT_SUPPORTED
    evidence = (
        f"LoRA takes {min(small):.1f} to {max(small):.1f} GB, at most 8 in {_share(below)}; full takes "
        f"{min(large):.1f} to {max(large):.1f} GB, 24 or more in {_share(above)}."
    )
    return Verdict("memory-1b", verdict, evidence, "LoRA within 8 GB and full from 24 GB on, both mostly")


def _consumer_3b(rows, gpu: Gpu) -> Verdict:
    sizes = [row["total_bytes"] for row in _of(rows, LORAS, ABOUT_3B)]
    if not sizes:
        return _untested("consumer-3b", "models of about 3B with LoRA")
    fits = [gpu.fits(size) for size in sizes]
    evidence = (
        f"{min(sizes) / 1e9:.1f} to {max(sizes) / 1e9:.1f} GB; fits the {gpu.name} ({gpu.usable_bytes / 1e9:.1f} GB "
        f"usable) in {_share(fits)}."
    )
    return Verdict("consumer-3b", _mostly(fits), evidence, f"fits the {gpu.name}, mostly")


def _eight_to_one(rows, gpu: Gpu) -> Verdict:
    fewest: dict[str, Mapping] = {}  # of each model, the full configuration that takes the fewest GPUs
    for row in sorted(_of(rows, (FULL_MASTER,)), key=lambda row: row["a100s"] or float("inf")):
        fewest.setdefault(row["model"], row)
    eight = [row for row in fewest.values() if (row["a100s"] or 0) >= 8]
    if not eight:
        return _untested("eight-to-one", f"model that takes eight {gpu.name} in full")
    plain, four_bit = (
        [gpu.fits(lora["total_bytes"]) for _, lora in pairs([*eight, *_of(rows, ADAPTERS)], (FULL_MASTER,), group)]
        for group in (LORAS, (QLORA,))
    )
    if not (plain and four_bit):
        return _untested("eight-to-one", "LoRA and QLoRA of a model that takes eight GPUs in full")
    verdict = _mostly(plain) if any(plain) else DEPENDS if any(four_bit) else NOT_SUPPORTED
    counts = ", ".join(f"{row['a100s']} for {row['model']}" for row in fewest.values() if row["parameters"] >= 7e9)
    evidence = (
        f"in full with float32 master weights, sharded, it takes at least {counts}. Where it is eight or more, LoRA "
        f"fits one in {_share(plain)} configurations, QLoRA in {_share(four_bit)}."
    )
    return Verdict("eight-to-one", verdict, evidence, f"LoRA fits one {gpu.name}, mostly; depends: QLoRA, or sometimes")


def _qlora(rows, gpu: Gpu) -> Verdict:
    shares = [four_bit["total_bytes"] / lora["total_bytes"] for lora, four_bit in pairs(rows, (LORA,), (QLORA,))]
    fitting = {
        setting: [row for row in _of(rows, (setting,)) if gpu.fits(row["total_bytes"])] for setting in (LORA, QLORA)
    }
    if not (shares and all(fitting.values())):
        return _untested("qlora", f"QLoRA beside LoRA, each of a model that trains on the {gpu.name}")
    largest = {setting: max(found, key=lambda row: row["parameters"]) for setting, found in fitting.items()}
    lower = [share < 1 for share in shares]
    larger = largest[QLORA]["parameters"] > largest[LORA]["parameters"]
    verdict = SUPPORTED if all(lower) and larger else DEPENDS if any(lower) else NOT_SUPPORTED
    evidence = (
        f"{min(shares):.0%} to {max(shares):.0%} of LoRA's memory. The largest model of the grid that trains on the "
        f"{gpu.name}: {largest[LORA]['model']} with LoRA, {largest[QLORA]['model']} with QLoRA."
    )
    return Verdict("qlora", verdict, evidence, "always below LoRA, and a larger model fits; depends: one of them")


def _small_models(rows, gpu: Gpu) -> Verdict:
    small, large = (
        [(full["total_bytes"], lora["total_bytes"]) for full, lora in pairs(_of(rows, None, size), FULLS, LORAS)]
        for size in (BELOW_500M, FROM_1B)
    )
    if not (small and large):
        return _untested("small-models", "full fine-tuning beside LoRA both below 500M and from 1B on")
    fits = [gpu.fits(full) for full, _ in small]
    saved, saved_large = (median(full - lora for full, lora in group) / 1e9 for group in (small, large))
    ratio, ratio_large = (median(full / lora for full, lora in group) for group in (small, large))
    less = saved < saved_large and ratio < ratio_large
    verdict = SUPPORTED if less and _mostly(fits) == SUPPORTED else DEPENDS if less or any(fits) else NOT_SUPPORTED
    evidence = (
        f"below 500M LoRA saves {saved:.1f} GB (median; full takes {ratio:.1f} times as much), from 1B on "
        f"{saved_large:.0f} GB ({ratio_large:.1f} times). Below 500M full fits the {gpu.name} in {_share(fits)}."
    )
    return Verdict("small-models", verdict, evidence, f"saves less, and full fits the {gpu.name}, mostly")


def _architectures(rows) -> Verdict:
    by_shape: dict[tuple, list[float]] = {}
    for full, lora in pairs(_of(rows, None, ABOUT_1B), (FULL_MASTER,), (LORA,)):
        by_shape.setdefault(_where(full)[1:], []).append(full["reserved_bytes"] / lora["reserved_bytes"])
    spans = [max(ratios) / min(ratios) for ratios in by_shape.values() if len(ratios) > 1]
    if not spans:
        return _untested("architectures", "two models of about 1B at the same shape of the step")
    unequal = [span >= UNEQUAL for span in spans]
    evidence = (
        f"among models of about 1B the ratio of full to LoRA differs by a factor of {min(spans):.2f} to "
        f"{max(spans):.2f} at the same shape of the step."
    )
    return Verdict("architectures", _mostly(unequal), evidence, f"a factor of {UNEQUAL} or more, mostly")


def _cost(rows, published) -> Verdict:
    priced = [row for row in rows if row["money"] is not None]
    shares = [lora["money"] / full["money"] for full, lora in pairs(priced, FULLS, LORAS)]
    if not shares:
        return _untested("cost", "full fine-tuning beside LoRA, both with a price")
    cheap = [share <= FRACTION for share in shares]
    evidence = (
        f"LoRA takes {min(shares):.0%} to {max(shares):.0%} of the money, half or less in {_share(cheap)}, each on the "
        f"GPUs that are cheapest for it. Published: {published['speed_ratio']:.1f} times as fast on the same GPU."
    )
    return Verdict("cost", _mostly(cheap), evidence, "half the money or less, mostly")


def _tokens(published) -> Verdict:
    share = published["tokens"] / TRILLION
    verdict = SUPPORTED if share >= 1 else NOT_SUPPORTED
    evidence = (
        f"a published full fine-tuning run took {published['tokens'] / 1e6:.1f} million tokens, 1/{1 / share:,.0f} of "
        "a trillion. Trillions are what pre-training takes."
    )
    return Verdict("tokens", verdict, evidence, "a trillion or more in a published full run")


def _of(rows, settings=None, size=(0, 1e12)) -> list[Mapping]:
    low, high = size
    return [row for row in rows if low <= row["parameters"] < high and (settings is None or row["setting"] in settings)]


def _where(row: Mapping) -> tuple:
    return row["model"], row["batch_size"], row["sequence_length"], row["checkpointing"]


def _untested(claim: str, lacking: str) -> Verdict:
    return Verdict(claim, UNTESTED, f"The grid has no {lacking}.")


def _mostly(flags: Sequence[bool]) -> str:
    if not flags:
        return UNTESTED
    return SUPPORTED if sum(flags) >= MOSTLY * len(flags) else DEPENDS if any(flags) else NOT_SUPPORTED


def _share(flags: Sequence[bool]) -> str:
    return f"{sum(flags)} of {len(flags)}"


def _in_words(full: Mapping, lora: Mapping) -> str:
    again = ", checkpointing" if full["checkpointing"] else ""
    shape = f"{full['batch_size']} x {full['sequence_length']} tokens{again}"
    return f"{full['model']}, {shape}, {full['setting']} against {lora['setting']}"
