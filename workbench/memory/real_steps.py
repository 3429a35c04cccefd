"""The steps that `fake_steps` follows, taken for real on this machine's CPU, with torch's own record of allocations."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import nn

from workbench.adapters.inject import apply
from workbench.memory.fake_kernels import ATTENTION
from workbench.memory.fake_steps import CHECKPOINTING, forward, make_batch, make_optimizer, update
from workbench.memory.setup import Setup
from workbench.models.base import Base
from workbench.models.cpu_kernels import plain
from workbench.training.peak_memory import LiveBytes


def real_peak(base: Base, setup: Setup) -> int:
    """Two steps of the loop: what the model holds, and the highest sum of the allocations beside it.

    The profiler does not tell of memory that goes if it came before the profile, so both steps are in it.
    """
    model = plain(apply(base, setup.method)).train()
    model.set_attn_implementation(ATTENTION[setup.attention, setup.device])
    if setup.checkpointing:
        model.activation_checkpointing_enable(CHECKPOINTING)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, batch = make_optimizer(setup, trained), make_batch(setup, model.config.vocab_size)
    before = LiveBytes([*model.parameters(), *model.buffers(), *quantization_tensors(model)]).now
    with profiled() as profile:
        for _ in range(2):
            outputs = forward(model, batch, setup)
            outputs.loss.backward()
            update(optimizer, trained)
            optimizer.zero_grad()
    return before + most_allocated(profile)


def profiled() -> torch.profiler.profile:
    """A profile of what the CPU's allocator hands out and takes back."""
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)


def most_allocated(profile: torch.profiler.profile) -> int:
    """The highest sum of the bytes allocated in a profile."""
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes))


def quantization_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Scales and codes beside bitsandbytes' 4-bit weights, and the statistics of its 8-bit layers."""
    states = [getattr(parameter, "quant_state", None) for parameter in model.parameters()]
    states += [state.state2 for state in states if state is not None and state.nested]
    states += [module.state for module in model.modules() if hasattr(module, "init_8bit_state")]
    return [value for state in states if state for value in vars(state).values() if torch.is_tensor(value)]
