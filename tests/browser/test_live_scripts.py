"""The scripts of the live panels in a real browser, on a bare page: their arithmetic, and what a person can do.

tests/browser/test_panels_in_lab.py shows the same panels in JupyterLab.
"""

import random

import pytest
import torch

from support import gallery
from support.lab_server import CHROMIUM, SKIP_REASON, chromium_page
from support.live_page import LivePage
from workbench.panels import delta_w, eight_weights

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=SKIP_REASON)]
STATES = 200


@pytest.fixture(scope="module")
def page():
    with chromium_page() as page:
        yield page


@pytest.fixture
def live(page):
    live = LivePage(page, delta_w.delta_w_panel())
    yield live
    assert live.faults == []


def test_delta_w_computes_what_python_computes(live):
    draw = random.Random(0)
    settings = {name: live.panel.canvas.controls[name][1] for name in ("target", "alpha", "steps")}
    states = [
        {"rank": draw.randint(1, delta_w.ROWS)} | {name: draw.choice(values) for name, values in settings.items()}
        for _ in range(STATES)
    ]
    for state, found in zip(states, live.compute(states), strict=True):
        numbers = delta_w.low_rank_view(**state).numbers
        pieces = delta_w.learned_pieces(delta_w._fit(state["target"], state["rank"], state["steps"]), state["target"])
        for name in ("descent", "missed", "scaling"):
            assert found[name] == pytest.approx(numbers[name], rel=1e-6, abs=1e-6), state
        assert found["pieces"] == pytest.approx(pieces.tolist(), abs=1e-6), state


@pytest.mark.parametrize("size", [2, 8, 16])
def test_eight_weights_are_quantized_as_in_python(page, size):
    weights = torch.randn(size)
    live = LivePage(page, eight_weights.eight_weights_panel(weights))
    draw = random.Random(size)
    states = [{"kind": draw.choice(eight_weights.FORMATS), "outlier": draw.randint(1, 32)} for _ in range(STATES)]
    for state, found in zip(states, live.compute(states), strict=True):
        numbers = eight_weights.eight_weights_view(weights, **state).numbers
        assert found["codes"] == [numbers[f"code {at}"] for at in range(size)], state
        assert found["restored"] == pytest.approx([numbers[f"restored {at}"] for at in range(size)], abs=1e-6), state
        assert found["error"] == pytest.approx(numbers["error"], rel=1e-5, abs=1e-6), state


def picture(live) -> str:
    return live.page.evaluate("document.querySelector('canvas').toDataURL()")


@pytest.mark.parametrize(("name", "value"), [("target", "diagonal"), ("rank", 9), ("alpha", 8), ("steps", 30)])
def test_each_control_changes_the_picture(live, name, value):
    before = picture(live)
    live.set(**{name: value})
    assert picture(live) != before


def step_shown(live) -> int:
    return live.page.evaluate(
        "Number(/[Ss]tep (\\d+) of|After (\\d+) steps/.exec(document.querySelector('.read-out')."
        "textContent).slice(1).find(Boolean))"
    )


def test_the_descent_plays_pauses_and_steps(live):
    press = {
        name: live.page.get_by_role("button", name=name, exact=True)
        for name in ("Play", "Pause", "One step", "To the start", "To the end")
    }
    live.set(steps=100)
    press["To the start"].click()
    live.settle()
    assert "Step 0 of 100: 100 %" in live.read_out()
    for _ in range(3):
        press["One step"].click()
    live.page.get_by_text("Step 3 of 100").wait_for()
    live.page.evaluate("frames.length = 0")
    press["Play"].click()
    live.page.wait_for_function("/Step ([2-9]\\d) of/.test(document.querySelector('.read-out').textContent)")
    press["Pause"].click()
    live.settle()
    paused = step_shown(live)
    assert 20 <= paused < 100 and paused - 3 <= live.page.evaluate("frames.length"), "one step a frame"
    press["To the end"].click()
    live.settle()
    assert "After 100 steps" in live.read_out()


def point_at(live, x: float, y: float) -> str:
    box = live.page.locator("canvas").bounding_box()
    live.page.mouse.move(box["x"] + x, box["y"] + y)
    live.settle()
    return live.read_out()


def test_pointing_at_a_cell_prints_its_products(live):
    cell, top = 4.5, 226
    row, column, largest = 20, 10, delta_w.TARGETS["triangle"]
    words = point_at(live, 12 + (column + 0.5) * cell, top + (row + 0.5) * cell)
    fit = delta_w._fit("triangle", 4, 300)
    dW = (fit.B @ fit.A)[row, column].item()  # noqa: N806
    assert f"dW at row {row + 1}, column {column + 1} = 1" in words and words.count("\N{MIDDLE DOT}") == 4
    assert f"= {dW:.3g}. Wanted {largest[row, column].item():.3g}" in words


def test_pointing_at_a_singular_value_shows_its_piece(live):
    before = picture(live)
    words = point_at(live, 723, 500)
    assert words.startswith("Singular value 2 of the wanted update: 3.")
    assert picture(live) != before


def test_what_was_tried_can_be_gone_back_to(live):
    for rank in (8, 16):
        live.set(rank=rank)
        live.page.get_by_role("button", name=f"target=triangle rank={rank} alpha=r steps=300").wait_for()
    rows = live.page.get_by_role("table", name="Settings that were tried").locator("tr")
    assert rows.count() == 3 and rows.nth(1).inner_text().split("\t")[1].endswith("missing")
    rows.nth(2).get_by_role("button").click()
    live.settle()
    assert live.page.evaluate("controls.rank.get('value')") == 8


def test_settings_can_be_pasted(live):
    live.page.locator("summary").click()
    field = live.page.get_by_role("textbox")
    field.fill("target=noise rank=3 alpha=6 steps=100")
    field.press("Enter")
    live.settle()
    values = live.page.evaluate("['target', 'alpha', 'steps'].map(name => controls[name].get('index'))")
    options = [live.panel.canvas.controls[name][1] for name in ("target", "alpha", "steps")]
    assert [own[index] for own, index in zip(options, values, strict=True)] == ["noise", 6, 100]
    for text, words in (("rank=99", '"99" is not a value of rank'), ("colour=1", "no control called")):
        field.fill(text)
        field.press("Enter")
        assert words in live.page.get_by_role("alert").inner_text()
    assert live.page.evaluate("controls.rank.get('value')") == 3


def test_screen_readers_get_the_numbers(live):
    assert live.page.get_by_role("img").get_attribute("aria-label"), "from the first frame on"
    live.page.wait_for_function("document.querySelector('canvas').getAttribute('aria-label').includes('rank: 4')")
    label = live.page.get_by_role("img").get_attribute("aria-label")
    assert "missing after the descent: 24 %" in label
    live.page.locator("summary").click()
    table = live.page.get_by_role("table", name="Numbers of the picture")
    assert table.get_by_role("rowheader").count() == 8


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 415])
@pytest.mark.parametrize("name", ["delta_w", "eight_weights", "lora_layer", "memory", "rank_sweep"])
def test_the_picture_fits_its_width(page, name, theme, width):
    live = LivePage(page, gallery.make(name), theme, width)
    live.page.locator("summary").click()
    inside = "[...document.querySelectorAll('#panel *')].every(part => part.getBoundingClientRect().right <= %s + 1)"
    assert page.evaluate(inside % width) and live.faults == []


def test_pointing_at_a_chart_reads_its_points_and_bars(page):
    live = LivePage(page, gallery.make("lora_layer"))
    assert live.page.locator("canvas").get_attribute("data-digest") == live.panel.canvas.facts["digest"]
    box = live.page.locator("canvas").bounding_box()
    found = set()
    for x in range(40, 460, 12):
        for y in (60, 110, 160, 210):
            live.page.mouse.move(box["x"] + x, box["y"] + y)
            live.page.wait_for_timeout(20)
            found.add(live.read_out())
    assert "alpha / r; rank r 8; scaling 2" in found and any(words.startswith("alpha / sqrt(r)") for words in found)
    live = LivePage(page, gallery.make("memory"))
    words = point_at(live, 120, 50)
    assert words.startswith("LoRA r=16; weights; 2.4") and words.endswith(" GB")


def test_what_the_kernel_sends_is_drawn(page):
    """The panel moves in the kernel; the page gets the new numbers and says that it has drawn them."""
    panel = gallery.make("lora_layer")
    live = LivePage(page, panel)
    before = picture(live)
    panel.controls["rank"].value = 32
    live.receive()
    digest = panel.canvas.facts["digest"]
    page.wait_for_function(f"document.querySelector('canvas').dataset.digest == '{digest}'")
    assert picture(live) != before and live.faults == []
