"""Panel of notebook 01: how well B A fits a wanted update, for a rank, an alpha and a number of steps of descent."""

# ruff: noqa: N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from functools import lru_cache

import torch

from workbench.adapters import lowrank
from workbench.panels.base import Panel, View, choice, slider, steps_slider
from workbench.plots import lowrank as plots_lowrank
from workbench.plots.style import TIMES

ROWS, COLUMNS = 32, 48
TARGETS = lowrank.toy_targets(ROWS, COLUMNS)
STEPS = (10, 30, 100, 300, 1000)


@lru_cache(maxsize=512)
def _fit(target: str, rank: int, steps: int) -> lowrank.Fit:
    return lowrank.fit_low_rank(TARGETS[target], rank, steps=steps)


def low_rank_view(target: str = "triangle", rank: int = 4, alpha: int = 4, steps: int = 300) -> View:
    """How well (alpha / rank) * B A fits the wanted update, after `steps` of gradient descent from B = 0.

    target: a name in TARGETS. The descent runs with alpha = rank, a factor of 1; alpha then scales the same A and B.
    Raises ValueError for a rank that a 32 x 48 matrix cannot have.
    """
    wanted = TARGETS[target]
    numbers = lowrank.lora_parameters(ROWS, COLUMNS, rank)
    fit = _fit(target, rank, steps)
    factor = lowrank.scaling(alpha, rank)
    dW = lowrank.delta_weight(fit.A, fit.B, factor)
    best = lowrank.error_by_rank(wanted).tolist()
    missed = ((wanted - dW).norm() / wanted.norm()).item()
    W = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    pictures = {"W (frozen)": W, "B": fit.B, "A": fit.A, f"dW = {factor:.3g} {TIMES} B A": dW}
    pictures |= {"wanted": wanted, "missing": wanted - dW}
    figure = plots_lowrank.low_rank_panel(
        {title: matrix.numpy() for title, matrix in pictures.items()},
        best,
        rank,
        missed,
        lowrank.spectrum(wanted).tolist(),
    )
    text = (
        f"Rank {rank}: B and A hold {numbers:,} numbers, the full update {wanted.numel():,} "
        f"({numbers / wanted.numel():.0%}). The best matrix of this rank misses {best[rank]:.1%} of the wanted update; "
        f"{steps} steps of descent come to {fit.error:.1%}; with alpha / r = {alpha} / {rank} = {factor:.3g} in front, "
        f"{missed:.1%} is missed. Effective rank of the wanted update: {lowrank.effective_rank(wanted):.1f} of {ROWS}."
    )
    found = {"parameters": numbers, "best": best[rank], "descent": fit.error, "missed": missed, "scaling": factor}
    return View(figure, text, found)


def delta_w_panel() -> Panel:
    """The live panel."""
    return Panel(
        "How much of a wanted update do two small matrices catch?",
        {
            "target": choice("wanted update", "triangle", list(TARGETS)),
            "rank": slider("rank r", 4, 1, ROWS),
            "alpha": slider("alpha", 4, 0, 2 * ROWS),
            "steps": steps_slider("steps of descent", 300, STEPS),
        },
        low_rank_view,
    )
