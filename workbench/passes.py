"""One pass of a sweep: several LoRA configurations trained together, each on its own slice of every batch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest

import torch
from peft import PeftModel
from torch import nn

from workbench import machine
from workbench.methods import Method, adapter_parameters, apply
from workbench.models import Base, completion_logits
from workbench.runs import Run, RunStore
from workbench.slices import carry_together, slice_losses, stack
from workbench.steps import TrainConfig, adamw, check_gradients, micro_batches, optimizer_tensors
from workbench.tasks import Encoded, Task, batches, collate, encode
from workbench.training import (
    DIVERGED_ADVICE,
    OUT_OF_MEMORY_ADVICE,
    accelerator_for,
    alone_in_this_process,
    announce,
    count_parameters,
    is_out_of_memory,
    keep,
    new_run,
    precision_of,
    score_of_base,
)

BYTES_A_PARAMETER = 16  # float32: value, gradient and AdamW's two moments
CPU_TOKENS = 3072  # carried at once; beyond, a CPU waits for its memory and each token costs more


@dataclass(frozen=True)
class Configuration:
    """One adapter to be trained. `id` follows from all that determines the result: doing it twice gives one run."""

    id: str
    method: Method
    config: TrainConfig


@dataclass
class Lane:
    """One configuration in its pass: its record, its adapter, and what trains it."""

    run: Run
    model: PeftModel
    method: Method
    config: TrainConfig
    trained: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    steps: Iterator[tuple[list[dict], int]]
    longest: int  # tokens of the largest micro-batch that may come
    batches: list[dict] = field(default_factory=list)  # of the present step: its micro-batches,
    tokens: int = 0  # and their completion tokens


@alone_in_this_process()
def train_pass(
    base: Base,
    task: Task,
    members: Sequence[Configuration],
    store: RunStore,
    compiled: bool = False,
    on_step: Callable[[dict], bool | None] | None = None,
) -> list[Run]:
    """Train, save, score and store the members; their configurations differ in method and seed alone.

    A member whose loss is no longer a number is dropped and recorded as `diverged`; the others go on. If memory runs
    out, the pass is cut in two and begun again; a single member that does not fit is recorded as `out_of_memory`.
    """
    rows = encode(task.train, base.tokenizer, members[0].config.max_length)
    before = score_of_base(base, task, members[0].config)
    runs = [new_run(member.id, base, task, member.method, member.config, store) for member in members]
    lanes: list[Lane] = []
    halve = False
    with machine.forked_random_state(base.model.device):
        accelerator = accelerator_for(base)
        try:
            for run, member in zip(runs, members, strict=True):
                run.before = dict(before)
                lanes.append(_lane(base, run, member, rows, accelerator))
            _fit(accelerator, base, lanes, compiled, on_step)
        except KeyboardInterrupt:
            _end(runs, "interrupted")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            halve = len(members) > 1
            _end(runs, "out_of_memory", OUT_OF_MEMORY_ADVICE)
    if halve:
        lanes.clear()
        half = len(members) // 2
        machine.say(f"Out of memory with {len(members)} configurations at once: first {half} of them, then the rest.")
        runs = train_pass(base, task, members[:half], store, compiled, on_step)
        stopped = any(run.status == "interrupted" for run in runs)
        return runs if stopped else runs + train_pass(base, task, members[half:], store, compiled, on_step)
    return _keep_all(runs, lanes, base, task, members[0].config, store)


@dataclass(frozen=True)
class Needs:
    """Bytes of tensors in a pass: the base, each member's adapter with all that trains it, and activations.

    activations: of one member, in forward and backward of the largest batch; at_once: how many members' are alive.
    """

    base: int
    members: list[int]
    activations: int
    at_once: int

    def of(self, members: Sequence[int]) -> int:
        """Bytes of a pass of these members (indices)."""
        states = sum(self.members[index] for index in members)
        return self.base + states + self.activations * min(self.at_once, len(members))


@alone_in_this_process()
def needs(base: Base, task: Task, members: Sequence[Configuration]) -> Needs:
    """What passes of these members will need, from one real forward and backward of the largest of them."""
    counts = [adapter_parameters(base, member.method) for member in members]
    largest = members[max(range(len(members)), key=counts.__getitem__)]
    rows = encode(task.train, base.tokenizer, largest.config.max_length)
    accelerator = accelerator_for(base)
    with machine.forked_random_state(base.model.device):
        run = new_run(largest.id, base, task, largest.method, largest.config, RunStore())  # which is not stored
        lane, pad_id = _lane(base, run, largest, rows, accelerator), base.tokenizer.pad_token_id or 0
        lane.batches, lane.tokens = [_largest_batch(rows, members, pad_id)], 1
        carrier = _carrier(base, [lane.model], largest.config)
        with machine.LiveBytes(_held(base, [lane])) as memory:
            _backward(accelerator, carrier, [lane], pad_id)
    fixed = machine.LiveBytes(_held(base, [])).now
    copies = base.dtype.itemsize  # of an adapter in the dtype of the frozen weights, for the way back
    activations = memory.peak - fixed - max(counts) * (8 + copies)  # values and gradients in float32
    at_once = _lanes_at_once(base, [lane])
    return Needs(fixed, [count * (BYTES_A_PARAMETER + copies) for count in counts], activations, at_once)


def _largest_batch(rows: list[Encoded], members: Sequence[Configuration], pad_id: int) -> dict[str, torch.Tensor]:
    """As wide as the widest micro-batch of any member, with the completion tokens of the one that has most of them.

    In a pass the two can meet: a slice is padded to the width of its neighbours, whose seeds order the rows otherwise.
    """
    config, seeds = members[0].config, {member.config.seed for member in members}
    count = config.steps * config.accumulation
    plan = [part for seed in seeds for part in batches(len(rows), config.batch_size, count, seed)]
    fullest = max(plan, key=lambda part: sum(rows[index].completion_tokens for index in part))
    batch = collate([rows[index] for index in fullest], pad_id)
    ids, width = batch["input_ids"], max(len(rows[index].ids) for index in chain(*plan))
    return batch | {"input_ids": nn.functional.pad(ids, (0, width - ids.shape[1]), value=pad_id)}


def _lane(base: Base, run: Run, member: Configuration, rows: list[Encoded], accelerator) -> Lane:
    run.precision = precision_of(base, member.method, accelerator)
    model = apply(base, member.method, seed=member.config.seed).train()
    count_parameters(run, model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = adamw(trained, member.method.learning_rate, member.config)
    steps = micro_batches(rows, member.config, 0, 1, base.tokenizer.pad_token_id or 0)
    longest = member.config.batch_size * max(len(row.ids) for row in rows)
    return Lane(run, model, member.method, member.config, trained, optimizer, steps, longest)


def _fit(accelerator, base: Base, lanes: list[Lane], compiled: bool, on_step) -> None:
    """The loop. Fills in each run's history, status, times and, for the pass, its peak memory."""
    config, pad_id = lanes[0].config, base.tokenizer.pad_token_id or 0
    going, carriers, started = list(lanes), None, None
    gpu_peak, peak = machine.gpu_peak(accelerator.device, _held(base, lanes)), None
    for step in range(config.steps):
        for lane in going:
            lane.batches, lane.tokens = next(lane.steps)
        if carriers is None:
            carriers = _carriers(base, going, compiled)
        if step == 0:
            _rehearse(accelerator, carriers, pad_id)
            started = time.perf_counter()
        tick = time.perf_counter()
        # The second step is the first with the optimizers' states in place.
        measured = step == min(1, config.steps - 1) and not gpu_peak
        with machine.LiveBytes(_held(base, going)) if measured else nullcontext() as memory:
            losses = _step(accelerator, carriers, pad_id, step)
        seconds = time.perf_counter() - tick
        if gpu_peak or measured:
            peak = gpu_peak() if gpu_peak else memory.peak
        for lane, loss in zip(going, losses, strict=True):
            lane.run.together = {"configurations": len(lanes), "peak_memory_bytes": peak}
            if not math.isfinite(loss):
                lane.run.status, lane.run.advice = "diverged", DIVERGED_ADVICE
                continue
            lane.run.tokens += lane.tokens
            rate, share = lane.optimizer.param_groups[0]["lr"], seconds / len(going)
            lane.run.seconds += share
            lane.run.history.append({"step": step + 1, "loss": loss, "learning_rate": rate, "seconds": share})
        left = (time.perf_counter() - started) / (step + 1) * (config.steps - step - 1)
        entry = {"step": step + 1, "steps": config.steps, "seconds": seconds, "seconds_left": left}
        if on_step and on_step(entry | {"runs": [lane.run for lane in lanes]}):
            raise KeyboardInterrupt
        surviving = [lane for lane in going if lane.run.status != "diverged"]
        if not surviving:
            return
        if len(surviving) < len(going):
            going, carriers = surviving, None


def _step(accelerator, carriers, pad_id: int, step: int) -> list[float]:
    """Forward and backward for all, then each lane's own clipping and update; the losses, nats per completion token."""
    losses = []
    for carrier, lanes in carriers:
        own = _backward(accelerator, carrier, lanes, pad_id)
        for lane, loss in zip(lanes, own, strict=True):
            if math.isfinite(loss):
                torch.nn.utils.clip_grad_norm_(lane.trained, lane.config.clip)
                rate = lane.method.learning_rate * lane.config.learning_rate_factor(step)
                lane.optimizer.param_groups[0]["lr"] = rate
                lane.optimizer.step()
            lane.optimizer.zero_grad(set_to_none=True)
        losses += own
    return losses


def _backward(accelerator, carrier, lanes: Sequence[Lane], pad_id: int) -> list[float]:
    """Accumulate every lane's gradients over its micro-batches; returns the losses."""
    totals = torch.zeros(len(lanes))
    for parts in zip(*(lane.batches for lane in lanes), strict=True):
        batch, counts = stack(parts, pad_id)
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        with accelerator.autocast():
            logits = completion_logits(carrier, batch)
        losses = slice_losses(logits, batch["targets"], counts, [lane.tokens for lane in lanes])
        del logits
        losses.sum().backward()
        totals += losses.detach().cpu()
    return totals.tolist()


def _rehearse(accelerator, carriers, pad_id: int) -> None:
    """One forward and backward without an update: checks every lane's gradients, and says how long the pass takes."""
    started = time.perf_counter()
    for carrier, lanes in carriers:
        _backward(accelerator, carrier, lanes, pad_id)
    seconds = time.perf_counter() - started
    everyone = [lane for _, lanes in carriers for lane in lanes]
    for lane in everyone:
        check_gradients(lane.model)
        lane.optimizer.zero_grad(set_to_none=True)
    announce(f"{len(everyone)} configurations together", everyone[0].config.steps, seconds)


def _carriers(base: Base, lanes: Sequence[Lane], compiled: bool) -> list[tuple[nn.Module, Sequence[Lane]]]:
    """One model that carries all lanes; on a CPU one for every few, whose activations its memory keeps up with."""
    at_once = _lanes_at_once(base, lanes)
    groups = [lanes[start : start + at_once] for start in range(0, len(lanes), at_once)]
    return [(_carrier(base, [lane.model for lane in group], group[0].config, compiled), group) for group in groups]


def _lanes_at_once(base: Base, lanes: Sequence[Lane]) -> int:
    """As many as CPU_TOKENS allow in their longest micro-batches, so that no later one is larger than was planned."""
    on_cpu = base.model.device.type == "cpu"
    return max(1, CPU_TOKENS // max(lane.longest for lane in lanes)) if on_cpu else sys.maxsize


def _carrier(base: Base, models: Sequence[PeftModel], config: TrainConfig, compiled: bool = False) -> nn.Module:
    carrier = carry_together(base, models)
    if config.checkpointing:
        carrier.activation_checkpointing_enable({"use_reentrant": False})
    return torch.compile(carrier) if compiled else carrier


def _held(base: Base, lanes: Sequence[Lane]) -> list[torch.Tensor]:
    """What is alive between two steps: the base, the adapters, the optimizers' states."""
    own = [tensor for lane in lanes for tensor in (*lane.trained, *optimizer_tensors(lane.optimizer))]
    return [*base.model.parameters(), *base.model.buffers(), *own]


def _keep_all(runs: Sequence[Run], lanes: Sequence[Lane], base: Base, task: Task, config, store) -> list[Run]:
    """Save and score; runs that were stopped before their lane was there are recorded only."""
    for lane in lanes:
        lane.optimizer = None  # its state is not needed for the scoring
    if config.evaluate and any(run.history and run.status == "interrupted" for run in runs):
        machine.say("Stopped. What was trained is being scored; stop again to leave that out.")
    kept = []
    for number, (run, lane) in enumerate(zip_longest(runs, lanes), start=1):
        kept.append(keep(run, lane and lane.model, base, task, config, store))
        if config.evaluate and run.status == "interrupted" and not run.metrics:
            # Whoever stops the scoring does not want the next one to begin; a run without scores is not finished.
            config = replace(config, evaluate=False)
            _end(runs[number:], "interrupted")
    return kept


def _end(runs: Sequence[Run], status: str, advice: str | None = None) -> None:
    for run in runs:
        if run.status == "finished":
            run.status, run.advice = status, advice
