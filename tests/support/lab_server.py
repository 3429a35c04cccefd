"""JupyterLab as a learner starts it, and a real Chromium that looks at it. Used by the tests and by benchmarks/panels.

The browser is the system's own; nothing is downloaded. Where there is none, SKIP_REASON says what was not tested.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import psutil

ROOT = Path(__file__).resolve().parents[2]
BY_MAKE = Path(sys.prefix) == ROOT / ".venv" and shutil.which("make") is not None
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
SKIP_REASON = "NOTHING WAS TRIED IN A BROWSER: no Chromium on this computer (Debian: apt-get install chromium)"


@contextmanager
def lab_server(
    home: Path, folder: Path = ROOT / "notebooks", environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address (with token) of a server started by `make lab`, for a person whose home folder is `home`.

    folder: the notebooks; environment: more variables. The server's words are in home/lab.log.
    """
    log = home / "lab.log"
    settings = [f"FOLDER={folder}", "ARGS=--no-browser --ServerApp.port=0", f"JUPYTERLAB_WORKSPACES_DIR={home}"]
    command = ["make", "lab", *settings]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # under tests, the network's guard
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": paths} | dict(environment or {})
    with log.open("wb") as output:
        make = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _address(log, make)
    finally:
        if make.poll() is None:
            for process in [*psutil.Process(make.pid).children(recursive=True), psutil.Process(make.pid)]:
                process.kill()
        make.wait()


def _address(log: Path, make: subprocess.Popen) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end and make.poll() is None:
        if match := re.search(r"http://127\.0\.0\.1:\d+/\S*token=\w+", log.read_text(encoding="utf-8")):
            return match[0]
        time.sleep(0.25)
    raise RuntimeError(f"no server:\n{log.read_text(encoding='utf-8')}")


@contextmanager
def chromium_page(width: int = 1280, height: int = 800):
    """A page of a fresh Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        yield page
        browser.close()


class LabPage:
    """A browser page on a running server. `faults`: what the page's scripts have thrown or logged as errors.

    folder: the server's root, where the notebooks are.
    """

    def __init__(self, page, address: str, folder: Path):
        self.page, self.folder = page, folder
        self.server, self.token = address.split("/lab")[0], address.split("token=")[1]
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(f"thrown: {error}"))
        page.on("console", self._logged)

    def _logged(self, message) -> None:
        if message.type == "error":
            self.faults.append(f"logged: {message.text} ({message.location.get('url', '')})")

    def open(self, name: str) -> None:
        """Open the notebook of this name, alone, and wait for its kernel."""
        self.path = self.folder / name
        self.page.goto(f"{self.server}/lab/tree/{name}?reset&token={self.token}")
        self.page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
        self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)

    def menu(self, name: str, item: str) -> None:
        """Choose a menu's item with the mouse."""
        self.page.locator(f".lm-MenuBar-itemLabel:text-is('{name}')").click()
        self.page.locator(f".lm-Menu-itemLabel:text-is('{item}')").click()

    def run_all(self, seconds: float = 240) -> None:
        """Run > Run All Cells; returns when every code cell has its number, or one has failed.

        A cell whose source is hidden shows no number: the kernel is idle when these are done.
        """
        self.menu("Run", "Run All Cells")
        done = """() => document.querySelector('[data-mime-type$="jupyter.error"], [data-mime-type$="jupyter.stderr"]')
            || (document.body.textContent.includes('Python 3 (ipykernel) | Idle')
                && [...document.querySelectorAll('.jp-NotebookPanel .jp-CodeCell .jp-InputArea-prompt')]
                    .every(prompt => /^\\[\\d+\\]:$/.test(prompt.textContent.trim())))"""
        self.page.wait_for_function(done, timeout=seconds * 1000, polling=200)

    def saved(self) -> nbformat.NotebookNode:
        """The notebook as it is on disk after File > Save Notebook."""
        before = self.path.stat().st_mtime_ns
        self.menu("File", "Save Notebook")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            self.page.wait_for_timeout(200)
            if self.path.stat().st_mtime_ns != before:
                with suppress(nbformat.reader.NotJSONError):  # half written
                    return nbformat.read(self.path, as_version=4)
        raise RuntimeError("the notebook was not saved within 30 s")

    def cell(self, first_line: str):
        """The code cell that begins with this line."""
        return self.page.locator(".jp-CodeCell").filter(
            has=self.page.locator(".cm-line", has_text=re.compile(f"^{re.escape(first_line)}$"))
        )

    def outputs(self, first_line: str):
        """What is below that cell."""
        return self.cell(first_line).locator(".jp-OutputArea-output")

    def run(self, first_line: str) -> None:
        """Run that cell again: a click on its number, then Ctrl+Enter."""
        self.cell(first_line).locator(".jp-InputPrompt").click()
        self.page.keyboard.press("Control+Enter")
