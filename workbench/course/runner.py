"""Run the course's notebooks unattended: from a test, from CI or with `workbench notebooks`.

papermill executes the cells. This module adds what an unattended run needs: processes of its own for each notebook,
which can be killed; this environment's kernel, whatever the home folder holds; fixed threads and seeds; a temporary
store of runs; and a failure report that names the cell instead of a long traceback of the framework.
"""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import nbformat
import psutil

from workbench.paths import CHECKOUT, named_folders

NOTEBOOKS = CHECKOUT / "notebooks"
# fixed, because the order in which threads add up numbers changes their last digits
THREADS = os.environ.get("OMP_NUM_THREADS", "2")

# tier: (seconds a cell may take, seconds the whole notebook may take)
TIME_LIMITS = {"smoke": (300, 600), "laptop": (1800, 5400), "gpu": (7200, 21600)}


@dataclass(frozen=True)
class CellFailure:
    """What stopped a notebook. `cell` counts from 1 in the file as it is on disk; None: it stopped outside any cell."""

    notebook: str
    cell: int | None
    source: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.notebook}, cell {self.cell}" if self.cell else self.notebook
        source = f"\n\n{indent(self.source, '    ')}" if self.source else ""
        return f"{where}{source}\n\n{self.reason}"


@dataclass(frozen=True)
class NotebookResult:
    """One execution. `executed` is the copy with outputs; `seconds` is wall time, start of the kernel included."""

    name: str
    tier: str
    seconds: float
    executed: Path
    failure: CellFailure | None

    @property
    def passed(self) -> bool:
        return self.failure is None


def find_notebooks(names: Iterable[str] = (), folder: Path | None = None) -> list[Path]:
    """The notebooks called `names` ("01_delta_w", "01_delta_w.ipynb" or just "01"), each once; without names all.

    folder: None is the course's. Raises ValueError for a name that fits no notebook.
    """
    folder = folder or NOTEBOOKS
    files = sorted(path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not files:
        raise ValueError(f"There are no notebooks in {folder}: run this from a clone of the repository.")
    chosen = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        matches = [path for path in files if path.stem == stem or path.stem.split("_")[0] == stem]
        if not matches:
            known = ", ".join(path.stem for path in files)
            raise ValueError(f"There is no notebook called {name!r}. There are: {known}.")
        chosen += matches
    return list(dict.fromkeys(chosen)) or files


def read_parameters(path: Path) -> dict[str, object]:
    """The names and default values in a notebook's parameters cell, without running it.

    Raises ValueError unless exactly one cell has the tag `parameters` and holds nothing but `name = literal` lines:
    papermill replaces values by their text, so anything computed there would be lost silently.
    """
    cells = _parameters_cells(path)
    if len(cells) != 1:
        raise ValueError(f"{path.name} has {len(cells)} cells tagged 'parameters'; it needs exactly one.")
    try:
        statements = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise ValueError(f"{path.name}: the parameters cell is not valid Python: {error}.") from error
    parameters = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                with suppress(ValueError, TypeError):  # TypeError: {[1]: 2} is a literal, but no value
                    parameters[name] = ast.literal_eval(value)
                    continue
        raise ValueError(
            f"{path.name}: the parameters cell may only hold lines like `name = literal`, "
            f"but has `{ast.unparse(statement)}`."
        )
    return parameters


def run_notebook(
    path: Path,
    out_dir: Path,
    tier: str = "smoke",
    parameters: Mapping[str, object] | None = None,
    cell_timeout: float | None = None,
    total_timeout: float | None = None,
) -> NotebookResult:
    """Execute one notebook; the copy with outputs is written to `out_dir` whether or not it passes.

    It runs in the notebook's own folder, in the kernel of this Python, with an empty store of runs that is deleted
    afterwards. Time-outs are in seconds and default to TIME_LIMITS[tier]. When the total is over, every process that
    the run started is killed, so that a cell which ignores interrupts cannot hold up a build.

    Raises ValueError, before anything runs, for an unknown tier, a parameter that the notebook does not have, a faulty
    parameters cell, or an `out_dir` that cannot be used. What goes wrong inside the notebook is returned as `failure`.
    """
    path, out_dir = Path(path).resolve(), Path(out_dir).resolve()
    parameters = {"tier": tier, **(parameters or {})}
    _check_request(path, out_dir, parameters)
    cell_limit, total_limit = TIME_LIMITS[tier]
    total_timeout = total_timeout or total_limit
    executed = out_dir / path.name
    executed.unlink(missing_ok=True)

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="workbench-", ignore_cleanup_errors=True) as scratch:
        job: dict[str, Any] = {
            "input": str(path),
            "output": str(executed),
            "parameters": parameters,
            "cell_timeout": cell_timeout or cell_limit,
            "reason": str(Path(scratch, "reason.txt")),
        }
        exit_code = _run_process(job, _environment(Path(scratch), tier), executed.with_suffix(".log"), total_timeout)
        reason = _reason(exit_code, total_timeout, Path(job["reason"]), executed.with_suffix(".log"))
    return NotebookResult(path.stem, tier, time.perf_counter() - started, executed, _failure(path, executed, reason))


def _run_process(job: dict[str, Any], environment: dict[str, str], log_file: Path, timeout: float) -> int | None:
    """Execute a notebook in processes of its own; returns the exit code, or None if they were killed after `timeout`.

    Closing its standard input ends the supervisor, and with it all that the notebook started.
    """
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.course.supervisor", json.dumps(job)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                _kill_family(process.pid)
                process.wait()


def run_notebooks(names: Iterable[str], tier: str, out: Path) -> Iterator[NotebookResult]:
    """Execute the named notebooks one after the other; each result comes as soon as it is there.

    Without names all with a parameters cell, which every lesson has and a learner's scratch pad has not; a line on
    stderr says which are left out. What `run_notebook` refuses in any of them raises ValueError at once, before the
    first starts.
    """
    names = list(names)
    paths = find_notebooks(names)
    if not names:
        left_out = [path for path in paths if not _parameters_cells(path)]
        paths = [path for path in paths if path not in left_out]
        if left_out:
            print(f"Left out, without a parameters cell: {', '.join(path.name for path in left_out)}", file=sys.stderr)
    for path in paths:
        _check_request(path, Path(out), {"tier": tier})
    return (run_notebook(path, out, tier) for path in paths)


def _check_request(path: Path, out_dir: Path, parameters: Mapping[str, object]) -> None:
    """Make the folder for the copy. Raises ValueError for a notebook that cannot be run like this."""
    if parameters["tier"] not in TIME_LIMITS:
        raise ValueError(f"There is no tier called {parameters['tier']!r}. There are: {', '.join(TIME_LIMITS)}.")
    known = read_parameters(path)
    if unknown := [name for name in parameters if name not in known]:
        raise ValueError(f"{path.name} has no parameter {', '.join(unknown)}. It has: {', '.join(known)}.")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out_dir).close()  # a folder that is there may still not take a file
    except OSError as error:
        reason = f"The folder {out_dir} for the executed copies cannot be made or written to ({error.strerror})"
        raise ValueError(f"{reason}: name another folder.") from error
    executed = out_dir / path.name
    if executed.exists() and executed.samefile(path):
        raise ValueError(f"The executed copy would take the place of {path}: name another folder for the copies.")


def _parameters_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in _read(path).cells if "parameters" in cell.metadata.get("tags", [])]


def _read(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        # what nbformat raises depends on what is missing
        raise ValueError(f"{path.name} is not a notebook that can be read: {str(error).splitlines()[0]}") from error


def _environment(scratch: Path, tier: str) -> dict[str, str]:
    """The environment of an unattended run: offline, reproducible, independent of settings in the home folder.

    Only the gpu tier may download: its model is not packaged.
    """
    offline = {} if tier == "gpu" else {"HF_HUB_OFFLINE": "1"}
    libraries = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM")
    threads = {f"{library}_THREADS": THREADS for library in libraries}
    return {
        **os.environ,
        **named_folders(),
        **threads,
        **offline,
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "WORKBENCH_PROGRESS": "0",
        "WORKBENCH_RUNS": str(scratch / "runs"),
        "IPYTHONDIR": str(scratch / "ipython"),
        # first in Jupyter's search path: a kernel "python3" in the home folder must not be taken for this one
        "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter")),
    }


def _kill_family(pid: int) -> None:
    """Kill a supervisor that does not end by itself, and all that it started."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)


def _reason(exit_code: int | None, total_timeout: float, reason: Path, log: Path) -> str | None:
    """Why the run as a whole ended badly, in a sentence; None if it did not."""
    if exit_code == 0:
        return None
    if exit_code is None:
        return f"The notebook took longer than the {total_timeout:g} s it may take in all, and was killed."
    if reason.exists():
        return reason.read_text(encoding="utf-8")
    last_lines = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    return f"The process that ran the notebook ended with exit code {exit_code}. Last log lines:\n{last_lines}"


def _failure(path: Path, executed: Path, reason: str | None) -> CellFailure | None:
    """Find the cell that stopped the run: the first with an error, else the last that was started."""
    if reason is None:
        return None
    try:
        cells = _read(executed).cells
    except ValueError:
        return CellFailure(path.name, None, "", reason)  # it ended before, or while, papermill wrote the copy
    started = None
    for cell in cells:
        if cell.metadata.get("papermill", {}).get("start_time"):
            started = cell
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        if errors:
            started = cell
            reason = "\n\n".join(filter(None, [reason, _without_colours("\n".join(errors[0].traceback))]))
            break
    if started is None:
        return CellFailure(path.name, None, "", reason)
    # papermill adds cells of its own, so count in the original
    numbers = {cell.get("id"): number for number, cell in enumerate(_read(path).cells, start=1)}
    return CellFailure(path.name, numbers.get(started.get("id")), started.source, reason)


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
