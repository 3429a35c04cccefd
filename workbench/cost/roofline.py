"""How long a step takes at least, and what a job or a service costs.

The bound is a roofline: in each phase of a step a GPU can be no faster than its arithmetic (FLOPs / FLOP per second)
and no faster than its memory (bytes / bytes per second). No run reaches it: kernels start and end, element-wise work
goes through memory again and again, and few products are as large as the data sheet's best case. So the bound is
divided by an efficiency, which is a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.cost.flops import skeleton, step_flops
from workbench.errors import HardwareError
from workbench.models.base import linear_modules

if TYPE_CHECKING:
    from workbench.memory.report import MemoryReport
from workbench.cost.gpus import Gpu

EFFICIENCY = 0.25  # about what the published runs reached, one loop on one kind of GPU: lesson 04 shows each


CACHE_SHARE = 0.3  # of a serving GPU's memory, left to the keys and values of the requests under way


SERVER = 8  # GPUs that one server holds at most; over more of them a base is split only if it has to be


HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Phase:
    """One phase of a step: FLOPs, and the bytes that must go through the GPU's memory if nothing is moved in vain."""

    name: str
    flops: float
    bytes: float

    def seconds(self, gpu: Gpu) -> float:
        """The least that the phase can take on `gpu`."""
        return max(self.flops / gpu.rate(gpu.dtype), self.bytes / gpu.bytes_per_second)

    def limit(self, gpu: Gpu) -> str:
        """What holds it up there: "arithmetic" or "memory"."""
        return "arithmetic" if self.flops / gpu.rate(gpu.dtype) >= self.bytes / gpu.bytes_per_second else "memory"


def step_phases(report: MemoryReport) -> list[Phase]:
    """The phases of the step that `report` (of memory.estimate or memory.simulate) is about.

    Bytes: weights are read in each pass; 4-bit ones are also unpacked to 16 bits, written and read again; activations
    and logits are written once and read once; the optimizer reads gradients, and reads and writes what trains and its
    own state. What a cache may hold, and element-wise work that goes through memory again, are left out: it is a bound.
    Products are taken to be in 16 bits; what trains beside a frozen base is kept in float32.
    """
    base, method = skeleton(report.config), report.setup.method
    flops = {phase: sum(parts.values()) for phase, parts in step_flops(base, report.setup).items()}
    state = report.components.get("optimizer state", 0)
    weights = report.components["weights"] + report.components.get("adapters", 0)
    kept = max(0, report.peaks["forward"] - weights - state)
    trained = report.components["weights"] if method.name == "full" else 4 * report.trainable_parameters
    unpacked = 4 * sum(out * into for out, into in linear_modules(base.model).values()) * (method.name == "qlora")
    phases = [Phase("forward", flops["forward"], weights + unpacked + kept)]
    if report.setup.checkpointing:
        phases.append(Phase("recomputation", flops["recomputation"], weights + unpacked))
    phases.append(Phase("backward", flops["backward"], weights + unpacked + kept + trained))
    return [*phases, Phase("optimizer step", 0.0, 3 * trained + 2 * state)]


@dataclass(frozen=True)
class Job:
    """Training on so many tokens on one GPU."""

    gpu: Gpu
    bound_seconds: float  # of a step, which no program can undercut
    step_seconds: float  # the bound / efficiency
    tokens_per_second: float
    hours: float
    money: float  # US dollars


def job(phases: Sequence[Phase], gpu: Gpu, tokens_a_step: int, tokens: float, efficiency: float = EFFICIENCY) -> Job:
    """Hours and money to train on `tokens` tokens, padding among them.

    efficiency: the share of the bound's speed that the run reaches, above 0 and at most 1. Raises HardwareError for
    what makes no sense.
    """
    if not 0 < efficiency <= 1:
        raise HardwareError(f"efficiency={efficiency} is a share of the bound's speed: above 0, at most 1.")
    _above_0(tokens_a_step=tokens_a_step, tokens=tokens)
    bound = sum(phase.seconds(gpu) for phase in phases)
    seconds = bound / efficiency
    hours = seconds * tokens / tokens_a_step / 3600
    return Job(gpu, bound, seconds, tokens_a_step / seconds, hours, hours * gpu.price_per_hour)


def cheapest(jobs: Sequence[Job], total_bytes: float) -> Job | None:
    """Of the jobs whose GPU a step of `total_bytes` fits, the one that costs least to finish (None if none fits)."""
    return min((one for one in jobs if one.gpu.fits(total_bytes)), key=lambda one: one.money, default=None)


def gpus_if_sharded(report: MemoryReport, gpu: Gpu) -> int | None:
    """The fewest GPUs on which the step fits if weights, gradients and optimizer state are split evenly over them.

    That is ZeRO stage 3 (arXiv 1910.02054), or FSDP. report: of `memory.estimate`. Each GPU keeps the activations and
    logits of its own batch, as large as the report's, and its CUDA context; the block gathered at the moment comes on
    top and is left out. None: what each GPU keeps is too much by itself.
    """
    if not report.moments:
        raise HardwareError("gpus_if_sharded() needs a report of memory.estimate(), not of simulate().")
    if gpu.fits(report.total_bytes):
        return 1
    room = (gpu.usable_bytes - report.context_bytes) * report.peak_allocated_bytes / report.peak_reserved_bytes
    if any(kept >= room for _, kept in report.moments):
        return None
    return max(2, *(math.ceil(shared / (room - kept)) for shared, kept in report.moments))


@dataclass(frozen=True)
class Service:
    """Keeping N tuned models ready: bytes to store, GPUs that hold them all, US dollars a month of 730 hours."""

    stored_bytes: float
    gpus: int
    money_a_month: float


def serve(tasks: int, base_bytes: float, adapter_bytes: float, gpu: Gpu) -> dict[str, Service]:
    """N adapters on one shared base against N full models, all loaded all the time.

    The fewest GPUs that hold them: a shared base may be split over up to SERVER of them, any model over as many as one
    takes. CACHE_SHARE of each GPU is left to requests; how many requests a second come out of it is not modelled.
    Raises HardwareError for numbers of 0 or below.
    """
    _above_0(tasks=tasks, base_bytes=base_bytes, adapter_bytes=adapter_bytes)
    ways = {
        "adapters on one base": (base_bytes + tasks * adapter_bytes, _places(tasks, base_bytes, adapter_bytes, gpu)),
        "full models": (tasks * base_bytes, _places(tasks, 0, base_bytes, gpu)),
    }
    return {
        way: Service(stored, count, count * gpu.price_per_hour * HOURS_A_MONTH) for way, (stored, count) in ways.items()
    }


def _places(tasks: int, shared: float, each: float, gpu: Gpu) -> int:
    """GPUs for `tasks` models of which each GPU, or group of GPUs, holds one shared part and as many others as fit."""
    room = gpu.usable_bytes * (1 - CACHE_SHARE)
    least = math.ceil((shared + each) / room)
    groups = range(least, max(least, SERVER) + 1) if shared else (least,)
    return min(size * math.ceil(tasks / max(1, (size * room - shared) // each)) for size in groups)


def _above_0(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise HardwareError(f"{name}={number} must be above 0 and finite.")
