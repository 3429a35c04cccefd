"""Panel of notebook 03: eight weights -> absmax -> codes -> restored weights, and what an outlier does to the others.

The browser does the same arithmetic (live/eight_weights.js); `eight_weights_view` is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from workbench.adapters.quantization import code_book, dequantize, quantize, relative_error
from workbench.panels.base import View, choice, slider
from workbench.panels.live.panel import LivePanel
from workbench.plots.quantization import block_of_weights

FORMATS = ("int4", "nf4", "int8")  # their code books rise, so the number of a code is its place
LARGEST_OUTLIER = 32
SMALLEST_BLOCK = 32  # that `quantize` takes; zeros fill it up and change no absmax


def with_outlier(weights: Tensor, outlier: float) -> Tensor:
    """The weights in float32, the largest of them multiplied by `outlier`."""
    changed = weights.detach().float().clone()
    changed[changed.abs().argmax()] *= outlier
    return changed


def eight_weights_view(weights: Tensor, kind: str = "int4", outlier: int = 1) -> View:
    """One block of weights quantized and restored.

    weights: a vector. kind: one of FORMATS. outlier: times the largest weight. Its errors are those of `quantize`.
    """
    changed = with_outlier(weights, outlier)
    quantized = quantize(changed, kind, SMALLEST_BLOCK)
    restored, codes = dequantize(quantized), quantized.unpacked.tolist()
    largest, absmax = int(changed.abs().argmax()), changed.abs().max().item()
    others = torch.arange(len(changed)) != largest
    error, worst = relative_error(changed[others], restored[others]), (changed - restored).abs().max().item()
    distinct = len({code for at, code in enumerate(codes) if at != largest})
    text = (
        f"{len(changed)} weights in {kind}: absmax is {absmax:.4g}, and each weight is stored as the number of the "
        f"nearest of {len(code_book(kind))} values between {-absmax:.4g} and {absmax:.4g}. The relative error of all "
        f"but the largest weight is {error:.1%}; these {len(changed) - 1} weights share {distinct} different codes. "
        f"The largest error is {worst:.2g}."
    )
    numbers = {"absmax": absmax, "error": error, "worst": worst, "distinct": distinct}
    numbers |= {f"code {at}": code for at, code in enumerate(codes)}
    numbers |= {f"restored {at}": value for at, value in enumerate(restored.tolist())}
    levels = (absmax * code_book(kind)).tolist()
    return View(lambda: block_of_weights(changed.tolist(), restored.tolist(), levels, kind), text, numbers)


def eight_weights_panel(weights: Tensor | Sequence[float]) -> LivePanel:
    """The live panel over a few weights of a real layer, for example `layer.weight[0, :8]`.

    Raises ValueError for anything but two to sixteen finite numbers that are not all zero.
    """
    vector = torch.as_tensor(weights).detach().float().reshape(-1)
    if not 2 <= len(vector) <= 16 or not vector.isfinite().all() or not vector.any():
        raise ValueError("The panel shows two to sixteen finite weights that are not all zero; give part of one row.")
    controls = {
        "kind": choice("format", "int4", FORMATS),
        "outlier": slider("largest weight, times", 1, 1, LARGEST_OUTLIER),
    }
    books = {kind: code_book(kind) for kind in FORMATS}
    arrays = {kind: book.numpy() for kind, book in books.items()}
    arrays |= {f"{kind} borders": ((book[:-1] + book[1:]) / 2).numpy() for kind, book in books.items()}
    given = arrays | {"weights": np.asarray(vector)}
    title = f"{len(vector)} weights, stored as codes and restored"
    return LivePanel(title, controls, partial(eight_weights_view, vector), "eight_weights", {}, given)
