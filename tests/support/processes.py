"""Which processes still run."""

import psutil


def is_running(pid: int) -> bool:
    """False also for a process that has ended but whose parent (init, in some containers) has not reaped it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
