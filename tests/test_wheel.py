"""A wheel works without the clone: it is built, unpacked elsewhere, and used by a Python that cannot see the clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = ROOT / "tests" / "support" / "offline"
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "setup.py", "workbench", "data")

# What a user of the wheel does; the answers are printed as one line of JSON.
USE = """
import sitecustomize  # the tests' guard against the network
import contextlib, io, json
from importlib.metadata import entry_points

import workbench
from workbench import paths

[command] = entry_points(group="console_scripts", name="workbench")

def printed(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert command.load()(list(arguments)) == 0
    return out.getvalue()

print(json.dumps({
    "package": workbench.__file__,
    "data": str(paths.DATA),
    "runs": str(paths.runs_dir()),
    "rows": len(workbench.load_task("orders").train),
    "doctor": printed("doctor", "--json"),
    "memory": printed("memory", "llama-3.2-1b", "--json"),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that holds what the wheel holds. Built from a copy: setuptools leaves its own files in the sources."""
    sources, installed = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, sources / name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(sources / "dist"),
        str(sources),
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = (sources / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    return installed


def files_below(folder: Path) -> set[Path]:
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path for path in files if "__pycache__" not in path.parts}


def test_it_holds_the_whole_package_and_nothing_else(installed):
    packaged = files_below(installed / "workbench")
    assert {path for path in packaged if path.parts[0] != "data"} == files_below(ROOT / "workbench")
    assert {path.suffix for path in installed.iterdir()} == {"", ".dist-info"}


def test_it_holds_all_data_that_the_package_reads(installed):
    data, in_clone = installed / "workbench" / "data", ROOT / "data"
    read = {path for path in files_below(in_clone) if path.suffix in (".csv", ".json", ".jsonl")}
    assert files_below(data) == {path for path in read if path.parts[0] != "wordings"}  # which only tools/ reads
    assert all((data / path).read_bytes() == (in_clone / path).read_bytes() for path in files_below(data))


def test_it_works_where_there_is_no_clone(installed, tmp_path):
    # -S leaves out the .pth files of site-packages, one of which makes the clone importable
    path = os.pathsep.join(map(str, [installed, OFFLINE, sysconfig.get_path("purelib")]))
    environment = {name: value for name, value in os.environ.items() if name != "WORKBENCH_RUNS"}
    process = subprocess.run(
        [sys.executable, "-S", "-c", USE],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout)
    assert Path(said["package"]) == installed / "workbench" / "__init__.py"
    assert Path(said["data"]) == installed / "workbench" / "data"
    assert Path(said["runs"]) == tmp_path / "runs"
    assert said["rows"] == 1000
    assert json.loads(said["doctor"])["ready"]
    assert json.loads(said["memory"])["model"] == "llama-3.2-1b"
