"""What a folder of runs needs of the file system: a lock, room that is held, and no leftovers of killed processes."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import psutil
from filelock import FileLock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SCRATCH = ".saving-"
RECORD_BYTES = 65536  # of a record, about
# The ids that `train` and `sweep` give, and the files of weights that are whole or not.
OUR_ID = re.compile(r".+-(\d{8}-\d{6}-[0-9a-f]{6}|s-?\d+-[0-9a-f]{10})")
WEIGHTS = ("*.safetensors", "*.bin")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes and threads out of the folder meanwhile. The folder itself is locked, where that works."""
    if fcntl is not None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # some network file systems lock files alone
            os.close(handle)
        else:
            try:
                yield
            finally:
                os.close(handle)
            return
    with FileLock(folder / ".lock"):
        yield


def take_room(folder: Path, size: int) -> IO[bytes]:
    """A nameless file of `size` bytes and those of a record; closing it gives the room back. Raises OSError if full."""
    held = TemporaryFile(dir=folder)  # noqa: SIM115 - the caller closes it
    try:
        held.write(bytes(RECORD_BYTES))
        held.flush()
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if size and hasattr(os, "posix_fallocate"):
            _allocate(held.fileno(), size)
    except BaseException:
        held.close()
        raise
    return held


def _allocate(handle: int, size: int) -> None:
    """Have the file system set bytes aside, which a quota may refuse; some file systems cannot."""
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise


def scratch_name(run_id: str) -> str:
    """The folder into which this process writes an artifact, until it is whole."""
    process = psutil.Process()
    return f"{SCRATCH}{_node()}_{process.pid}_{_began(process):.0f}-{run_id}"


def replace_folder(new: Path, old: Path) -> None:
    """Put a folder into the place of another, with the permissions of the umask: safetensors hides its own files."""
    rights = stat.S_IMODE(new.stat().st_mode) & 0o666
    for file in new.rglob("*"):
        if file.is_file():
            file.chmod(rights)
    if old.exists():
        shutil.rmtree(old)
    new.rename(old)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove what killed processes have left: artifacts and records half written. Returns the names.

    An artifact without a record stays if its weights are whole: somebody may have moved the record.
    """
    with locked(folder):  # so that no record is being written by a living process
        entries = list(folder.iterdir())
        records = {entry.stem for entry in entries if entry.suffix == ".json"}
        gone = [entry for entry in entries if _is_leftover(entry, records)]
        for entry in gone:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    return [entry.name for entry in gone]


def _is_leftover(entry: Path, records: set[str]) -> bool:
    if entry.name.startswith(SCRATCH):
        return not _lives(entry.name.removeprefix(SCRATCH))
    if entry.suffix == ".tmp":
        return bool(OUR_ID.fullmatch(entry.stem[:-8])) and entry.is_file()
    ours = bool(OUR_ID.fullmatch(entry.name)) and entry.name not in records
    return ours and entry.is_dir() and not entry.is_symlink() and not _is_whole(entry)


def _is_whole(artifact: Path) -> bool:
    """Whether a folder has weights and each file of them is as long as its header says."""
    files = [file for pattern in WEIGHTS for file in artifact.rglob(pattern)]
    return bool(files) and all(file.suffix != ".safetensors" or _has_its_length(file) for file in files)


def _has_its_length(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, 100_000_000)))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        return file.stat().st_size >= 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return False


def _lives(name: str) -> bool:
    """Whether the process that wrote a scratch folder of this name still runs; another computer's may."""
    node, _, rest = name.partition("_")
    number, _, began = rest.partition("-")[0].partition("_")
    if node != _node() or not number.isdigit() or not began.isdigit():
        return True
    try:
        return abs(_began(psutil.Process(int(number))) - int(began)) <= 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _began(process: psutil.Process) -> float:
    """When a process began, in seconds: numbers of processes are given again.

    On Linux since the computer was started: psutil adds the time of that start, which moves when the clock is set.
    """
    return process.create_time() - (psutil.boot_time() if sys.platform == "linux" else 0)


@cache
def _node() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "", platform.node())[:20] or "here"
