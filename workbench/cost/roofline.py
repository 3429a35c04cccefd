"""The least time that a training step can take, and the cost of a job or of serving.

The bound is a roofline: a phase of a step takes at least FLOPs / FLOP per second, and at least bytes / bytes per second
of the GPU's memory. No run reaches it: launching kernels takes time, element-wise operations move data through memory
again, and few products are as large as those that the data sheet measures. So the bound is divided by an efficiency,
which is a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workbench.cost.flops import meta_base, step_flops
from workbench.cost.gpus import Gpu
from workbench.errors import HardwareError
from workbench.models.base import linear_modules

if TYPE_CHECKING:
    from workbench.memory.report import MemoryReport

EFFICIENCY = 0.25  # about that of the published runs, of one training loop on one kind of GPU: lesson 04 shows each
SHARED, WHOLE = "adapters on one base", "full models"  # the ways to serve many tuned models
CACHE_SHARE = 0.3  # of a serving GPU's memory, for the keys and values of current requests
SERVER = 8  # the most GPUs in one server; a base is split over more of them only if it is too large for a server
HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Phase:
    """One phase of a step: its FLOPs, and the fewest bytes that it has to move through the GPU's memory."""

    name: str
    flops: float
    bytes: float

    def seconds(self, gpu: Gpu) -> float:
        """The least time that the phase can take on `gpu`."""
        return max(self.flops / gpu.rate(gpu.dtype), self.bytes / gpu.bytes_per_second)

    def bottleneck(self, gpu: Gpu) -> Literal["arithmetic", "memory"]:
        """Whether the phase is compute-bound ("arithmetic") or bandwidth-bound ("memory") on `gpu`."""
        return "arithmetic" if self.flops / gpu.rate(gpu.dtype) >= self.bytes / gpu.bytes_per_second else "memory"


def step_phases(report: MemoryReport) -> list[Phase]:
    """The phases of the step that `report` (of memory.estimate or memory.simulate) describes.

    Bytes: weights are read in each pass; 4-bit weights are also dequantized to 16 bits, written and read again;
    activations and logits are written once and read once; the optimizer reads gradients, and reads and writes the
    trained weights and its state. Since this is a lower bound, element-wise operations do not count. Products are in 16
    bits, and weights that train next to a frozen base are in float32. Raises HardwareError for a setup that is split
    over several GPUs or offloaded, whose time is that of its transfers.
    """
    if report.setup.sharded:
        raise HardwareError("The time of a step that is split over GPUs, or offloaded, is not modelled: use gpus=1.")
    base, method = meta_base(report.config), report.setup.method
    flops = {phase: sum(parts.values()) for phase, parts in step_flops(base, report.setup).items()}
    state = report.components.get("optimizer state", 0)
    weights = report.components["weights"] + report.components.get("adapters", 0)
    saved = max(0, report.peaks["forward"] - weights - state)
    trained = report.components["weights"] if method.name == "full" else 4 * report.trainable_parameters
    dequantized = 4 * sum(out * into for out, into in linear_modules(base.model).values()) * (method.name == "qlora")
    phases = [Phase("forward", flops["forward"], weights + dequantized + saved)]
    if report.setup.checkpointing:
        phases.append(Phase("recomputation", flops["recomputation"], weights + dequantized))
    phases.append(Phase("backward", flops["backward"], weights + dequantized + saved + trained))
    return [*phases, Phase("optimizer step", 0.0, 3 * trained + 2 * state)]


@dataclass(frozen=True)
class Job:
    """Training on one GPU.

    bound_seconds: the least time of a step. step_seconds: the bound / efficiency. money: US dollars.
    """

    gpu: Gpu
    bound_seconds: float
    step_seconds: float
    tokens_per_second: float
    hours: float
    money: float


def job(phases: Sequence[Phase], gpu: Gpu, tokens_a_step: int, tokens: float, efficiency: float = EFFICIENCY) -> Job:
    """Hours and money to train on `tokens` tokens, padding included.

    efficiency: the share of the bound's speed that the run reaches, above 0 and at most 1. Raises HardwareError for
    numbers outside of their range, and for a GPU without a price.
    """
    if not 0 < efficiency <= 1:
        raise HardwareError(f"efficiency={efficiency} must be above 0 and at most 1, a share of the bound's speed.")
    _check_positive(tokens_a_step=tokens_a_step, tokens=tokens)
    bound = sum(phase.seconds(gpu) for phase in phases)
    seconds = bound / efficiency
    hours = seconds * tokens / tokens_a_step / 3600
    return Job(gpu, bound, seconds, tokens_a_step / seconds, hours, hours * gpu.dollars_per_hour)


def cheapest(jobs: Sequence[Job], total_bytes: float) -> Job | None:
    """The cheapest of the jobs on GPUs that a step of `total_bytes` fits; None if it fits none."""
    return min((one for one in jobs if one.gpu.fits(total_bytes)), key=lambda one: one.money, default=None)


def gpus_if_sharded(report: MemoryReport, gpu: Gpu) -> int | None:
    """The fewest GPUs on which the step fits if weights, gradients and optimizer state are split evenly over them.

    This is ZeRO stage 3 (arXiv 1910.02054), or FSDP. report: of `memory.estimate`. Each GPU has the activations and
    logits of a batch as large as the report's, and its own CUDA context; the gathered weights of the current block are
    left out. None if what is not split does not fit. Raises HardwareError for a report of `memory.simulate`, and
    for one of a setup that is split already.
    """
    if not report.moments or report.setup.sharded:
        raise HardwareError(
            "gpus_if_sharded() needs a report of memory.estimate(), not of memory.simulate(), for gpus=1."
        )
    if gpu.fits(report.total_bytes):
        return 1
    room = (gpu.usable_bytes - report.context_bytes) * report.peak_allocated_bytes / report.peak_reserved_bytes
    if any(kept >= room for _, kept in report.moments):
        return None
    return max(2, *(math.ceil(shared / (room - kept)) for shared, kept in report.moments))


@dataclass(frozen=True)
class Service:
    """Serving N tuned models: bytes of their weights, GPUs that hold them, US dollars per month of 730 hours."""

    stored_bytes: float
    gpus: int
    money_a_month: float

    @property
    def in_words(self) -> str:
        """The GPUs and what they cost."""
        return f"{self.gpus:,} GPU{'s' * (self.gpus != 1)} (${self.money_a_month:,.0f} a month)"


def serve(tasks: int, base_bytes: float, adapter_bytes: float, gpu: Gpu) -> dict[str, Service]:
    """Serve `tasks` adapters on one shared base (SHARED), or as many full models (WHOLE), all loaded all the time.

    Both take the fewest GPUs that hold them. A shared base may be split over up to SERVER GPUs, and any model over as
    many as it needs. CACHE_SHARE of each GPU is kept free for requests; requests per second are not modelled.
    Raises HardwareError for numbers that are not positive.
    """
    _check_positive(tasks=tasks, base_bytes=base_bytes, adapter_bytes=adapter_bytes)
    ways = {
        SHARED: (base_bytes + tasks * adapter_bytes, _fewest(tasks, base_bytes, adapter_bytes, gpu)),
        WHOLE: (tasks * base_bytes, _fewest(tasks, 0, base_bytes, gpu)),
    }
    return {
        way: Service(stored, count, count * gpu.dollars_per_hour * HOURS_A_MONTH)
        for way, (stored, count) in ways.items()
    }


def room_for_weights(gpu: Gpu) -> float:
    """Bytes of a serving GPU without what CACHE_SHARE keeps for requests."""
    return gpu.usable_bytes * (1 - CACHE_SHARE)


def _fewest(tasks: int, shared: float, each: float, gpu: Gpu) -> int:
    """The fewest GPUs for all tasks, if each GPU or group of GPUs holds the shared bytes and those of several tasks."""
    room = room_for_weights(gpu)
    least = math.ceil((shared + each) / room)
    groups = range(least, max(least, SERVER) + 1) if shared else (least,)
    return min(size * math.ceil(tasks / max(1, (size * room - shared) // each)) for size in groups)


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise HardwareError(f"{name}={number} must be above 0 and finite.")
