"""The harness that runs the notebooks, tried on small notebooks that go wrong in every way we know of."""

import json
import os
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from support.processes import is_running
from workbench.course import runner
from workbench.course.runner import find_notebooks, read_parameters, run_notebook, run_notebooks

PARAMETERS = 'tier = "laptop"\nseed = 0'


@pytest.fixture
def write(tmp_path):
    """write("print(1)", ...) makes a notebook: a title (cell 1), the parameters (cell 2), then the given cells."""

    def write(*sources, parameters=PARAMETERS, name="lesson.ipynb"):
        cells = [new_markdown_cell("# A lesson")]
        if parameters is not None:
            cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        cells += [new_code_cell(source) for source in sources]
        kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "course" / name
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernelspec}), path)
        return path

    return write


REPORT = """
import json, os, sys
from pathlib import Path
names = ["HF_HUB_OFFLINE", "OMP_NUM_THREADS", "PYTHONHASHSEED", "WORKBENCH_PROGRESS", "WORKBENCH_RUNS"]
facts = {"python": sys.prefix, "folder": os.getcwd(), "tier": tier, "seed": seed}
Path("facts.json").write_text(json.dumps(facts | {name: os.environ[name] for name in names}))
Path(os.environ["WORKBENCH_RUNS"]).mkdir()
print("done")
"""


def test_a_notebook_runs_here_reproducibly_and_leaves_the_learners_runs_alone(write, tmp_path, monkeypatch):
    # a kernel called python3 in the home folder, which must not be used
    other = tmp_path / "home" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "{connection_file}"], "display_name": "Other", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(other.parent.parent))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")

    path = write(REPORT)
    result = run_notebook(path, tmp_path / "out", parameters={"seed": 7})

    assert result.passed, str(result.failure)
    facts = json.loads((path.parent / "facts.json").read_text())
    assert Path(facts["python"]) == Path(sys.prefix)
    assert Path(facts["folder"]) == path.parent
    assert (facts["tier"], facts["seed"]) == ("smoke", 7)
    assert facts["HF_HUB_OFFLINE"] == "1"
    assert facts["WORKBENCH_PROGRESS"] == "0"
    assert facts["PYTHONHASHSEED"] == "0"
    assert facts["OMP_NUM_THREADS"].isdigit()
    assert facts["WORKBENCH_RUNS"] != os.environ["WORKBENCH_RUNS"]
    assert not Path(facts["WORKBENCH_RUNS"]).exists()
    assert result.seconds > 0
    assert nbformat.read(result.executed, as_version=4).cells[-1].outputs[0].text == "done\n"
    assert nbformat.read(path, as_version=4).cells[-1].outputs == []


def test_a_failing_cell_is_reported_with_its_source_and_traceback_and_nothing_else(write, tmp_path):
    path = write("rank = 8", "def scaling(alpha):\n    return alpha / 0\n\nscaling(rank)", "print('never')")
    result = run_notebook(path, tmp_path / "out")

    assert not result.passed
    assert result.failure.cell == 4  # title, parameters, rank, scaling
    text = str(result.failure)
    assert text.startswith("lesson.ipynb, cell 4\n\n    def scaling(alpha):\n        return alpha / 0\n")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in text
    assert "papermill" not in text and "nbclient" not in text
    assert result.executed.exists()


def test_a_cell_that_takes_too_long_is_reported(write, tmp_path):
    result = run_notebook(write("import time\ntime.sleep(60)"), tmp_path / "out", cell_timeout=2)
    assert result.failure.cell == 3
    assert result.failure.source == "import time\ntime.sleep(60)"
    assert "timed out" in result.failure.reason and "2 seconds" in result.failure.reason
    assert result.seconds < 30


STUBBORN = """
import os, signal, subprocess, sys, time
from pathlib import Path
for name in (signal.SIGINT, signal.SIGTERM):
    signal.signal(name, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("pids.txt").write_text(f"{os.getpid()} {child.pid}")
while True:
    time.sleep(1)
"""


def test_a_notebook_that_ignores_interrupts_is_killed_with_all_it_started(write, tmp_path):
    path = write(STUBBORN)
    result = run_notebook(path, tmp_path / "out", total_timeout=15)
    assert result.failure.cell == 3
    assert result.failure.reason == "The notebook took longer than the 15 s it may take in all, and was killed."
    assert result.seconds < 30
    kernel, grandchild = map(int, (path.parent / "pids.txt").read_text().split())
    assert not is_running(kernel)
    assert not is_running(grandchild)


def test_a_kernel_that_dies_is_reported(write, tmp_path):
    result = run_notebook(write("import os\nos._exit(1)"), tmp_path / "out")
    assert result.failure.cell == 3
    assert "kernel died" in result.failure.reason


def test_leaving_early_is_a_failure(write, tmp_path):
    result = run_notebook(write("import sys\nsys.exit(0)", "print('left out')"), tmp_path / "out")
    assert not result.passed
    assert result.failure.cell == 3
    assert "SystemExit" in result.failure.reason


@pytest.mark.quick
def test_an_unknown_parameter_is_an_error(write, tmp_path):
    with pytest.raises(ValueError, match=r"lesson\.ipynb has no parameter sed\. It has: tier, seed\."):
        run_notebook(write(), tmp_path, parameters={"sed": 1})


@pytest.mark.quick
def test_an_unknown_tier_is_an_error(write, tmp_path):
    with pytest.raises(ValueError, match=r"no tier called 'tiny'. There are: smoke, laptop, gpu"):
        run_notebook(write(), tmp_path, tier="tiny")


def test_parameters_are_read_without_running_the_notebook(write):
    path = write(parameters='# a comment\ntier = "laptop"\nseed = -1\nranks = [1, 2]\nname = None')
    assert read_parameters(path) == {"tier": "laptop", "seed": -1, "ranks": [1, 2], "name": None}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, "has 0 cells tagged 'parameters'"),
        ("import os", "`import os`"),
        ("seed = 2 * 21", r"`seed = 2 \* 21`"),
        ("seed = int('1')", r"`seed = int\('1'\)`"),
        ("a = b = 1", "`a = b = 1`"),
        ("a, b = 1, 2", r"`a, b = \(?1, 2\)?`"),
        ("a = {[1]: 2}", r"`a = \{\[1\]: 2\}`"),
        ("seed = ", "not valid Python"),
    ],
)
def test_a_parameters_cell_that_is_not_literal_is_an_error(write, parameters, message):
    with pytest.raises(ValueError, match=message):
        read_parameters(write(parameters=parameters))


def test_notebooks_are_found_by_name_file_or_number(write):
    folder = write(name="01_one.ipynb").parent
    write(name="02_two.ipynb")
    assert [path.stem for path in find_notebooks(folder=folder)] == ["01_one", "02_two"]
    for name in ("02", "02_two", "02_two.ipynb", "notebooks/02_two.ipynb"):
        assert [path.stem for path in find_notebooks([name], folder)] == ["02_two"]
    assert [path.stem for path in find_notebooks(["02", "01", "02_two"], folder)] == ["02_two", "01_one"]
    with pytest.raises(ValueError, match=r"no notebook called '03'. There are: 01_one, 02_two"):
        find_notebooks(["03"], folder)


@pytest.mark.quick
@pytest.mark.parametrize("name", ["course", "course/../course", "file", "file/folder"])
def test_a_folder_that_cannot_hold_the_copies_is_refused(name, write, tmp_path, monkeypatch):
    """In its own folder the notebook itself would be replaced; and nothing may have run before that is told."""
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "course")
    path, other = write("1 + 1"), write("1 + 1", name="other.ipynb")
    (tmp_path / "file").touch()
    before = path.read_bytes(), other.read_bytes()
    words = "would take the place of" if "course" in name else "cannot be made"
    with pytest.raises(ValueError, match=words):
        run_notebook(path, tmp_path / name)
    with pytest.raises(ValueError, match=words):
        run_notebooks([], "smoke", tmp_path / name)
    assert (path.read_bytes(), other.read_bytes()) == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["lesson.ipynb", "other.ipynb"]


@pytest.mark.quick
@pytest.mark.skipif(sys.platform == "win32", reason="/sys is a folder like any other there")
def test_a_folder_that_takes_no_files_is_refused(write):
    with pytest.raises(ValueError, match="The folder /sys for the executed copies cannot be made or written to"):
        run_notebook(write("1 + 1"), Path("/sys"))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"cells": 3}', '{"nbformat": 4, "nbformat_minor": 5}'])
def test_a_damaged_notebook_is_a_sentence(content, tmp_path):
    (tmp_path / "lesson.ipynb").write_text(content)
    with pytest.raises(ValueError, match=r"lesson\.ipynb is not a notebook that can be read: .+"):
        read_parameters(tmp_path / "lesson.ipynb")


def test_a_scratch_pad_is_left_out_unless_it_is_named(write, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "course")
    monkeypatch.setattr(psutil, "Process", None)  # nobody is killed by number after a run that has ended
    write("1 + 1")
    write("1 / 0", name="Untitled.ipynb", parameters=None)
    ran = run_notebooks([], "smoke", tmp_path / "out")
    assert "Left out, without a parameters cell: Untitled.ipynb" in capsys.readouterr().err
    assert [(result.name, result.passed) for result in ran] == [("lesson", True)]
    with pytest.raises(ValueError, match=r"Untitled\.ipynb has 0 cells tagged 'parameters'"):
        run_notebooks(["lesson", "Untitled"], "smoke", tmp_path / "out")


@pytest.mark.quick
def test_a_wrong_name_or_tier_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="no notebook called"):
        run_notebooks(["99"], "smoke", tmp_path)
    with pytest.raises(ValueError, match="no tier called"):
        run_notebooks([], "huge", tmp_path)
