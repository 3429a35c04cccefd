"""Panel of notebook 03: quantize a layer of the loaded model; see code book, error, bits and the model's size."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from workbench.adapters.quantization import (
    BLOCK_SIZES,
    KINDS,
    Quantized,
    block_scaled,
    code_book,
    dequantize,
    quantize,
    relative_error,
)
from workbench.adapters.quantized_models import model_bytes
from workbench.models.base import Base, linear_modules, linear_weight
from workbench.panels.base import Panel, View, choice, steps_slider, switch
from workbench.plots.quantization import CodeUse, code_and_error

DATA_TYPES = {"integer": "int", "normal float (NF)": "nf", "float (FP)": "fp"}
BINS = 101
WIDEST_ERROR = 0.6  # of the RMS weight; the few larger ones count in the outermost bins


def code_use(weight: Tensor, q: Quantized) -> CodeUse:
    """The histogram of a weight divided by its blocks' absmax, and the share of entries that each code has."""
    values, places = code_book(q.kind).unique(return_inverse=True)  # FP4's two zeros are one value
    counts = torch.bincount(q.unpacked.cpu(), minlength=len(places))
    used = torch.zeros(len(values)).index_add_(0, places, counts.float()) / weight.numel()
    return CodeUse(*histogram(block_scaled(weight, q.block_size), 1.0), values.tolist(), used.tolist())


def histogram(values: Tensor, limit: float) -> tuple[list[float], list[float]]:
    """Centres and shares of BINS bins from -limit to limit; values outside count in the outermost bins."""
    half = BINS // 2
    places = (values.reshape(-1) * (half / limit)).round_().clamp_(-half, half).int() + half
    shares = torch.bincount(places, minlength=BINS) / places.numel()
    return torch.linspace(-limit, limit, BINS).tolist(), shares.tolist()


@torch.no_grad()
def quantization_view(
    model: nn.Module,
    layer: str,
    data_type: str = "int",
    bits: int = 4,
    block_size: int = 64,
    double_quantization: bool = False,
) -> View:
    """One layer quantized: use of the code book, errors, bits a parameter, and the size of the whole model.

    layer: a name in `linear_modules(model)`. Raises ValueError if the data type has no code book of that many bits.
    """
    kind = f"{data_type}{bits}"
    if kind not in KINDS:
        raise ValueError("NF and FP are types of 4 bits here; for 8 bits choose the integer type.")
    weight = linear_weight(model.get_submodule(layer))
    q = quantize(weight, kind, block_size, double_quantization)
    restored = dequantize(q)
    rms = weight.float().square().mean().sqrt()
    error, worst = relative_error(weight, restored), ((weight - restored).abs().max() / rms).item()
    size = model_bytes(model, kind, block_size, double_quantization) / 1e6
    before = model_bytes(model, None) / 1e6
    double = " and double quantization" if double_quantization else ""
    text = (
        f"{layer} as {kind} in blocks of {block_size}{double}: {q.bits_per_parameter:.3f} bits a parameter, "
        f"{q.nbytes / 1e6:.2f} MB; relative error {error:.2%}, the largest error {worst:.0%} of the RMS weight. The "
        f"whole model: {size:.1f} MB, against {before:.1f} MB in 16 bits (embeddings and norms stay in 16 bits)."
    )
    use, errors = code_use(weight, q), histogram((weight - restored) / rms, WIDEST_ERROR)
    numbers = {"bits": q.bits_per_parameter, "error": error, "worst": worst, "model_mb": size}
    result = f"{q.bits_per_parameter:.2f} bits, error {error:.1%}, model {size:.0f} MB"
    return View(lambda: code_and_error(use, kind, errors), text, numbers, result=result)


def quantization_panel(base: Base) -> Panel:
    """The live panel over the first, middle and last block of an unquantized base."""
    layers = list(linear_modules(base.model))
    blocks = base.model.config.num_hidden_layers
    shown = [name for name in layers if any(f".{number}." in name for number in {0, blocks // 2, blocks - 1})]
    controls = {
        "layer": choice("layer", shown[0], [(name.partition("layers.")[2] or name, name) for name in shown]),
        "data_type": choice("data type", "int", list(DATA_TYPES.items())),
        "bits": steps_slider("bits", 4, (4, 8)),
        "block_size": steps_slider("block size", 64, BLOCK_SIZES),
        "double_quantization": switch("double quantization", False),
    }
    return Panel("One layer, quantized", controls, partial(quantization_view, base.model))
