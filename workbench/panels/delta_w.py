"""Panel of notebook 01: how well B A fits a wanted update, for a rank, an alpha and a number of steps of descent.

The browser runs the same descent (live/delta_w.js) and draws it step by step; the functions here are the reference.
"""

# ruff: noqa: N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.adapters import lowrank
from workbench.panels.base import View, choice, slider, steps_slider
from workbench.panels.live.panel import LivePanel
from workbench.plots import lowrank as plots_lowrank
from workbench.plots.style import TIMES, Figure

ROWS, COLUMNS = 32, 48
# In float64, in which browsers compute.
TARGETS = {name: target.double() for name, target in lowrank.toy_targets(ROWS, COLUMNS).items()}
STEPS = (10, 30, 100, 300, 1000)
RATE = 0.4
TIED = "r"  # alpha follows the rank, so the factor in front of B A is 1
W_SIZE = 0.2  # RMS of the toy's frozen weight: small enough to see what an update of 0.3 changes


@lru_cache(maxsize=512)
def _fit(target: str, rank: int, steps: int) -> lowrank.Fit:
    return lowrank.fit_low_rank(TARGETS[target], rank, steps=steps, learning_rate=RATE)


def low_rank_view(target: str = "triangle", rank: int = 4, alpha: int | str = TIED, steps: int = 300) -> View:
    """How well (alpha / rank) * B A fits the wanted update, after `steps` of gradient descent from B = 0.

    target: a name in TARGETS. alpha: a number, or TIED for the rank's own value. The descent runs with a factor of 1;
    alpha then scales the same A and B. Raises ValueError for a rank that a 32 x 48 matrix cannot have.
    """
    wanted = TARGETS[target]
    numbers = lowrank.lora_parameters(ROWS, COLUMNS, rank)
    fit = _fit(target, rank, steps)
    factor = lowrank.scaling(rank if isinstance(alpha, str) else alpha, rank)
    dW = lowrank.delta_weight(fit.A, fit.B, factor)
    best = lowrank.error_by_rank(wanted).tolist()
    missed = ((wanted - dW).norm() / wanted.norm()).item()
    in_front = f"alpha = r, a factor of {factor:g}" if alpha == TIED else f"alpha / r = {alpha} / {rank} = {factor:.3g}"
    text = (
        f"Rank {rank}: B and A hold {numbers:,} numbers, the full update {wanted.numel():,} "
        f"({numbers / wanted.numel():.0%}). The best matrix of this rank misses {best[rank]:.1%} of the wanted update; "
        f"{steps} steps of descent come to {fit.error:.1%}; with {in_front} in front, "
        f"{missed:.1%} is missed. Effective rank of the wanted update: {lowrank.effective_rank(wanted):.1f} of {ROWS}."
    )
    found = {"parameters": numbers, "best": best[rank], "descent": fit.error, "missed": missed, "scaling": factor}

    def draw() -> Figure:
        pictures = {"W (frozen)": frozen_weight(), "B": fit.B, "A": fit.A, f"dW = {factor:.3g} {TIMES} B A": dW}
        pictures |= {"wanted": wanted, "missing": wanted - dW}
        matrices = {title: matrix.numpy() for title, matrix in pictures.items()}
        return plots_lowrank.low_rank_panel(matrices, best, rank, missed, lowrank.spectrum(wanted).tolist())

    return View(draw, text, found)


def learned_pieces(fit: lowrank.Fit, target: str) -> Tensor:
    """How much of each singular piece of the wanted update B A holds, u^T (B A) v, in units of the largest value."""
    U, S, Vh = torch.linalg.svd(TARGETS[target], full_matrices=False)
    return (U.T @ fit.B * (fit.A @ Vh.T).T).sum(1) / S[0]


def frozen_weight() -> Tensor:
    """The weight W to which the update is added: noise."""
    return W_SIZE * torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1)).double()


def start_of_A() -> Tensor:  # noqa: N802
    """A of the largest rank as `fit_low_rank` starts it; that of a smaller rank is its first rows."""
    bound = 1 / math.sqrt(COLUMNS)
    return torch.empty(ROWS, COLUMNS).uniform_(-bound, bound, generator=torch.Generator().manual_seed(0)).double()


def given_to_the_browser() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and the arrays of live/delta_w.js. Arrays of several targets hold them in the order of `names`."""
    decompositions = [torch.linalg.svd(wanted, full_matrices=False) for wanted in TARGETS.values()]
    U, S, V = (torch.stack(parts).numpy() for parts in zip(*decompositions, strict=True))
    best = torch.stack([lowrank.error_by_rank(wanted) for wanted in TARGETS.values()]).numpy()
    wanted = torch.stack([*TARGETS.values()]).numpy()
    facts = {"rows": ROWS, "columns": COLUMNS, "rate": RATE, "names": [*TARGETS], "tied": TIED}
    arrays = {"wanted": wanted, "U": U, "spectrum": S, "V": V, "best": best}
    return facts, arrays | {"W": frozen_weight().numpy(), "A": start_of_A().numpy()}


def delta_w_panel() -> LivePanel:
    """The live panel."""
    alphas = [("= r", TIED), *((str(alpha), alpha) for alpha in range(1, 2 * ROWS + 1))]
    controls = {
        "target": choice("wanted update", "triangle", list(TARGETS)),
        "rank": slider("rank r", 4, 1, ROWS),
        "alpha": steps_slider("alpha", TIED, alphas),
        "steps": steps_slider("steps of descent", 300, STEPS),
    }
    title = "How much of a wanted update do two small matrices catch?"
    return LivePanel(title, controls, low_rank_view, "delta_w", *given_to_the_browser())
