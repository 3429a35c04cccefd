"""The low-rank updates of a loaded adapter: truncated, rescaled, switched off, and their singular values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from peft import LoraConfig, PeftModel, PeftType
from peft.tuners.lora import Embedding as LoraEmbedding, LoraLayer, ParamWrapper
from torch import nn

from workbench.adapters import lowrank
from workbench.adapters.adapter_files import PLAIN_STARTS, starts_in_the_base
from workbench.errors import AdapterError
from workbench.models.sharing import shared_copy


def change(
    model: PeftModel, rank: int | None = None, alpha: float | None = None, targets: Sequence[str] | None = None
) -> PeftModel:
    """A copy of an adapted model with changed updates; modules that were trained in full stay as they are.

    rank: each update is truncated to the nearest matrix of this rank (see `lowrank.truncate`), unless its rank is
        lower already. The factor alpha / r stays that of training.
    alpha: each update is multiplied by alpha / (alpha in training); 0 turns them off.
    targets: only the updates of modules with these names act, e.g. ["q_proj", "v_proj"]; none with [].

    The copy shares every tensor that is not changed. Use it to compute, not to save: its PEFT configuration is still
    that of training. Raises AdapterError for DoRA, whose update is not a product of two matrices, for other kinds than
    LoRA, for a rank below 1, a negative alpha, and a name without adapters.
    """
    steps = []
    config = plain_lora(model, "change()")
    _check_is_the_update(config, "change()")
    if config.use_dora:
        raise AdapterError("A DoRA update is not a product of two small matrices; it cannot be cut or rescaled.")
    if rank is not None:
        steps.append(_truncate_to(rank))
    if alpha is not None:
        steps.append(_rescale(alpha))
    if targets is not None:
        steps.append(_turn_off_all_but(model, targets))
    copy = shared_copy(model)
    for name, layer in copy.named_modules():
        if isinstance(layer, LoraLayer):
            for step in steps:
                step(name, layer)
    return copy


Step = Callable[[str, LoraLayer], None]  # changes a layer, given its full name


def _truncate_to(rank: int) -> Step:
    if not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"rank={rank!r} must be a whole number of at least 1; alpha=0 turns an adapter off.")

    def truncate(name: str, layer: LoraLayer) -> None:
        A, B = factors(name, layer)  # noqa: N806 - as in lowrank
        if rank < min(layer.r["default"], A.shape[1], B.shape[0]):
            new = [nn.Parameter(part, requires_grad=False) for part in lowrank.truncate(A, B, rank)]
            if isinstance(layer, LoraEmbedding):
                layer.lora_embedding_A["default"], layer.lora_embedding_B["default"] = new
            else:
                down, up = layer.lora_A["default"], layer.lora_B["default"]
                down.weight, up.weight = new
                down.out_features = up.in_features = rank
            layer.r["default"] = rank

    return truncate


def _rescale(alpha: float) -> Step:
    if not alpha >= 0:
        raise AdapterError(f"alpha={alpha} must be 0 or more.")

    def rescale(_: str, layer: LoraLayer) -> None:
        layer.scaling["default"] *= alpha / layer.lora_alpha["default"]

    return rescale


def _turn_off_all_but(model: PeftModel, targets: Sequence[str]) -> Step:
    ends = tuple(targets)
    adapted = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    if unknown := set(ends) - adapted:
        raise AdapterError(f"The adapter has none on {sorted(unknown)}; it has them on {sorted(adapted)}.")

    def turn_off(name: str, layer: LoraLayer) -> None:
        if name.rpartition(".")[2] not in ends:
            layer.scaling["default"] = 0.0

    return turn_off


def spectra(model: PeftModel) -> dict[str, torch.Tensor]:
    """Module name -> the r largest singular values of its update alpha / r B A, in falling order.

    Where r exceeds the layer's smaller side, zeros are appended. For DoRA they are those of B A, not of the update.
    Raises AdapterError for other kinds than LoRA, and for adapters on fused experts.
    """
    _check_is_the_update(plain_lora(model, "spectra()"), "spectra()")
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            values = singular_values(name, layer)
            found[name] = nn.functional.pad(values, (0, layer.r["default"] - len(values)))
    return found


def singular_values(name: str, layer: LoraLayer) -> torch.Tensor:
    """Those of one layer's update alpha / r B A, largest first, by two small QR decompositions; at most r of them."""
    A, B = factors(name, layer)  # noqa: N806 - as in lowrank
    return layer.scaling["default"] * torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)


def plain_lora(model: PeftModel, what: str) -> LoraConfig:
    """The configuration of a model with one LoRA adapter; raises AdapterError for any other model. what: "merge()"."""
    if not isinstance(model, PeftModel):
        raise AdapterError(f"{what} works on a model with an adapter, and this {type(model).__name__} has none.")
    config = model.peft_config.get("default")
    if config is None or len(model.peft_config) > 1:
        names = ", ".join(map(str, model.peft_config))
        raise AdapterError(f"{what} works on one adapter, named 'default'; this model has: {names}.")
    if not isinstance(config, LoraConfig) or config.peft_type != PeftType.LORA:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise AdapterError(f"{what} works on LoRA updates; this is a {kind} adapter, which can be evaluated only.")
    return config


def _check_is_the_update(config: LoraConfig, what: str) -> None:
    """Raise AdapterError for an adapter whose B A is not what is added to the base's weights."""
    if starts_in_the_base(config):
        raise AdapterError(
            f"{what} does not go with init_lora_weights={config.init_lora_weights!r}: it subtracts from the base's "
            "weights what its factors start with, so that B A is more than the update."
        )


def besides_products(model: PeftModel) -> list[str]:
    """In words, what an adapter of LoRA has besides factors A and B whose product is added to a weight of the base."""
    config, layers = model.peft_config["default"], [each for each in model.modules() if isinstance(each, LoraLayer)]
    variants = {kind for kind in map(_variant, layers) if kind}
    own = {
        "DoRA": config.use_dora,
        "modules trained in full": config.modules_to_save,
        "biases of its own": config.bias != "none",
        "repeated layers": config.layer_replication,
        f"init_lora_weights={config.init_lora_weights!r}": config.init_lora_weights not in PLAIN_STARTS,
        f"updates of another kind ({', '.join(sorted(variants))})": variants,
    }
    return [words for words, there in own.items() if there]


def _variant(layer: LoraLayer) -> str:
    """The name of PEFT's class that computes a layer's update in its own way, such as KaSA's; "" for B A and DoRA."""
    kind = type(layer.lora_variant["default"]).__name__ if "default" in layer.lora_variant else ""
    return "" if kind.startswith("Dora") else kind


def factors(name: str, layer: LoraLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r) of a layer, in float32; raises AdapterError where B A is not what they stand for."""
    if kind := _variant(layer):
        raise AdapterError(f"The update of {name} ({kind}) is no product of two matrices alone; only evaluate it.")
    if isinstance(layer, LoraEmbedding):
        A, B = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]  # noqa: N806 - as in lowrank
    elif isinstance(layer, ParamWrapper) or "default" not in layer.lora_A:
        raise AdapterError(f"{name} holds the updates of several experts, or none; they are no pair of two matrices.")
    else:
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # noqa: N806 - as in lowrank
    return A.detach().float(), B.detach().float()
