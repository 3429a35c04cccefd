"""Panel of notebook 02: rank, alpha and the scaling rule of one layer, and how far a few training steps move it."""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor, nn

from workbench.adapters.lowrank import LoRALinear, lora_parameters, scaling
from workbench.panels.base import Panel, View, choice, slider, steps_slider, switch
from workbench.plots import lowrank as plots_lowrank
from workbench.seeds import RandomNumbers

RANKS = (1, 2, 4, 8, 16, 32, 64)
LEARNING_RATE = 1e-3
RULES = {False: "alpha / r", True: "alpha / sqrt(r), rsLoRA"}
# The linear layers of one block of SmolLM2-135M: (out, in).
LAYERS = {
    "q_proj, o_proj: 576 x 576": (576, 576),
    "k_proj, v_proj: 192 x 576": (192, 576),
    "gate_proj, up_proj: 1536 x 576": (1536, 576),
    "down_proj: 576 x 1536": (576, 1536),
}


@cache
def toy_layer(shape: tuple[int, int]) -> tuple[nn.Linear, Tensor, Tensor, float]:
    """A layer, 32 inputs, the change wanted of its outputs, and the norm of its outputs, all from a fixed seed.

    shape: (out, in).
    """
    out_features, in_features = shape
    with RandomNumbers(0):
        linear = nn.Linear(in_features, out_features, bias=False)
        nn.init.normal_(linear.weight, std=in_features**-0.5)
        x, wanted = torch.randn(32, in_features), torch.randn(32, out_features)
    with torch.no_grad():
        return linear, x, wanted, linear(x).norm().item()


@lru_cache(maxsize=2048)
def measure_update(shape: tuple[int, int], rank: int, alpha: float, rslora: bool, steps: int = 5) -> float:
    """RMS of what the update adds to a layer's output after `steps` AdamW steps / RMS of the base layer's output.

    shape: (out, in), of `toy_layer`. The base output is left out, because it is constant and cancels in the loss.
    """
    linear, x, wanted, base_norm = toy_layer(shape)
    with RandomNumbers(1):
        layer = LoRALinear(linear, rank, alpha, rslora)
    optimizer = torch.optim.AdamW([layer.A, layer.B], lr=LEARNING_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(added(layer, x), wanted).backward()
        optimizer.step()
    with torch.no_grad():
        return (added(layer, x).norm() / base_norm).item()


def added(layer: LoRALinear, x: Tensor) -> Tensor:
    """What the update adds to the layer's output: scaling * x A^T B^T, of shape (inputs, out)."""
    return layer.scaling * (x @ layer.A.T) @ layer.B.T


def layer_view(
    layer: tuple[int, int] = (576, 576), rank: int = 8, alpha: int = 16, rslora: bool = False, steps: int = 5
) -> View:
    """Scaling, parameters and measured movement of one layer, with those of every other rank and the other rule.

    layer: (out, in). rank: one of RANKS. Raises ValueError for an alpha below 1.
    """
    if alpha < 1:
        raise ValueError(f"alpha = {alpha} switches the update off; use 1 or more.")
    factors = {rule: [scaling(alpha, r, on) for r in RANKS] for on, rule in RULES.items()}
    sizes = {rule: [measure_update(layer, r, alpha, on, steps) for r in RANKS] for on, rule in RULES.items()}
    place = RANKS.index(rank)
    rule = RULES[rslora]
    factor, moved = factors[rule][place], sizes[rule][place]
    parameters, full = lora_parameters(*layer, rank), layer[0] * layer[1]
    text = (
        f"Rank {rank}, alpha {alpha}: the factor in front of B A is {factor:.3g} ({rule}). The layer trains "
        f"{parameters:,} numbers instead of {full:,} ({parameters / full:.1%}). After {steps} AdamW steps from B = 0 "
        f"its output has moved by {moved:.2%}."
    )
    result = f"output moved by {moved:.2%}"
    numbers = {"scaling": factor, "parameters": parameters, "moved": moved}
    return View(lambda: plots_lowrank.layer_panel(RANKS, factors, sizes, (rule, rank)), text, numbers, result=result)


def lora_layer_panel() -> Panel:
    """The live panel."""
    return Panel(
        "One layer: what rank, alpha and the scaling rule do",
        {
            "layer": choice("layer (out x in)", (576, 576), list(LAYERS.items())),
            "rank": steps_slider("rank r", 8, RANKS),
            "alpha": slider("alpha", 16, 1, 128),
            "rslora": switch("rsLoRA: alpha / sqrt(r)", False),
            "steps": steps_slider("training steps", 5, (1, 2, 5, 10)),
        },
        layer_view,
    )
