"""The signals that end a process (a closed terminal, a limit of a cluster), raised so that a run is kept first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# Slurm announces a limit of time with SIGUSR1 or SIGUSR2 where it is asked to, the kernel one of the CPU with SIGXCPU.
NAMES = ("SIGTERM", "SIGHUP", "SIGXCPU", "SIGUSR1", "SIGUSR2")
INTERRUPTING = (signal.SIGINT, signal.SIGTERM)
ENDING = [number for name in NAMES if (number := getattr(signal, name, None))]


class Terminated(BaseException):
    """A signal that ends the process has arrived."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    """What the handler shares with the blocks below: the first signal that arrived, and whether it has to wait."""

    received: int | None = None
    waits = False


@contextmanager
def termination_raised() -> Iterator[None]:
    """Within the block the first of these signals raises Terminated; after it the process ends as it would have.

    Signals that are ignored (nohup) or already have a handler keep it. Outside of the main thread, where Python handles
    all signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if taken and (received := _State.received):
            _State.received = None
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            signal.raise_signal(received)


@contextmanager
def termination_waits() -> Iterator[None]:
    """Within the block a signal waits, so that what is being saved is saved whole; it is raised at the end.

    So does Ctrl-C, and what the command line treats like it: KeyboardInterrupt comes at the end.
    """
    already, before = _State.received, _State.waits
    interrupts: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    taken = [one for one in INTERRUPTING if in_main and signal.getsignal(one) is signal.default_int_handler]
    for number in taken:
        signal.signal(number, lambda arrived, _: interrupts.append(arrived))
    _State.waits = True
    try:
        yield
    finally:
        _State.waits = before
        for number in taken:
            signal.signal(number, signal.default_int_handler)
    if _State.received is not None and already is None and not before:
        raise Terminated(_State.received)
    if interrupts:
        raise KeyboardInterrupt


def _handle(number: int, _: FrameType | None) -> None:
    if _State.received is None:
        _State.received = number
        if not _State.waits:
            raise Terminated(number)
