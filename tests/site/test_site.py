"""The site is readable from a disk without a network: pages, links, formulas, search, and panels that are alive.

The lessons are taken as they are in the repository, one with the output that its panel leaves in a saved copy.
"""

import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

from support.lab_server import CHROMIUM, SKIP_REASON, chromium_page
from workbench.panels.delta_w import delta_w_panel, low_rank_view
from workbench.panels.live.standalone import MIME, panel_state
from workbench.plots.style import picture

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
WITH_PANEL = "01_delta_w.ipynb"
LOOKED_AT = ("index", "notebooks/01_delta_w", "api", "ledger", "data/reference/FINDINGS", "notebooks/LEADING")
WIDTHS = (415, 1000, 1600)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=SKIP_REASON)]


def copy_with_panel() -> nbformat.NotebookNode:
    """Lesson 01 as a run leaves it: with the widget's view, and with the still picture and the panel's state."""
    lesson = nbformat.read(NOTEBOOKS / WITH_PANEL, as_version=4)
    panel = delta_w_panel()
    assert panel.current is not None
    data, metadata = picture(panel.current.png, panel.current.text, 800)
    data |= {MIME: panel_state("delta_w", panel.canvas, panel.controls)}
    cell = next(cell for cell in lesson.cells if "delta_w_panel(" in cell.source)
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "a", "version_major": 2, "version_minor": 0}}
    cell.outputs = [
        nbformat.v4.new_output("display_data", data=view),
        nbformat.v4.new_output("display_data", data=data, metadata=metadata),
    ]
    return lesson


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    executed = folder / "executed"
    executed.mkdir()
    for path in NOTEBOOKS.glob("[0-9]*.ipynb"):
        lesson = copy_with_panel() if path.name == WITH_PANEL else nbformat.read(path, as_version=4)
        nbformat.write(lesson, executed / path.name)
    command = [sys.executable, str(ROOT / "tools" / "site" / "build.py"), "--executed", str(executed)]
    done = subprocess.run([*command, "--to", str(folder / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, BeautifulSoup]:
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.rglob("*.html")}


def test_every_lesson_and_document_is_a_page(site):
    lessons = [path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb")]
    names = [f"notebooks/{name}" for name in lessons] + ["index", "api", "ledger", "FAMILIES", "search", "CONTRIBUTING"]
    assert [name for name in names if not (site / f"{name}.html").is_file()] == []


def test_links_within_the_site_lead_somewhere(site, pages):
    dead = []
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            target, _, anchor = str(link["href"]).partition("#")
            if target.startswith(("http", "mailto")):
                continue
            place = (path.parent / unquote(target)).resolve() if target else path
            if not place.exists() or (anchor and place in pages and not pages[place].find(id=unquote(anchor))):
                dead.append((path.relative_to(site).as_posix(), link["href"]))
    assert dead == []


def test_pictures_are_described_and_formulas_are_drawn_without_a_script(site, pages):
    for path, page in pages.items():
        assert [image["src"][:60] for image in page.find_all("img") if not image.get("alt")] == [], path
    formulas = pages[site / "notebooks" / "02_lora_from_scratch.html"].find_all("math")
    assert any("alpha" in formula["aria-label"] for formula in formulas)


@pytest.mark.parametrize("width", WIDTHS)
def test_it_needs_no_network_and_fits_the_window(site, width):
    with chromium_page(width) as page:
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        for name in LOOKED_AT:
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        assert (asked, faults) == ([], [])


def test_the_panel_of_lesson_01_answers_without_a_kernel(site):
    with chromium_page() as page:
        page.goto((site / "notebooks" / "01_delta_w.html").as_uri())
        toy = page.locator(".workbench-toy")
        toy.get_by_text("is missing").wait_for()
        toy.get_by_label("rank r").focus()
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        wanted = low_rank_view(rank=6).numbers["missed"]
        toy.get_by_text(f"{100 * wanted:.0f} % of the wanted update is missing").wait_for()
        toy.get_by_role("combobox").select_option("noise")
        other = low_rank_view("noise", rank=6).numbers["missed"]
        toy.get_by_text(f"{100 * other:.0f} % of the wanted update is missing").wait_for()


def test_the_search_finds_a_word(site):
    with chromium_page() as page:
        page.goto(f"{(site / 'search.html').as_uri()}?q=intruder")
        page.locator("#search-results li a").first.wait_for(timeout=20_000)


def test_axe_finds_no_barrier(site):
    with chromium_page() as page:
        for name in LOOKED_AT:
            page.goto((site / f"{name}.html").as_uri())
            page.wait_for_timeout(500)
            found = [(one["id"], one["impact"]) for one in Axe().run(page).response["violations"]]
            assert [one for one in found if one[1] in ("serious", "critical")] == [], name
