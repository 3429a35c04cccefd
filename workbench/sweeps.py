"""Rank sweeps: many LoRA configurations trained in one pass over one frozen base, each exactly as if alone.

`sweep` looks up what is done, plans passes that fit into memory, and trains them one by one or through an executor;
what cannot share a pass is trained by itself. Every result is an ordinary `Run` with an ordinary PEFT adapter.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import PartialState

from workbench import WorkbenchError, machine
from workbench.cluster import RayExecutor
from workbench.methods import Method, check_method
from workbench.models import Base, load_base
from workbench.passes import Configuration, Needs, needs, train_pass
from workbench.runs import Run, RunStore, slug
from workbench.tasks import Task
from workbench.training import TrainConfig, carry_out, check_kinds, is_out_of_memory, new_run

COMPILERS = ("g++", "clang++", "cl")
FREE_SHARE = 0.7  # of the free memory that a pass may plan with; allocators need some room of their own


class SweepError(WorkbenchError, ValueError):
    """A sweep that cannot go on as described; the message says what to change."""


def sweep(
    base: Base,
    task: Task,
    methods: Sequence[Method],
    config: TrainConfig | None = None,
    store: RunStore | None = None,
    executor: RayExecutor | None = None,
    *,
    seeds: Sequence[int] | None = None,
    max_memory: int | None = None,
    compiled: bool = False,
    on_step: Callable[[dict], bool | None] | None = None,
) -> list[Run]:
    """Train every method with every seed, as many at once as fit; the runs come back method by method, seed by seed.

    seeds: each orders the data and draws the adapters as `TrainConfig.seed` does; default: the one of `config`.
    executor: a `workbench.cluster.RayExecutor`. Each pass is then one job elsewhere, and its runs are stored here as it
        ends. There are at least as many passes as it has `workers`, each with as much free memory as there is here.
    max_memory: bytes of tensors that a pass may hold, the base included; default: the base and 70 % of what is free.
        Not with methods that cannot share a pass, such as full(): each is trained alone, as `train` does it.
    compiled: put the model through torch.compile first: minutes of compiling, worth it in long sweeps only.
    on_step: called after each step with step, steps, seconds, seconds_left (of the whole sweep) and `runs`, the pass's
        records so far; returning True stops the sweep, as Ctrl-C and Jupyter's stop button do. Not with an executor.

    A configuration that is finished (or diverged) in the store is not trained again: after a stop or a crash the same
    call goes on. A sweep that is stopped while configurations are trained or scored returns the runs that there are;
    before that, Ctrl-C is a KeyboardInterrupt.
    Raises SweepError, MethodError, TaskError or TrainingError for what cannot work.
    """
    config, store = config or TrainConfig(), store or RunStore()
    check_kinds(base=base, task=task, config=config, store=store)
    methods = _list(methods, "methods", "[lora(rank=r) for r in (1, 4, 16)]")
    seeds = [config.seed] if seeds is None else _list(seeds, "seeds", "[0, 1, 2]")
    store.make_ready()
    if executor and on_step:
        raise SweepError("on_step cannot be called from an executor's processes: leave out on_step, or the executor.")
    if compiled and base.model.device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise SweepError("compiled=True needs a C++ compiler on a CPU: install g++ or clang, or leave it out.")
    _check(base, methods, seeds, max_memory)
    wanted = _configurations(base, task, methods, config, seeds)
    stored = {each.id: store.finished(each.id, each.config.evaluate, each.config.save) for each in wanted}
    done = {id: run for id, run in stored.items() if run}
    missing = list({each.id: each for each in wanted if each.id not in done}.values())
    together = [each for each in missing if shares_a_pass(base, each.method)]
    passes = _plan(base, task, together, max_memory, executor.workers if executor else 1)
    passes += [[each] for each in missing if each not in together]
    if done:
        machine.say(f"{len(done)} of {len(wanted)} configurations are in the store already.")
    if executor:
        runs = _elsewhere(executor, base, task, passes, store, compiled)
    else:
        runs = _here(base, task, passes, store, compiled, on_step)
    done |= {run.id: run for run in runs}
    left = sum(each.id not in done or done[each.id].status == "interrupted" for each in missing)
    if left:
        machine.say(f"Stopped with {left} configurations to go; the same call goes on from there.")
    return [done[each.id] for each in wanted if each.id in done]


def shares_a_pass(base: Base, method: Method) -> bool:
    """Whether a configuration can train together with others: plain low-rank adapters without dropout.

    Dropout, the adapter's or the model's own, would draw its masks for the whole pass, DoRA changes the frozen product
    itself, and float16 needs a loss scale of its own for each run.
    """
    plain = method.name in ("lora", "qlora") and not method.dropout and not method.dora
    settings = base.model.config.get_text_config().to_dict()
    drops = any(value for name, value in settings.items() if "drop" in name and isinstance(value, float))
    return plain and not drops and base.dtype != torch.float16


def plan_passes(needs: Needs, room: int, at_most: int) -> list[list[int]]:
    """Put members into as few passes as fit `room` (bytes) by first-fit decreasing; indices, `at_most` in a pass.

    Raises SweepError when one member alone does not fit.
    """
    passes: list[list[int]] = []
    for index in sorted(range(len(needs.members)), key=lambda i: -needs.members[i]):
        own = needs.of([index])
        if own > room:
            raise SweepError(
                f"One configuration needs about {own / 1e9:.2f} GB of tensors, and {room / 1e9:.2f} GB are "
                "allowed: lower batch_size, max_length or rank, turn on checkpointing, or raise max_memory."
            )
        fitting = (group for group in passes if len(group) < at_most and needs.of([*group, index]) <= room)
        group = next(fitting, None)
        if group is None:
            passes.append(group := [])
        group.append(index)
    return sorted(sorted(group) for group in passes)


def _list(values: object, name: str, example: str) -> list:
    if not isinstance(values, Iterable):
        raise SweepError(f"{name}={values!r} must be a list, e.g. {example}.")
    return list(values)


def _check(base: Base, methods: list[Method], seeds: list[int], max_memory: int | None) -> None:
    """Before anything is trained, so that a mistake in the last method does not wait for the first."""
    if PartialState().num_processes > 1:
        raise SweepError("A sweep runs in one process; start it without accelerate launch, or give it an executor.")
    if not methods:
        raise SweepError("Give at least one method, e.g. [lora(rank=r) for r in (1, 4, 16)].")
    if not seeds:
        raise SweepError("Give at least one seed, e.g. seeds=[0, 1, 2], or leave seeds out.")
    for method in methods:
        check_kinds(method=method)
        check_method(base, method)
        if max_memory is not None and not shares_a_pass(base, method):
            raise SweepError(f"{method.label} is trained alone, where max_memory has no effect: sweep it without.")


def _configurations(base, task, methods, config: TrainConfig, seeds: list[int]) -> list[Configuration]:
    configurations = []
    for method in methods:
        for seed in seeds:
            own = replace(config, seed=seed)
            description = [base.name, base.revision, base.quantization, base.dtype_name, task.sha256, task.labels]
            description += [replace(method, reasons=()).to_dict(), asdict(own)]
            digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:10]
            name = slug(task.name, method.label, f"lr{method.learning_rate:g}", f"s{seed}")
            configurations.append(Configuration(f"{name}-{digest}", method, own))
    return configurations


def _plan(base, task, members: list[Configuration], max_memory, workers: int) -> list[list[Configuration]]:
    if not members:
        return []
    try:
        needed = needs(base, task, members)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise SweepError(
            "One configuration alone is out of memory: lower batch_size, max_length or rank, or turn on checkpointing."
        ) from error
    free = needed.base + int(FREE_SHARE * machine.available_memory(base.model.device))
    room = free if max_memory is None else max_memory
    groups = plan_passes(needed, room, at_most=math.ceil(len(members) / workers))
    sizes = " + ".join(str(len(group)) for group in groups)
    machine.say(
        f"{len(members)} configurations in {len(groups)} {'pass' if len(groups) == 1 else 'passes'} ({sizes}): at most "
        f"{max(map(needed.of, groups)) / 1e9:.1f} GB of tensors; {room / 1e9:.1f} GB are allowed"
    )
    return [[members[index] for index in group] for group in groups]


def _here(base, task, passes, store, compiled, on_step) -> Iterator[Run]:
    """Train pass by pass; a stopped pass is the last one."""
    for number, members in enumerate(passes):
        later = sum(len(group) for group in passes[number + 1 :])
        runs = _train(base, task, members, store, compiled, _with_outlook(on_step, len(members), later))
        yield from runs
        if any(run.status == "interrupted" for run in runs):
            return


def _with_outlook(on_step, present: int, later: int):
    """`on_step` with the time that the passes after this one will take, at this one's pace, added to seconds_left."""
    if on_step is None:
        return None

    def told(entry: dict) -> bool | None:
        ahead = entry["seconds"] / present * entry["steps"] * later
        return on_step(entry | {"seconds_left": entry["seconds_left"] + ahead})

    return told


def _train(base, task, members, store, compiled, on_step=None) -> list[Run]:
    if all(shares_a_pass(base, member.method) for member in members):
        return train_pass(base, task, members, store, compiled, on_step)
    (member,) = members
    run = new_run(member.id, base, task, member.method, member.config, store)
    tell = on_step and (lambda entry: on_step(entry | {"runs": [run]}))
    return [carry_out(run, base, task, member.method, member.config, store, tell)]


def _elsewhere(executor: RayExecutor, base, task, passes, store, compiled) -> Iterator[Run]:
    """Submit every pass and store its runs as it ends. One that fails does not take the others with it."""
    address = (base.name, base.quantization, base.dtype_name, base.revision, base.source)
    futures = [executor.submit(_train_and_pack, address, task, members, compiled) for members in passes]
    failures = []
    try:
        for number, future in enumerate(as_completed(futures), start=1):
            if future.exception():
                failures.append(future.exception())
                continue
            runs = [_unpack(packed, store) for packed in future.result()]
            machine.say(f"pass {number} of {len(passes)} is back: {len(runs)} runs")
            yield from runs
    except KeyboardInterrupt:
        for future in futures:
            future.cancel()
    if failures:
        raise SweepError(
            f"{len(failures)} of {len(passes)} passes failed ({type(failures[0]).__name__}: {failures[0]}); "
            "the runs of the others are stored, and the same call tries the missing ones again."
        ) from failures[0]


def _train_and_pack(address: tuple, task: Task, members, compiled: bool) -> list[tuple[dict, dict[str, bytes]]]:
    """In a worker: train, and return each run's record with its artifact's files."""
    base = _base_at(*address)
    with TemporaryDirectory() as scratch:
        packed = []
        for run in _train(base, task, members, RunStore(scratch), compiled):
            files = [file for file in Path(scratch, run.id).rglob("*") if file.is_file()]
            content = {file.relative_to(scratch).as_posix(): file.read_bytes() for file in files}
            packed.append((run.to_dict(), content))
        return packed


@cache
def _base_at(name: str, quantization: str | None, dtype: str, revision: str, source: str) -> Base:
    base = load_base(name, quantization, dtype, revision if source == "hub" else None)
    if base.revision != revision:
        raise SweepError(f"{name} is revision {base.revision} on this worker and {revision} where the sweep began.")
    return base


def _unpack(packed: tuple[dict, dict[str, bytes]], store: RunStore) -> Run:
    """Write artifact and record; under the same id, a job that ran twice leaves one run, the one that finished."""
    record, files = packed
    run = Run(**record)
    if done := store.finished(run.id, run.config["evaluate"], run.config["save"]):
        return done
    store.delete(run.id)
    with store.saving(run):
        for name, content in files.items():
            file = store.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    store.save(run)
    return run
