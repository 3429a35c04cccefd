"""The training loop, for one configuration or for several adapters on one frozen base: the same steps for both."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypedDict

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from workbench.adapters.batched import draws_by_config, fits_a_slice, multi_adapter_model
from workbench.adapters.inject import apply, trainable_parameters
from workbench.console import say
from workbench.machine import available_memory
from workbench.models.base import Base
from workbench.models.padding_free import leaves_padding_out
from workbench.seeds import RandomNumbers
from workbench.tasks.encoding import Encoded
from workbench.training.pace import Pace
from workbench.training.peak_memory import LiveBytes, gpu_peak
from workbench.training.runs import Run
from workbench.training.step import (
    Group,
    Model,
    Slot,
    adamw,
    micro_batches,
    optimizer_tensors,
    train_step,
)
from workbench.training.trial import Trial

DIVERGED_ADVICE = "The loss is no longer a number: lower the learning rate, or lengthen the warm-up."
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
BYTES_A_PARAMETER = 16  # that is trained, in float32: value, gradient and AdamW's two moments
CPU_TOKENS = 3072  # in one forward pass of several adapters; beyond, a CPU waits for its memory


class StopUnscored(KeyboardInterrupt):
    """Raised by an `on_step`: end the training and keep what was trained, without the time that its scores take."""


class StepReport(TypedDict):
    """What `on_step` receives after each step.

    loss (nats per completion token), learning_rate and model are those of the first run that still trains; the loss is
    NaN when none does. seconds: of this step. seconds_left: until the scores are there, at the pace of the last steps.
    passes_left: of a sweep, after this one. runs: the records of all that train together, with their history so far.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    seconds_left: float
    passes_left: int
    model: Model
    runs: list[Run]


OnStep = Callable[[StepReport], bool | None]  # returning True, or raising StopUnscored, stops the training
Choose = Callable[[int, list[Slot]], list[Slot]]  # after a step, from 1: which of the slots continue


def accelerator_for(base: Base) -> Accelerator:
    """A fresh Accelerator that computes in the base's dtype under autocast, with loss scaling for float16."""
    AcceleratorState._reset_state(reset_partial_state=False)
    precision = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[base.dtype]
    return Accelerator(mixed_precision=precision)


def make_slot(trial: Trial, run: Run, rows: Sequence[Encoded], accelerator: Accelerator) -> Slot:
    """Build the model that `trial` trains, with its optimizer and its batches, and count its parameters in `run`."""
    device = accelerator.device
    if device.type == "cpu" and BYTES_A_PARAMETER * trial.trained_numbers > available_memory(device):
        raise MemoryError  # Linux would give it, and end the process once it is written to
    model = apply(trial.base, trial.method, seed=trial.config.seed).train()
    run.trainable_parameters = trainable_parameters(model)
    run.total_parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare(adamw(model, trial.method, trial.config))
    steps = micro_batches(rows, trial.config, accelerator.process_index, accelerator.num_processes)
    row = max(len(row.ids) for row in rows)
    longest = trial.config.batch_size * row
    run.precision["padding_free"] = leaves_padding_out(trial.base.model, row)
    # On a GPU a run alone keeps PEFT's own layers, whose memory `memory.simulate` predicts.
    sliced = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
    sliced = sliced and fits_a_slice(trial.base, trial.method)
    return Slot(run, model, trial.config, trained, optimizer, steps, longest, sliced)


def alone(accelerator: Accelerator, base: Base, slot: Slot, numbers: RandomNumbers | None = None) -> Group:
    """The group of a slot that trains alone. numbers: what its dropout draws from."""
    if slot.sliced:
        return batched(base, [slot])[0]
    if slot.config.checkpointing:
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        slot.model.activation_checkpointing_enable(options | ({"context_fn": numbers.checkpointed} if numbers else {}))
    return Group(accelerator.prepare(slot.model), [slot], batched=False)


def batched(base: Base, slots: Sequence[Slot]) -> list[Group]:
    """One model for all slots; on a CPU one for every few of them, so that a forward pass stays within CPU_TOKENS."""
    size = slots_at_once(base, slots)
    groups = []
    for start in range(0, len(slots), size):
        members = list(slots[start : start + size])
        model: Any = multi_adapter_model(base, [slot.model for slot in members])
        if members[0].config.checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        groups.append(Group(model, members, batched=True))
    return groups


def slots_at_once(base: Base, slots: Sequence[Slot]) -> int:
    """How many slots share a forward pass, counted with the longest micro-batches that may come."""
    if base.model.device.type != "cpu":
        return sys.maxsize
    return max(1, CPU_TOKENS // max(slot.longest for slot in slots))


def held(slots: Sequence[Slot]) -> list[torch.Tensor]:
    """What is in memory between two steps: weights, adapters and optimizer states (tensors may share a storage)."""
    weights = [tensor for slot in slots for tensor in (*slot.model.parameters(), *slot.model.buffers())]
    return weights + [tensor for slot in slots for tensor in optimizer_tensors(slot.optimizer)]


def fit(
    accelerator: Accelerator,
    base: Base,
    slots: Sequence[Slot],
    together: bool,
    on_step: OnStep | None = None,
    scoring: float = 0.0,
    choose: Choose | None = None,
) -> None:
    """Train the slots; fills in history, status, seconds and peak memory of their runs.

    together: they share forward passes over `base`; otherwise there is one, with a model of its own. A slot whose loss
    is not finite is dropped and marked as diverged; the others continue. scoring: seconds that the scores will take.
    choose: which of the slots continue after a step; with none the training ends.
    Raises KeyboardInterrupt when `on_step` asks to stop.
    """
    config, active = slots[0].config, list(slots)
    numbers = RandomNumbers(config.seed) if any(draws(slot.model) for slot in slots) else None
    groups: list[Group] = []
    peak_of_gpu = gpu_peak(accelerator.device, held(slots))
    pace = Pace(config.steps, scoring)
    try:
        for step in range(config.steps):
            for slot in active:
                slot.next_step()
            if not groups:
                groups = batched(base, active) if together else [alone(accelerator, base, active[0], numbers)]
            # The second step is the first with the optimizers' states in place.
            measured = step == min(1, config.steps - 1) and not peak_of_gpu
            with numbers or nullcontext():  # not around on_step, which may draw too
                losses, seconds, peak = _step(accelerator, groups, step, measured)
            _record_peak(slots, together, peak_of_gpu() if peak_of_gpu else peak)
            surviving = _record_step(active, losses, step, seconds / len(active))
            pace.tick()
            if (words := pace.announcement) and accelerator.is_main_process:
                say(f"{_together(slots)}: {words}{_padding(slots)}")
            if on_step:
                if on_step(_report(slots, surviving, step, seconds, pace.seconds_left)):
                    raise KeyboardInterrupt
                for slot in surviving:
                    slot.model.train()  # on_step may have scored it
            surviving = choose(step + 1, surviving) if choose and surviving else surviving
            if not surviving:
                break
            if len(surviving) < len(active):
                active, groups = surviving, []
    finally:
        _release(accelerator, groups, slots)
    _check_overflow(accelerator, slots)


def draws(model: nn.Module) -> bool:
    """Whether the forward pass of a model in training draws random numbers: dropout, or noise of a router."""
    modules = any(isinstance(module, DROPOUT) and module.p > 0 for module in model.modules())
    return modules or draws_by_config(model)


def _step(
    accelerator: Accelerator, groups: Sequence[Group], step: int, measured: bool
) -> tuple[list[float], float, int | None]:
    """One step of all groups: the loss of each slot, seconds, and the peak of live bytes on a CPU if `measured`."""
    tick = time.perf_counter()
    own = [slot for group in groups for slot in group.slots]
    with LiveBytes(held(own)) if measured else nullcontext() as memory:
        losses = [loss for group in groups for loss in train_step(accelerator, group, step)]
    return losses, time.perf_counter() - tick, memory.peak if memory else None


def _release(accelerator: Accelerator, groups: Sequence[Group], slots: Sequence[Slot]) -> None:
    """Take off what Accelerate has wrapped around a model, and drop the gradients."""
    for group in groups:
        if not group.batched:
            accelerator.unwrap_model(group.model, keep_fp32_wrapper=False)
    for slot in slots:
        slot.optimizer.zero_grad(set_to_none=True)


def _record_step(active: Sequence[Slot], losses: Sequence[float], step: int, seconds: float) -> list[Slot]:
    """Add the step to each run's history; returns the slots that continue. seconds: each slot's share of the step."""
    surviving = []
    for slot, loss in zip(active, losses, strict=True):
        if not math.isfinite(loss):
            slot.run.status, slot.run.advice = "diverged", DIVERGED_ADVICE
            continue
        rate = slot.optimizer.param_groups[0]["lr"]
        slot.run.tokens += slot.tokens
        slot.run.seconds += seconds
        slot.run.history.append({"step": step + 1, "loss": loss, "learning_rate": rate, "seconds": seconds})
        surviving.append(slot)
    return surviving


def _record_peak(slots: Sequence[Slot], together: bool, peak: int | None) -> None:
    """A run that trains alone has a peak of its own; runs that train together have that of their pass."""
    for slot in slots:
        if not together:
            slot.run.peak_memory_bytes = peak or slot.run.peak_memory_bytes
            continue
        before = slot.run.together["peak_memory_bytes"] if slot.run.together else None
        slot.run.together = {"configurations": len(slots), "peak_memory_bytes": peak or before}


def _report(slots: Sequence[Slot], surviving: Sequence[Slot], step: int, seconds: float, left: float) -> StepReport:
    first = (surviving or slots)[0]
    return {
        "step": step + 1,
        "steps": first.config.steps,
        "loss": first.run.history[-1]["loss"] if surviving else math.nan,
        "learning_rate": first.optimizer.param_groups[0]["lr"],
        "seconds": seconds,
        "seconds_left": left,
        "passes_left": 0,
        "model": first.model,
        "runs": [slot.run for slot in slots],
    }


def _padding(slots: Sequence[Slot]) -> str:
    """What to add to the announced time where the model computes padding too."""
    return "" if slots[0].run.precision.get("padding_free") else " (this model's batches are padded)"


def _together(slots: Sequence[Slot]) -> str:
    return slots[0].run.label if len(slots) == 1 else f"{len(slots)} configurations together"


def _check_overflow(accelerator: Accelerator, slots: Sequence[Slot]) -> None:
    """In float16 the scaler skips an update whose gradients overflow; a run with no update at all has diverged."""
    if accelerator.scaler is None:
        return
    for slot in slots:
        updated = any(state["step"].item() > 0 for state in slot.optimizer.state.values())
        if slot.run.history and not updated:
            slot.run.status, slot.run.advice = "diverged", "Every step overflowed in float16: use bfloat16 or float32."
