"""Passes of a sweep on a Ray cluster: `RayExecutor` has the interface of concurrent.futures, so `sweep` can use it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from concurrent import futures
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from workbench.console import first_line
from workbench.errors import WorkbenchError

RETRIES = 3  # of a job whose process or node has died
# Ray reads these when it is imported. Without the second, a job that is too large for its node is tried for ever.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(RETRIES)}


class RayExecutor(futures.Executor):
    """Runs each job as a Ray task with a GPU to itself, or with a node's CPUs where the cluster has no GPU.

    address: "host:port" of a cluster's head node, or "auto" for the cluster that runs here. This computer must be one
        of its nodes (`ray start --address=host:port`, with --num-cpus=0 if it is not to work). None starts Ray on this
        computer alone, reachable from this computer alone. A Ray that this process is connected to already is used.
    workers: jobs that can run at a time, counted now: GPUs, or nodes where there is no GPU. Nodes should be alike: a
        job asks for the CPUs of the smallest, and a larger one may be given several.

    Every node needs the versions of Python, Ray, this package and its requirements that are used here, and must find
    the base model under the same name: a packaged model or one of the Hub by itself, a folder under the same path.
    A job whose process or node dies is started again, up to three times. Exceptions arrive as they were raised, with
    the worker's traceback in their cause. Cancelling a future takes its job off the queue, or interrupts it.
    Raises WorkbenchError where Ray is not installed or no cluster answers (within a minute).
    """

    def __init__(self, address: str | None = None):
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise WorkbenchError(
                'A sweep on a cluster needs Ray: python -m pip install -c constraints.txt -e ".[cluster]"'
            ) from error
        self._ray = ray
        self._pending: set[futures.Future[Any]] | None = set()
        self._mine = not ray.is_initialized()
        if self._mine:
            _connect(ray, address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [node for node in nodes if node.get("GPU")] or [node for node in nodes if node.get("CPU")]
        if not nodes:
            self.shutdown()
            raise WorkbenchError("No node of the Ray cluster has a CPU to offer; add one with ray start --address.")
        # Ray sets OMP_NUM_THREADS, and with it torch's threads, to the CPUs that a task asks for.
        cpus = min(int(node.get("CPU", 0) // node.get("GPU", 1)) for node in nodes)
        self.workers = int(sum(node.get("GPU", 1) for node in nodes))
        self._task = ray.remote(num_cpus=cpus, num_gpus=min(1, nodes[0].get("GPU", 0)), max_retries=RETRIES)(_call)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """`fn(*args, **kwargs)` as a Ray task; all of it must be picklable. Raises RuntimeError after a shutdown."""
        if self._pending is None or not self._ray.is_initialized():
            raise RuntimeError("This executor was shut down; make a new one.")
        reference = self._task.remote(fn, args, kwargs)
        future: futures.Future[Any] = futures.Future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        future.add_done_callback(lambda done: self._ray.cancel(reference) if done.cancelled() else None)
        reference.future().add_done_callback(lambda answer: _hand_over(answer, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the jobs or cancel them, and stop the Ray that this executor started, or leave the cluster."""
        pending, self._pending = list(self._pending or ()), None
        for future in pending if cancel_futures or (self._mine and not wait) else ():
            future.cancel()
        if wait:
            futures.wait(pending)
        if self._mine:
            self._ray.shutdown()
            self._mine = False


def _connect(ray: Any, address: str | None) -> None:
    """Start Ray here (address None) or join a cluster; raises WorkbenchError if none answers."""
    constants = "ray._private.ray_constants"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        with patch(f"{constants}.ENABLE_RAY_CLUSTER", False):  # else it listens on every network interface
            ray.init("local", include_dashboard=False, **quiet)
        return
    try:
        if address != "auto":
            place = urlsplit(f"//{address}")
            socket.create_connection((place.hostname, place.port), timeout=10).close()
        with patch(f"{constants}.NUM_REDIS_GET_RETRIES", 1):  # of 40 seconds each; by itself Ray takes 20
            ray.init(address, **quiet)
    except Exception as error:  # Ray raises many kinds, the plain one among them
        ray.shutdown()
        raise WorkbenchError(
            f"No Ray cluster could be joined at {address!r} ({' '.join(str(error).split())}); give host:port of a "
            "running head node, and make this computer one of its nodes with ray start --address=host:port."
        ) from error


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)


def _hand_over(answer: futures.Future[Any], future: futures.Future[Any]) -> None:
    """Give `future` the result or the exception of `answer`, unless it was cancelled meanwhile."""
    from ray.exceptions import RayError

    if not future.set_running_or_notify_cancel():
        return
    if not (error := answer.exception()):
        future.set_result(answer.result())
        return
    raised = getattr(error, "cause", error)  # Ray wraps what a task raises
    if isinstance(raised, RayError):
        raised = WorkbenchError(
            f"A job was lost on the cluster ({first_line(raised)}); every node needs the memory that a pass "
            "takes, and the versions of this package and its requirements that are used here."
        )
    raised.__cause__ = error
    future.set_exception(raised)
