"""Which linear layers of a model can carry an adapter: tried out, since PEFT and the model's own code decide it.

PEFT rewrites the names of layers that mixtures of experts had in older versions, and refuses some of Mamba's. A model
may read a layer's weight instead of calling it, or use its output only to choose: an adapter would not be trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from workbench.adapters.adapter_files import BASE_PREFIX
from workbench.console import first_line
from workbench.errors import MethodError
from workbench.models.base import linear_modules
from workbench.models.checks import table_rows
from workbench.models.sharing import shared_copy
from workbench.seeds import RandomNumbers

PROBE_TOKENS = 16
Shapes = dict[str, tuple[int, int]]  # (out, in), by name
_found: WeakKeyDictionary[nn.Module, Shapes] = WeakKeyDictionary()
_partial: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def carriers(model: PreTrainedModel) -> Shapes:
    """Name -> (out, in) of every linear layer that an adapter can be trained on; found once for each model.

    Raises MethodError if that is none. Costs one forward and backward pass of a few tokens.
    """
    if model not in _found:
        every = linear_modules(model)
        _partial[model] = set()
        usable = _usable(model, list(every))
        _found[model] = {name: shape for name, shape in every.items() if name in usable}
    return dict(_found[model])


def see_every_token(model: PreTrainedModel, names: Iterable[str]) -> bool:
    """Whether each of these layers gets all tokens of a batch, in one call; single experts get those routed to them."""
    carriers(model)
    return not _partial[model] & set(names)


def injected(model: nn.Module) -> set[str]:
    """The names, in the base, of all modules that PEFT has put a LoRA adapter on."""
    names = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name.removeprefix(BASE_PREFIX) for name in names}


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Within the block, PEFT does not warn of what it does on its own when it wraps a model."""
    with warnings.catch_warnings():
        # PEFT 0.21 still reads an attribute that transformers 5 has renamed.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
        # It finds out for each layer whether the weight is stored transposed, and corrects the configuration.
        warnings.filterwarnings("ignore", category=UserWarning, message="fan_in_fan_out is set to")
        # `tell_left_out` says it of tied tables.
        warnings.filterwarnings("ignore", category=UserWarning, message=r"Model has `tie_word_embeddings=True` and a")
        yield


def inject(model: nn.Module, config: LoraConfig) -> PeftModel:
    """PEFT's wrapper around `model`, whose layers are replaced.

    Raises MethodError, with the names, unless they are those that `config.target_modules` gives in full.
    """
    wanted = set(config.target_modules or ())
    try:
        with quiet_peft():
            # It adds such patterns itself, for a mixture's experts.
            warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*_pattern keys did not match")
            warnings.filterwarnings("ignore", category=RuntimeWarning, message="target_parameters=.* were set but no")
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise MethodError(f"PEFT puts no adapters on {_few(wanted)}: {first_line(error)}") from error
    found = injected(adapted)
    if found != wanted:
        missing, extra = _few(wanted - found) or "none", _few(found - wanted) or "none"
        raise MethodError(
            f"PEFT puts adapters on other modules than asked for: missing {missing}; in their place {extra}. "
            "Name other targets."
        )
    return adapted


def _usable(model: PreTrainedModel, names: list[str]) -> set[str]:
    """Those of the layers whose adapter can be trained."""
    if not names:
        return set()
    try:
        return _trained(model, names)
    except MethodError as error:
        failure = error
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.rpartition(".")[2], []).append(name)
    usable: set[str] = set()
    for kind in kinds.values():
        try:
            usable |= _trained(model, kind)
        except MethodError as error:
            failure = error
    if not usable:
        raise MethodError(f"{type(model).__name__} cannot be trained with adapters: {failure}")
    return usable


def _trained(model: PreTrainedModel, names: list[str]) -> set[str]:
    """Those of the layers whose adapter gets a gradient, with adapters on all of them; MethodError if that fails."""
    abstract = model.device.type == "meta"
    if abstract and not _is_mixture(model):
        return set(names)  # PEFT accepts all layers outside of mixtures, and on meta nothing can be tried out
    with RandomNumbers(0):
        adapted = inject(shared_copy(model), LoraConfig(task_type="CAUSAL_LM", r=1, target_modules=names))
        if abstract:
            return set(names)
        for module in adapted.modules():
            module._forward_hooks.clear()  # a gradient that a hook cuts off is for `check_gradients` to name
        calls = _count_calls(adapted)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                ids = torch.randint(table_rows(model), (1, PROBE_TOKENS)).to(model.device)
                logits = adapted.train()(input_ids=ids, use_cache=False).logits.float()
                (logits.clamp(-1e4, 1e4) * torch.randn_like(logits)).sum().backward()
        except Exception as error:  # whatever the model's own code raises
            words = f"with adapters on {_few(names)} it cannot be trained ({first_line(error)[:150]})."
            raise MethodError(words) from error
    _partial[model] |= {name for name, tokens in calls.items() if set(tokens) != {PROBE_TOKENS}}
    # Where quantized layers pass no gradient on, the base is at fault: `check_gradients` refuses to train it.
    packed = any(not parameter.is_floating_point() for parameter in model.parameters())
    reached = {
        name
        for name in names
        if (calls[name] if packed else _has_gradient(adapted.base_model.model.get_submodule(name)))
    }
    # Few tokens do not go to every expert; more will.
    experts = {name.rpartition(".")[2] for name in reached if ".experts." in name}
    return reached | {name for name in names if ".experts." in name and name.rpartition(".")[2] in experts}


def _is_mixture(model: PreTrainedModel) -> bool:
    """Whether a model has experts, or its family has, though all blocks of this one may be dense."""
    settings = model.config.get_text_config().to_dict()
    return any("expert" in name for name in settings) or any(each.dim() == 3 for each in model.parameters())


def _count_calls(adapted: PeftModel) -> dict[str, list[int]]:
    """For each layer with an adapter a list, into which each call from now on puts its number of tokens."""
    calls: dict[str, list[int]] = {name: [] for name in injected(adapted)}

    def counting(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: calls[name].append(inputs[0].numel() // inputs[0].shape[-1])

    for name in calls:
        adapted.base_model.model.get_submodule(name).register_forward_pre_hook(counting(name))
    return calls


def _has_gradient(layer: LoraLayer) -> bool:
    gradient = layer.lora_B["default"].weight.grad
    return gradient is not None and bool(gradient.any())


def _few(names: Iterable[str]) -> str:
    """The first names of some, and how many more there are."""
    some = sorted(names)
    more = f" and {len(some) - 3} more" if len(some) > 3 else ""
    return ", ".join(some[:3]) + more
