"""Logs allocation and release of storages: a dispatch mode that also notes in which module each was allocated."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


def grouped_product(
    left: torch.Tensor, right: torch.Tensor, offsets: torch.Tensor | None = None, *_: Any, **__: Any
) -> torch.Tensor:
    """A tensor like the result of a mixture's product of tokens, sorted by expert, with each expert's weights.

    torch's own rule for fake tensors refuses what its kernels compute, such as float32.
    """
    groups = [] if left.dim() != right.dim() or offsets is None else [len(offsets)]
    if left.dim() == right.dim() == 3:
        groups = [len(left)]
    return left.new_empty(*groups, left.shape[-2], right.shape[-1])


@dataclass(eq=False)
class Storage:
    """One storage. allocated_at, released_at: positions in the log of events.

    module: the full name of the module that was running. last_size: of the tensor's last dimension. role: the component
    of a `MemoryReport` that the storage belongs to, if it is known.
    """

    bytes: int
    allocated_at: int
    module: str
    block: BlockRun | None
    last_size: int
    role: str = ""
    released_at: float = math.inf


@dataclass(eq=False)
class BlockRun:
    """One forward pass of one transformer block. Storages that outlive it are saved for the backward pass."""

    ended: float = math.inf


class Recorder(TorchDispatchMode):
    """Logs every storage that is allocated while the mode is active, and its release.

    events: (storage, whether it is an allocation) in order of time. trained_shapes: of the trained matrices. Autograd
    adds the two gradients of a tied weight in place, but out of place while a dispatch mode is active; the log shows
    such an addition as if it were in place.
    """

    def __init__(self, trained_shapes: set[tuple[int, ...]]) -> None:
        super().__init__()
        self.trained_shapes = trained_shapes
        self.events: list[tuple[Storage, bool]] = []
        self._phase = ""
        self._modules: list[str] = [""]
        self._blocks: list[BlockRun | None] = [None]
        self._alive: dict[int, Storage] = {}

    def begin(self, phase: str) -> int:
        """Start a phase of the step; returns the position of its first event."""
        self._phase = phase
        return len(self.events)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if operation is torch.ops.prim.device.default:  # most of the calls, and nothing is allocated
            return operation(*args)
        if operation is torch.ops.aten._grouped_mm.default:
            result = grouped_product(*args, **(kwargs or {}))
        else:
            result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten.add.Tensor and self._phase == "backward" and self._adds_gradients(args):
            self._release(args[0].untyped_storage()._cdata)
        tree_map_only(torch.Tensor, self.follow, result)
        return result

    def _adds_gradients(self, operands: Sequence[Any]) -> bool:
        shapes = [tuple(part.shape) if isinstance(part, torch.Tensor) else None for part in operands]
        return shapes[0] == shapes[1] and shapes[0] in self.trained_shapes

    def follow(self, tensor: torch.Tensor, role: str = "") -> Storage:
        """The storage of a tensor, which is logged from now on if it was not before. role: see `Storage`."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            last_size = tensor.shape[-1] if tensor.dim() else 1
            made = Storage(storage.nbytes(), len(self.events), self._modules[-1], self._blocks[-1], last_size, role)
            self._alive[key] = made
            self.events.append((made, True))
            weakref.finalize(storage, self._release, key, made)
        return self._alive[key]

    def _release(self, key: int, made: Storage | None = None) -> None:
        found = self._alive.get(key)
        if found is None or (made is not None and found is not made):
            return
        del self._alive[key]
        found.released_at = len(self.events)
        self.events.append((found, False))

    def watch(self, model: nn.Module) -> None:
        """Note from now on which module and which transformer block is running."""
        blocks = {id(block) for module in model.modules() if isinstance(module, nn.ModuleList) for block in module}
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._enter(name, id(module) in blocks))
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, name: str, is_block: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._modules.append(name)
            self._blocks.append(BlockRun() if is_block else self._blocks[-1])

        return hook

    def _leave(self, *_: Any) -> None:
        self._modules.pop()
        block = self._blocks.pop()
        if block is not None and block is not self._blocks[-1]:
            block.ended = len(self.events)
