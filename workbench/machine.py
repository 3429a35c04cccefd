"""This computer: versions and hardware for records, free memory, and which precision is fast here."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NotRequired, TypedDict

import psutil
import torch

from workbench.paths import cache_dir, write_json

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets")
CGROUP = Path("/sys/fs/cgroup")
# version 2 and version 1: the limit, what is in use, and the line that tells how much of that is unused file cache
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


class HardwareRecord(TypedDict):
    """What a result depends on: processor, threads, memory and, where there is one, the GPU (bytes)."""

    system: str
    processor: str
    cores: int
    threads: int
    memory_bytes: int
    gpu: str | None
    gpu_memory_bytes: NotRequired[int]


def versions() -> dict[str, str]:
    """Python's version and those of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> HardwareRecord:
    """The hardware of this computer, for records."""
    record: HardwareRecord = {
        "system": platform.system(),
        "processor": _processor_name(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": None,
    }
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["gpu_memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    return record


def available_memory(device: torch.device) -> int:
    """Free memory in bytes: of the GPU, or of this machine, or of the container that limits it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    if container := _container_memory():
        limit, used = container
        free = min(free, max(limit - used, 0))
    return free


def total_memory() -> int:
    """Memory in bytes: that of this machine, or the limit of the container if it is lower."""
    total = psutil.virtual_memory().total
    container = _container_memory()
    return min(total, container[0]) if container else total


def _container_memory() -> tuple[int, int] | None:
    """Limit and use, in bytes, of the control group that this process runs in; None if it has no limit.

    The kernel counts cached files as used though it drops them when memory is needed: they are subtracted.
    """
    for limit, used, statistics, cache in CGROUP_FILES:
        try:
            numbers = dict(line.split() for line in (CGROUP / statistics).read_text().splitlines())
            in_use = int((CGROUP / used).read_text()) - int(numbers[cache])
            return int((CGROUP / limit).read_text()), in_use
        except (OSError, ValueError, KeyError):  # no such file, or the word "max" as the limit
            continue
    return None


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def preferred_dtype() -> torch.dtype:
    """The dtype for frozen weights: bfloat16 where it is known to be fast, float16 on GPUs without it, else float32.

    On a CPU only `workbench doctor`'s timing of a real step decides: bfloat16 without hardware for it is many times
    slower than float32.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
    record = step_times()
    if record:
        quick, usual = record["bfloat16"], record["float32"]
        if quick is not None and usual is not None and quick < 0.9 * usual:
            return torch.bfloat16
    return torch.float32


def step_times() -> dict[str, float | None] | None:
    """Seconds of the doctor's probe step by dtype, if it was run on this machine with this torch; else None.

    bfloat16 is None where it was too slow to be worth a whole step.
    """
    return _all_step_times().get(_fingerprint())


def save_step_times(seconds: dict[str, float | None]) -> None:
    """Store the times by machine, torch and threads, so that unattended runs with two threads overwrite no others."""
    write_json(cache_dir() / "step_times.json", _all_step_times() | {_fingerprint(): seconds})


def _all_step_times() -> dict[str, dict[str, float | None]]:
    """All stored times, by machine, torch and threads; empty if there is no record or a damaged one."""
    try:
        record = json.loads((cache_dir() / "step_times.json").read_text())
        return {machine: seconds for machine, seconds in record.items() if "float32" in seconds}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _fingerprint() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"{_processor_name()} | {device} | torch {torch.__version__}"
