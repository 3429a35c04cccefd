"""The mathematics of a low-rank update: dW = scaling * B A, with A (r, in) and B (out, r), as in the LoRA paper.

Articles often write the same product as A.B. The order of the letters differs; the two small matrices do not.
"""

# ruff: noqa: N803, N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank update: y = linear(x) + scaling * (x A^T) B^T.

    linear: the layer to wrap, (in -> out); it is frozen here. rank: r, 1 to min(in, out). alpha: see `scaling`.
    A (r, in) starts random, uniform within 1 / sqrt(in) as in PEFT (the paper takes a Gaussian), and B (out, r) starts
    at zero, so a new layer gives exactly what `linear` gives. Both are float32, whatever the precision of `linear`.
    Raises ValueError for a rank that cannot be used.
    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, rslora: bool = False):
        super().__init__()
        _check_rank(rank, linear.out_features, linear.in_features)
        self.linear = linear.requires_grad_(False)
        device = linear.weight.device
        self.A = nn.Parameter(torch.empty(rank, linear.in_features, device=device))
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scaling = scaling(alpha, rank, rslora)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        update = self.scaling * (x.to(self.A.dtype) @ self.A.T) @ self.B.T
        return (y + update).to(y.dtype)


def scaling(alpha: float, rank: int, rslora: bool = False) -> float:
    """The factor in front of B A: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski, arXiv 2312.03732)."""
    _check_whole(rank)
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def lora_parameters(out_features: int, in_features: int, rank: int) -> int:
    """How many numbers A (r, in) and B (out, r) hold together: r * (in + out). The full matrix holds out * in."""
    _check_rank(rank, out_features, in_features)
    return rank * (out_features + in_features)


def delta_weight(A: Tensor, B: Tensor, scaling: float = 1.0) -> Tensor:
    """The update that the pair stands for: scaling * B A, shape (out, in), of rank r at most."""
    _check_pair(A, B)
    return scaling * (B @ A)


def spectrum(W: Tensor) -> Tensor:
    """The singular values of W, largest first; min(W.shape) of them."""
    return torch.linalg.svdvals(_checked_matrix(W))


def best_rank_r(W: Tensor, rank: int) -> Tensor:
    """The matrix of rank r nearest to W in Frobenius norm: its SVD, cut after r singular values.

    That no other matrix of rank r is nearer is the theorem of Eckart and Young (Psychometrika 1, 1936).
    """
    W = _checked_matrix(W)
    _check_rank(rank, *W.shape)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank]


def error_by_rank(W: Tensor) -> Tensor:
    """Relative error |W - best_rank_r(W, r)| / |W| (Frobenius) for r = 0, 1, ... min(W.shape).

    By Eckart and Young the squared error at rank r is the sum of the squared singular values after the r-th.
    """
    squares = spectrum(W).square()
    total = squares.sum()
    if total == 0:
        raise ValueError("the matrix is all zeros, so a relative error has no meaning.")
    left = squares.flip(0).cumsum(0).flip(0)
    return torch.cat([left, left.new_zeros(1)]).div(total).sqrt()


def best_rank_r_error(W: Tensor, rank: int) -> float:
    """Relative Frobenius error of the best rank-r approximation: 0 (exact) to 1 (nothing caught)."""
    errors = error_by_rank(W)
    _check_rank(rank, *W.shape)
    return errors[rank].item()


def effective_rank(W: Tensor) -> float:
    """How many singular values W really uses: exp(entropy of s / sum(s)), from 1 to min(W.shape).

    Equal singular values give the full rank, one dominant value gives 1. A zero matrix has 0 by our convention.
    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    return effective_rank_of(spectrum(W))


def effective_rank_of(s: Tensor) -> float:
    """The same from the singular values of a matrix, largest first."""
    if s[0] == 0:
        return 0.0
    share = s / s.sum()
    return torch.special.entr(share).sum().exp().item()


def truncate(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-r pair (A', B') for the product B A, without ever forming the (out, in) matrix.

    B = Q_B R_B and A^T = Q_A R_A, so B A = Q_B (R_B R_A^T) Q_A^T: the SVD of the small core is the SVD of the
    product. The square roots of the singular values are shared out between A' (rank, in) and B' (out, rank).
    """
    _check_pair(A, B)
    _check_rank(rank, min(A.shape), B.shape[0])
    Q_B, R_B = torch.linalg.qr(B)
    Q_A, R_A = torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    root = S[:rank].sqrt()
    return root[:, None] * (Vh[:rank] @ Q_A.T), (Q_B @ U[:, :rank]) * root


def toy_targets(rows: int = 32, columns: int = 48, seed: int = 0) -> dict[str, Tensor]:
    """Four updates to be learned, (rows, columns): from singular values that fall fast to values that are all equal.

    All have the same Frobenius norm, that of a matrix whose entries are 0.3 in root mean square.
    """
    generator = torch.Generator().manual_seed(seed)
    v, u = torch.linspace(0, 1, rows)[:, None], torch.linspace(0, 1, columns)[None, :]
    smooth = torch.zeros(rows, columns)
    for x, y, tilt, sign in ((0.25, 0.3, 0.9, 1), (0.7, 0.65, -1.2, -1), (0.8, 0.2, 0.5, 1), (0.3, 0.8, -0.6, 0.7)):
        smooth += sign * torch.exp(-20 * ((u - x) ** 2 + (v - y) ** 2 + tilt * (u - x) * (v - y)))
    targets = {
        "smooth": smooth,
        "triangle": (u <= v).float(),
        "noise": torch.randn(rows, columns, generator=generator),
        "diagonal": torch.eye(rows, columns),
    }
    size = 0.3 * math.sqrt(rows * columns)
    return {name: size * target / target.norm() for name, target in targets.items()}


@dataclass(frozen=True)
class Fit:
    """What gradient descent found: A (r, in), B (out, r) and the relative error before every step and at the end."""

    A: Tensor
    B: Tensor
    history: list[dict[str, float]]

    @property
    def error(self) -> float:
        return self.history[-1]["error"]


def fit_low_rank(target: Tensor, rank: int, steps: int = 400, learning_rate: float = 0.4, seed: int = 0) -> Fit:
    """Plain gradient descent on |B A - target|^2 / 2 from LoRA's start: A random, B zero.

    The gradients are dB = E A^T and dA = B^T E with E = B A - target: while B is zero, A does not move.
    learning_rate is in units of 1 / (largest singular value of target), so it means the same for every target. Above
    about 1 the descent does not settle: it ends with a larger error, or diverges, which raises ValueError.
    """
    target = _checked_matrix(target)
    _check_rank(rank, *target.shape)
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, not {steps}.")
    largest = spectrum(target)[0]
    if largest == 0:
        raise ValueError("the target is all zeros, and B = 0 fits it already; give a target to learn.")
    goal = target / largest
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(target.shape[1])
    A = torch.empty(rank, target.shape[1]).uniform_(-bound, bound, generator=generator).to(target)
    B = torch.zeros(target.shape[0], rank).to(target)
    E = B @ A - goal
    errors = [E.norm()]
    for _ in range(steps):
        A, B = A - learning_rate * B.T @ E, B - learning_rate * E @ A.T
        E = B @ A - goal
        errors.append(E.norm())
    relative = (torch.stack(errors) / goal.norm()).tolist()
    history = [{"step": step, "error": error} for step, error in enumerate(relative)]
    if not math.isfinite(history[-1]["error"]):
        raise ValueError(f"the descent diverged with learning_rate={learning_rate}; use a value below 1.")
    return Fit(A, largest * B, history)


def _checked_matrix(W: Tensor) -> Tensor:
    """W in at least float32, which the decompositions need."""
    if W.ndim != 2 or 0 in W.shape:
        raise ValueError(f"expected a matrix, got a tensor of shape {tuple(W.shape)}; pass one weight at a time.")
    if not W.isfinite().all():
        raise ValueError("the matrix holds NaN or infinite values, so it has no singular values.")
    return W.to(torch.promote_types(W.dtype, torch.float32))


def _check_whole(rank: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, numbers.Integral):
        raise ValueError(f"rank must be a whole number, not {rank!r}.")
    if rank < 1:
        raise ValueError(f"rank must be 1 or more, not {rank}; to train no update, leave the layer alone.")


def _check_rank(rank: int, rows: int, columns: int) -> None:
    _check_whole(rank)
    if rank > min(rows, columns):
        raise ValueError(
            f"rank {rank} is more than a {rows} x {columns} matrix can have; use {min(rows, columns)} or less."
        )


def _check_pair(A: Tensor, B: Tensor) -> None:
    if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
        raise ValueError(
            f"A {tuple(A.shape)} and B {tuple(B.shape)} do not belong together; A must be (r, in) and B (out, r)."
        )
