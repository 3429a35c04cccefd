"""Merge an adapter into the weights of a base, and compare the logits of two models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Embedding as LoraEmbedding, Linear as LoraLinear, LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workbench.adapters.adapter_files import BASE_PREFIX, starts_in_the_base
from workbench.adapters.guard import unmoved
from workbench.adapters.updates import plain_lora
from workbench.errors import AdapterError
from workbench.models.sharing import own_precision, shared_copy

PROBE_TOKENS = 12
QUANTIZED_LORA = ("Linear4bit", "Linear8bitLt")  # PEFT's layers on those of bitsandbytes


@own_precision()
def merge(onto: nn.Module, model: PeftModel, dtype: torch.dtype | None = None) -> nn.Module:
    """A plain model: the weights of `onto` plus the updates of `model`; all else is shared with `onto`.

    onto: unquantized, of the same architecture; it stays as it is (PEFT's own merge would change weights that are
    shared). dtype: round the sums to it, as saving a checkpoint in it would; the model computes in the dtype of `onto`.
    Biases and tokens that were trained along are taken over. The logits of the sum are compared with those of the
    adapter on random tokens. Raises AdapterError if they differ, and for what is no sum: DoRA and other kinds than
    LoRA, a hybrid, repeated layers, a quantized `onto`.
    """
    config = plain_lora(model, "merge()")
    _check_is_a_sum(config, model)
    with unmoved(onto, "merge()"):
        merged = shared_copy(onto)
        try:
            _take_along(merged, model)
            changed = [parameter for name, layer in _wrapped(model) for parameter in _take(merged, name, layer)]
            _settle_ties(onto, merged)
            reference = model if _same_weights(onto, model) else _on_the_weights_of(onto, model)
        except (RuntimeError, AttributeError, IndexError) as error:
            raise AdapterError(f"The adapter does not fit the model that it is to be merged into: {error}") from error
        check_same_logits(reference, merged, "merge() would give another model than the adapter does", _tokens(model))
    if dtype:
        for parameter in changed:
            parameter.data = parameter.data.to(dtype).to(parameter.dtype)
    return merged


def check_same_logits(first: Any, second: Any, words: str, tokens: tuple[int, ...] = ()) -> None:
    """Raise AdapterError, beginning with `words`, if two models give different logits on random tokens.

    tokens: to be among them. In float32 no position may differ; in less, one of two may, since routers of experts flip.
    """
    one, two = logits_on_random_tokens(first, second, tokens=tokens)
    if one.shape != two.shape:
        raise AdapterError(f"{words}: {one.shape[-1]} logits a token, and {two.shape[-1]}.")
    one, two = (each[0].float().clamp(min=-1e9) for each in (one, two))  # a few predict -inf for what is no text
    size = one.abs().max().item()
    apart = (one - two).abs().amax(-1)
    coarsest = max(torch.finfo(each.dtype).eps for each in first.parameters() if each.is_floating_point())
    worst = (apart.max() if coarsest < 1e-4 else apart.median()).item()
    if not worst <= coarsest**0.5 * size:  # also if it is no number
        raise AdapterError(f"{words}: on random tokens their logits, of up to {size:.2g}, differ by {worst:.2g}.")


def logits_on_random_tokens(*models: Any, tokens: tuple[int, ...] = ()) -> list[Tensor]:
    """Logits (1, tokens, vocabulary) of each model on random tokens and `tokens`, in the precision of the first."""
    first = models[0]
    device = next(first.parameters()).device
    rows = first.get_input_embeddings().weight.shape[0]
    drawn = torch.randint(rows, (PROBE_TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
    ids = torch.tensor([[*drawn, *tokens]], device=device)
    lower = {each.dtype for each in first.parameters() if each.is_floating_point()} - {torch.float32, torch.float64}
    # A hybrid on a bfloat16 base has modules of both dtypes, which only autocast brings together.
    with torch.no_grad(), torch.autocast(device.type, next(iter(lower), torch.bfloat16), enabled=bool(lower)):
        return [model(input_ids=ids, use_cache=False).logits for model in models]


def _check_is_a_sum(config: LoraConfig, model: PeftModel) -> None:
    """Raise AdapterError for an adapter that cannot be added to the weights."""
    if config.use_dora:
        raise AdapterError("A DoRA update is no plain sum, so merge() cannot add it; PEFT's merge_and_unload can.")
    if opened := config.modules_to_save:
        opened = next(iter(opened))
        raise AdapterError(f"merge() adds updates, and {opened} was trained whole; PEFT's merge_and_unload does both.")
    if config.layer_replication:
        raise AdapterError(
            "This adapter repeats layers of its base (layer_replication), each copy with updates of its own; PEFT's "
            "merge_and_unload gives the longer model."
        )
    for name, layer in model.named_modules():
        known = isinstance(layer, LoraLinear | LoraEmbedding | ParamWrapper) or type(layer).__name__ in QUANTIZED_LORA
        if isinstance(layer, LoraLayer) and (not known or layer.lora_variant):
            kind = type(next(iter(layer.lora_variant.values()), layer)).__name__
            raise AdapterError(f"merge() cannot add the update of {name} ({kind}); PEFT's merge_and_unload may.")


def _wrapped(model: PeftModel) -> Iterator[tuple[str, Any]]:
    """The layers that PEFT has put around those of the base, with the names that these have in the base."""
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer | AuxiliaryTrainingWrapper):
            name = name.removeprefix(BASE_PREFIX)
            while name.endswith(".base_layer"):  # several parameters of one module, each wrapped
                name = name.removesuffix(".base_layer")
            yield name, layer


def _take(merged: nn.Module, name: str, layer: Any) -> list[nn.Parameter]:
    """Add the update of a layer to the module of this name; returns the new parameters."""
    module: Any = merged.get_submodule(name)
    if isinstance(layer, TrainableTokensWrapper):
        adapter = layer.token_adapter
        rows = torch.tensor(adapter.token_indices["default"], device=module.weight.device)
        new = adapter.trainable_tokens_delta["default"].detach().to(module.weight)
        return [_set(module, "weight", module.weight.detach().index_copy(0, rows, new))]
    if isinstance(layer, AuxiliaryTrainingWrapper):
        raise AdapterError(f"merge() adds updates, and {name} was trained whole.")
    which = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
    weight = getattr(module, which)
    if not weight.is_floating_point():
        raise AdapterError("merge() adds to plain weights; give it quantization.dequantize_base(base).model.")
    if not isinstance(weight, nn.Parameter):
        raise AdapterError(f"{name}.{which} is computed from other tensors, so that nothing can be added to it.")
    with torch.no_grad():
        update = layer.get_delta_weight("default").float()
    linear = isinstance(module, nn.Linear | Conv1D) and not isinstance(layer, ParamWrapper)
    if linear and isinstance(module, Conv1D) != getattr(layer, "fan_in_fan_out", False):
        update = update.T  # in 4 bits, where it may have been trained, a Conv1D's weight is not transposed
    if update.shape != weight.shape:
        raise AdapterError(f"{name} is {list(weight.shape)}, and its update {list(update.shape)}.")
    changed = [_set(module, which, weight.detach().float() + update)]
    if getattr(layer, "lora_bias", {}).get("default"):
        if module.bias is None:
            raise AdapterError(f"{name} has no bias to which the adapter's own bias could be added.")
        own = layer.lora_B["default"].bias.detach().float() * layer.scaling["default"]
        changed.append(_set(module, "bias", module.bias.detach().float() + own))
    return changed


def _set(module: nn.Module, name: str, value: Tensor) -> nn.Parameter:
    """Put new values into a module, in the dtype of the old ones."""
    new = nn.Parameter(value.to(getattr(module, name).dtype), requires_grad=False)
    setattr(module, name, new)
    return new


def _take_along(root: nn.Module, model: PeftModel) -> None:
    """Put into `root` what is the adapter's own besides the updates: biases, embeddings from its file, and the weights
    that PiSSA and OLoRA leave of the base's.
    """
    for name in _along(model):
        module, own = (_inner(each, name.rpartition(".")[0]) for each in (root, model.base_model.model))
        which = name.rpartition(".")[2]
        if getattr(own, which).shape != getattr(module, which).shape:
            raise AdapterError(f"{name} has another size in the adapter than in the model to merge into.")
        _set(module, which, getattr(own, which).detach())


def _along(model: PeftModel) -> list[str]:
    """Names, in the base, of its tensors that are the adapter's own."""
    found = [each.removeprefix(BASE_PREFIX).replace(".base_layer.", ".") for each in getattr(model, "came_along", ())]
    config = model.peft_config["default"]
    kind = config.bias
    if starts_in_the_base(config):
        found += [f"{name}.weight" for name, layer in _wrapped(model) if isinstance(layer, LoraLayer)]
    if kind == "all":
        parameters = [each.removeprefix(BASE_PREFIX) for each, _ in model.named_parameters() if ".lora_" not in each]
        found += [each.replace(".base_layer.", ".") for each in parameters if each.rpartition(".")[2] == "bias"]
    if kind == "lora_only":
        linear = [(name, layer) for name, layer in _wrapped(model) if isinstance(layer, LoraLayer)]
        found += [
            f"{name}.bias"
            for name, _ in linear
            if getattr(_inner(model.base_model.model, name), "bias", None) is not None
        ]
    return sorted(set(found))


def _holder(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module, and its attribute, that holds the base's own module of this name, within all of PEFT's wrappers."""
    parent, _, attribute = name.rpartition(".")
    holder = root.get_submodule(parent)
    while isinstance(inner := getattr(holder, attribute), BaseTunerLayer | AuxiliaryTrainingWrapper):
        holder, attribute = inner, "token_adapter" if isinstance(inner, TrainableTokensWrapper) else "base_layer"
    return holder, attribute


def _inner(root: nn.Module, name: str) -> Any:
    holder, attribute = _holder(root, name)
    return getattr(holder, attribute)


def _pairs(onto: nn.Module, model: PeftModel) -> Iterator[tuple[str, Any, Any]]:
    """Name, module of `onto` and that of the adapter's base, for all that hold parameters themselves."""
    for name, module in onto.named_modules():
        if name and any(parameter is not None for parameter in module._parameters.values()):
            yield name, module, _inner(model.base_model.model, name)


def _same_weights(onto: nn.Module, model: PeftModel) -> bool:
    """Whether the adapter sits on the weights of `onto`, apart from those that are its own."""
    along = set(_along(model))
    for name, module, own in _pairs(onto, model):
        for which, parameter in module._parameters.items():
            if parameter is not None and f"{name}.{which}" not in along and not _equal(parameter, getattr(own, which)):
                return False
    return True


def _equal(one: Tensor, two: Tensor) -> bool:
    alike = one.shape == two.shape and one.dtype == two.dtype
    return alike and (one.data_ptr() == two.data_ptr() or torch.equal(one, two))


def _on_the_weights_of(onto: nn.Module, model: PeftModel) -> PeftModel:
    """The adapter, unmerged, on the weights of `onto`, where it was trained on others, such as quantized ones."""
    copy = shared_copy(model)
    for name, module, own in _pairs(onto, model):
        if type(own) is not type(module) or not any(True for _ in module.children()):
            holder, attribute = _holder(copy.base_model.model, name)
            setattr(holder, attribute, shared_copy(module))
    _take_along(copy.base_model.model, model)
    return copy


def _settle_ties(onto: Any, merged: Any) -> None:
    """Embeddings and head that were one tensor stay one if their values are equal; else the model says they are two."""
    table, head = onto.get_input_embeddings(), onto.get_output_embeddings()
    if head is None or table.weight is not head.weight:
        return
    table, head = merged.get_input_embeddings(), merged.get_output_embeddings()
    if torch.equal(table.weight, head.weight):
        head.weight = table.weight
        return
    for config in {id(each): each for each in (merged.config, merged.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    merged.all_tied_weights_keys = {}


def _tokens(model: PeftModel) -> tuple[int, ...]:
    """A few of the tokens whose embeddings the adapter has trained."""
    wrappers = [each for each in model.modules() if isinstance(each, TrainableTokensWrapper)]
    return tuple(wrappers[0].token_adapter.token_indices["default"][:PROBE_TOKENS]) if wrappers else ()
