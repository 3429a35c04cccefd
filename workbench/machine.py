"""This computer: versions and hardware for records, free memory, and which precision is fast here."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NotRequired, TypedDict, TypeGuard

import psutil
import torch

from workbench import host_memory
from workbench.console import say
from workbench.errors import DamagedError, ModelError
from workbench.paths import cache_dir, write_json
from workbench.stored import check_shape, read_json

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LONG = 1.0  # seconds for a layer


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
    """Free memory in bytes: of the GPU, or of this machine, or of the container that limits it.

    On a GPU with what torch's allocator keeps of freed tensors, which new ones are made from.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return host_memory.available()


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def preferred_dtype() -> torch.dtype:
    """The dtype for frozen weights: bfloat16 where it is fast, float16 on GPUs without it, else float32.

    The environment variable WORKBENCH_DTYPE overrides it. On a CPU the stored times decide: those of `workbench
    doctor`, or else of a probe that runs now, once a machine; bfloat16 without hardware for it is many times slower
    than float32. Raises ModelError if the variable names another dtype.
    """
    if asked := os.environ.get("WORKBENCH_DTYPE"):
        if asked not in DTYPES:
            raise ModelError(f"WORKBENCH_DTYPE={asked!r} must be float32, bfloat16 or float16, or not be set.")
        return DTYPES[asked]
    if torch.cuda.is_available():
        return torch.bfloat16 if gpu_has_bfloat16() else torch.float16
    record = step_times()
    if record is None:
        record = {name: layer_seconds(DTYPES[name]) for name in ("float32", "bfloat16")}
        with suppress(OSError):  # a cache that cannot be written costs a second at each start
            save_step_times(record)
        say(_chosen(record))
    return torch.bfloat16 if _bfloat16_pays(record) else torch.float32


def gpu_has_bfloat16() -> bool:
    """Whether there is a GPU that computes in bfloat16."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8


def _bfloat16_pays(record: dict[str, float | None]) -> bool:
    quick, usual = record["bfloat16"], record["float32"]
    return quick is not None and usual is not None and quick < 0.9 * usual


def _chosen(record: dict[str, float | None]) -> str:
    """The line that says what the probe found."""
    told = " and ".join(f"{1000 * (taken or 0):.0f} ms in {name}" for name, taken in record.items())
    chosen = "bfloat16" if _bfloat16_pays(record) else "float32"
    return (
        f"First use on this machine: a layer takes {told}, so models are loaded in {chosen} "
        "(dtype= or WORKBENCH_DTYPE overrides; `workbench doctor` times a whole step)."
    )


def layer_seconds(dtype: torch.dtype) -> float:
    """Seconds of forward and backward through a gated layer of the packaged model's sizes, 512 tokens, on the CPU.

    The fastest of six, unless the first takes longer than LONG: then the processor has to imitate the dtype.
    """
    up, down = torch.full((2, 1536, 576), 1 / 24, dtype=dtype), torch.full((576, 1536), 1 / 39, dtype=dtype)
    x = torch.full((512, 576), 0.01, dtype=dtype, requires_grad=True)

    def seconds() -> float:
        started = time.perf_counter()
        y = (torch.nn.functional.silu(x @ up[0].T) * (x @ up[1].T)) @ down.T
        torch.autograd.grad((x + y).sum(), x)
        return time.perf_counter() - started

    first = seconds()
    return first if first > LONG else min(seconds() for _ in range(5))


def step_times() -> dict[str, float | None] | None:
    """Stored seconds by dtype for this machine with this torch: of the doctor's step or of a layer; else None.

    bfloat16 is None where it was too slow to be worth timing.
    """
    return _all_step_times().get(_fingerprint())


def save_step_times(seconds: dict[str, float | None]) -> None:
    """Store the times by machine, torch and threads, so that unattended runs with two threads overwrite no others."""
    write_json(cache_dir() / "step_times.json", _all_step_times() | {_fingerprint(): seconds})


def _all_step_times() -> dict[str, dict[str, float | None]]:
    """All stored times, by machine, torch and threads; empty if there is no record or a damaged one."""
    try:
        record: dict[str, object] = read_json(cache_dir() / "step_times.json", dict)
    except (OSError, DamagedError):
        return {}
    return {machine: seconds for machine, seconds in record.items() if _are_times(seconds)}


def _are_times(value: object) -> TypeGuard[dict[str, float | None]]:
    """Whether a value is the times of one machine: in float32 at least, and no time for a dtype that was too slow."""
    if not isinstance(value, dict) or not {"float32", "bfloat16"} <= value.keys():
        return False
    try:
        check_shape(value, dict[str, float | None])
    except ValueError:
        return False
    return value["float32"] is not None


def _fingerprint() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"{_processor_name()} | {device} | torch {torch.__version__}"
