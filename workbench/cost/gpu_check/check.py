"""Runs every case in a process of its own, compares it with the predictions, and writes one JSON file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import is_offline_mode

from workbench import machine
from workbench.console import first_line
from workbench.cost.gpu_check.cases import Case, Scale, cases
from workbench.cost.gpu_check.child import MARK
from workbench.cost.gpu_check.models import configuration
from workbench.cost.gpus import gpu_named
from workbench.cost.roofline import step_phases
from workbench.errors import HardwareError
from workbench.memory.closed_form import estimate
from workbench.memory.report import MemoryReport
from workbench.memory.simulation import simulate
from workbench.models.sources import hub
from workbench.paths import CHECKOUT, write_json

LESSONS = ("03_quantization", "05_rank_sweep", "06_lora_vs_full")
LESSONS_MODEL = "HuggingFaceTB/SmolLM2-360M"  # any open model tells whether the Hub answers
SHORTEST_LESSON = 60  # seconds, below which none is started
LONGEST_CASE = 300  # seconds, after which a process is ended
TELLS = 300  # characters of what a failed process wrote last

OnCase = Callable[[dict[str, Any]], None]


def check(scale: Scale, device: str, minutes: float, out: Path, on_case: OnCase = lambda _: None) -> dict[str, Any]:
    """Measure the cases of `scale` on `device` ("cuda", or "cpu" as a rehearsal), write and return the findings.

    minutes: no case is started that would probably end later; what was not reached is listed. on_case: is called with
    each finding. The file is written after every case, so that what was measured is kept if the machine goes away.
    Raises HardwareError if there is no such device, or if the file cannot be written.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise HardwareError("No GPU is visible to torch here: use a machine with one, or rehearse with --device cpu.")
    planned = cases(scale, device)  # first, since an unknown model must not empty an earlier file
    started = time.perf_counter()
    found: dict[str, Any] = {
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device,
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "cuda": torch.version.cuda,
        "driver_memory_bytes": _outside_of_torch() if device == "cuda" else None,
        "findings": [],
        "not_reached": [],
    }
    _write(out, found)
    slowest = 0.0
    for case in planned:
        begun = time.perf_counter()
        if begun - started + slowest > 60 * minutes:
            found["not_reached"].append(case.label)
            continue
        finding = {"case": case.to_dict(), "label": case.label, **_measure(case, device)}
        finding |= _compared(case, finding, device)
        slowest = max(slowest, time.perf_counter() - begun)
        found["findings"].append(finding)
        found["seconds"] = time.perf_counter() - started
        _write(out, found)
        on_case(finding)
    if device == "cuda":
        found["lessons"] = lessons(60 * minutes - (time.perf_counter() - started))
    _write(out, found)
    return found


def _write(out: Path, found: dict[str, Any]) -> None:
    """Write the findings so far; raises HardwareError, before anything is measured, if that is impossible."""
    try:
        write_json(out, found)
    except (OSError, ValueError) as error:  # a path without a name, such as "."
        raise HardwareError(f"{out} cannot be written ({first_line(error)}): give another file with --out.") from error


def lessons(seconds: float) -> dict[str, str]:
    """Lesson -> how the run of its gpu tier ended, in the seconds that are left; why none was run, if none was."""
    if is_offline_mode() or not hub.answers(LESSONS_MODEL, None):
        return {"all": "not run: the Hugging Face Hub, which has their model, cannot be reached"}
    if find_spec("papermill") is None:
        return {"all": "not run: papermill is not installed"}
    found = {}
    for name in LESSONS:
        started = time.perf_counter()
        if seconds < SHORTEST_LESSON:
            found[name] = "not reached"
            continue
        command = [sys.executable, "-m", "workbench.cli", "notebooks", name, "--tier", "gpu"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=CHECKOUT, check=False)
            found[name] = (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no words"])[0]
        except subprocess.TimeoutExpired:
            found[name] = f"not done after {seconds:.0f} seconds"
        seconds -= time.perf_counter() - started
    return found


def _measure(case: Case, device: str) -> dict[str, Any]:
    """What the case's own process finds; how it ended if it found nothing."""
    asked = json.dumps({"case": case.to_dict(), "device": device})
    command = [sys.executable, "-m", "workbench.cost.gpu_check.child"]
    try:
        done = subprocess.run(
            command, input=asked, capture_output=True, text=True, timeout=LONGEST_CASE, cwd=CHECKOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"status": "failed", "words": f"not done after {LONGEST_CASE} seconds"}
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode == 0 and lines:
        measured: dict[str, Any] = json.loads(lines[-1])
        return measured
    told = (done.stderr.strip().splitlines() or ["nothing was written"])[-1]
    return {"status": "failed", "words": f"exit status {done.returncode}: {told[-TELLS:]}"}


def _compared(case: Case, finding: dict[str, Any], device: str) -> dict[str, Any]:
    """The predictions for a step, and the errors of those that were measured."""
    if case.setup is None:
        return {}
    report = _predicted(case, device)
    predicted = {"allocated_bytes": report.peak_allocated_bytes}
    if device == "cuda":
        predicted["reserved_bytes"] = report.peak_reserved_bytes
    errors = {name: size / finding[name] - 1 for name, size in predicted.items() if _measured(finding, name)}
    gpu = gpu_named(torch.cuda.get_device_name()) if device == "cuda" else None
    bound = sum(phase.seconds(gpu) for phase in step_phases(report)) if gpu else None
    return {"predicted": predicted, "errors": errors, "bound_seconds": bound}


def _predicted(case: Case, device: str) -> MemoryReport:
    assert case.setup is not None
    config = configuration(case.model)
    if device == "cuda":
        return estimate(config, case.setup)
    return simulate(config, case.setup, dtype="bfloat16")


def _measured(finding: dict[str, Any], name: str) -> bool:
    return finding["status"] == "measured" and finding.get(name) is not None


def _outside_of_torch() -> int:
    """Bytes of the GPU that are in use outside of torch's allocator: the CUDA context, and other programs."""
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def table(found: dict[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table of all findings."""
    yield "| step | allocated GiB | predicted | error | reserved GiB | predicted | error | seconds (of the bound) |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for finding in found["findings"]:
        yield row(finding)
    for label in found["not_reached"]:
        yield f"| {label} | not reached |"
    for name, ended in found.get("lessons", {}).items():
        yield f"| gpu tier of lessons: {name} | {ended} |"


def row(finding: dict[str, Any]) -> str:
    """One line of the table."""
    if finding["status"] != "measured":
        return f"| {finding['label']} | {finding['status']}: {finding.get('words', '')} |"
    if "ways" in finding:
        return f"| {finding['label']} | {_ways(finding['ways'])} |"
    cells = []
    for name in ("allocated_bytes", "reserved_bytes"):
        measured, predicted = finding.get(name), finding["predicted"].get(name)
        cells += [
            _gib(measured),
            _gib(predicted),
            f"{finding['errors'][name]:+.1%}" if name in finding["errors"] else "",
        ]
    seconds, bound = finding["step_seconds"], finding["bound_seconds"]
    share = f" ({bound / seconds:.0%})" if bound else ""
    return f"| {finding['label']} | {' | '.join(cells)} | {seconds:.3f}{share} |"


def _ways(ways: dict[str, Any]) -> str:
    if "skipped" in ways:
        return f"skipped: {ways['skipped']}"
    return "; ".join(f"{name} {way['step_seconds']:.3f} s{_peak(way)}" for name, way in ways.items())


def _peak(way: dict[str, Any]) -> str:
    return f", {_gib(way['allocated_bytes'])} GiB" if way["allocated_bytes"] else ""


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f}"
