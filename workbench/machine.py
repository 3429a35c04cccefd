"""This computer: where things are kept, what is installed, how fast a step is, and how much memory one needs."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets")
CGROUP = Path("/sys/fs/cgroup")
# version 2 and version 1: the limit, what is in use, and the line that tells how much of that is unused file cache
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def cache_dir() -> Path:
    """Where converted models and machine records live: WORKBENCH_CACHE, or the user's cache folder."""
    given = os.environ.get("WORKBENCH_CACHE")
    if given:
        return Path(given).expanduser()
    if platform.system() == "Windows":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "lora-workbench"
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches" / "lora-workbench"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lora-workbench"


def write_json(path: Path, value: object) -> None:
    """Write `value` so that a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, allow_nan=False)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, object]:
    """What a result depends on: processor, threads, memory and, where there is one, the GPU (bytes)."""
    record: dict[str, object] = {
        "system": platform.system(),
        "processor": _processor_name(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": None,
    }
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["gpu_memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    return record


def available_memory(device: torch.device) -> int:
    """Bytes that tensors may still take: what the GPU, this machine, or the container around us has free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    if container := _container_memory():
        limit, used = container
        free = min(free, max(limit - used, 0))
    return free


def total_memory() -> int:
    """Bytes of memory that programs here may take in all: this machine's, or fewer in a container with a limit."""
    total = psutil.virtual_memory().total
    container = _container_memory()
    return min(total, container[0]) if container else total


def _container_memory() -> tuple[int, int] | None:
    """Limit and use, in bytes, of the container around us; None where there is no limit.

    Cached files count as used there, though the kernel drops them when a program asks for memory: they are left out.
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
    if record and record["bfloat16"] is not None and record["bfloat16"] < 0.9 * record["float32"]:
        return torch.bfloat16
    return torch.float32


def step_times() -> dict[str, float | None] | None:
    """Seconds of the doctor's probe step by dtype, if it was run on this machine with this torch; else None.

    bfloat16 is None where it was too slow to be worth a whole step.
    """
    return _all_step_times().get(_fingerprint())


def save_step_times(seconds: dict[str, float | None]) -> None:
    """Kept beside those with other threads: notebooks run unattended take two, and must not undo a learner's timing."""
    write_json(cache_dir() / "step_times.json", _all_step_times() | {_fingerprint(): seconds})


def _all_step_times() -> dict[str, dict]:
    """By machine, torch and number of threads; nothing where there is no record, or a damaged one."""
    try:
        record = json.loads((cache_dir() / "step_times.json").read_text())
        return {machine: seconds for machine, seconds in record.items() if "float32" in seconds}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _fingerprint() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"{_processor_name()} | {device} | torch {torch.__version__}"


TORCH_SEEDS = range(-(2**63), 2**63)  # what torch.manual_seed and its generators both take


def forked_random_state(device: torch.device) -> AbstractContextManager:
    """Leave the random state of the CPU and of `device` (not of every GPU there is) as it was."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make while it is active. `peak`: the most bytes alive at once.

    A view counts once, as the storage that it shares; a temporary inside a single operation is not seen. While a mode
    like this one is active, autograd adds up gradients out of place: with tied weights trained under autocast the peak
    comes out up to 5 % high (tests/test_machine.py compares with torch's profiler).
    """

    def __init__(self, live_before: Iterable[torch.Tensor] = ()):
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.now = self.peak = 0
        for tensor in live_before:
            self._follow(tensor)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._follow, result)
        return result

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes or tensor.device.type == "meta":
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def gpu_peak(device: torch.device, own: Iterable[torch.Tensor]) -> Callable[[], int] | None:
    """A function that tells the most bytes a training has had on its GPU since now; None where `device` is no GPU.

    own: what the training holds there already. All else on the card, such as another base of the session, is left out.
    """
    if device.type != "cuda":
        return None
    others = torch.cuda.memory_allocated(device) - LiveBytes(own).now
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: torch.cuda.max_memory_allocated(device) - others


def progress_wanted() -> bool:
    """False where WORKBENCH_PROGRESS=0 asks for silence (tests, CI)."""
    return os.environ.get("WORKBENCH_PROGRESS", "1") != "0"


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line for a sentence of ours; its type if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]  # a colon announces the line that tells


def say(words: str) -> None:
    """A line of progress on stderr, where it is wanted."""
    if progress_wanted():
        print(words, file=sys.stderr)
