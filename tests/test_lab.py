"""`make lab` as a learner meets it: a real server, and what a real browser shows first."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="this environment was not made by make")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address (with token) of a server started by `make lab`, for a person with another python3 kernel at home."""
    home = tmp_path_factory.mktemp("home")
    kernel = home / ".local" / "share" / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["another-python", "{connection_file}"], "display_name": "Another", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    log = home / "lab.log"
    command = ["make", "lab", "ARGS=--no-browser --ServerApp.port=0", f"JUPYTERLAB_WORKSPACES_DIR={home}"]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    with log.open("wb") as output:
        make = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield _address(log)
    finally:
        family = [*psutil.Process(make.pid).children(recursive=True), psutil.Process(make.pid)]
        for process in family:
            process.kill()
        make.wait()


def _address(log: Path) -> str:
    for _ in range(240):
        if match := re.search(r"http://127\.0\.0\.1:\d+/\S*token=\w+", log.read_text(encoding="utf-8")):
            return match[0]
        time.sleep(0.25)
    pytest.fail(f"no server after a minute:\n{log.read_text(encoding='utf-8')}", pytrace=False)


def _get(address: str, path: str, with_token: bool = True) -> dict:
    server, token = address.split("/lab")[0], address.split("token=")[1]
    headers = {"Authorization": f"token {token}"} if with_token else {}
    with urllib.request.urlopen(urllib.request.Request(server + path, headers=headers), timeout=30) as answer:
        return json.load(answer)


def test_it_opens_on_the_first_notebook(lab):
    assert "/lab/tree/00_start_here.ipynb?" in lab


def test_it_wants_its_token(lab):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        _get(lab, "/api/contents", with_token=False)


def test_it_listens_to_this_computer_only(lab):
    port = int(re.search(r":(\d+)/", lab)[1])
    me = psutil.Process()
    listening = [c.laddr for child in me.children(recursive=True) for c in child.net_connections("tcp")]
    assert {address.ip for address in listening if address.port == port} == {"127.0.0.1"}


def test_the_file_browser_is_in_the_notebooks_folder(lab):
    names = {entry["name"] for entry in _get(lab, "/api/contents")["content"]}
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= names


def test_the_kernel_is_this_environment(lab):
    specs = _get(lab, "/api/kernelspecs")
    assert specs["default"] == "python3"
    assert specs["kernelspecs"]["python3"]["spec"]["argv"][1:3] == ["-m", "ipykernel_launcher"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this computer")
def test_the_first_thing_seen_is_our_notebook_and_no_pop_up(lab):
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(lab)
        page.locator(".jp-NotebookPanel .jp-RenderedMarkdown h1").first.wait_for(timeout=60_000)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first.wait_for(timeout=60_000)
        page.wait_for_timeout(3000)  # a pop-up comes only after the desktop is restored
        tabs = page.locator("#jp-main-dock-panel .lm-TabBar-tabLabel").all_inner_texts()
        files = page.locator(".jp-DirListing-itemText").all_inner_texts()
        pop_ups = page.locator(".Toastify__toast, .jp-Dialog").all_inner_texts()
        browser.close()
    assert tabs == ["00_start_here.ipynb"]
    assert pop_ups == []
    assert "00_start_here.ipynb" in [name.strip() for name in files]
