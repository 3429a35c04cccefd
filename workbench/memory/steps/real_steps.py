"""`measure`: the steps of `simulate` on real tensors on this machine's CPU, with torch's log of allocations."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import nn

from workbench.adapters.inject import apply
from workbench.adapters.methods import Method
from workbench.errors import MemoryModelError
from workbench.memory.setup import Setup
from workbench.memory.steps.fake_kernels import attention_implementation
from workbench.memory.steps.fake_model import CHECKPOINTING, TrainedModule
from workbench.memory.steps.fake_steps import make_optimizer, update
from workbench.memory.steps.forward_pass import forward, make_batch
from workbench.models.base import Base
from workbench.models.cpu_kernels import plain
from workbench.seeds import forked_random_state
from workbench.training.peak_memory import LiveBytes


def measure(
    base: Base, method: Method, batch_size: int = 4, sequence_length: int = 64, checkpointing: bool = False
) -> int:
    """Peak bytes of a real second step of the same loop on this machine's CPU, by torch's log of allocations.

    Compare it with `simulate(..., dtype=as_trained(base), device="cpu")`. The tokens are random, and `base` is left
    unchanged. Raises MemoryModelError for a base on a GPU.
    """
    if base.model.device.type != "cpu":
        raise MemoryModelError("measure() runs a step on the CPU; load the base with load_base(..., device='cpu').")
    setup = Setup(method, batch_size, sequence_length, as_trained(base), checkpointing=checkpointing, device="cpu")
    with forked_random_state(base.model.device):
        return _peak_of_steps(base, setup)


def as_trained(base: Base) -> str:
    """The `dtype` of a `Setup` in which `workbench.train` computes with this base."""
    return "float32" if base.dtype == torch.float32 else "mixed"


def _peak_of_steps(base: Base, setup: Setup) -> int:
    """The bytes of the model, and on top of them the peak of what two steps allocate.

    The profiler does not report the release of memory that was allocated before the profile, so it covers both steps.
    """
    model: TrainedModule = plain(apply(base, setup.method)).train()
    model.set_attn_implementation(attention_implementation(setup))
    if setup.checkpointing:
        model.activation_checkpointing_enable(CHECKPOINTING)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, batch = make_optimizer(setup, trained), make_batch(setup, model.config.get_text_config().vocab_size)
    before = LiveBytes([*model.parameters(), *model.buffers(), *quantization_tensors(model)]).now
    with profiled() as profile:
        for _ in range(2):
            outputs = forward(model, batch, setup)
            outputs.loss.backward()
            update(optimizer, trained)
            optimizer.zero_grad()
    return before + most_allocated(profile)


def profiled() -> torch.profiler.profile:
    """A profile of the allocations and releases of torch's CPU allocator."""
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)


def most_allocated(profile: torch.profiler.profile) -> int:
    """The peak of the bytes allocated within a profile."""
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    found: list[Any] = profile.profiler.kineto_results.events()  # torch's stub of an event lacks nbytes()
    events = [event for event in found if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes))


def quantization_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Scales and code books of bitsandbytes' 4-bit weights, and the statistics of its 8-bit layers."""
    states = [getattr(parameter, "quant_state", None) for parameter in model.parameters()]
    states += [state.state2 for state in states if state is not None and state.nested]
    states += [module.state for module in model.modules() if hasattr(module, "init_8bit_state")]
    return [value for state in states if state for value in vars(state).values() if torch.is_tensor(value)]
