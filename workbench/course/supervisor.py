"""The process between `runner` and a notebook: when it ends, everything that the notebook started has ended.

It ends when the notebook does, and at the latest when its standard input is closed: `runner` closes it when the time is
over, and the system does if `runner` itself is killed. On Linux it also adopts processes that left their family.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl
_own: list[int] = []  # the number of the notebook's process


def main(job: str) -> int:
    """Run the notebook and return the exit code of its process, or 128 and the number of the signal that ended it."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches `runner` too, which then closes the input
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    try:
        command = [sys.executable, "-m", "workbench.course.notebook_process", job]
        notebook = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        _own.append(notebook.pid)
        threading.Thread(target=_end_with_runner, daemon=True).start()
        code = notebook.wait()
    finally:
        kill_family()
    return code if code >= 0 else 128 - code


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process on Linux; do nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_with_runner() -> None:
    """Wait for the end of standard input; then end everything."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    kill_family()
    os._exit(1)


def kill_family(seconds: float = 8) -> None:
    """Kill all that this process started, and what those started, again until none is left.

    Adopted processes that have ended are reaped too: they have no other parent that would do it.
    """
    this, waited = psutil.Process(), 0.0
    while waited < seconds and (family := this.children(recursive=True)):
        alive = []
        for process in family:
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    alive.append(process)
        if not alive:
            _forget_adopted(this.children())
            return
        psutil.wait_procs(alive, timeout=0.2)
        waited += 0.2


def _forget_adopted(ended: list[psutil.Process]) -> None:
    """Collect the exit codes of adopted processes that have ended; that of the notebook is for `main`."""
    for process in ended:
        if process.pid not in _own and hasattr(os, "WNOHANG"):
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
