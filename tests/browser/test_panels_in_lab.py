"""The panels as a person uses them: a real JupyterLab, a real browser, the mouse and the keyboard.

Lesson 01 runs whole, and a notebook made here shows every panel of tests/support/gallery.py. After each move of a
control the page must show, word for word and number for number, what the panel's pure function gives in this process;
a picture that the browser computes must come to rest (its arithmetic: test_live_scripts.py).
Screenshots are kept in build/browser/.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from nbconvert import HTMLExporter

from support import gallery
from support.controls import Control
from support.lab_server import CHROMIUM, ROOT, SKIP_REASON, LabPage, chromium_page, lab_server
from workbench import RunStore
from workbench.claims import BETS, DEPENDS, SUPPORTED, load_bets
from workbench.panels.base import Panel
from workbench.panels.live.charts import charts_of
from workbench.panels.live.panel import LivePanel
from workbench.panels.training import runs_table
from workbench.paths import cache_dir

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=SKIP_REASON),
    pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="this environment was not made by make"),
]
PICTURES = ROOT / "build" / "browser"
NAMES = sorted(gallery.CODE)
ALIKE = [name for name in NAMES if name not in gallery.OF_THEIR_OWN]
TOO_WIDE = """panel => {
    const room = panel.closest('.jp-OutputArea-output').getBoundingClientRect()
    return [...panel.querySelectorAll('*')].filter(part => part.checkVisibility())  // not what is folded
        .filter(part => part.getBoundingClientRect().right > room.right + 1)
        .map(part => part.outerHTML.slice(0, 100))
}"""
CONTRAST = """panel => {  // of the panel's words on the page: the ratio that the WCAG define
    const light = colour => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255)
        const linear = parts.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    }
    const words = light(getComputedStyle(panel.querySelector('p, b, td')).color)
    const ground = light(getComputedStyle(panel.closest('.jp-Notebook')).backgroundColor)
    return (Math.max(words, ground) + 0.05) / (Math.min(words, ground) + 0.05)
}"""
# What axe-core calls serious or critical in parts of the page. JupyterLab's own menus, toolbars and code cells are
# outside of the parts that are asked about: they are not ours to mend.
OURS = ".jp-Notebook .jp-RenderedMarkdown, .jp-Notebook .jp-OutputArea-output"
BARRIERS = """async ours => (await axe.run({include: [ours]}, {resultTypes: ['violations']})).violations
    .filter(found => ['serious', 'critical'].includes(found.impact))
    .flatMap(found => found.nodes.map(node => `${found.id}: ${node.html.slice(0, 200)}`))"""
TALL = 20_000  # px; a window that a whole notebook fits into, since JupyterLab does not draw what is out of view
ALL_DRAWN = """ours => {
    const parts = [...document.querySelectorAll(ours)]
    return parts.length > 20 && parts.every(part => part.checkVisibility({contentVisibilityAuto: true}))
}"""
SEEN = """panel => {
    const picture = panel.querySelector('.workbench-canvas canvas')
    const words = panel.querySelector('.workbench-message p')
    const hidden = !picture || !picture.checkVisibility()
    return {
        picture: hidden ? null : picture.dataset.digest || picture.toDataURL(),
        words: words.textContent,
        alert: words.getAttribute('role') == 'alert',
    }
}"""

# How far the lightness of the words in a canvas's first line is from the page's, 0 to 1.
INK = """canvas => {
    const pen = canvas.getContext('2d')
    const lightness = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue) / 255
    const page = getComputedStyle(canvas.closest('.jp-NotebookPanel')).getPropertyValue('--jp-layout-color0')
    const probe = new OffscreenCanvas(1, 1).getContext('2d')
    probe.fillStyle = page.trim()
    probe.fillRect(0, 0, 1, 1)
    const ground = lightness(probe.getImageData(0, 0, 1, 1).data)
    const pixels = pen.getImageData(0, 0, canvas.width, Math.round(30 * devicePixelRatio)).data
    let most = 0
    for (let at = 0; at < pixels.length; at += 4) {
        if (pixels[at + 3] > 200) most = Math.max(most, Math.abs(lightness(pixels.subarray(at)) - ground))
    }
    return most
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The server's root: lesson 01 in the smoke tier, and the gallery."""
    folder = tmp_path_factory.mktemp("course")
    lesson = nbformat.read(ROOT / "notebooks" / "01_delta_w.ipynb", as_version=4)
    for cell in lesson.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace('tier = "laptop"', 'tier = "smoke"')
            assert '"smoke"' in cell.source
    nbformat.write(lesson, folder / "01_delta_w.ipynb")
    cells = [nbformat.v4.new_code_cell(f"# {name}{gallery.CODE[name]}panel") for name in NAMES]
    cells.append(nbformat.v4.new_code_cell(f"# the guess\n{gallery.CODE['predict']}guess = panel\nguess"))
    cells.append(nbformat.v4.new_code_cell("# its words\nprint(guess.words())"))
    broken = "for control in panel.controls.values():\n    control.unobserve_all('value')\npanel"
    cells.append(nbformat.v4.new_code_cell(f"# broken{gallery.CODE['delta_w']}{broken}"))
    cells.append(nbformat.v4.new_code_cell("# six times seven\nprint(6 * 7)"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=lesson.metadata), folder / "gallery.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(folder, gallery_runs, tmp_path_factory):
    """A server over `folder`, whose kernels have this process's threads, cache of models and store of runs."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: os.environ[name] for name in ("WORKBENCH_RUNS", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "PYTHONPATH")}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), kept["PYTHONPATH"]])
    environment = kept | {"PYTHONPATH": path, "WORKBENCH_CACHE": str(cache_dir())}
    with lab_server(home, folder, environment) as address:
        yield address
    assert "Traceback" not in (log := (home / "lab.log").read_text(encoding="utf-8")), log


@pytest.fixture(scope="module")
def browser(lab, folder):
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium_page() as page:
        yield LabPage(page, lab, folder)


@pytest.fixture(scope="module")
def shown(browser):
    """The gallery, every cell of it run."""
    browser.open("gallery.ipynb")
    browser.run_all()
    return browser


def choose_theme(shown: LabPage, theme: str) -> None:
    """Choose JupyterLab's theme in its menu."""
    shown.menu("Settings", "Theme")
    shown.page.locator(f".lm-Menu-itemLabel:text-is('{theme}')").click()
    shown.page.wait_for_function(f"document.body.dataset.jpThemeName == '{theme}'")
    shown.page.wait_for_timeout(500)


def area_of(shown: LabPage, name: str):
    """The live panel below the gallery's cell of that name, scrolled into view."""
    area = shown.outputs(f"# {name}").locator(".jupyter-widgets.widget-vbox").first
    area.scroll_into_view_if_needed()
    return area


@pytest.fixture(scope="module")
def lesson(browser):
    """Lesson 01, every cell of it run."""
    browser.open("01_delta_w.ipynb")
    browser.run_all()
    return browser


def test_lesson_01_runs_whole(lesson):
    assert_sound(lesson)
    lesson.page.screenshot(path=PICTURES / "lesson_01.png")


def barriers(browser: LabPage) -> list[str]:
    """What axe-core finds in the words and outputs of the open notebook, all of which are in the window for it."""
    page, size = browser.page, browser.page.viewport_size
    page.set_viewport_size({"width": size["width"], "height": TALL})
    page.wait_for_function(ALL_DRAWN, arg=OURS)
    page.evaluate(Axe().axe_script)
    for _ in range(10):  # a panel names its sliders once it has come to rest
        page.wait_for_timeout(1000)
        if not (found := page.evaluate(BARRIERS, OURS)):
            break
    page.set_viewport_size(size)
    return found


def test_axe_finds_no_barrier_in_a_lesson(lesson):
    assert not (found := barriers(lesson)), "\n".join(found)


def test_the_gallery_runs(shown):
    assert_sound(shown)


def assert_sound(browser: LabPage) -> None:
    """Every cell has run, none has failed, and no script of the page has."""
    cells = [cell for cell in browser.saved().cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert cells and all(cell.execution_count for cell in cells)
    assert [output for output in outputs if output.output_type == "error"] == []
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert browser.faults == []


def expected(panel: Panel, values: dict) -> dict:
    """What the page has to show for these settings, by the pure function."""
    try:
        view = panel.view(**values)
    except ValueError as error:
        return {"picture": None, "words": str(error), "alert": True}
    if isinstance(panel, LivePanel):
        return {"words": view.text, "alert": False}
    return {"picture": charts_of(view.figure)[0]["digest"], "words": view.text, "alert": False}


def settle(area, panel: Panel, controls: dict[str, Control], seconds: float = 60) -> dict:
    """Wait until the page shows what the pure function gives for the settings that the page shows."""
    values, wanted, seen = None, None, None
    for _ in range(int(seconds / 0.1)):
        shown = {name: control.value() for name, control in controls.items()}
        if shown != values:
            values, wanted = shown, expected(panel, shown)
        before, seen = seen, area.evaluate(SEEN)
        if seen | wanted == seen == before and values == {name: control.value() for name, control in controls.items()}:
            return seen
        area.page.wait_for_timeout(100)
    raise AssertionError(f"with {values} the page shows\n{seen}\nbut the pure function gives\n{wanted}")


def test_the_words_on_a_canvas_can_be_read(shown):
    """A canvas is drawn before it is on the page, where the colours of JupyterLab's theme are not known yet."""
    assert area_of(shown, "delta_w").locator("canvas").evaluate(INK) > 0.5


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_axe_finds_no_barrier_in_any_panel(shown, theme):
    choose_theme(shown, theme)
    assert not (found := barriers(shown)), "\n".join(found)


@pytest.mark.parametrize("name", ALIKE)
def test_each_control_changes_picture_and_words(shown, name):
    panel, area = gallery.make(name), area_of(shown, name)
    controls = {key: Control(area, widget) for key, widget in panel.controls.items()}
    before = settle(area, panel, controls)
    assert before["picture"]
    for key, control in controls.items():
        for move in (control.by_mouse, control.by_keyboard):
            value = control.value()
            move()
            after = settle(area, panel, controls)
            assert control.value() != value, f"{key}: {move.__name__} did not move it"
            assert (after["picture"], after["words"]) != (before["picture"], before["words"]), key
            before = after
        if before["alert"]:  # nothing to draw with these settings: begin again, as a person would
            shown.run(f"# {name}")
            shown.page.wait_for_timeout(500)
            before = settle(area_of(shown, name), panel, controls)
    area_of(shown, name).screenshot(path=PICTURES / f"{name}_moved.png")


@pytest.mark.parametrize("key", ["target", "rank"])
def test_a_broken_callback_is_found_out(shown, key):
    panel, area = gallery.make("delta_w"), area_of(shown, "broken")
    controls = {key: Control(area, widget) for key, widget in panel.controls.items()}
    controls[key].by_keyboard()
    with pytest.raises(AssertionError, match="but the pure function gives"):
        settle(area, panel, controls, seconds=2)


@pytest.mark.parametrize(("name", "key"), [("delta_w", "rank"), ("adapter_lab", "alpha")])
def test_ten_rapid_moves_end_in_the_right_picture(shown, name, key):
    panel, area = gallery.make(name), area_of(shown, name)
    controls = {other: Control(area, widget) for other, widget in panel.controls.items()}
    start = controls[key].value()
    controls[key].handle.focus()
    for arrow in ("ArrowRight", "ArrowLeft", "ArrowLeft") + ("ArrowLeft", "ArrowRight") * 3 + ("ArrowLeft",):
        shown.page.keyboard.press(arrow)
    first = settle(area, panel, controls)
    assert controls[key].value() != start
    shown.page.wait_for_timeout(1500)
    assert settle(area, panel, controls, seconds=0.2) == first, "nothing late has painted over it"


def test_bets_are_saved_as_they_are_made(shown, gallery_runs):
    area = area_of(shown, "bets")
    buttons = area.locator("button.widget-toggle-button")
    buttons.nth(0).click()
    area.get_by_text("1 of 4 bets made and saved.").wait_for()
    buttons.nth(4).focus()
    shown.page.keyboard.press("Enter")
    area.get_by_text("2 of 4 bets made and saved.").wait_for()
    first, second = list(BETS)[:2]
    assert load_bets(RunStore(gallery_runs)) == {first: SUPPORTED, second: DEPENDS}


def test_a_prediction_reaches_the_kernel(shown):
    circles = shown.outputs("# the guess").locator("input[type=radio]")
    for move, words in ((circles.nth(2).click, "nearly all"), (lambda: shown.page.keyboard.press("Space"), "little")):
        circles.nth(0).focus()
        move()
        shown.run("# its words")
        shown.outputs("# its words").get_by_text(words, exact=True).wait_for()


def test_the_keyboard_reaches_every_control(shown):
    for name in (*ALIKE, "training"):
        area = area_of(shown, name)
        controls = [Control(area, widget) for widget in gallery.make(name).controls.values()]
        controls[0].handle.focus()
        reached = 1
        for _ in range(3 * len(controls)):  # a slider's number is a stop of its own
            shown.page.keyboard.press("Tab")
            if reached < len(controls):
                reached += controls[reached].handle.evaluate("handle => handle === document.activeElement")
        assert reached == len(controls), f"{name}: Tab stops after {reached} of {len(controls)} controls"


def changed_picture(area, picture: str, seconds: float = 60) -> str:
    """Wait until the panel's picture is another than that."""
    for _ in range(int(seconds / 0.1)):
        if (seen := area.evaluate(SEEN)["picture"]) != picture:
            return seen
        area.page.wait_for_timeout(100)
    raise AssertionError(f"the picture stays as it was; the panel says: {area.evaluate(SEEN)['words']}")


def test_a_run_is_trained_watched_and_stopped(shown, gallery_runs):
    area, page = area_of(shown, "training"), shown.page
    panel, stored = gallery.make("training"), {run.id for run in RunStore(gallery_runs).all()}
    Control(area, panel.controls["rank"]).by_keyboard()
    rank = Control(area, panel.controls["rank"]).value()
    picture = area.evaluate(SEEN)["picture"]
    area.get_by_role("button", name="Train").click()
    for step in (2, 12):
        page.wait_for_function(
            "([panel, step]) => Number(/step (\\d+) of/.exec(panel.textContent)?.[1]) >= step",
            arg=[area.element_handle(), step],
            timeout=60_000,
        )
        picture = changed_picture(area, picture)  # the curve moves
    shown.run("# six times seven")
    shown.outputs("# six times seven").get_by_text("42").wait_for(timeout=10_000)
    assert "step" in area.locator(".workbench-message").text_content(), "the kernel answers while it trains"
    area.scroll_into_view_if_needed()
    area.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    area.get_by_text("interrupted after").wait_for(timeout=30_000)
    (run,) = [run for run in RunStore(gallery_runs).all() if run.id not in stored]
    assert run.status == "interrupted" and run.method["rank"] == rank
    table = area.locator(".widget-html table")  # of the runs; the canvas has tables of its own
    assert table.locator("tr").count() == 1 + 2 + 1 and "interrupted" in table.inner_text()
    area.screenshot(path=PICTURES / "training_moved.png")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (853, 533)], ids=["1280 px", "150 percent of it"])
@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_every_panel_fits_and_can_be_read(shown, theme, width, height):
    choose_theme(shown, theme)
    shown.page.set_viewport_size({"width": width, "height": height})
    shown.page.wait_for_timeout(500)
    for name in NAMES:
        area = area_of(shown, name)
        assert area.evaluate(TOO_WIDE) == [], name
        assert area.evaluate(CONTRAST) > 4.5, f"{name}: words in {theme}"
        if theme.endswith("Light") == (width == 1280):
            area.screenshot(path=PICTURES / f"{name}_{theme.split()[1].lower()}_{width}.png")


def test_the_table_of_runs_fits_with_its_widest_values(shown, gallery_runs):
    run = RunStore(gallery_runs).all()[0]
    method = run.method | {"rank": 128, "alpha": 256, "learning_rate": 0.00025}
    metrics, forgetting = run.metrics | {"loss": 12.3456789, "exact_match": 1 / 3}, {"general_loss": -0.0001234567}
    widest = replace(run, method=method, metrics=metrics, forgetting=forgetting, status="interrupted")
    page = shown.page.context.browser.new_page()
    page.set_content(f"<div style='width: 415px; font: 13px sans-serif'>{runs_table([widest])}</div>")  # as at 150 %
    assert page.evaluate("document.querySelector('table').getBoundingClientRect().width") <= 415
    page.close()


def test_a_saved_copy_can_be_read_without_a_kernel(shown, browser, tmp_path):
    notebook = browser.saved()
    shown.page.set_viewport_size({"width": 1280, "height": 800})
    body, _ = HTMLExporter().from_notebook_node(notebook)
    (PICTURES / "gallery.html").write_text(body, encoding="utf-8")
    page = shown.page.context.browser.new_page()
    page.goto((PICTURES / "gallery.html").as_uri())
    stills = page.locator("[class^=workbench-still]")
    cells = {still.get_attribute("class") for still in stills.all()}  # one a cell; in it may be a table and a picture
    assert len(cells) == len(NAMES) + 2 and all(still.is_visible() for still in stills.all())
    pictures = page.locator("img[class^=workbench-still], [class^=workbench-still] img").all()
    assert len(pictures) == len(NAMES) - 2 + 1, "bets and predictions are words; one panel is there twice"
    assert all(picture.evaluate("img => img.naturalWidth > 0 && img.alt.length > 20") for picture in pictures)
    assert "VBox(" not in page.inner_text("body")
    page.screenshot(path=PICTURES / "gallery_html.png", full_page=True)
    page.close()


def test_no_fault_came_up_on_the_way(shown):
    assert_sound(shown)


def test_after_a_restart_the_pictures_stay_and_say_that_they_are_not_live(shown):
    panel, area = gallery.make("delta_w"), area_of(shown, "delta_w")
    before = settle(area, panel, {key: Control(area, widget) for key, widget in panel.controls.items()})["picture"]
    shown.menu("Kernel", "Restart Kernel\N{HORIZONTAL ELLIPSIS}")
    shown.page.get_by_role("button", name="Confirm Kernel Restart").click()
    area.get_by_text("Not live: the kernel has stopped.").wait_for()
    assert area.evaluate(SEEN)["picture"] == before
