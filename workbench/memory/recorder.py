"""The life of every storage of a step: a dispatch mode writes down when each comes and goes, and where it was made."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


@dataclass(eq=False)
class Storage:
    """One storage's life. born and died are positions in the record of events."""

    bytes: int
    born: int
    phase: str
    module: str
    block: Block | None
    last_size: int
    role: str = ""
    died: float = math.inf


@dataclass(eq=False)
class Block:
    """One run of one transformer block: what outlives it was kept for the backward pass."""

    ended: float = math.inf


class Recorder(TorchDispatchMode):
    """Writes down every storage that is made while it is active, and when it goes.

    events: (storage, comes) in order of time. Autograd adds the two gradients of a tied weight in place on real
    tensors, but out of place while a mode is active; such an addition is written down as what it stands for.
    """

    def __init__(self, trained_shapes: set[tuple[int, ...]]):
        super().__init__()
        self.trained_shapes = trained_shapes
        self.events: list[tuple[Storage, bool]] = []
        self.phase = ""
        self.modules: list[str] = [""]
        self.blocks: list[Block | None] = [None]
        self._alive: dict[int, Storage] = {}

    def begin(self, phase: str) -> int:
        """What follows belongs to `phase`; returns where in the events that is."""
        self.phase = phase
        return len(self.events)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.prim.device.default:  # most of the calls, and nothing is made
            return operation(*args)
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten.add.Tensor and self.phase == "backward" and self._adds_gradients(args):
            self._forget(args[0].untyped_storage()._cdata)
        tree_map_only(torch.Tensor, self.follow, result)
        return result

    def _adds_gradients(self, operands) -> bool:
        shapes = [tuple(part.shape) if isinstance(part, torch.Tensor) else None for part in operands]
        return shapes[0] == shapes[1] and shapes[0] in self.trained_shapes

    def follow(self, tensor: torch.Tensor, role: str = "") -> Storage:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            size = tensor.shape[-1] if tensor.dim() else 1
            made = Storage(
                storage.nbytes(), len(self.events), self.phase, self.modules[-1], self.blocks[-1], size, role
            )
            self._alive[key] = made
            self.events.append((made, True))
            weakref.finalize(storage, self._forget, key, made)
        return self._alive[key]

    def _forget(self, key: int, made: Storage | None = None) -> None:
        found = self._alive.get(key)
        if found is None or (made is not None and found is not made):
            return
        del self._alive[key]
        found.died = len(self.events)
        self.events.append((found, False))

    def watch(self, model: nn.Module) -> None:
        """Note which module and which transformer block is running."""

        def enter(name, is_block):
            def hook(*_):
                self.modules.append(name)
                self.blocks.append(Block() if is_block else self.blocks[-1])

            return hook

        def leave(is_block):
            def hook(*_):
                self.modules.pop()
                block = self.blocks.pop()
                if is_block:
                    block.ended = len(self.events)

            return hook

        blocks = {id(block) for module in model.modules() if isinstance(module, nn.ModuleList) for block in module}
        for name, module in model.named_modules():
            is_block = id(module) in blocks
            module.register_forward_pre_hook(enter(name, is_block))
            module.register_forward_hook(leave(is_block), always_call=True)
