"""`make lab` as a learner meets it: a real server, and what a real browser shows first."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import psutil
import pytest

from support.lab_server import BY_MAKE, CHROMIUM, ROOT, SKIP_REASON, chromium_page, lab_server

pytestmark = pytest.mark.skipif(not BY_MAKE, reason="this environment was not made by make")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address (with token) of a server started by `make lab`, for a person with other projects' settings at home.

    They have another python3 kernel, and a server's configuration that switches the token off.
    """
    home = tmp_path_factory.mktemp("home")
    kernel = home / ".local" / "share" / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["another-python", "{connection_file}"], "display_name": "Another", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    for place in (".jupyter", ".config/jupyter"):
        (home / place).mkdir(parents=True)
        for name in ("jupyter_server_config.json", "jupyter_lab_config.json", "jupyter_config.json"):
            (home / place / name).write_text('{"IdentityProvider": {"token": ""}}', encoding="utf-8")
    others = {"JUPYTER_CONFIG_PATH": str(home / ".jupyter"), "JUPYTER_CONFIG_DIR": str(home / ".config/jupyter")}
    with lab_server(home, environment=others | {"JUPYTER_TOKEN": ""}) as address:
        yield address


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
    listening = [address for child in psutil.Process().children(recursive=True) for address in _addresses(child)]
    assert {address.ip for address in listening if address.port == port} == {"127.0.0.1"}


def _addresses(process: psutil.Process) -> list:
    try:
        return [connection.laddr for connection in process.net_connections("tcp")]
    except psutil.NoSuchProcess:  # ended while we looked, as a browser's helpers do
        return []


def test_the_file_browser_is_in_the_notebooks_folder(lab):
    names = {entry["name"] for entry in _get(lab, "/api/contents")["content"]}
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= names


def test_the_kernel_is_this_environment(lab):
    specs = _get(lab, "/api/kernelspecs")
    assert specs["default"] == "python3"
    assert specs["kernelspecs"]["python3"]["spec"]["argv"][1:3] == ["-m", "ipykernel_launcher"]


@pytest.mark.skipif(CHROMIUM is None, reason=SKIP_REASON)
def test_the_first_thing_seen_is_our_notebook_and_no_pop_up(lab):
    with chromium_page() as page:
        page.goto(lab)
        page.locator(".jp-NotebookPanel .jp-RenderedMarkdown h1").first.wait_for(timeout=60_000)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first.wait_for(timeout=60_000)
        page.wait_for_timeout(3000)  # a pop-up comes only after the desktop is restored
        tabs = page.locator("#jp-main-dock-panel .lm-TabBar-tabLabel").all_inner_texts()
        files = page.locator(".jp-DirListing-itemText").all_inner_texts()
        pop_ups = page.locator(".Toastify__toast, .jp-Dialog").all_inner_texts()
    assert tabs == ["00_start_here.ipynb"]
    assert pop_ups == []
    assert "00_start_here.ipynb" in [name.strip() for name in files]


def test_make_lab_works_in_a_folder_with_a_space_in_its_name(tmp_path):
    course = tmp_path / "my course"
    (course / "my notebooks").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, course)
    jupyter = course / ".venv" / "bin" / "jupyter"
    jupyter.parent.mkdir(parents=True)
    jupyter.write_text('#!/bin/sh\necho "in $(basename "$PWD"): $@"\n', encoding="utf-8")
    jupyter.chmod(0o755)
    (course / ".venv" / ".installed").touch()
    command = ["make", "--silent", "lab", "FOLDER=my notebooks"]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True)
    assert done.stdout.startswith("in my notebooks: lab --ServerApp.ip=127.0.0.1"), done.stderr
    assert "--LabApp.extension_manager=readonly" in done.stdout  # any other asks a registry
