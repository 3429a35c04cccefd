"""Memory of this computer outside of its GPU, within the limits of the control groups that the process is in.

Without torch, so that reading a file of data does not import it.
"""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP, OWN_GROUPS, MOUNTS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/self/mountinfo")
# version 2 and version 1: the limit, what is in use, and the line that tells how much of that is unused file cache
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def available() -> int:
    """Free memory in bytes: of this machine, or of the container, job or service that limits it."""
    left = [max(limit - used, 0) for limit, used in _limits()]
    return min([psutil.virtual_memory().available, *left])


def total() -> int:
    """Memory in bytes: that of this machine, or the lowest limit of the control groups that this process is in."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits())])


def _limits() -> list[tuple[int, int]]:
    """Limit and use, in bytes, of each control group with a limit: this process's own, and all that it lies in.

    A container has one; a Slurm job, a service of systemd or a user of JupyterHub has one within others. The kernel
    counts cached files as used though it drops them when memory is needed: they are subtracted.
    """
    found = []
    for kind, (limit, used, statistics, cache) in zip(("", "memory"), CGROUP_FILES, strict=True):
        for group in _nested_groups(kind):
            folder = (CGROUP / limit).parent / group
            lines = {name: _text(folder / Path(name).name) for name in (limit, used, statistics)}
            cached = dict(line.split(" ", 1) for line in lines[statistics].splitlines()).get(cache, "0")
            try:
                found.append((int(lines[limit]), int(lines[used] or 0) - int(cached)))
            except ValueError:  # no such file, or the word "max" as the limit
                continue
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _nested_groups(kind: str) -> list[Path]:
    """Folders of this process's control group and of all around it, relative to where control groups are mounted.

    kind: "memory" for version 1, "" for version 2. The outermost is always there.
    """
    try:
        entries = [line.split(":", 2) for line in OWN_GROUPS.read_text().splitlines()]
        path = next(path for _, controllers, path in entries if kind in controllers.split(","))
        root = _mounted_root(CGROUP / kind)
        own = Path(path).relative_to(root) if path.startswith(root) else Path()
    except (OSError, ValueError, StopIteration):  # another system than Linux, or no such kind
        return [Path()]
    parts = [] if ".." in own.parts else [part for part in own.parts if part != "/"]  # "..": outside of the container
    return [Path(*parts[:length]) for length in range(len(parts), -1, -1)]


def _mounted_root(folder: Path) -> str:
    """The control group that is mounted at `folder`: in a container it may be the container's own."""
    fields = (line.split() for line in MOUNTS.read_text().splitlines())
    return next((root for _, _, _, root, place, *_ in fields if place == str(folder)), "/")
