"""An exercise of lesson 02: putting LoRA layers into a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from workbench.exercises.framework import Exercise, Mistake


def inject(model, names, wrap):
    model.requires_grad_(False)
    for name in names:
        parent, _, child = name.rpartition(".")
        holder = model.get_submodule(parent)
        setattr(holder, child, wrap(getattr(holder, child)))
    return model


Wrap = Callable[[Any], nn.Module]


def _not_frozen(model: nn.Module, names: Iterable[str], wrap: Wrap) -> nn.Module:
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, wrap(model.get_submodule(name)))
    return model


def _frozen_last(model: nn.Module, names: Iterable[str], wrap: Wrap) -> nn.Module:
    return _not_frozen(model, names, wrap).requires_grad_(False)


def _name_with_dots(model: nn.Module, names: Iterable[str], wrap: Wrap) -> nn.Module:
    model.requires_grad_(False)
    for name in names:
        setattr(model, name, wrap(model.get_submodule(name)))
    return model


def _variable_only(model: nn.Module, names: Iterable[str], wrap: Wrap) -> nn.Module:
    model.requires_grad_(False)
    for name in names:
        layer = model.get_submodule(name)
        layer = wrap(layer)
    return model


def _every_linear(model: nn.Module, names: Iterable[str], wrap: Wrap) -> nn.Module:
    return inject(model, [name for name, module in model.named_modules() if isinstance(module, nn.Linear)], wrap)


class _Wrapped(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = nn.Parameter(torch.zeros(1, linear.in_features))
        self.B = nn.Parameter(torch.zeros(linear.out_features, 1))


LINEARS = ("block.q", "block.v", "head")


def _tiny_model() -> nn.Module:
    block = nn.ModuleDict({"q": nn.Linear(2, 2, bias=False), "v": nn.Linear(2, 2, bias=False)})
    return nn.ModuleDict({"embed": nn.Embedding(3, 2), "block": block, "head": nn.Linear(2, 3, bias=False)})


def _inject_into(answer: Any, names: list[str]) -> Any:
    """Which of a tiny model's linear layers are wrapped after the call, and which of its parameters train."""
    given = _tiny_model()
    model = answer(given, names, _Wrapped)
    if model is None and any(isinstance(module, _Wrapped) for module in given.modules()):
        return "nothing, though it has changed the model: return the model at the end"
    if not isinstance(model, nn.Module):
        return model
    wrapped = [name for name in LINEARS if isinstance(model.get_submodule(name), _Wrapped)]
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return f"wrapped: {', '.join(wrapped) or 'none'}; trainable: {', '.join(trains) or 'none'}"


INJECT = Exercise(
    id="02.inject",
    title="put LoRA layers into a model",
    difficulty="medium",
    minutes=10,
    task="""\
`names` are the linear layers to adapt, by their place in the model: `"model.layers.0.self_attn.q_proj"`. `wrap(linear)`
gives the LoRA layer of a linear layer. Write `inject(model, names, wrap)`, which changes `model` in place and returns
it:

- every parameter that the model has is frozen;
- each layer of `names` is replaced by what `wrap` makes of it, so that only the new A and B train.

`model.get_submodule("model.layers.0.self_attn")` finds a module by its name. (If your answer passes, the rest of the
lesson uses it.)""",
    function="inject",
    stub="""\
def inject(model, names, wrap):
    # names: for example ["model.layers.0.self_attn.q_proj"]; returns the model
    ...
""",
    solution=inject,
    explanation="That is what PEFT's get_peft_model does at its core: freeze, find, replace. The new layers come after "
    "the freezing, so their A and B are the only parameters that train.",
    hints=(
        "Freeze first: model.requires_grad_(False) reaches every parameter that is there at that moment.",
        'A module is replaced in its parent: "a.b.q_proj".rpartition(".") gives the parent\'s name and the child\'s.',
        "setattr(parent, child, wrap(getattr(parent, child))), for every name.",
    ),
    apply=_inject_into,
    show=lambda names: f"names = {names}, in a model with the linear layers {', '.join(LINEARS)}",
    cases=((["block.q"],), (["block.q", "block.v"],), (["head"],)),
    wrong=(
        Mistake(
            _not_frozen,
            "The layers are in place, but the rest of the model still trains: its embedding, for one. Freeze all of "
            "it first.",
        ),
        Mistake(
            _frozen_last,
            "You freeze after replacing, and that freezes the new A and B too: nothing trains. Freeze first.",
        ),
        Mistake(
            _name_with_dots,
            "setattr(model, name, ...) adds an attribute that has dots in its name, and the old layer stays where it "
            "was. Find the parent, and set the child there.",
        ),
        Mistake(
            _variable_only,
            "Nothing in the model has changed: assigning to a variable does not replace a module. Set it on its parent "
            "with setattr.",
        ),
        Mistake(_every_linear, "You wrap every linear layer of the model. Only those in names are to be adapted."),
    ),
)
