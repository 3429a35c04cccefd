"""Sweeps on a real Ray cluster: two nodes on this computer, each with one core, and what goes wrong on clusters."""

import ipaddress
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from types import SimpleNamespace

import psutil
import pytest
import torch

from workbench import RunStore, TrainConfig, load_task, lora, sweep
from workbench.errors import SweepError, TaskError, WorkbenchError
from workbench.sweeps.ray_executor import RayExecutor, _connect, _hand_over

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ray has no clusters on Windows")

FACTS = load_task("facts")
CONFIG = TrainConfig(steps=3, batch_size=2, test_limit=4)
METHODS = [lora(rank=rank, learning_rate=1e-2) for rank in (1, 2, 4, 8)]
LEAST = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
NODE = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80 * 2**20, **LEAST}
DEAD = {"CPU": 1.0, "GPU": 1.0}


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """Ray's files in a short path (its sockets' names are limited to 107 characters) that goes away afterwards."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    before = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one into the home folder
        patch.setenv("RAY_AUTH_MODE", "")  # which Ray sets, so that it is put back
        patch.delenv("RAY_AUTH_MODE")
        patch.delenv("OMP_NUM_THREADS", raising=False)  # else Ray leaves it alone
        yield
    _, left = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=10)
    shutil.rmtree(folder)
    assert not left, "processes of Ray are left over"


@pytest.fixture(scope="module")
def cluster(surroundings):
    """Two nodes; each pass needs a whole one, so two passes at a time are on different nodes."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Otherwise Ray takes 127.0.0.1 to mean this computer's address in its network.
        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
        nodes = Cluster(initialize_head=True, head_node_args=NODE)
        nodes.add_node(**NODE)
        yield nodes
        nodes.shutdown()


@pytest.fixture(scope="module")
def executor(cluster):
    from ray import cloudpickle

    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)  # the workers cannot import this module
    with RayExecutor(cluster.address) as connected:
        yield connected
    cloudpickle.unregister_pickle_by_value(here)


class Around:
    """An executor whose jobs are `job(fn, *args)`, which sees on the worker what each pass is given and gives back."""

    def __init__(self, executor: RayExecutor, job):
        self.executor, self.job, self.workers = executor, job, executor.workers

    def submit(self, fn, *args):
        return self.executor.submit(self.job, fn, *args)


def losses(runs) -> list[float]:
    return [entry["loss"] for run in runs for entry in run.history]


def adapter(run, base) -> dict[str, torch.Tensor]:
    return {name: value for name, value in run.load(base).model.state_dict().items() if "lora_" in name}


def stored_once(store: RunStore, runs) -> bool:
    names = sorted(f"{run.id}{end}" for run in runs for end in ("", ".json"))
    return len(runs) == len(METHODS) and sorted(path.name for path in store.path.iterdir()) == names


def waited_for(condition, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return met


# --- without a cluster


def test_without_ray_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkbenchError, match=r'pip install -c constraints\.txt -e "\.\[cluster\]"'):
        RayExecutor()


def test_an_address_where_nothing_answers_is_an_error_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(WorkbenchError, match=rf"No Ray cluster could be joined at '127.0.0.1:{port}' .*refused.*give"):
        RayExecutor(f"127.0.0.1:{port}")
    assert time.monotonic() - started < 15


def test_an_address_where_something_else_answers_is_tried_once():
    """Ray itself tries 20 times, 40 seconds each."""
    from ray._private import ray_constants

    tries = []

    def init(address, **options):
        tries.append(ray_constants.NUM_REDIS_GET_RETRIES)
        raise ConnectionError("not a cluster")

    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(WorkbenchError, match="not a cluster"):
        _connect(SimpleNamespace(init=init, shutdown=lambda: None), f"127.0.0.1:{server.getsockname()[1]}")
    assert tries == [1] and ray_constants.NUM_REDIS_GET_RETRIES > 1, "once, and put back"


def test_a_job_asks_for_a_gpu_or_for_a_node(monkeypatch):
    import ray

    nodes, asked = [], {}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": node != DEAD, "Resources": node} for node in nodes])
    monkeypatch.setattr(ray, "remote", lambda **options: asked.update(options) or (lambda function: function))
    nodes[:] = [{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1e9}, DEAD]
    assert RayExecutor().workers == 2
    assert (asked["num_cpus"], asked["num_gpus"]) == (4, 0)
    nodes[:] = [{"CPU": 2.0}, {"CPU": 32.0, "GPU": 2.0}, {"CPU": 12.0, "GPU": 1.0}, DEAD]
    assert RayExecutor().workers == 3
    assert (asked["num_cpus"], asked["num_gpus"]) == (12, 1)
    nodes[:] = [{"memory": 1e9}, DEAD]
    with pytest.raises(WorkbenchError, match="No node of the Ray cluster has a CPU to offer"):
        RayExecutor()


def test_a_job_that_is_lost_is_told_in_one_sentence():
    from ray.exceptions import WorkerCrashedError

    answer, future = Future(), Future()
    answer.set_exception(WorkerCrashedError())
    _hand_over(answer, future)
    assert type(future.exception()) is WorkbenchError
    assert re.match(r"A job was lost on the cluster \(The worker died.*\); every node needs", str(future.exception()))


@pytest.mark.slow
def test_ray_on_this_computer_alone_is_reachable_from_it_alone(surroundings):
    with RayExecutor() as executor:
        assert executor.workers == 1
        assert executor.submit(divmod, 7, 2).result(timeout=120) == (3, 1)
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        sockets = []
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # Ray has started it to look something up, and it has ended
                sockets += process.net_connections("inet")
        listening = [ipaddress.ip_address(each.laddr.ip) for each in sockets if each.status == psutil.CONN_LISTEN]
        assert len(listening) >= 4
        assert all((getattr(address, "ipv4_mapped", None) or address).is_loopback for address in listening)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(divmod, 7, 2)


# --- on two nodes


def test_a_sweep_on_two_nodes_is_the_sweep_at_home(small, store, executor, tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()

    def job(fn, *args):
        import ray

        (seen / ray.get_runtime_context().get_node_id()).touch()
        assert waited_for(lambda: len(list(seen.iterdir())) == 2), "the other node has no pass"
        return fn(*args)

    assert executor.workers == 2
    home = sweep(small, FACTS, METHODS, CONFIG, store)
    away_store = RunStore(tmp_path / "away")
    away = sweep(small, FACTS, METHODS, CONFIG, away_store, Around(executor, job))
    assert [run.id for run in away] == [run.id for run in home]
    assert [run.together["configurations"] for run in home + away] == [4] * 4 + [2] * 4
    assert losses(away) == pytest.approx(losses(home), abs=1e-6)
    for here, there in zip(home, away, strict=True):
        assert there.metrics == pytest.approx(here.metrics, abs=1e-5)
        for name, value in adapter(here, small).items():
            torch.testing.assert_close(adapter(there, small)[name], value, atol=1e-6, rtol=0)
    assert stored_once(away_store, away)


def test_a_worker_that_is_killed_costs_no_run(small, store, executor, tmp_path):
    """One of the two worker processes dies when its pass is trained and not yet handed over."""

    def job(fn, *args):
        import signal

        (tmp_path / f"begun-{uuid.uuid4()}").touch()
        packed = fn(*args)
        try:
            (tmp_path / "killed").touch(exist_ok=False)
        except FileExistsError:
            return packed
        os.kill(os.getpid(), signal.SIGKILL)

    runs = sweep(small, FACTS, METHODS, CONFIG, store, Around(executor, job))
    assert len(list(tmp_path.glob("begun-*"))) == 3
    assert {run.status for run in runs} == {"finished"}
    assert stored_once(store, runs)


def test_a_pass_that_fails_leaves_the_others(small, store, executor, tmp_path):
    def job(fn, address, task, members):
        if any(method.rank == 8 for _, method, _ in members):
            raise TaskError("This pass was meant to fail.")
        return fn(address, task, members)

    with pytest.raises(SweepError, match=r"1 of 2 passes failed \(TaskError: This pass was meant to fail\.\)") as error:
        sweep(small, FACTS, METHODS, CONFIG, store, Around(executor, job))
    assert type(error.value.__cause__) is TaskError
    assert "in job" in str(error.value.__cause__.__cause__), "the worker's traceback"
    kept = {run.id: run.created for run in store.all()}
    assert len(kept) == 2
    runs = sweep(small, FACTS, METHODS, CONFIG, store, executor)
    assert stored_once(store, runs)
    assert {run.id: run.created for run in runs}.items() > kept.items(), "what was done is done again"


def test_a_future_that_is_cancelled_in_the_queue_never_begins(executor, tmp_path):
    def job(name):
        (tmp_path / name).touch()
        assert waited_for((tmp_path / "go").exists)
        return name

    running = [executor.submit(job, name) for name in ("a", "b")]
    assert waited_for(lambda: len(list(tmp_path.iterdir())) == 2)
    queued, last = executor.submit(job, "c"), executor.submit(job, "d")
    assert queued.cancel()
    (tmp_path / "go").touch()
    assert [future.result(timeout=120) for future in [*running, last]] == ["a", "b", "d"]
    assert queued.cancelled() and not (tmp_path / "c").exists()


def test_a_task_computes_with_the_cores_that_it_has(executor):
    assert executor.submit(torch.get_num_threads).result(timeout=120) == 1


def test_another_executor_shares_the_connection_and_leaves_it(executor):
    with RayExecutor() as second:
        assert second.submit(divmod, 7, 2).result(timeout=120) == (3, 1)
    with pytest.raises(RuntimeError, match="shut down"):
        second.submit(divmod, 7, 2)
    assert executor.submit(divmod, 7, 2).result(timeout=120) == (3, 1)


def test_a_node_that_is_lost_costs_no_run(small, store, executor, cluster, tmp_path):
    """The last test here: afterwards the cluster has one node."""
    (worker,) = cluster.worker_nodes
    lost, begun = worker.node_id, tmp_path / "begun"

    def job(fn, *args):
        import ray

        if ray.get_runtime_context().get_node_id() == lost:
            begun.touch()
            time.sleep(600)
        assert waited_for(begun.exists)  # so that the other pass goes to the other node
        return fn(*args)

    def lose():
        if waited_for(begun.exists):
            cluster.remove_node(worker, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    runs = sweep(small, FACTS, METHODS, CONFIG, store, Around(executor, job))
    thread.join()
    assert not cluster.worker_nodes
    assert {run.status for run in runs} == {"finished"}
    assert stored_once(store, runs)
