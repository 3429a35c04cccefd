"""Memory limits of nested control groups: Slurm jobs, services of systemd, users of JupyterHub, containers.

Public reports: rstudio/rstudio#13690 (Slurm, version 1), KimMachineGun/automemlimit#31 (version 2).
"""

import psutil
import pytest

from workbench import host_memory

MB = 1_000_000
V2, V1 = host_memory.CGROUP_FILES


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """groups(files, own, {group: (limit, used, cache)}, root): a machine on which this process runs in group `own`."""

    def make(files, own, limits, root="/"):
        kind, place = ("memory", tmp_path / "memory") if files is V1 else ("", tmp_path)
        for group, (limit, used, cache) in limits.items():
            folder = place / group
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in zip(files[:3], (limit, used, f"anon 1\n{files[3]} {cache}"), strict=True):
                (folder / name.rpartition("/")[2]).write_text(f"{text}\n")
        (tmp_path / "own").write_text(f"4:cpu,cpuacct:/elsewhere\n3:pids:/\n{'9' if kind else '0'}:{kind}:{own}\n")
        (tmp_path / "mounts").write_text(f"31 23 0:28 {root} {place} rw,relatime - cgroup2 cgroup2 rw\n")

    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    monkeypatch.setattr(host_memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(host_memory, "MOUNTS", tmp_path / "mounts")
    return make


NONE = {V2: "max", V1: "9223372036854771712"}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
@pytest.mark.parametrize(
    ("own", "limits", "root", "total", "free"),
    [
        # Slurm: the job has a limit, its step and task have none
        (
            "/slurm/uid_7/job_12/step_0/task_0",
            {"": None, "slurm/uid_7/job_12": (600, 100, 0), "slurm/uid_7/job_12/step_0/task_0": None},
            "/",
            600,
            500,
        ),
        # systemd: the service within a slice with a lower limit
        (
            "/user.slice/jupyter.service",
            {"user.slice": (400, 350, 50), "user.slice/jupyter.service": (900, 100, 0)},
            "/",
            400,
            100,
        ),
        # JupyterHub: one user's server, in a slice with room for all
        ("/hub.slice/ada.service", {"hub.slice": (900, 880, 0), "hub.slice/ada.service": (500, 100, 40)}, "/", 500, 20),
        # a container whose own group is mounted as the root
        ("/docker/c0ffee/job", {"": (700, 100, 0), "job": (300, 100, 0)}, "/docker/c0ffee", 300, 200),
        # a container that does not know where it is
        ("/../../other", {"": (700, 100, 0)}, "/", 700, 600),
        ("/", {"": (700, 900, 100)}, "/", 700, 0),
        # the group is gone, or not to be seen from here
        ("/gone/for/good", {"": None, "gone": (450, 50, 0)}, "/", 450, 400),
    ],
)
def test_the_lowest_limit_of_the_groups_around_this_process_counts(files, own, limits, root, total, free, groups):
    numbers = {
        group: (NONE[files], 200 * MB, 0) if values is None else tuple(value * MB for value in values)
        for group, values in limits.items()
    }
    groups(files, own, numbers, root)
    assert host_memory.total() == total * MB
    assert host_memory.available() == free * MB


def test_the_group_of_another_process_does_not_count(groups):
    groups(V2, "/mine", {"mine": (800 * MB, 0, 0), "yours": (100 * MB, 0, 0), "mine/child": (50 * MB, 0, 0)})
    assert host_memory.total() == 800 * MB


@pytest.mark.parametrize("text", ["", "nonsense", "0::", "1:memory", "0::/\n0::/"])
def test_an_odd_or_missing_list_of_groups_leaves_the_root(text, groups, tmp_path):
    groups(V2, "/", {"": (800 * MB, 0, 0)})
    (tmp_path / "own").write_text(text)
    assert host_memory.total() == 800 * MB
    (tmp_path / "own").unlink()
    (tmp_path / "mounts").write_bytes(b"\n")
    assert host_memory.total() == 800 * MB


def test_a_group_without_statistics_has_a_limit_too(groups, tmp_path):
    groups(V2, "/job", {"job": (300 * MB, 100 * MB, 0)})
    (tmp_path / "job" / V2[2]).unlink()
    assert host_memory.total() == 300 * MB and host_memory.available() == 200 * MB
    (tmp_path / "job" / V2[1]).unlink()
    assert host_memory.available() == 300 * MB


def test_without_any_control_group_the_machine_counts(groups):
    assert host_memory.total() == psutil.virtual_memory().total
