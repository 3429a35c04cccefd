"""Checks that the tensors of a base, which adapters share, are unchanged after each use."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workbench.errors import AdapterError

SAMPLES = 512  # values of a tensor that are compared; its version counter shows ordinary in-place writes without them


@contextmanager
def unmoved(base: nn.Module, what: str, writes: bool = True) -> Iterator[None]:
    """Raise AdapterError if the block changes tensors of `base`. what: its name in the message, "load()".

    Costs a few milliseconds: the place of each tensor in memory, how often torch has written to it, and some values.
    writes: False for blocks in which the model trains, since a few families clamp their own weights there.
    """
    before = _marks(base, writes)
    yield
    after = _marks(base, writes)
    if moved := [name for name, mark in before.items() if name not in after or not _same(mark, after[name])]:
        raise AdapterError(
            f"{what} has changed {len(moved)} tensors of the base, first {moved[0]}: load the base again, and do not "
            "use this adapter with it."
        )


def own_parameters(model: nn.Module, copied: Collection[str] = ()) -> None:
    """Give a copy made by `shared_copy` Parameter objects of its own on the shared storage, tied ones still tied.

    What then replaces a weight in the copy (`.data = ...`) leaves the original as it is. copied: names of parameters
    that get a storage of their own too, since they will be written to.
    """
    own: dict[int, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and type(parameter) is nn.Parameter:  # the codes of bitsandbytes hold their state
                values = parameter.data.clone() if f"{prefix}.{name}" in copied else parameter.data
                module._parameters[name] = own.setdefault(id(parameter), nn.Parameter(values, parameter.requires_grad))


Mark = tuple[int, int, Tensor]  # address, number of writes, some values


def _marks(model: nn.Module, writes: bool) -> dict[str, Mark]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: (each.data_ptr(), each._version if writes and not each.is_inference() else 0, _sample(each))
        for name, each in tensors.items()
        if not each.is_meta
    }


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLES)].clone()


def _same(before: Mark, after: Mark) -> bool:
    return before[:2] == after[:2] and torch.equal(before[2].nan_to_num(), after[2].nan_to_num())
