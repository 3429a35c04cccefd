"""Several saved adapters side by side on one base, and new adapters combined from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, get_args

from peft import LoraConfig, PeftModel, PeftModelForCausalLM, get_peft_model_state_dict, set_peft_model_state_dict

from workbench.adapters.carriers import quiet_peft
from workbench.adapters.guard import own_parameters, unmoved
from workbench.adapters.merging import check_same_logits
from workbench.adapters.saved.checkpoints import load
from workbench.adapters.updates import besides_products, plain_lora
from workbench.errors import AdapterError
from workbench.models.base import Base
from workbench.models.sharing import shared_copy
from workbench.seeds import RandomNumbers

How = Literal["cat", "linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")  # keep a share of each adapter's numbers: `density`
ANY_RANKS = ("cat", "svd")
BASE = "__base__"  # PEFT's name for a row without an adapter


def attach(base: Base, folders: Mapping[str, str | os.PathLike]) -> PeftModel:
    """The base with all these adapters in one stock PEFT model, which shares the base's weights; the first is active.

    folders: name -> folder of a saved adapter. From here on PEFT's own methods serve: `set_adapter(name)` swaps,
    `with model.disable_adapter():` gives the base, `delete_adapter(name)` removes one, and `adapter_names=[...]` in a
    call gives each row of a batch its own. Raises AdapterError for an adapter of another base, a name that PEFT cannot
    use, and an adapter that is more than a plain sum: DoRA, biases, opened modules, PiSSA.
    """
    if not folders:
        raise AdapterError("attach() needs at least one adapter: attach(base, {'orders': run.artifact_dir}).")
    for name in folders:
        if not isinstance(name, str) or not name or "." in name or name == BASE:
            raise AdapterError(f"{name!r} cannot name an adapter; use letters, digits, '-' and '_'.")
    loaded = {name: load(base, folder) for name, folder in folders.items()}
    configs = {name: _plain_config(name, model) for name, model in loaded.items()}
    first, *others = configs
    with unmoved(base.model, "attach()"), RandomNumbers(0), quiet_peft():
        copy = shared_copy(base.model)
        own_parameters(copy)  # updates of single parameters are put into their place at each call
        model = PeftModelForCausalLM(copy, configs[first], first)
        for name in others:
            model.add_adapter(name, configs[name])
        for name, one in loaded.items():
            weights = get_peft_model_state_dict(one, save_embedding_layers=False)
            set_peft_model_state_dict(model, weights, adapter_name=name)
        model.eval()
        for name in (*others, first):
            model.set_adapter(name)
            check_same_logits(loaded[name], model, f"{name} computes something else next to other adapters")
    return model.requires_grad_(False)


def _plain_config(name: str, model: PeftModel) -> LoraConfig:
    """The configuration of a loaded adapter; raises AdapterError for one that is no plain sum of small products."""
    if not isinstance(model, PeftModel):
        raise AdapterError(f"{name} is a whole model; only adapters share a base.")
    config = plain_lora(model, "attach()")
    if has := besides_products(model):
        raise AdapterError(f"{name} has {has[0]}, which other adapters on the same base would get too; load it alone.")
    return config


def combine(
    model: PeftModel,
    weights: Mapping[str, float],
    name: str,
    how: How = "svd",
    density: float = 0.5,
    seed: int = 0,
) -> None:
    """Add an adapter called `name` to a model of `attach`, combined from others by PEFT's `add_weighted_adapter`.

    weights: adapter -> its weight. how: "cat" stacks the factors, which gives the exact sum of the updates at the sum
    of their ranks; "svd" cuts that sum back to the largest rank; "linear" adds the factors A and B themselves, which
    also multiplies one adapter's A by another's B. "ties" (arXiv 2306.01708) and "magnitude_prune" keep the largest
    numbers of each adapter's factors, "dare_linear" and "dare_ties" (arXiv 2311.03099) random ones, drawn with `seed`;
    density: the share that they keep. Raises AdapterError for unknown names and values that make no sense.
    """
    if name in model.peft_config:  # PEFT would return silently
        raise AdapterError(f"There is an adapter called {name!r} already; delete_adapter({name!r}) first.")
    if unknown := [each for each in weights if each not in model.peft_config]:
        raise AdapterError(f"No adapter is called {unknown[0]!r}; there are {', '.join(model.peft_config)}.")
    if not weights or how not in get_args(How):
        raise AdapterError(f"combine() needs weights, and a way to combine; how={how!r} is one of {get_args(How)}.")
    if how in PRUNING and not 0 < density <= 1:
        raise AdapterError(f"density={density} must be above 0 and at most 1, the share of numbers to keep.")
    ranks = {each: model.peft_config[each].r for each in weights}
    if how not in ANY_RANKS and len(set(ranks.values())) > 1:
        raise AdapterError(f"{how} adds factors, which must have one rank, and these have {ranks}; use 'svd' or 'cat'.")
    options = {"density": density} if how in PRUNING else {}
    with RandomNumbers(seed):
        model.add_weighted_adapter(list(weights), list(weights.values()), name, how, **options)
    model.requires_grad_(False)
