"""Intruder dimensions: singular vectors of a tuned weight that resemble none of the base's, found and scaled down.

Source: Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv 2410.21228. What is found
and what is left after scaling are the same as with PEFT's `reduce_intruder_dimension` (tests/analysis).
"""

# ruff: noqa: N803, N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

import torch
from torch import Tensor

from workbench.adapters.lowrank import best_rank_r
from workbench.analysis.weights import as_stored, changed_layers, with_weights
from workbench.errors import AdapterError
from workbench.models.base import Base

TOP, THRESHOLD = 10, 0.5  # PEFT's defaults


def intruder_positions(W: Tensor, W_tuned: Tensor, top: int = TOP, threshold: float = THRESHOLD) -> list[int]:
    """Which of the `top` largest singular vectors of W_tuned are intruders, 0 for the largest.

    Such a left singular vector has a cosine below `threshold` with every one of W, whatever its sign.
    """
    U = torch.linalg.svd(W, full_matrices=False).U
    U_tuned = torch.linalg.svd(W_tuned, full_matrices=False).U[:, :top]
    nearest = (U_tuned.T @ U).abs().amax(1)
    return torch.where(nearest < threshold)[0].tolist()


def find_intruders(base: Base, tuned: Base, top: int = TOP, threshold: float = THRESHOLD) -> dict[str, list[int]]:
    """Name -> `intruder_positions` of each linear layer that was changed.

    Two singular value decompositions a layer. Raises AdapterError as `weights.updates` does, and for a top or threshold
    that cannot be.
    """
    _check(top, threshold)
    return {name: intruder_positions(W, W_tuned, top, threshold) for name, W, W_tuned in changed_layers(base, tuned)}


def scale_intruders(
    base: Base,
    tuned: Base,
    factor: float,
    top: int = TOP,
    threshold: float = THRESHOLD,
    rank: int | None = None,
) -> Base:
    """The tuned model with the singular values of its intruders multiplied by `factor`: 1 keeps them, 0 removes them.

    rank: cut the changed updates to this rank again, as PEFT does to give back an adapter. PEFT calls the factor
    mitigation_lambda. Raises AdapterError as `find_intruders` does.
    """
    _check(top, threshold)
    new = {}
    for name, W, W_tuned in changed_layers(base, tuned):
        if found := intruder_positions(W, W_tuned, top, threshold):
            U, S, Vh = torch.linalg.svd(W_tuned, full_matrices=False)
            scaled = W_tuned + (factor - 1) * (U[:, found] * S[found]) @ Vh[found]
            new[name] = scaled if rank is None else W + best_rank_r(scaled - W, min(rank, *W.shape))
    return with_weights(base, tuned, as_stored(base, new), f"intruders scaled by {factor:g}")


def _check(top: int, threshold: float) -> None:
    if top < 1 or not 0 < threshold <= 1:
        raise AdapterError(f"top={top} must be at least 1, and threshold={threshold} a cosine above 0 and up to 1.")
