"""Two training steps of the real model on fake tensors, which have shapes and lifetimes but no contents.

transformers and PEFT build the model from its configuration. A recorder logs allocation and release of every storage.
Nothing is computed, so a step of an 8B model takes seconds on a laptop.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from transformers import PreTrainedConfig

from workbench.adapters.adapter_files import BASE_PREFIX
from workbench.errors import MemoryModelError, WorkbenchError
from workbench.memory.configs import quiet, shortened
from workbench.memory.report import EAGER_ONLY
from workbench.memory.setup import Setup
from workbench.memory.sharding import gathered_of
from workbench.memory.steps.fake_kernels import FakeBitsandbytesAdamW
from workbench.memory.steps.fake_model import TrainedModule, build, make_fake
from workbench.memory.steps.forward_pass import cuda_autocast, forward, make_batch
from workbench.memory.steps.recorder import Recorder, Storage
from workbench.training.step import optimizer_tensors

PHASES = ("forward", "backward", "optimizer")


@dataclass(frozen=True)
class Steps:
    """The log of two training steps.

    events: (storage, whether it is an allocation). bounds: phase -> positions of its first event, and of the first
    event after it, in the second step. backward_starts: position at which each step's backward pass starts. gathered:
    phase -> bytes that a GPU holds throughout it beside the storages, if model states are split over several. remarks:
    what a reader of the figures should know of this model.
    """

    events: list[tuple[Storage, bool]]
    bounds: dict[str, tuple[int, int]]
    backward_starts: list[int]
    vocabulary: int
    trainable_parameters: int
    gathered: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def backward_start(self, storage: Storage) -> int:
        """Where the first backward pass after the allocation of `storage` starts; 0 if there is none."""
        return next((start for start in self.backward_starts if start >= storage.allocated_at), 0)


def fake_steps(config: PreTrainedConfig, setup: Setup) -> Steps:
    """Build the model, take two steps and log them.

    Raises MemoryModelError if the model cannot be built, or its steps cannot run on fake tensors.
    """
    left_out: set[str] = set()
    while True:
        try:
            with quiet():
                return _fake_steps(config, setup, left_out)
        except UnfitLayersError as error:
            if setup.method.targets != "all-linear" or error.layers <= left_out:
                raise
            left_out |= error.layers


class UnfitLayersError(MemoryModelError):
    """Layers that cannot carry an adapter, by name: the model reads their weights, or their output is no tensor."""

    def __init__(self, words: str, layers: set[str]) -> None:
        super().__init__(words)
        self.layers = layers


def _fake_steps(config: PreTrainedConfig, setup: Setup, left_out: set[str]) -> Steps:
    family, odd = config.model_type, set[str]()
    try:
        with torch.device("meta"):
            model = build(config, setup, left_out)
        odd, remarks = _with_own_forward(model), _remarks(model, setup, left_out)
        with FakeTensorMode():
            make_fake(model)
            return replace(_follow(model, setup, config.vocab_size), remarks=remarks)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
        raise MemoryModelError(
            f"simulate() does not support {family!r}: its steps depend on the contents of tensors, and fake tensors "
            "have none. Use another model."
        ) from error
    except WorkbenchError:
        raise
    except Exception as error:
        if not _raised_by_a_library(error):
            raise
        words = f"A step of {family!r} does not run as configured: {shortened(error)}"
        raise UnfitLayersError(words, odd) if odd else MemoryModelError(words) from error


def _raised_by_a_library(error: Exception) -> bool:
    """Whether code of torch, transformers or PEFT raised it; else it is a bug of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, RuntimeError | ValueError) or (bool(frames) and "site-packages" in frames[-1].filename)


def _with_own_forward(model: nn.Module) -> set[str]:
    """The adapted layers that compute something else than nn.Linear, such as a mixture's choice of experts."""
    layers = {name: module.base_layer for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    odd = (
        name
        for name, layer in layers.items()
        if type(layer).forward is not nn.Linear.forward and type(layer).__name__ != "Linear4bit"
    )
    return {name.removeprefix(BASE_PREFIX) for name in odd}


def _remarks(model: TrainedModule, setup: Setup, left_out: set[str]) -> tuple[str, ...]:
    kinds = sorted({name.rpartition(".")[2] for name in left_out})
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    remarks = []
    if setup.method.name == "qlora":
        from workbench.memory.steps.fake_4bit import kept_unquantized

        remarks.append(kept_unquantized(inner))
    has_attention = any("att" in name for name, _ in inner.named_modules())
    if setup.attention != "eager" and has_attention and not inner._supports_sdpa:
        remarks.append(EAGER_ONLY)
    if kinds:
        remarks.append(f"{', '.join(kinds)} cannot carry adapters in some layers, and these are left out")
    return tuple(filter(None, remarks))


def _follow(model: TrainedModule, setup: Setup, vocabulary: int) -> Steps:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, batch = make_optimizer(setup, trained), make_batch(setup, vocabulary)
    recorder = Recorder({tuple(parameter.shape) for parameter in trained if parameter.dim() == 2})
    recorder.watch(model)
    for name, parameter in model.named_parameters():
        recorder.follow(parameter, "adapters" if ".lora_" in name else "weights")
    for buffer in model.buffers():
        recorder.follow(buffer, "weights")
    forwards, backwards, updates = [], [], []
    outputs = None
    with recorder:
        for _ in range(2):
            for _ in range(2 if setup.accumulate else 1):
                forwards.append(recorder.begin("forward"))
                outputs = forward(model, batch, setup)
                loss = outputs.loss
                if not setup.keep_outputs:
                    outputs = None
                backwards.append(recorder.begin("backward"))
                with cuda_autocast(setup.dtype == "mixed" and setup.device == "cuda"):
                    loss.backward()
                del loss
                _check_gradients(model)
                for parameter in trained:
                    if parameter.grad is not None:
                        recorder.follow(parameter.grad).role = "gradients"
            updates.append(recorder.begin("optimizer"))
            update(optimizer, trained)
            for tensor in optimizer_tensors(optimizer):
                recorder.follow(tensor).role = "optimizer state"
            optimizer.zero_grad()
    events = list(recorder.events)  # without the release of the model itself
    starts = [forwards[-1], backwards[-1], updates[-1]]
    bounds = dict(zip(PHASES, zip(starts, [*starts[1:], len(events)], strict=True), strict=True))
    count = sum(parameter.numel() for parameter in trained)
    return Steps(events, bounds, backwards, vocabulary, count, gathered_of(model, setup))


def _check_gradients(model: TrainedModule) -> None:
    """Raise MemoryModelError if a trainable parameter has no gradient after the backward pass."""
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if idle:
        raise UnfitLayersError(
            f"{len(idle)} trainable parameters of {model.config.model_type!r}, {idle[0]} among them, get no gradient "
            "from a step of a decoder on tokens alone, which simulate() follows; train other modules or another model.",
            {name.removeprefix(BASE_PREFIX).partition(".lora_")[0] for name in idle if ".lora_" in name},
        )


def update(optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter]) -> None:
    """Clip the gradients and take a step of the optimizer."""
    torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
    optimizer.step()


def make_optimizer(setup: Setup, trained: Sequence[nn.Parameter], fake: bool = True) -> torch.optim.Optimizer:
    """The optimizer of the setup. fake: of those of bitsandbytes the state alone, which updates nothing."""
    if setup.optimizer in ("adamw", "adamw_fused"):
        # foreach is torch's default on a GPU.
        fused = setup.optimizer == "adamw_fused"
        return torch.optim.AdamW(trained, foreach=not fused, fused=fused)
    bits, paged = 8 if "8bit" in setup.optimizer else 32, "paged" in setup.optimizer
    if fake:
        return FakeBitsandbytesAdamW(trained, bits, paged)
    from bitsandbytes import optim

    real: torch.optim.Optimizer = optim.AdamW(trained, optim_bits=bits, is_paged=paged)
    return real
