"""`simulate`: the memory of a training step, from two steps on fake tensors."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Unpack

from workbench.adapters.methods import Method
from workbench.memory.allocator import reserved_bytes, segments_bytes
from workbench.memory.configs import Source, model_config, model_name, towers_of
from workbench.memory.report import COMPONENTS, CONTEXT_BYTES, CUBLAS_BYTES, MemoryReport, validation
from workbench.memory.setup import Setup, SetupFields, as_setup
from workbench.memory.sharding import STATES, bytes_on_one_gpu
from workbench.memory.steps.fake_steps import PHASES, Steps, fake_steps
from workbench.memory.steps.recorder import Storage

TIMELINE_POINTS = 400


def simulate(model: Source, setup: Setup | Method, *fields: Any, **named: Unpack[SetupFields]) -> MemoryReport:
    """Follow every tensor through two training steps of the real model, without weights, a GPU or much memory.

    setup: a `Setup`, or a method followed by the other fields of a Setup, in their order or by name. Takes seconds.
    Raises MemoryModelError for a model that cannot be built, or cannot be trained with these settings.
    """
    setup = as_setup(setup, *fields, **named)
    started = time.perf_counter()
    config, towers = model_config(model), towers_of(model)
    steps = fake_steps(config, setup)
    if setup.sharded:
        _split(steps, setup)
    on_gpu = setup.device == "cuda"
    workspace = CUBLAS_BYTES if on_gpu else 0
    tower_bytes = towers.bytes(setup)
    peaks, peak_at, timeline = _replay(steps, workspace + tower_bytes)
    components = dict.fromkeys(COMPONENTS, 0) | {"temporaries": workspace, "weights": tower_bytes}
    gathered = steps.gathered.get(max(peaks, key=peaks.__getitem__), 0)
    components["temporaries"] += gathered
    sizes = Counter([workspace, tower_bytes, gathered])
    for storage in _alive(steps, peak_at):
        components[_component(storage, steps)] += storage.bytes
        sizes[storage.bytes] += 1
    peak = max(peaks.values())
    validated, note = validation(setup, config.model_type, *steps.remarks, towers.words)
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
        replayed_bytes=reserved_bytes(_requests(steps, workspace + tower_bytes)) if on_gpu else peak,
        timeline=_thinned(timeline),
    )


def _replay(steps: Steps, workspace: int) -> tuple[dict[str, int], int, list[tuple[str, int]]]:
    """Phase -> peak bytes, the position of the event at the highest peak, and (phase, bytes) after each event.

    workspace: bytes that are allocated all the time, the weights of towers among them.
    """
    live, highest, peak_at = workspace, 0, 0
    peaks: dict[str, int] = dict.fromkeys(PHASES, 0)
    timeline: list[tuple[str, int]] = []
    for position, (storage, allocated) in enumerate(steps.events):
        live += storage.bytes if allocated else -storage.bytes
        for phase, (start, end) in steps.bounds.items():
            if start <= position < end:
                total = live + steps.gathered.get(phase, 0)
                timeline.append((phase, total))
                peaks[phase] = max(peaks[phase], total)
                if total > highest:
                    highest, peak_at = total, position
    return peaks, peak_at, timeline


def _split(steps: Steps, setup: Setup) -> None:
    """Leave of each storage of model states what one GPU holds, and of what the optimizer makes for them."""
    start, end = steps.bounds["optimizer"]
    for storage, allocated in steps.events:
        made_by_optimizer = not storage.role and start <= storage.allocated_at < end
        if allocated and (storage.role in STATES or made_by_optimizer):
            storage.bytes = bytes_on_one_gpu(setup, storage.bytes)


def _alive(steps: Steps, position: int) -> Iterator[Storage]:
    """The storages that are allocated after the event at `position`."""
    for storage, allocated in steps.events:
        if allocated and storage.allocated_at <= position < storage.released_at:
            yield storage


def _requests(steps: Steps, workspace: int) -> Iterator[tuple[object, int, bool]]:
    """The events as the allocator sees them: (key, bytes, whether it is an allocation)."""
    yield None, workspace, True
    for storage, allocated in steps.events:
        yield storage, storage.bytes, allocated


def _component(storage: Storage, steps: Steps) -> str:
    if storage.role:
        return storage.role
    if storage.last_size == steps.vocabulary:
        return "logits"
    ended = storage.block.ended if storage.block else steps.backward_start(storage)
    return "activations" if storage.module and storage.released_at > ended else "temporaries"


def _thinned(timeline: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The highest of every few points, so that no peak is lost."""
    stretch = max(1, len(timeline) // TIMELINE_POINTS)
    thinned = []
    for phase in PHASES:
        points = [point for point in timeline if point[0] == phase]
        thinned += [max(points[i : i + stretch], key=lambda point: point[1]) for i in range(0, len(points), stretch)]
    return thinned
