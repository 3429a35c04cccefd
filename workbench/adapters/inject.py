"""Apply a method to a base: which modules get an adapter or are opened, and the trainable model that PEFT makes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence

import torch
from peft import LoraConfig
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from workbench.adapters.adapter_files import BASE_PREFIX
from workbench.adapters.carriers import carriers, inject
from workbench.adapters.guard import own_parameters, unmoved
from workbench.adapters.methods import Method
from workbench.console import say
from workbench.errors import MethodError
from workbench.models.base import Base, linear_modules
from workbench.models.checks import carries_adapter, is_unreached
from workbench.models.quantized import linear_weights
from workbench.models.sharing import head_lock, shared_copy
from workbench.seeds import RandomNumbers

FEW = 0.9  # of the linear weights: if "all-linear" adapts less, it says so


def check_method(base: Base, method: Method) -> None:
    """Raise MethodError if `method` cannot be applied to `base`. Called before anything is scored or trained."""
    if carries_adapter(base.model):  # it takes no second adapter, and after full() only the first would be saved
        raise MethodError(
            f"This base ({base.revision}) carries an adapter: merge it into the plain one's weights, "
            "replace(base, model=adapters.merge(plain.model, base.model)), or train the plain base."
        )
    if method.name == "full" and base.quantization:
        raise MethodError(f"full() cannot train {base.quantization} weights; load the base without quantization.")
    if method.name == "full":
        return
    if method.name == "qlora" and not base.quantization:
        remedy = f"load_base({base.name!r}, quantization='nf4')"
        raise MethodError(f"qlora() does not go with this unquantized base; {remedy} gives its own.")
    if method.name == "lora" and base.quantization:
        raise MethodError(
            f"lora() does not go with this {base.quantization} base; take qlora(), or a base without quantization."
        )
    target_modules(base, method)
    for name in opened_modules(base, method):
        if not any(True for _ in base.model.get_submodule(name).parameters()):
            raise MethodError(f"{name} holds no weights that could be trained whole; open others, e.g. ['norm'].")
        if any(not parameter.is_floating_point() for parameter in base.model.get_submodule(name).parameters()):
            raise MethodError(
                f"{name} holds {base.quantization} weights, which cannot be trained whole; open others, e.g. ['norm']."
            )


def apply(base: Base, method: Method, seed: int = 0) -> nn.Module:
    """A trainable model made from `base`, which stays as it is.

    Full fine-tuning gets a float32 copy. The other methods share the base's frozen weights and add float32 adapters
    through PEFT, initialised with `method.init_seed` (or `seed`). Raises MethodError for what `check_method` refuses.
    """
    check_method(base, method)
    if method.name == "full":
        with head_lock:
            model = copy.deepcopy(base.model).float()
        kept = _kept_by_the_model(base.model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (is_unreached(model, name) or name in kept))
        return model
    init_seed = seed if method.init_seed is None else method.init_seed
    own = shared_copy(base.model)
    if method.pissa:  # PEFT takes the start of the adapters out of the weights
        own_parameters(own, {f"{name}.weight" for name in target_modules(base, method)})
    with unmoved(base.model, "Adding the adapters"), RandomNumbers(init_seed):
        model = inject(own, peft_config(base, method))
    _check_opened(model, opened_modules(base, method))
    for parameter in model.parameters():
        if parameter.requires_grad:
            # PEFT's copies of opened modules keep the base's dtype; in bfloat16 most updates would round to nothing.
            parameter.data = parameter.data.float()
    return model


def _kept_by_the_model(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that the model's own code does not train, such as a router's correction in ERNIE."""
    if "requires_grad" not in inspect.getsource(inspect.getmodule(type(model)) or type(model)):
        return set()
    with torch.device("meta"), no_init_weights():  # which would draw from torch's global generator
        empty = type(model)._from_config(copy.deepcopy(model.config))
    return {name for name, parameter in empty.named_parameters() if not parameter.requires_grad}


def _check_opened(model: nn.Module, wanted: Sequence[str]) -> None:
    """Raise MethodError unless PEFT has opened the modules that were asked for, and no others."""
    names = {name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    found = {name.removeprefix(BASE_PREFIX) for name in names}
    if different := sorted(found ^ set(wanted)):
        raise MethodError(f"PEFT opens other modules than full_modules names, first {different[0]}; give longer names.")


def peft_config(base: Base, method: Method) -> LoraConfig:
    """The PEFT configuration of the adapters that `method` describes on this base."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules=target_modules(base, method),
        lora_dropout=method.dropout,
        use_rslora=method.rslora,
        use_dora=method.dora,
        init_lora_weights="pissa" if method.pissa else True,
        modules_to_save=opened_modules(base, method) or None,
    )


def opened_modules(base: Base, method: Method) -> list[str]:
    """Full names of the modules that are trained in full, without those that lie inside of another one.

    PEFT matches ends of names, also in the middle of a word: "norm" would match many modules.
    """
    names = [name for name, _ in base.model.named_modules()]
    opened = [name for name in names if any(ends_with(name, wanted) for wanted in method.full_modules)]
    return [name for name in opened if not any(name.startswith(f"{other}.") for other in opened)]


def target_modules(base: Base, method: Method) -> list[str]:
    """Full names of the linear layers that get an adapter.

    "all-linear" leaves out those that cannot carry one; raises MethodError where `method.targets` names them.
    """
    modules = [name for name, _ in base.model.named_modules()]
    chosen = choose_targets(method, list(linear_modules(base.model)), modules, base.name)
    able = carriers(base.model)
    fit = [name for name in chosen if name in able]
    if len(fit) < len(chosen) and (method.targets != "all-linear" or not fit):
        unable = [name for name in chosen if name not in able]
        kinds = sorted({name.rpartition(".")[2] for name in able})
        raise MethodError(
            f"{base.name} has {len(unable)} layers among the targets that cannot carry an adapter, first {unable[0]}: "
            f"PEFT or the model passes them by. Targets that work, in some of its layers: {kinds}."
        )
    return fit


def adapted_share(base: Base, method: Method) -> float | None:
    """The share of the model's linear weights, experts and all, that lie in layers with an adapter; None for full()."""
    if method.name == "full":
        return None
    shapes = linear_modules(base.model)
    adapted = sum(out * into for out, into in (shapes[name] for name in target_modules(base, method)))
    every = sum(entries for _, entries, _ in linear_weights(base.model))
    return adapted / every if every else None


def tell_left_out(base: Base, methods: Iterable[Method]) -> None:
    """Say, once for all methods, which linear weights "all-linear" does not adapt, if they are more than a few.

    And which of two tied tables a hybrid opens alone.
    """
    _tell_untied(base, methods := list(methods))
    low_rank = (each for each in methods if each.name != "full" and each.targets == "all-linear")
    method = next((each for each in low_rank if each.layers is None and not each.full_modules), None)
    if method is None:
        return
    linear, chosen = linear_modules(base.model), target_modules(base, method)
    kinds = sorted({name.rpartition(".")[2] for name in linear.keys() - set(chosen)})
    share_of_all = adapted_share(base, method) or 0.0
    if kinds:
        say(f"{base.name}: {', '.join(kinds)} cannot carry adapters in some layers, and these are left out.")
    if share_of_all < FEW:
        say(
            f"{base.name}: adapters go on {share_of_all:.0%} of its linear weights; the others, such as fused experts, "
            "are no layers of their own and stay as they are."
        )


def _tell_untied(base: Base, methods: Sequence[Method]) -> None:
    table, head = base.model.get_input_embeddings(), base.model.get_output_embeddings()
    if getattr(head, "weight", None) is not table.weight:
        return
    named = {id(module): name for name, module in base.model.named_modules()}
    tied = {named[id(table)], named[id(head)]}
    for method in methods:
        if len(opened := tied & set(opened_modules(base, method))) == 1:
            (alone,) = opened
            (other,) = tied - opened
            say(f"{base.name}: {alone} is trained as a copy of its own; {other}, tied to it, stays as it is.")


def choose_targets(method: Method, every: Sequence[str], modules: Sequence[str], model_name: str) -> list[str]:
    """The linear layers that get an adapter, by full name.

    every: all linear layers of the model; modules: all its modules. Raises MethodError for a name that the model does
    not have, and if no layer is left.
    """
    if not every:
        raise MethodError(f"{model_name} has no linear layers that adapters could be put on.")
    ends = ("",) if method.targets == "all-linear" else method.targets
    ends = (ends,) if isinstance(ends, str) else ends
    if "" in method.full_modules or (method.targets != "all-linear" and "" in ends):
        raise MethodError("targets and full_modules must not hold an empty name; is there a comma too many?")
    for wanted in method.full_modules:
        if not any(ends_with(name, wanted) for name in modules):
            raise MethodError(
                f"full_modules names {wanted!r}, which {model_name} does not have; it has e.g. {every[0]!r}."
            )
    for end in ends:
        if end and not any(ends_with(name, end) for name in every):
            kinds = sorted({name.rpartition(".")[2] for name in every})
            raise MethodError(f"targets names {end!r}, but {model_name} has no such linear layer; it has {kinds}.")
    if method.layers is not None:
        blocks = {block for name in every if (block := block_of(name)) is not None}
        if not blocks:
            raise MethodError(f"{model_name} has no numbered blocks that layers could name; leave layers out.")
        for layer in method.layers:
            if layer not in blocks:
                raise MethodError(f"layers names block {layer}, but {model_name} has blocks 0 to {max(blocks)}.")
    chosen = [
        name
        for name in every
        if any(ends_with(name, end) for end in ends)
        and (method.layers is None or block_of(name) in method.layers)
        and not any(lies_within(name, module) for module in method.full_modules)
    ]
    if not chosen:
        raise MethodError("No linear layer is left for the adapters; widen targets or layers.")
    return chosen


def adapter_parameters(base: Base, method: Method) -> int:
    """Trainable parameters of the low-rank adapters: r (in + out) for each target (DoRA adds `out` to each)."""
    shapes = linear_modules(base.model)
    return (method.rank or 0) * sum(sum(shapes[name]) for name in target_modules(base, method))


def block_of(name: str) -> int | None:
    """The number of the block that a module lies in; those after it number experts, or parts of the block."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def ends_with(name: str, end: str) -> bool:
    """Whether a module's name ends with `end` after a dot; every name ends with ""."""
    return not end or name == end or name.endswith(f".{end}")


def lies_within(name: str, module: str) -> bool:
    """Whether the module `name` is one whose name ends with `module`, or lies inside of one."""
    return f".{module}." in f".{name}."


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers of the model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
