"""Sentences and tables of lesson 01, from the numbers that it computed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from workbench.adapters.lowrank import lora_parameters

SHAPES = ((576, 576), (1536, 576), (4096, 4096), (14336, 4096))  # of SmolLM2-135M and of Llama-3.1-8B
RANKS = (1, 8, 64)


def cost_table() -> str:
    """A Markdown table: numbers in the full update of a layer, and in pairs of several ranks."""
    head = ["matrix (out x in)", "full update", *(f"rank {rank}" for rank in RANKS)]
    rows = [head, ["---"] * len(head)]
    for out, into in SHAPES:
        pairs = [f"{share(out, into, rank):.2%} ({lora_parameters(out, into, rank):,})" for rank in RANKS]
        rows.append([f"{out:,} x {into:,}", f"{out * into:,}", *pairs])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def share(out: int, into: int, rank: int) -> float:
    """Numbers in a pair of this rank, as a share of those in the full update."""
    return lora_parameters(out, into, rank) / (out * into)


def low_rank_answer(best: Mapping[str, float], rank: int, size: tuple[int, int], gap: float) -> str:
    """The answer of lesson 01, in Markdown.

    best: name of an update -> share of it that the best pair of this rank misses. size: out and in of these updates.
    gap: by how much descent stayed behind the best possible, in percentage points.
    """
    easy, hard = min(best, key=best.__getitem__), max(best, key=best.__getitem__)
    return (
        f"**The answer:** Yes, if the update's singular values fall fast: a pair of rank {rank}, with "
        f"{share(*size, rank):.0%} as many numbers, misses only {best[easy]:.1%} of the update called *{easy}*. No, if "
        f"they hardly fall: of *{hard}* the best pair of that rank misses {best[hard]:.0%}. Training finds what there "
        f"is to find: gradient descent from B = 0 came within {gap:.1f} percentage points of the best possible pair."
        "\n\nWhat would change it: another update. More training would close the last gap only, and a wider layer "
        f"only lowers the price: rank 8 costs {share(576, 576, 8):.1%} of a 576 x 576 update and "
        f"{share(4096, 4096, 8):.2%} of a 4,096 x 4,096 one."
    )


def verdict_on_update(found: Mapping[str, Mapping[int, float]]) -> str:
    """What lesson 01 says on the claim `update`, in Markdown. found: update -> {rank: what descent missed}."""
    falls = all(higher > lower for row in found.values() for higher, lower in pairwise(row.values()))
    verdict, words = ("supported", "less") if falls else ("not supported", "not always less")
    tried = ", ".join(map(str, next(iter(found.values()))))
    return (
        f"Claim `update`, the part that says that the rank sets how much the product can express: **{verdict} here**. "
        f"With a higher rank (tried: {tried}) training missed {words} of each of the {len(found)} updates. The other "
        "part, that the update is such a product, is how LoRA is built and needs no measurement."
    )
