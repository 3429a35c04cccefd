"""Variables that name folders: empty, relative, of somebody who is not there; and a doctor who says what is wrong."""

import os
from pathlib import Path

import pytest
import torch

from support.bases_on_disk import write_base
from workbench import RunStore, load_base, paths
from workbench.course import doctor, runner
from workbench.errors import WorkbenchError
from workbench.paths import cache_dir, named_folders, runs_dir


@pytest.fixture(params=["WORKBENCH_CACHE", "WORKBENCH_RUNS"])
def variable(request):
    return request.param


def folder_of(variable: str) -> Path:
    return cache_dir() if variable == "WORKBENCH_CACHE" else runs_dir()


@pytest.mark.parametrize("given", ["", " ", "\n"])
def test_an_empty_variable_is_none(variable, given, monkeypatch):
    monkeypatch.delenv(variable)
    expected = folder_of(variable)
    monkeypatch.setenv(variable, given)
    assert folder_of(variable) == expected and variable not in named_folders()


@pytest.mark.parametrize("given", ["runs", "./runs", "../up/runs", "a folder/with spaces", "~/runs"])
def test_a_relative_folder_stays_where_it_is_when_a_cell_changes_the_current_folder(
    variable, given, monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, given)
    before = folder_of(variable)
    monkeypatch.chdir(tmp_path)
    assert before.is_absolute() and folder_of(variable) == before
    assert runner._environment(tmp_path, "smoke")[variable] == (
        str(before) if "CACHE" in variable else f"{tmp_path}/runs"
    )
    if variable == "WORKBENCH_RUNS":
        assert RunStore().path == before


def test_a_home_that_nobody_knows_is_a_sentence_and_a_finding(variable, monkeypatch):
    monkeypatch.setenv(variable, "~nobody-of-this-name/folder")
    with pytest.raises(WorkbenchError, match=f"set {variable} to a folder by its full path"):
        folder_of(variable)
    found = doctor._tried("Disk", doctor._disk)
    assert found.level == "blocked" and variable in found.remedy


def test_a_folder_that_is_a_file_is_a_finding(variable, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "folder"))
    found = doctor._tried("Disk", doctor._disk)
    assert found.level == "blocked" and found.remedy


@pytest.mark.parametrize("place", ["file", "file/cache", "read-only/cache", "/proc/none", "x" * 300, "loop/cache"])
def test_a_cache_that_cannot_be_written_costs_time_only(place, monkeypatch, tmp_path):
    """A base in a folder is loaded; which dtype is fast is found out again at each start."""
    folder = write_base(tmp_path / "base", "llama")
    (tmp_path / "file").touch()
    (tmp_path / "read-only").mkdir(mode=0o555)
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.delenv("WORKBENCH_DTYPE", raising=False)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / place))
    assert load_base(folder).dtype in (torch.float32, torch.bfloat16)


def test_a_current_folder_that_is_gone_keeps_nobody_from_starting(monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("PWD", str(gone))
    gone.rmdir()
    with pytest.raises(OSError):
        os.getcwd()
    assert paths._current_folder() == gone
