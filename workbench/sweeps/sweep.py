"""Rank sweeps: many LoRA configurations trained in one pass over one frozen base, each as if it trained alone.

`sweep` looks up what is done, plans passes that fit into memory, and trains them one by one or through an executor;
a configuration that cannot share a pass is trained by itself. Every result is an ordinary `Run` with a PEFT adapter.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from functools import cache
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import PartialState

from workbench.adapters.batched import fits_a_slice
from workbench.adapters.inject import check_method, tell_left_out
from workbench.adapters.methods import Method
from workbench.console import say
from workbench.errors import SweepError
from workbench.models.base import Base, load_base
from workbench.models.sharing import own_precision
from workbench.sweeps.passes import needs, plan_passes
from workbench.sweeps.ray_executor import RayExecutor
from workbench.tasks.tasks import Task
from workbench.training.keeping import is_out_of_memory
from workbench.training.lifecycle import run_trials
from workbench.training.loop import OnStep, StepReport
from workbench.training.records import as_run
from workbench.training.runs import Run
from workbench.training.step import TrainConfig
from workbench.training.store import RunStore, slug
from workbench.training.trial import Trial, check_kinds

Packed = tuple[dict[str, Any], dict[str, bytes]]  # a run's record, and its artifact's files by name
BaseAddress = tuple[str, str | None, str, str, str]  # name, quantization, dtype, revision, source
Configuration = tuple[str, Method, TrainConfig]  # a trial's id and what is its own


@own_precision()
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
    on_step: OnStep | None = None,
) -> list[Run]:
    """Train every method with every seed, as many at once as fit; returns the runs method by method, seed by seed.

    executor: a `RayExecutor`. Each pass is then a job on the cluster, and its runs are stored here when it ends. There
        are at least as many passes as it has `workers`, each with as much free memory as there is here.
    seeds: each orders the data and initialises the adapters as `TrainConfig.seed` does; default: the one of `config`.
    max_memory: bytes of tensors that a pass may hold, the base included; default: the base and 70 % of what is free.
        Not with methods that cannot share a pass, such as full(): each is trained alone, as `train` does it.
    on_step: called after each step with a `loop.StepReport`, whose `runs` are those of the pass and whose seconds_left
        are those of the whole sweep; returning True stops the sweep, as Ctrl-C and Jupyter's stop button do. Not with
        an executor.

    A configuration that is finished, diverged or destroyed in the store is not trained again: after a stop or a crash
    the same call resumes the sweep. A sweep that is stopped while configurations are trained or scored returns the runs
    so far; before that, Ctrl-C raises KeyboardInterrupt.
    Raises SweepError, MethodError, TaskError or TrainingError for what cannot work.
    """
    config, store = config or TrainConfig(), store or RunStore()
    check_kinds(base=base, task=task, config=config, store=store)
    methods = _list(methods, "methods", "[lora(rank=r) for r in (1, 4, 16)]")
    seeds = [config.seed] if seeds is None else _list(seeds, "seeds", "[0, 1, 2]")
    store.make_ready()
    _check_executor(base, executor, on_step)
    _check_methods(base, methods, seeds, max_memory)
    return _run_missing(_trials(base, task, methods, config, seeds, store), executor, max_memory, on_step)


def _run_missing(
    wanted: list[Trial], executor: RayExecutor | None, max_memory: int | None, on_step: OnStep | None
) -> list[Run]:
    """Train the trials that are not complete in their store; returns the runs of all that are complete or stopped."""
    stored = {each.id: each.store.finished(each.id, each.config.evaluate, each.config.save) for each in wanted}
    done = {id: run for id, run in stored.items() if run}
    missing = list({each.id: each for each in wanted if each.id not in done}.values())
    if missing:
        missing[0].store.make_ready(sum(each.artifact_bytes for each in missing))
    together = [each for each in missing if fits_a_slice(each.base, each.method)]
    passes = _plan(together, max_memory, executor.workers if executor else 1)
    alone = [each for each in missing if each not in together]
    if alone:
        say(f"{len(alone)} of {len(missing)} configurations cannot share a pass, and are trained one by one.")
    passes += [[each] for each in alone]
    if done:
        say(f"{len(done)} of {len(wanted)} configurations are in the store already.")
    runs = _on_cluster(executor, passes) if executor else _here(passes, on_step)
    done |= {run.id: run for run in runs}
    left = sum(each.id not in done or done[each.id].status == "interrupted" for each in missing)
    if left:
        say(f"Stopped with {left} configurations to go; the same call goes on from there.")
    return [done[each.id] for each in wanted if each.id in done]


def _check_executor(base: Base, executor: RayExecutor | None, on_step: OnStep | None) -> None:
    """Raise SweepError for what an executor's processes cannot do."""
    if executor and on_step:
        raise SweepError("on_step cannot be called from an executor's processes: leave out on_step, or the executor.")
    if executor and base.identity != base.revision:
        raise SweepError(
            "The weights of this base were changed in memory, and an executor's processes load it from its source: "
            "save it into a folder that they see and load_base() that, or leave out the executor."
        )


def _list(values: object, name: str, example: str) -> list[Any]:
    """The values as a list; raises SweepError if they cannot be iterated over."""
    if not isinstance(values, Iterable):
        raise SweepError(f"{name}={values!r} must be a list, e.g. {example}.")
    return list(values)


def _check_methods(base: Base, methods: list[Method], seeds: list[int], max_memory: int | None) -> None:
    """Check all methods before anything is trained, so that a mistake in the last one is found at once."""
    if PartialState().num_processes > 1:
        raise SweepError("A sweep runs in one process; start it without accelerate launch, or give it an executor.")
    if not methods:
        raise SweepError("Give at least one method, e.g. [lora(rank=r) for r in (1, 4, 16)].")
    if not seeds:
        raise SweepError("Give at least one seed, e.g. seeds=[0, 1, 2], or leave seeds out.")
    if not isinstance(max_memory, Real | None) or isinstance(max_memory, bool):
        raise SweepError(f"max_memory={max_memory!r} must be a number of bytes, e.g. 8 * 10**9.")
    for method in methods:
        check_kinds(method=method)
        check_method(base, method)
        if max_memory is not None and not fits_a_slice(base, method):
            raise SweepError(f"{method.label} is trained alone, where max_memory has no effect: sweep it without.")
    tell_left_out(base, methods)


def _trials(
    base: Base, task: Task, methods: list[Method], config: TrainConfig, seeds: list[int], store: RunStore
) -> list[Trial]:
    """Every method with every seed; the id follows from all that determines the result, so that twice gives one run."""
    trials = []
    identity = base.identity
    for method in methods:
        for seed in seeds:
            own = replace(config, seed=seed)
            description: list[object] = [
                base.name,
                identity,
                base.quantization,
                base.dtype_name,
                task.sha256,
                task.labels,
            ]
            description += [replace(method, reasons=()).to_dict(), asdict(own)]
            digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:10]
            name = slug(task.name, method.label, f"lr{method.learning_rate:g}", f"s{seed}")
            trials.append(Trial(f"{name}-{digest}", base, task, method, own, store))
    return trials


def _plan(trials: list[Trial], max_memory: int | None, workers: int) -> list[list[Trial]]:
    """Passes of trials, as few as memory allows and at least one for each worker."""
    if not trials:
        return []
    try:
        needed = needs(trials)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise SweepError(
            "One configuration alone is out of memory: lower batch_size, max_length or rank, or turn on checkpointing."
        ) from error
    room = needed.room(trials[0].base.model.device) if max_memory is None else max_memory
    groups = plan_passes(needed, room, at_most=math.ceil(len(trials) / workers))
    sizes = " + ".join(str(len(group)) for group in groups)
    say(
        f"{len(trials)} configurations in {len(groups)} {'pass' if len(groups) == 1 else 'passes'} ({sizes}): at most "
        f"{max(map(needed.of, groups)) / 1e9:.1f} GB of tensors; {room / 1e9:.1f} GB are allowed"
    )
    return [[trials[index] for index in group] for group in groups]


def _share(trials: list[Trial]) -> bool:
    """Whether the trials of a pass train together."""
    return all(fits_a_slice(trial.base, trial.method) for trial in trials)


def _here(passes: list[list[Trial]], on_step: OnStep | None) -> Iterator[Run]:
    """Train pass by pass; a stopped pass is the last one."""
    for number, trials in enumerate(passes):
        runs = run_trials(trials, _share(trials), _with_later_passes(on_step, len(trials), passes[number + 1 :]))
        yield from runs
        if any(run.status == "interrupted" for run in runs):
            return


def _with_later_passes(on_step: OnStep | None, present: int, later: list[list[Trial]]) -> OnStep | None:
    """`on_step` with the passes after this one of `present` trials, and their time at this one's pace."""
    if on_step is None:
        return None
    trials = sum(map(len, later))

    def with_outlook(report: StepReport) -> bool | None:
        ahead = report["seconds"] / present * report["steps"] * trials
        return on_step({**report, "seconds_left": report["seconds_left"] + ahead, "passes_left": len(later)})

    return with_outlook


def _on_cluster(executor: RayExecutor, passes: list[list[Trial]]) -> Iterator[Run]:
    """Submit every pass and store its runs when it ends; a pass that fails leaves the others alone."""
    futures = [executor.submit(_train_and_pack, *_sendable(trials)) for trials in passes]
    failures = []
    try:
        for number, future in enumerate(as_completed(futures), start=1):
            if future.exception():
                failures.append(future.exception())
                continue
            runs = [_unpack(packed, passes[0][0].store) for packed in future.result()]
            say(f"pass {number} of {len(passes)} is back: {len(runs)} runs")
            yield from runs
    except KeyboardInterrupt:
        for future in futures:
            future.cancel()
    if failures:
        raise SweepError(
            f"{len(failures)} of {len(passes)} passes failed ({type(failures[0]).__name__}: {failures[0]}); "
            "the runs of the others are stored, and the same call tries the missing ones again."
        ) from failures[0]


def _sendable(trials: list[Trial]) -> tuple[BaseAddress, Task, list[Configuration]]:
    """The trials of a pass without the model, which the worker loads itself."""
    base, task = trials[0].base, trials[0].task
    address = (base.name, base.quantization, base.dtype_name, base.revision, base.source)
    return address, task, [(trial.id, trial.method, trial.config) for trial in trials]


def _train_and_pack(address: BaseAddress, task: Task, configurations: list[Configuration]) -> list[Packed]:
    """In a worker: train, and return each run's record with its artifact's files."""
    base = _base_at(*address)
    with TemporaryDirectory() as scratch:
        store, packed = RunStore(scratch), []
        trials = [Trial(id, base, task, method, config, store) for id, method, config in configurations]
        for run in run_trials(trials, _share(trials)):
            files = [file for file in Path(scratch, run.id).rglob("*") if file.is_file()]
            content = {file.relative_to(scratch).as_posix(): file.read_bytes() for file in files}
            packed.append((run.to_dict(), content))
        return packed


@cache
def _base_at(name: str, quantization: str | None, dtype: str, revision: str, source: str) -> Base:
    """The base in a worker; raises SweepError if it has another revision there."""
    # How much of it is quantized was accepted where the sweep began.
    base = load_base(name, quantization, dtype, revision if source == "hub" else None, partial_quantization=True)
    if base.revision != revision:
        raise SweepError(f"{name} is revision {base.revision} on this worker and {revision} where the sweep began.")
    return base


def _unpack(packed: Packed, store: RunStore) -> Run:
    """Write artifact and record; returns the run that the store then holds, which another process may have finished."""
    record, files = packed
    run = as_run(record)
    with store.saving(run) as folder:
        for name, content in files.items():
            file = folder / Path(name).relative_to(run.id)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    kept = store.keep(run)
    store.forget_scratch(run)
    return kept
