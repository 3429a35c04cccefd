"""What this machine can run: checks that take less than a minute, each finding with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from workbench import host_memory, machine
from workbench.console import first_line
from workbench.errors import WorkbenchError
from workbench.paths import cache_dir

GB = 1e9
NEEDED_MEMORY_GB, NEEDED_DISK_GB = 4.0, 3.0
PROBE_ROWS, PROBE_TOKENS = 8, 32


@dataclass(frozen=True)
class Finding:
    """level: "ok", "warning" (slower or smaller than it could be) or "blocked" (the laptop tier cannot run)."""

    name: str
    level: str
    value: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Every finding about this machine. Timing the steps (about 15 seconds) also picks the precision of later runs."""
    findings = [_tried(name, check) for name, check in CHECKS.items()]
    if findings[-1].level != "blocked":  # the model's
        findings.append(_tried("Speed", _steps))
    return findings


def _tried(name: str, check: Callable[[], Finding]) -> Finding:
    """A full disk or a folder that cannot be used, or is not known, is a finding too."""
    try:
        try:
            return check()
        except OSError as error:
            remedy = f"Make {cache_dir()} a writable folder with free space, or set WORKBENCH_CACHE to another folder."
            return Finding(name, "blocked", first_line(error), remedy)
    except WorkbenchError as error:
        return Finding(name, "blocked", "cannot be used", str(error))


def _python() -> Finding:
    return Finding("Python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _packages() -> Finding:
    missing = [name for name, found in machine.versions().items() if found == "not installed"]
    value = ", ".join(f"{name} {found}" for name, found in machine.versions().items() if name != "python")
    if missing:
        return Finding("Packages", "blocked", f"missing: {', '.join(missing)}", "Run `make setup`.")
    return Finding("Packages", "ok", value)


def _cores() -> Finding:
    cores, threads = machine.hardware()["cores"], torch.get_num_threads()
    value = f"{cores} cores, torch uses {threads} threads"
    if threads < 2:
        return Finding("Processor", "warning", value, "Unset OMP_NUM_THREADS, or expect lessons to take twice as long.")
    return Finding("Processor", "ok", value)


def _memory() -> Finding:
    free, total = host_memory.available(), host_memory.total()
    value = f"{free / GB:.1f} GB free of {total / GB:.1f}"
    if free < NEEDED_MEMORY_GB * GB:
        level = "blocked" if total < NEEDED_MEMORY_GB * GB else "warning"
        return Finding(
            "Memory", level, value, f"Close other programs: full fine-tuning wants {NEEDED_MEMORY_GB:.0f} GB."
        )
    return Finding("Memory", "ok", value)


def _disk() -> Finding:
    from workbench.training.store import RunStore

    cache, runs = cache_dir(), RunStore().path
    cache.mkdir(parents=True, exist_ok=True)
    there = next(folder for folder in (runs, *runs.absolute().parents) if folder.exists())  # the store may not be yet
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(
            "Disk", "blocked", f"{runs} cannot be made or written to", "Set WORKBENCH_RUNS to another folder."
        )
    free, free_for_runs = (shutil.disk_usage(place).free for place in (cache, there))
    value = f"{free / GB:.0f} GB free at {cache}, {free_for_runs / GB:.0f} at {runs}"
    if free < 1 * GB:
        return Finding("Disk", "blocked", value, "Free some space, or set WORKBENCH_CACHE to another disk.")
    if free_for_runs < NEEDED_DISK_GB * GB:
        remedy = "Saved full checkpoints take 0.5 GB each; delete old runs, or set WORKBENCH_RUNS to another disk."
        return Finding("Disk", "warning", value, remedy)
    return Finding("Disk", "ok", value)


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding("GPU", "ok", "none usable by torch: the laptop tier needs none, the gpu tier does")
    properties = torch.cuda.get_device_properties(0)
    value = f"{properties.name}, {properties.total_memory / GB:.1f} GB"
    if properties.major < 8:
        return Finding("GPU", "warning", value, "It has no bfloat16; runs use float16 with loss scaling.")
    return Finding("GPU", "ok", value)


def _jupyter() -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Finding("JupyterLab", "ok", version("jupyterlab"))
    except PackageNotFoundError:
        return Finding("JupyterLab", "blocked", "not installed", "Run `make setup`.")


def _kernel() -> Finding:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        interpreter = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except (NoSuchKernel, ValueError, IndexError) as error:  # none, or a damaged kernel.json
        what = "no kernel named python3" if isinstance(error, NoSuchKernel) else "the kernel.json of python3 is damaged"
        return Finding("Kernel", "blocked", what, f"Run `{sys.executable} -m ipykernel install --sys-prefix`.")
    if interpreter in (sys.executable, "python", "python3"):
        return Finding("Kernel", "ok", f"python3 runs {sys.executable}")
    remedy = "Start JupyterLab with `make lab`, which puts this environment's kernel first."
    return Finding("Kernel", "warning", f"python3 runs {interpreter}", remedy)


def _model() -> Finding:
    from workbench.errors import ModelError
    from workbench.models.sources.packaged import PACKAGED, packaged_model

    try:
        return Finding("Model", "ok", f"{PACKAGED} at {packaged_model()}")
    except ModelError as error:
        return Finding("Model", "blocked", "cannot be used", str(error))


CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": _python,
    "Packages": _packages,
    "Processor": _cores,
    "Memory": _memory,
    "Disk": _disk,
    "GPU": _gpu,
    "JupyterLab": _jupyter,
    "Kernel": _kernel,
    "Model": _model,
}


def _steps() -> Finding:
    seconds: dict[str, float | None] = {"float32": probe_step("float32")}
    # A CPU without bfloat16 arithmetic would take minutes for a step, so one layer is timed first.
    quick, usual = machine.layer_seconds(torch.bfloat16), machine.layer_seconds(torch.float32)
    worth_a_step = torch.cuda.is_available() or quick < 3 * usual
    seconds["bfloat16"] = probe_step("bfloat16") if worth_a_step else None
    machine.save_step_times(seconds)
    chosen = str(machine.preferred_dtype()).removeprefix("torch.")
    told = ", ".join(
        f"{name} {'too slow to use' if taken is None else f'{taken:.2f} s'}" for name, taken in seconds.items()
    )
    why = " (WORKBENCH_DTYPE)" if os.environ.get("WORKBENCH_DTYPE") else ""
    value = f"one LoRA step of {PROBE_ROWS} x {PROBE_TOKENS} tokens: {told}; runs will use {chosen}{why}"
    if min(taken for taken in seconds.values() if taken) > 4:
        return Finding("Speed", "warning", value, "Expect minutes to become tens of minutes; lower `steps`.")
    return Finding("Speed", "ok", value)


def probe_step(dtype: str) -> float:
    """Seconds of one real LoRA training step of the packaged model: the faster of two, after one to warm up."""
    from workbench.adapters.methods import lora
    from workbench.models.base import load_base
    from workbench.tasks.encoding import Encoded
    from workbench.tasks.tasks import load_task
    from workbench.training.loop import accelerator_for, alone, make_slot
    from workbench.training.step import TrainConfig, train_step
    from workbench.training.store import RunStore
    from workbench.training.trial import Trial

    rows = [Encoded(tuple(range(100 + row, 100 + row + PROBE_TOKENS)), PROBE_TOKENS // 2) for row in range(PROBE_ROWS)]
    config = TrainConfig(steps=3, batch_size=PROBE_ROWS)
    base = load_base("smollm2-135m", dtype=dtype)
    trial = Trial("probe", base, load_task("facts"), lora(), config, RunStore())  # of which nothing is stored
    accelerator = accelerator_for(base)
    slot = make_slot(trial, trial.new_run(), rows, accelerator)
    group = alone(accelerator, base, slot)
    times = []
    for step in range(config.steps):
        slot.next_step()
        started = time.perf_counter()
        train_step(accelerator, group, step)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def as_markdown(findings: list[Finding]) -> str:
    """The findings as a Markdown table, for a notebook."""
    rows = [f"| {f.name} | {f.level} | {f.value} | {f.remedy} |" for f in findings]
    return "\n".join(["| what | state | found | remedy |", "| --- | --- | --- | --- |", *rows])
