"""Random seeds: which ones torch takes, and random numbers that no other thread can disturb.

torch's own generator is one for the whole process: a cell that draws or seeds while a panel trains would change that
run. `RandomNumbers` gives a thread generators of its own, from which everything within its block draws.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch.overrides import TorchFunctionMode

TORCH_SEEDS = range(-(2**63), 2**63)  # what torch.manual_seed and its generators both take
# Methods that fill a tensor, and functions that make one; all of them take a generator.
FILLING = ("uniform_", "normal_", "bernoulli_", "exponential_", "random_", "cauchy_", "log_normal_", "geometric_")
FILLS = {getattr(torch.Tensor, name) for name in FILLING} | {torch.bernoulli, torch.multinomial, torch.normal}
MAKES = {torch.rand, torch.randn, torch.randint, torch.randperm}
LIKE = {torch.rand_like: torch.Tensor.uniform_, torch.randn_like: torch.Tensor.normal_}


def forked_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Restore the random state of the CPU and of `device` (not of every GPU there is) at the end of the block."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class RandomNumbers(TorchFunctionMode):
    """Within its block, what this thread draws comes from generators of its own, the same for the same seed.

    On a CPU they give what torch's own generator gives after `torch.manual_seed(seed)`. Initialisation, dropout, also
    inside of attention, and noise are covered. It acts on one thread; another one enters it through `replayed`.
    """

    def __init__(self, seed: int):
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def generator(self, device: torch.device | str | int | None = None) -> torch.Generator | None:
        """The generator for a device; None for "meta", where nothing is drawn."""
        device = torch.empty(0, device=device).device
        if device.type == "meta":
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    def state(self) -> dict[torch.device, torch.Tensor]:
        """What `replayed` starts from."""
        return {device: generator.get_state() for device, generator in self._generators.items()}

    @contextmanager
    def replayed(self, state: dict[torch.device, torch.Tensor]) -> Iterator[None]:
        """Within the block, draw again what was drawn after `state`; then go on as if nothing had been drawn."""
        now = self.state()
        self._set(state)
        try:
            with self:
                yield
        finally:
            self._set(now)

    def checkpointed(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The `context_fn` of torch.utils.checkpoint: what is computed again draws what it drew the first time."""
        state: dict[torch.device, torch.Tensor] = {}

        @contextmanager
        def forward() -> Iterator[None]:
            state.update(self.state())
            yield

        return forward(), self.replayed(state)

    def _set(self, state: dict[torch.device, torch.Tensor]) -> None:
        for device, generator in self._generators.items():
            if device in state:
                generator.set_state(state[device])
            else:
                generator.manual_seed(self._seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in FILLS:
            return func(*args, **(kwargs | {"generator": self.generator(_device_of(args, kwargs))}))
        if func in MAKES:
            return func(*args, **(kwargs | {"generator": self.generator(kwargs.get("device"))}))
        if func in LIKE:
            empty = torch.empty_like(*args, **kwargs)
            return LIKE[func](empty, generator=self.generator(empty.device))
        if _initialises(func):
            tensor = args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs | {"generator": self.generator(tensor.device)}))
        if func in DROPOUT:
            return self._dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        """F.dropout with a mask of this generator; the same numbers as torch's own on a CPU."""
        if not training or p == 0:
            return input
        mask = self._kept_share(input, p).div_(1 - p) if p < 1 else torch.zeros_like(input)
        return input.mul_(mask) if inplace else input * mask

    def _attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Attention; where it drops, in plain operations, since the fast kernels draw from torch's own generator."""
        names = ("attn_mask", "dropout_p", "is_causal")
        options = dict(zip(names, args, strict=False)) | kwargs
        p = options.pop("dropout_p", 0.0)
        if p == 0:
            return F.scaled_dot_product_attention(query, key, value, **options)
        return self._dropout(_attention_weights(query, key, **options), p) @ _grouped(value, query)

    def _kept_share(self, like: torch.Tensor, p: float) -> torch.Tensor:
        """A tensor of ones and, for a share p of its elements, zeros."""
        return torch.empty_like(like, requires_grad=False).bernoulli_(1 - p, generator=self.generator(like.device))


DROPOUT: set[Callable[..., Any]] = {F.dropout, torch.dropout}


def _attention_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The weights of scaled_dot_product_attention; its arguments, but heads are repeated where there are fewer keys."""
    scores = query @ _grouped(key, query).mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        minus = scores.new_tensor(-torch.inf)
        scores = torch.where(attn_mask, scores, minus) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1)


def _grouped(heads: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys or values, each of their heads repeated for the queries that share it."""
    return heads.repeat_interleave(query.shape[-3] // heads.shape[-3], -3)


def _device_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    return tensors[0].device if tensors else torch.device("cpu")


def _initialises(func: Any) -> bool:
    """Whether a function is one of torch.nn.init that draws."""
    return getattr(func, "__module__", "") == "torch.nn.init" and "generator" in inspect.signature(func).parameters
