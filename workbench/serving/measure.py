"""What several adapters on one base cost on this computer: bytes, the time of a swap, and speed in a mixed batch."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from workbench.adapters.quantization import dequantize
from workbench.adapters.quantized_models import read_bitsandbytes
from workbench.adapters.saved.checkpoints import directory_bytes
from workbench.adapters.saved.several import BASE, attach
from workbench.models.base import Base, load_again
from workbench.models.identity import fingerprint
from workbench.models.sharing import in_float32
from workbench.scoring.evaluation import score
from workbench.tasks.encoding import Encoded

ROUNDS = 2  # of decoding, of which the faster counts
IDS = (7, 300, 11, 42, 5, 128, 9, 77)  # tokens, all below the vocabulary of any model here, for comparing logits


@dataclass(frozen=True)
class Several:
    """Adapters on one base, as measured. Bytes and seconds.

    adapter_bytes: of all their files; model_bytes: of the base's weights, of which each task would need its own.
    swap_seconds: the median of `set_adapter`; load_seconds: of loading a whole model. unchanged: the base's weights are
    the same after it, to the last bit. restored: with the adapters disabled the logits are the base's own.
    """

    tasks: int
    adapter_bytes: int
    model_bytes: int
    swap_seconds: float
    load_seconds: float
    unchanged: bool
    restored: bool


def several(base: Base, model: PeftModel, folders: Mapping[str, Path]) -> Several:
    """Measure a model of `saved.several.attach`. Loads the base once more, as a server without adapters would."""
    before = fingerprint(base.model)
    names, active = list(folders), model.active_adapter
    turns = [name for _ in range(5) for name in names]
    swaps = [seconds(lambda name=name: model.set_adapter(name)) for name in turns]  # type: ignore[misc]
    model.set_adapter(active)
    loading = [seconds(lambda: load_again(base, base.quantization)) for _ in range(2)]
    ids = torch.tensor([IDS], device=base.model.device)
    with torch.no_grad(), model.disable_adapter():
        restored = torch.equal(model(input_ids=ids).logits, base.model(input_ids=ids).logits)
    return Several(
        len(names),
        sum(directory_bytes(folder) for folder in folders.values()),
        sum(parameter.numel() * parameter.element_size() for parameter in base.model.parameters()),
        median(swaps),
        min(loading),
        fingerprint(base.model) == before,
        restored,
    )


def seconds(action: Callable[[], Any]) -> float:
    """How long an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def decoding_speeds(
    base: Base, model: PeftModel, requests: Sequence[tuple[str, str]], new_tokens: int
) -> dict[str, float]:
    """Tokens a second of greedy decoding for the same requests, served in three ways.

    requests: (adapter, prompt) pairs. "one batch": all rows together, each with its own adapter. "adapter by adapter":
    a batch for each. "one by one": a batch for each request. Every request gets `new_tokens` tokens. The three take
    turns, ROUNDS times, and the fastest turn of each counts, so that another program does not decide the order.
    """
    groups = {name: [pair for pair in requests if pair[0] == name] for name, _ in requests}
    ways = {"one batch": [list(requests)], "adapter by adapter": list(groups.values())}
    ways["one by one"] = [[pair] for pair in requests]
    total = new_tokens * len(requests)
    _decode(base, model, requests[:1], 2)  # the first call allocates
    fastest = dict.fromkeys(ways, math.inf)
    for _ in range(ROUNDS):
        for way, batches in ways.items():
            turn = seconds(partial(_decode_all, base, model, batches, new_tokens))
            fastest[way] = min(fastest[way], turn)
    return {way: total / turn for way, turn in fastest.items()}


def _decode_all(base: Base, model: PeftModel, batches: Iterable[Sequence[tuple[str, str]]], new_tokens: int) -> None:
    for requests in batches:
        _decode(base, model, requests, new_tokens)


@torch.no_grad()
def _decode(base: Base, model: PeftModel, requests: Sequence[tuple[str, str]], new_tokens: int) -> None:
    tokenizer = base.tokenizer
    prompts = tokenizer([prompt for _, prompt in requests], return_tensors="pt", padding=True, padding_side="left")
    count = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "do_sample": False}
    names = [name for name, _ in requests]
    if set(names) == {names[0]} and names[0] != BASE:
        model.set_adapter(names[0])
        model.generate(**prompts.to(base.model.device), **count)
    else:
        model.generate(**prompts.to(base.model.device), **count, adapter_names=names)


@dataclass(frozen=True)
class Merging:
    """What merging an adapter with PEFT, and unmerging it by subtraction, does to a base in one storage.

    unmerged, merged: shares of rows answered right. loss_change: of their answers, merged less unmerged, nats a token.
    not_restored: the share of the base's adapted weights that are others than before, after merging and unmerging.
    The scores are computed in float32, so that only the rounding of the weights counts.
    """

    unmerged: float
    merged: float
    loss_change: float
    not_restored: float


def merging(base: Base, folder: Path, rows: Sequence[Encoded]) -> Merging:
    """Measure it on a copy of the base, in the storage that the base has; `base` stays as it is."""
    own = replace(base, model=copy.deepcopy(base.model))
    model = attach(own, {"adapter": folder})
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    before = [_values(layer) for layer in layers]
    unmerged = score(in_float32(model), rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that merging into 4 bits rounds, which is what this measures
        model.merge_adapter()
        merged = score(in_float32(model), rows)
        model.unmerge_adapter()
    apart = sum(int((_values(layer) != old).sum()) for layer, old in zip(layers, before, strict=True))
    count = sum(old.numel() for old in before)
    return Merging(unmerged["exact_match"], merged["exact_match"], merged["loss"] - unmerged["loss"], apart / count)


def _values(layer: Any) -> torch.Tensor:
    """A copy of the weights that a layer of PEFT computes with, restored where they are stored in 4 bits."""
    weight = layer.get_base_layer().weight
    return dequantize(read_bitsandbytes(weight)) if hasattr(weight, "quant_state") else weight.detach().clone()
