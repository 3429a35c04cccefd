"""The update W_tuned - W_base of each layer, its singular values, and models that keep only part of the update.

Layers are the linear layers that can carry an adapter (`models.linear_modules`). All of this is computed in float32,
and neither the base nor the tuned model is changed: the models that are returned share with them what they can.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding as LoraEmbedding, LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from workbench.adapters.adapter_files import BASE_PREFIX, starts_in_the_base
from workbench.adapters.inject import block_of, lies_within
from workbench.adapters.lowrank import best_rank_r, delta_weight, effective_rank_of, spectrum
from workbench.adapters.merging import merge
from workbench.adapters.updates import change, factors, plain_lora, spectra
from workbench.errors import AdapterError
from workbench.models.base import Base, linear_modules, linear_weight, stored_weight
from workbench.models.sharing import in_float32, shared_copy


@dataclass(frozen=True)
class LayerSpectrum:
    """The singular values of one layer's update, largest first.

    name: of the layer in the base. kind: the last part of it, "q_proj". block: its number; None outside of the blocks.
    Of an adapter's update there are r values, since all others are zero.
    """

    name: str
    kind: str
    block: int | None
    values: Tensor

    @property
    def effective_rank(self) -> float:
        """See `lowrank.effective_rank`."""
        return effective_rank_of(self.values)

    @property
    def norm(self) -> float:
        """The Frobenius norm of the update."""
        return self.values.norm().item()


def layer_spectra(base: Base, tuned: Base) -> list[LayerSpectrum]:
    """The spectrum of each layer's update; layers that were not changed are left out.

    Those of an adapter come from its two factors, without building the update; a hybrid is merged first. Raises
    AdapterError as `updates` does.
    """
    if is_product(tuned.model):
        values = {name.removeprefix(BASE_PREFIX): each for name, each in spectra(tuned.model).items()}
    else:
        values = {name: spectrum(update) for name, update in updates(base, tuned)}
    return [
        LayerSpectrum(name, name.rpartition(".")[2], block_of(name), each)
        for name, each in values.items()
        if each[0] > 0
    ]


def energy(layers: Sequence[LayerSpectrum], rank: int) -> float:
    """The share of the squared Frobenius norm of all these updates that their `rank` largest singular values hold.

    By Eckart and Young it is what is left of each update after cutting it to this rank: 1 minus the squared relative
    error. Raises ValueError without layers.
    """
    if not layers:
        raise ValueError("No layer has been changed, so that there is no energy to share out.")
    kept = sum(each.values[:rank].double().square().sum() for each in layers)
    return float(kept / sum(each.values.double().square().sum() for each in layers))


def energy_grid(layers: Sequence[LayerSpectrum], rank: int) -> dict[str, dict[int | None, float]]:
    """Kind of module -> number of the block -> `energy` of the updates there."""
    places: dict[tuple[str, int | None], list[LayerSpectrum]] = {}
    for each in layers:
        places.setdefault((each.kind, each.block), []).append(each)
    grid: dict[str, dict[int | None, float]] = {}
    for (kind, block), here in places.items():
        grid.setdefault(kind, {})[block] = energy(here, rank)
    return grid


def updates(base: Base, tuned: Base) -> Iterator[tuple[str, Tensor]]:
    """Name and update, (out, in) in float32, of each linear layer that was changed; one at a time.

    tuned: a run of `full`, a merged model, or an adapter; of an adapter it is scaling * B A. Raises AdapterError for
    models of two architectures, for quantized weights, and for adapters that `merge` refuses.
    """
    if not is_product(tuned.model):
        for name, before, after in changed_layers(base, tuned):
            yield name, after - before
        return
    for name, layer in tuned.model.named_modules():
        if isinstance(layer, LoraLayer) and not isinstance(layer, LoraEmbedding):
            update = delta_weight(*factors(name, layer), layer.scaling["default"])
            if update.any():
                yield name.removeprefix(BASE_PREFIX), update


def changed_layers(base: Base, tuned: Base) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, W_base and W_tuned, (out, in) in float32, of each linear layer in which the two differ."""
    plain = merged(base, tuned).model
    for name in linear_modules(base.model):
        before, after = (linear_weight(model.get_submodule(name)).detach().float() for model in (base.model, plain))
        if not torch.equal(before, after):
            yield name, before, after


def merged(base: Base, tuned: Base) -> Base:
    """The tuned model in plain float32 weights, an adapter merged into those of `base`.

    Merge once before calling one of the functions below many times. Raises AdapterError as `updates` does.
    """
    for each in (base, *([] if isinstance(tuned.model, PeftModel) else [tuned])):
        if each.quantization:
            raise AdapterError(
                f"The weights of {each.name} are quantized ({each.quantization}), and cannot be compared as matrices; "
                "give quantized_models.dequantize_base(base)."
            )
    adapted = isinstance(tuned.model, PeftModel)
    model = _merge(in_float32(base.model), tuned.model) if adapted else in_float32(tuned.model)
    own, other = _parameters(base.model), _parameters(model)
    if {name: each.shape for name, each in own.items()} != {name: each.shape for name, each in other.items()}:
        raise AdapterError(f"{tuned.name} was not tuned from {base.name}: their weights have other names or shapes.")
    if model is tuned.model:
        return tuned
    return _as_plain(tuned, model, "merged")


def cut(base: Base, tuned: Base, rank: int) -> Base:
    """The tuned model with each layer's update replaced by the nearest matrix of this rank.

    That is W_base plus the best rank-r part of the update; what is no linear layer (embeddings, norms, biases) stays
    tuned, and `drop` takes it back. An adapter is cut by its factors and stays one; a hybrid is merged first. Raises
    AdapterError as `updates` does, and for a rank below 1.
    """
    if is_product(tuned.model):
        return tuned.with_model(change(tuned.model, rank=rank), f"{tuned.revision}, cut to rank {rank}")
    if not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"rank={rank!r} must be a whole number of at least 1; interpolate(..., 0) gives the base.")
    new = {
        name: before + best_rank_r(after - before, rank)
        for name, before, after in changed_layers(base, tuned)
        if rank < min(before.shape)
    }
    return with_weights(base, tuned, as_stored(base, new), f"cut to rank {rank}")


def interpolate(base: Base, tuned: Base, t: float) -> Base:
    """W_base + t dW for every parameter: the base at t = 0, the tuned model at t = 1, beyond it above 1.

    Raises AdapterError as `updates` does, and for a t that is not finite.
    """
    if not math.isfinite(t):
        raise AdapterError(f"t={t} must be a finite number, 0 for the base and 1 for the tuned model.")
    plain = merged(base, tuned)
    new = {name: torch.lerp(before, after, t) for name, before, after in _changed(base, plain)}
    return with_weights(base, plain, new, f"{t:g} of the update")


def drop(base: Base, tuned: Base, modules: Sequence[str]) -> Base:
    """The tuned model with the base's own values in the modules with these names, e.g. ["mlp", "layers.3", "norm"].

    A name stands for all modules whose full name contains it as whole parts, and for what lies in them. Raises
    AdapterError as `updates` does, and for a name that no module has.
    """
    names = [name for name, _ in base.model.named_modules()]
    for wanted in modules:
        if not wanted or not any(lies_within(name, wanted) for name in names):
            raise AdapterError(f"{base.name} has no module {wanted!r}; its modules are called e.g. {names[-1]!r}.")
    plain = merged(base, tuned)
    new = {
        name: before
        for name, before, _ in _changed(base, plain)
        if any(lies_within(name.rpartition(".")[0], each) for each in modules)
    }
    return with_weights(base, plain, new, f"without {', '.join(modules)}")


def with_weights(base: Base, tuned: Base, new: Mapping[str, Tensor], words: str) -> Base:
    """The tuned model in plain weights, with new values for some parameters, tied ones still tied.

    new: full name of a parameter -> its values. words: what was done, for the revision.
    """
    model = shared_copy(merged(base, tuned).model)
    own = _parameters(model)
    made = {id(own[name]): nn.Parameter(values.detach(), requires_grad=False) for name, values in new.items()}
    for name, parameter in own.items():
        if id(parameter) in made:
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, made[id(parameter)])
    return _as_plain(tuned, model, words)


def as_stored(base: Base, new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name of a linear layer -> weight (out, in), as `with_weights` takes it: transposed back for GPT-2's Conv1D."""
    return {f"{name}.weight": stored_weight(base.model.get_submodule(name), weight) for name, weight in new.items()}


def is_product(model: nn.Module) -> bool:
    """Whether the updates are products of an adapter's factors and nothing else was trained."""
    if not isinstance(model, PeftModel):
        return False
    config = plain_lora(model, "An analysis of updates")
    return not (config.use_dora or config.modules_to_save or starts_in_the_base(config))


def _merge(onto: nn.Module, model: PeftModel) -> nn.Module:
    """`merge`, and for a hybrid also the modules that were trained in full."""
    opened = {
        name: module.modules_to_save["default"]
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
    if not opened:
        return merge(onto, model)
    onto, model = shared_copy(onto), shared_copy(model)
    for name, module in opened.items():
        model.set_submodule(name, module)
        onto.set_submodule(name.removeprefix(BASE_PREFIX), module)
    model.peft_config["default"].modules_to_save = None
    return merge(onto, model)


def _as_plain(tuned: Base, model: nn.Module, words: str) -> Base:
    fields = {"quantization": None, "quantized_share": None, "dtype": torch.float32}
    return tuned.with_model(model, f"{tuned.revision}, {words}", **fields)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by each of its names: tied ones have several."""
    return dict(model.named_parameters(remove_duplicate=False))


def _changed(base: Base, plain: Base) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, values in the base and in the tuned model, both in float32, of each parameter in which they differ."""
    own = _parameters(base.model)
    for name, parameter in _parameters(plain.model).items():
        before, after = own[name].detach().float(), parameter.detach()
        if not torch.equal(before, after):
            yield name, before, after
