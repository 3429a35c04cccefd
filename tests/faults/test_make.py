"""`make setup` and `make lab` with environments that are old, copied, moved, or cannot be brought up to date.

Nothing is installed: the interpreter that make is given is a script that notes what it was asked for.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this computer"),
]

FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp ../jupyter .venv/bin/jupyter;;
  *"-m pip"*) echo "pip in $(basename "$(pwd)")" >> ../asked; [ ! -e ../offline ];;
  *version_info*) [ "$(basename "$0")" = python ] && [ -e ../other ] && echo "(3, 11)" || echo "(3, 12)";;
  *distributions*) [ ! -e ../other-versions ];;
esac
"""
FAKE_JUPYTER = '#!/bin/sh\\n[ "$1" = labextension ] || echo "started in $(basename "$PWD")"\\nenv > "$OLDPWD/../env"\\n'


@pytest.fixture
def course(tmp_path):
    """A clone with the files that make reads, and an environment that make has set up."""
    place = tmp_path / "my course"
    (place / "notebooks").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, place)
    for name, text in (("fake", FAKE_PYTHON), ("jupyter", FAKE_JUPYTER.replace("\\n", "\n"))):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    assert make(place, "setup").returncode == 0
    assert asked(tmp_path) == 2
    return place


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = ["make", "PYTHON=../fake", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **variables})


def asked(folder: Path) -> int:
    """How often pip was run."""
    return len((folder / "asked").read_text().splitlines())


def is_ready(folder: Path) -> bool:
    return make(folder, "--question", "setup").returncode == 0


def belongs_to(folder: Path, owner: Path, with_exec: bool = False) -> None:
    """Give jupyter the first lines that pip writes for an environment in `owner`."""
    first = f"#!/bin/sh\n'''exec' \"{owner}/.venv/bin/python\" \"$0\" \"$@\"\n' '''"
    (folder / ".venv/bin/jupyter").write_text(first if with_exec else f"#!{owner}/.venv/bin/python3.12\nimport re\n")


@pytest.mark.parametrize("stamp", ["of today", "empty, from before"])
def test_new_dates_set_nothing_up(course, stamp):
    """As `git checkout` of another branch and back gives them."""
    if "empty" in stamp:
        (course / ".venv/.installed").write_text("")
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        (course / name).touch()
    assert is_ready(course)
    (course / "pyproject.toml").write_text((course / "pyproject.toml").read_text() + "\n[tool.other]\nx = 1\n")
    assert is_ready(course)


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_new_content_is_installed_once_with_the_old_date_too(course, name):
    file = course / name
    date = file.stat().st_mtime_ns
    file.write_text(
        file.read_text().replace('"accelerate",', '"accelerate", "numpy",') + "# a pin==1\n" * (name[0] == "c")
    )
    os.utime(file, ns=(date, date))
    assert not is_ready(course)
    assert make(course, "setup").returncode == 0 and asked(course.parent) == 4
    assert is_ready(course)


def test_an_empty_stamp_with_other_versions_installed_is_not_enough(course):
    (course / ".venv/.installed").write_text("")
    (course.parent / "other-versions").touch()
    assert not is_ready(course)


@pytest.mark.parametrize("with_exec", [False, True])
@pytest.mark.parametrize("move", [shutil.copytree, os.rename])
def test_the_environment_of_another_folder_is_not_used(course, with_exec, move):
    belongs_to(course, course, with_exec)
    assert is_ready(course)
    other = course.parent / "other"
    move(course, other)
    done = make(other, "lab")
    assert f"was made for {course} and would run the code there" in done.stdout
    assert "started in notebooks" in done.stdout and asked(course.parent) == 4
    assert is_ready(other) and not (other / ".venv.old").exists()


def test_a_link_to_the_folder_is_not_another_folder(course):
    link = course.parent / "link"
    link.symlink_to(course)
    belongs_to(course, link.resolve())
    assert is_ready(link)


def test_without_a_network_the_lab_starts_with_what_is_installed(course):
    (course.parent / "offline").touch()
    (course / "constraints.txt").write_text("another==1\n")
    done = make(course, "lab")
    assert done.returncode == 0 and "started in notebooks" in done.stdout
    assert "could not be installed (see above): starting with what is installed" in done.stdout
    assert make(course, "setup").returncode != 0 and not is_ready(course)


@pytest.mark.parametrize("why", ["another folder's", "another Python's"])
def test_an_old_environment_is_kept_until_the_new_one_is_there(course, why):
    (course.parent / "offline").touch()
    if "Python" in why:
        (course.parent / "other").touch()
        (course / "constraints.txt").write_text("another==1\n")
    else:
        belongs_to(course, Path("/elsewhere"))
    (course / ".venv/old").touch()
    done = make(course, "setup")
    assert done.returncode != 0 and "The old .venv is kept." in done.stdout
    assert (course / ".venv/old").exists() and not (course / ".venv.old").exists()
    (course.parent / "offline").unlink()
    assert make(course, "setup").returncode == 0
    assert not (course / ".venv/old").exists() and not (course / ".venv.old").exists() and is_ready(course)


def test_an_environment_put_aside_by_a_killed_make_is_taken_back(course):
    os.rename(course / ".venv", course / ".venv.old")
    (course / ".venv.old/old").touch()
    (course / ".venv/bin").mkdir(parents=True)
    (course.parent / "offline").touch()
    assert make(course, "setup").returncode != 0
    assert (course / ".venv/old").exists() and not (course / ".venv.old").exists()


@pytest.mark.parametrize("name", ["JUPYTER_CONFIG_DIR", "JUPYTER_CONFIG_PATH", "IPYTHONDIR", "JUPYTER_PATH"])
def test_the_lab_reads_no_settings_from_elsewhere(course, name):
    assert make(course, "lab", **{name: "/somebody/elses"}).returncode == 0
    seen = dict(line.split("=", 1) for line in (course.parent / "env").read_text().splitlines() if "=" in line)
    assert seen.get(name, f"{course}/.venv/").startswith(f"{course}/.venv/")


@pytest.mark.parametrize("name", ["WORKBENCH_CACHE", "WORKBENCH_RUNS"])
@pytest.mark.parametrize(("given", "seen"), [("my own", "{}/my own"), ("/all", "/all"), ("~/all", "~/all"), ("", "")])
def test_kernels_take_the_folders_that_the_shell_means(course, name, given, seen):
    assert make(course, "lab", **{name: given}).returncode == 0
    variables = (course.parent / "env").read_text().splitlines()
    assert f"{name}={seen.format(course)}" in variables
