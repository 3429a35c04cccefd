"""What a notebook started has ended when its run has, however either of them ended.

Public reports: jupyter/jupyter_client#104 (children of kernels), ipython/ipykernel#517 (kernels whose parent is gone),
nteract/papermill#508 (signals that do not reach the kernel).
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from support.processes import is_running
from workbench.course.runner import run_notebook

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt those that left their family"),
]

STARTS = """
import os, subprocess, sys
from pathlib import Path
sleep = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(300)"]
pids = []
def note(*command, **options):
    pids.append(int(subprocess.Popen(command, stdout=subprocess.PIPE, **options).stdout.readline()))
note(*sleep)
note(*sleep, start_new_session=True)
note("sh", "-c", '"$@" &', "sh", *sleep)  # its shell has ended: nobody's child
note("sh", "-c", 'trap "" TERM INT HUP; setsid "$@" &', "sh", *sleep)
pids.append(os.getpid())
Path("pids.txt.new").write_text(" ".join(map(str, pids)))
os.replace("pids.txt.new", "pids.txt")
"""
WAITS = "import time\ntime.sleep(300)"
RUN = "import sys; from pathlib import Path; from workbench.course.runner import run_notebook as run\n"
RUN += "print(run(Path(sys.argv[1]), Path(sys.argv[2])))"


@pytest.fixture
def write(tmp_path):
    def write(*sources) -> Path:
        cells = [new_code_cell("tier = 'smoke'", metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "a.ipynb")
        return tmp_path / "a.ipynb"

    return write


def alive(folder: Path, seconds: float = 5) -> list[int]:
    """Which of the processes in pids.txt still run after some seconds."""
    pids = [int(pid) for pid in (folder / "pids.txt").read_text().split()]
    assert len(pids) == 5
    end = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < end:
        time.sleep(0.1)
    return left


@pytest.mark.parametrize("last", [WAITS, "import os\nos._exit(1)"])
def test_nothing_is_left_after_a_time_out_or_a_dead_kernel(last, write, tmp_path):
    result = run_notebook(write(STARTS, last), tmp_path / "out", total_timeout=15)
    assert not result.passed
    if last == WAITS:
        assert "took longer than the 15 s" in str(result.failure)
    assert alive(tmp_path, seconds=0) == []


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGINT"])
def test_nothing_is_left_when_the_program_that_runs_notebooks_is_ended(signal_name, write, tmp_path):
    command = [sys.executable, "-c", RUN, str(write(STARTS, WAITS)), str(tmp_path / "out")]
    program = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "pids.txt")
    program.send_signal(getattr(signal, signal_name))
    assert alive(tmp_path) == []
    program.wait(20)


def test_the_kernel_ends_when_its_supervisor_is_killed(write, tmp_path):
    command = [sys.executable, "-c", RUN, str(write(STARTS, WAITS)), str(tmp_path / "out")]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(tmp_path / "pids.txt")
    (supervisor,) = psutil.Process(program.pid).children()
    family = supervisor.children(recursive=True)
    supervisor.kill()
    assert "ended with exit code -9" in program.communicate(timeout=20)[0]
    kernel = int((tmp_path / "pids.txt").read_text().split()[-1])
    end = time.monotonic() + 8
    while is_running(kernel) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_running(kernel)
    for pid in [*(process.pid for process in family), *map(int, (tmp_path / "pids.txt").read_text().split())]:
        if is_running(pid):
            psutil.Process(pid).kill()


def wait_for(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
