"""The GPU memory of one training step: `simulate` follows steps on fake tensors, `estimate` computes a closed form."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Unpack

import torch
from transformers import PreTrainedConfig

from workbench.adapters.methods import Method
from workbench.errors import MemoryModelError
from workbench.memory.allocator import reserved_bytes, segments_bytes
from workbench.memory.closed_form import closed_form
from workbench.memory.fake_steps import PHASES, Steps, fake_steps
from workbench.memory.real_steps import real_peak
from workbench.memory.recorder import Storage
from workbench.memory.setup import Setup, SetupFields, Source, as_setup, model_config, model_name, shipped
from workbench.memory.trained_parts import Line
from workbench.models.base import Base
from workbench.seeds import forked_random_state

__all__ = [
    "COMPONENTS",
    "MemoryModelError",
    "MemoryReport",
    "Setup",
    "as_trained",
    "estimate",
    "measure",
    "shipped",
    "simulate",
]

COMPONENTS = ("weights", "adapters", "gradients", "optimizer state", "activations", "logits", "temporaries")
# The driver, its kernels and torch's take this outside of the allocator: 300 to 600 MB, by GPU and driver version.
CONTEXT_BYTES = 500_000_000
# cuBLAS gets it from torch's allocator at the first product: 2 x 4096 + 8 x 16 KiB (CUBLAS_WORKSPACE_CONFIG's default).
CUBLAS_BYTES = (2 * 4096 + 8 * 16) * 1024
TIMELINE_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class MemoryReport:
    """Memory of one training step, in bytes, from the second step on (the optimizer's state is there).

    model: the name or path that was asked for, or the configuration's model_type. setup: how it is trained. config: the
    model's transformers configuration; it takes no part in comparisons and is left out of `to_dict`.
    components: component -> bytes at the peak; they add up to peak_allocated_bytes. peaks: phase -> the most bytes.
    peak_allocated_bytes: of live tensors. peak_reserved_bytes: of the blocks that the caching allocator needs for them,
    as `torch.cuda.max_memory_reserved` counts. A run that has room keeps more: blocks that it has used and cannot reuse
    stay reserved until the driver has no more to give; replayed_bytes is what two equal steps leave it with (`simulate`
    only). context_bytes: the CUDA context, outside of it. total_bytes: reserved and context, what a GPU must have.
    timeline: (phase, bytes) in order of time (`simulate` only). terms: (words, bytes) of the closed form. moments: of
    each moment at which the step may peak, the bytes that sharding splits over GPUs, and those that it leaves on each:
    activations, logits, temporaries (both `estimate` only). seconds: how long the prediction took.
    """

    model: str
    setup: Setup
    config: PreTrainedConfig = field(repr=False, compare=False)
    components: dict[str, int]
    peaks: dict[str, int]
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    context_bytes: int
    trainable_parameters: int
    seconds: float
    validated: bool
    note: str
    replayed_bytes: int | None = None
    timeline: list[tuple[str, int]] = field(default_factory=list, repr=False)
    terms: list[tuple[str, int]] = field(default_factory=list, repr=False)
    moments: list[tuple[int, int]] = field(default_factory=list, repr=False)

    @property
    def total_bytes(self) -> int:
        """Bytes that a GPU must have free: the allocator's and the CUDA context."""
        return self.peak_reserved_bytes + self.context_bytes

    def to_dict(self) -> dict[str, Any]:
        """The fields but `config`, and total_bytes, as JSON holds them."""
        values = asdict(self) | {"setup": self.setup.to_dict(), "total_bytes": self.total_bytes}
        del values["config"]
        return values


def simulate(model: Source, setup: Setup | Method, *fields: Any, **named: Unpack[SetupFields]) -> MemoryReport:
    """Follow every tensor through two training steps of the real model, with no weights, no GPU and no memory.

    setup: a `Setup`, or a method followed by the other fields of a Setup, in their order or by name. Takes seconds.
    Raises MemoryModelError for what cannot be built.
    """
    setup = as_setup(setup, *fields, **named)
    started = time.perf_counter()
    config = model_config(model)
    steps = fake_steps(config, setup)
    on_gpu = setup.device == "cuda"
    workspace = CUBLAS_BYTES if on_gpu else 0
    peaks, where, timeline = _follow(steps, workspace)
    components, sizes = dict.fromkeys(COMPONENTS, 0) | {"temporaries": workspace}, Counter([workspace])
    for storage, comes in steps.events:
        if comes and storage.born <= where < storage.died:
            components[_component(storage, steps)] += storage.bytes
            sizes[storage.bytes] += 1
    events = [(None, workspace, True), *((storage, storage.bytes, comes) for storage, comes in steps.events)]
    peak = max(peaks.values())
    validated, note = _validation(setup, config.model_type)
    return MemoryReport(
        model=model_name(model),
        setup=setup,
        config=config,
        components=components,
        peaks=peaks,
        peak_allocated_bytes=peak,
        peak_reserved_bytes=segments_bytes(sizes) if on_gpu else peak,
        context_bytes=CONTEXT_BYTES if on_gpu else 0,
        trainable_parameters=steps.trainable_parameters,
        seconds=time.perf_counter() - started,
        validated=validated,
        note=note,
        replayed_bytes=reserved_bytes(events) if on_gpu else peak,
        timeline=_thinned(timeline),
    )


def _follow(steps: Steps, workspace: int) -> tuple[dict[str, int], int, list[tuple[str, int]]]:
    """Phase -> the most live bytes, the position of the event with the most of all, and (phase, bytes) at each event.

    workspace: bytes that are there all the time.
    """
    live, highest, where = workspace, 0, 0
    peaks: dict[str, int] = dict.fromkeys(PHASES, 0)
    timeline: list[tuple[str, int]] = []
    for index, (storage, comes) in enumerate(steps.events):
        live += storage.bytes if comes else -storage.bytes
        for phase, (start, end) in steps.bounds.items():
            if start <= index < end:
                timeline.append((phase, live))
                peaks[phase] = max(peaks[phase], live)
                if live > highest:
                    highest, where = live, index
    return peaks, where, timeline


def _component(storage: Storage, steps: Steps) -> str:
    if storage.role:
        return storage.role
    if storage.last_size == steps.vocabulary:
        return "logits"
    ended = storage.block.ended if storage.block else steps.middle_of(storage)
    return "activations" if storage.module and storage.died > ended else "temporaries"


def _thinned(timeline: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The highest point of every stretch, so that no peak is lost."""
    stretch = max(1, len(timeline) // TIMELINE_POINTS)
    thinned = []
    for phase in PHASES:
        points = [point for point in timeline if point[0] == phase]
        thinned += [max(points[i : i + stretch], key=lambda point: point[1]) for i in range(0, len(points), stretch)]
    return thinned


def estimate(model: Source, setup: Setup | Method, *fields: Any, **named: Unpack[SetupFields]) -> MemoryReport:
    """The same report in closed form, in milliseconds; `terms` holds its lines. For GPUs only.

    setup: a `Setup`, or a method followed by the other fields of a Setup, in their order or by name. Raises
    MemoryModelError for device="cpu", and for a family whose blocks it does not know (`simulate` may still build it).
    """
    setup = as_setup(setup, *fields, **named)
    if setup.device != "cuda":
        raise MemoryModelError("estimate() describes a GPU; for device='cpu' use simulate().")
    started = time.perf_counter()
    config = model_config(model)
    closed = closed_form(config, setup)
    lines = [*closed.lines, Line("temporaries", "cuBLAS workspace", Counter([CUBLAS_BYTES]))]
    components, sizes = dict.fromkeys(COMPONENTS, 0), Counter()
    for line in lines:
        components[line.component] += line.bytes
        sizes.update(line.tensors)
    validated, note = _validation(setup, config.model_type)
    return MemoryReport(
        model=model_name(model),
        setup=setup,
        config=config,
        components=components,
        peaks={phase: size + CUBLAS_BYTES for phase, size in closed.peaks.items()},
        peak_allocated_bytes=sum(components.values()),
        peak_reserved_bytes=segments_bytes(sizes),
        context_bytes=CONTEXT_BYTES,
        trainable_parameters=closed.trainable_parameters,
        seconds=time.perf_counter() - started,
        validated=validated,
        note=note,
        terms=[(line.words, line.bytes) for line in lines],
        moments=[(shared, kept + CUBLAS_BYTES) for shared, kept in closed.moments],
    )


def measure(
    base: Base, method: Method, batch_size: int = 4, sequence_length: int = 64, checkpointing: bool = False
) -> int:
    """Bytes at the peak of a real second step of the same loop on this machine's CPU, by torch's record of allocations.

    Compare with `simulate(..., dtype=as_trained(base), device="cpu")`. Random tokens; `base` is left as it was. Raises
    MemoryModelError for a base on a GPU.
    """
    if base.model.device.type != "cpu":
        raise MemoryModelError("measure() follows a step on the CPU; load the base with load_base(..., device='cpu').")
    setup = Setup(method, batch_size, sequence_length, as_trained(base), checkpointing=checkpointing, device="cpu")
    with forked_random_state(base.model.device):
        return real_peak(base, setup)


def as_trained(base: Base) -> str:
    """The `dtype` of a `Setup` that says how `workbench.train` computes on this base."""
    return "float32" if base.dtype == torch.float32 else "mixed"


def _validation(setup: Setup, family: str) -> tuple[bool, str]:
    unproven = [] if family == "llama" else [f"a model of the kind {family}"]
    if setup.method.name == "qlora":
        unproven.append("4-bit weights by stand-ins of the same storage")
    if setup.optimizer == "adamw8bit":
        unproven.append("the 8-bit optimizer by a stand-in of the same storage")
    # Every published row is of one model in bfloat16, full or with adapters, by the usual optimizer and attention.
    others = {
        f"computing in {setup.dtype}": setup.dtype != "bfloat16",
        "checkpointing": setup.checkpointing,
        "a hybrid": setup.method.name == "hybrid",
        f"{setup.attention} attention": setup.attention != "sdpa",
        "the fused optimizer": setup.optimizer == "adamw_fused",
        "a CPU": setup.device == "cpu",
    }
    unproven += [words for words, here in others.items() if here]
    if unproven:
        return False, f"not validated against a published run: {', '.join(unproven)}"
    return True, "validated against published runs of this kind, of one 3B model: see data/published_runs.csv"
