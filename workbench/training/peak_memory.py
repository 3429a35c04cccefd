"""The peak of live tensor bytes: counted operation by operation on a CPU, by the allocator on a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LiveBytes(TorchDispatchMode):
    """A dispatch mode that counts the bytes of live storages. `now`: alive at present; `peak`: the most at once.

    live_before: tensors that are alive already. A view counts once, as the storage that it shares; a temporary inside
    of one operation is not seen. While a dispatch mode is active, autograd accumulates gradients out of place: with
    tied weights trained under autocast the peak comes out up to 5 % high (a test compares with torch's profiler).
    """

    def __init__(self, live_before: Iterable[torch.Tensor] = ()):
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.now = self.peak = 0
        for tensor in live_before:
            self._follow(tensor)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._follow, result)
        return result

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes or tensor.device.type == "meta":
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def gpu_peak(device: torch.device, own: Iterable[torch.Tensor]) -> Callable[[], int] | None:
    """A function that returns the peak of bytes allocated on the GPU from now on; None if `device` is not a GPU.

    own: tensors that the training holds there already. What else is allocated on the card, such as another base of the
    session, is subtracted.
    """
    if device.type != "cuda":
        return None
    others = torch.cuda.memory_allocated(device) - LiveBytes(own).now
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: torch.cuda.max_memory_allocated(device) - others
