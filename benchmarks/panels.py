"""Response time of the panels: from the key press to the painted figure, in Chromium on JupyterLab.

    .venv/bin/python benchmarks/panels.py [NAME ...] [--moves 60]          # part of make bench

For each panel of tests/support/gallery.py that answers its controls, the arrow keys move its longest slider. The time
is taken in the page: from the keydown event to the frame in which the canvas has drawn the new setting. A second table
has the time between frames while the mouse drags that slider to and fro for three seconds. AdapterLab shows an adapter
trained here on the packaged model; its settings are visited twice, first computed, then from its cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import nbformat  # noqa: E402

from support import gallery  # noqa: E402 - after the path
from support.controls import Control  # noqa: E402
from support.lab_server import CHROMIUM, SKIP_REASON, LabPage, chromium_page, lab_server  # noqa: E402

MODE_A, MODE_B = 33, 100  # ms, p95: computed in the browser, and by the kernel
TARGETS = {"delta_w": MODE_A, "eight_weights": MODE_A, "adapter_lab, computed": 1500}
BACK = {"ArrowLeft": "ArrowRight", "ArrowRight": "ArrowLeft"}
# Until the frame that draws the new setting is painted: the canvas says after each frame what it has drawn. Two
# settings may look alike, or have no picture; then the words of the panel change alone.
TIMED = """panel => {
    const canvas = panel.querySelector('.workbench-canvas canvas')
    const before = canvas.dataset.digest
    let started
    window.drawn = null
    panel.addEventListener('keydown', event => { started = event.timeStamp }, {capture: true, once: true})
    window.moved = new Promise((resolve, reject) => {
        const message = panel.querySelector('.workbench-message')
        // The text of a style element follows the words of a panel that is at work.
        const answered = () => started !== undefined && !message.textContent.startsWith('Working ...')
        const words = new MutationObserver(() => answered() && over())
        const painted = () => {
            if (started === undefined || (before && canvas.dataset.digest === before)) return
            window.drawn ??= performance.now() - started  // a draft, where the whole takes seconds
            if (answered()) over()
        }
        const over = () => {
            panel.removeEventListener('workbench-painted', painted)
            words.disconnect()
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - started)))
        }
        panel.addEventListener('workbench-painted', painted)
        words.observe(message, {subtree: true, childList: true, characterData: true})
        setTimeout(() => reject('no new picture within a minute'), 60000)
    })
}"""
# How long after each other the canvas painted, while the mouse drags a slider to and fro.
DRAGGED = """panel => {
    window.painted = []
    panel.addEventListener('workbench-painted', () => window.painted.push(performance.now()))
}"""
DRAG_SECONDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=sorted(set(gallery.CODE) - gallery.OF_THEIR_OWN))
    parser.add_argument("--moves", type=int, default=60)
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit(SKIP_REASON)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WORKBENCH_RUNS"] = str(Path(scratch, "runs"))
        if {"adapter_lab", "adapter_mix"} & set(options.names):  # which show runs
            from workbench import load_base

            gallery.train_a_little(load_base("smollm2-135m", dtype="float32"))
        print("| panel | moves | p50 ms | p95 ms | target for p95 |\n| --- | --- | --- | --- | --- |")
        drags = {}
        for name in options.names:
            moved, drags[name] = measure(name, Path(scratch), options.moves)
            for label, times in moved.items():
                print(f"| {label} | {len(times)} | {in_columns(times)} | {TARGETS.get(label, MODE_B)} |")
        print("\n| panel | frames in 3 s of dragging | p50 ms | p95 ms | longest |\n| --- | --- | --- | --- | --- |")
        for name, gaps in drags.items():
            if gaps:
                print(f"| {name} | {len(gaps) + 1} | {in_columns(gaps)} | {max(gaps):.0f} |")


def in_columns(times: list[float]) -> str:
    return f"{median(times):.0f} | {quantiles(times, n=20, method='inclusive')[-1]:.0f}"


def measure(name: str, scratch: Path, moves: int) -> tuple[dict[str, list[float]], list[float]]:
    """Milliseconds of each move, by the label of the printed row, and between the frames of a drag."""
    folder, home = scratch / name, scratch / f"{name}-home"
    folder.mkdir()
    home.mkdir()
    cell = nbformat.v4.new_code_cell(f"# {name}{gallery.CODE[name]}panel")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), folder / "panel.ipynb")
    from workbench.paths import cache_dir

    environment = {"WORKBENCH_RUNS": os.environ["WORKBENCH_RUNS"], "WORKBENCH_CACHE": str(cache_dir())}
    with lab_server(home, folder, environment | {"HF_HUB_OFFLINE": "1"}) as address, chromium_page() as page:
        lab = LabPage(page, address, folder)
        lab.open("panel.ipynb")
        lab.run_all()
        area = lab.outputs(f"# {name}").locator(".jupyter-widgets.widget-vbox").first
        page.wait_for_timeout(1000)
        controls = [Control(area, widget) for widget in gallery.make(name).controls.values()]
        area.scroll_into_view_if_needed()
        path = key_presses(controls, moves)
        if name != "adapter_lab":
            return {name: [timed(area, *step) for step in path]}, dragged(area, path[0][0])
        back = [(control, BACK[key]) for control, key in reversed(path)]
        return {
            f"{name}, computed": [timed(area, *step) for step in path],
            f"{name}, stored": [timed(area, *step) for step in back],
        }, []


def key_presses(controls: list[Control], moves: int) -> list[tuple[Control, str]]:
    """Key presses that visit no setting twice: the longest slider goes to its end and back, and at each end the next
    longest makes one step, while it can. A panel without sliders alternates between the ends of its first list. Moves
    the longest slider to its start."""
    sliders = sorted((control for control in controls if control.is_slider), key=Control.last, reverse=True)
    if not sliders:
        return [(controls[0], ("End", "Home")[move % 2]) for move in range(moves)]
    longest, following = sliders[0], sliders[1] if len(sliders) > 1 else sliders[0]
    longest.handle.focus()
    longest.page.keyboard.press("Home")
    longest.page.wait_for_timeout(8000)
    length = longest.last() - longest.place()
    aside = "ArrowRight" if following.place() == 0 else "ArrowLeft"
    asides = following.last() - following.place() if aside == "ArrowRight" else following.place()
    path = []
    for turn in range(asides + 1 if following is not longest else 1):
        path += [(longest, ("ArrowRight", "ArrowLeft")[turn % 2])] * length
        path += [(following, aside)] * (turn < asides)
    return path[:moves]


def timed(area, control: Control, key: str) -> float:
    """Milliseconds from the key press to the painted figure."""
    control.handle.focus()
    area.evaluate(TIMED)
    area.page.keyboard.press(key)
    return area.page.evaluate("window.moved")


def dragged(area, control: Control) -> list[float]:
    """Milliseconds between the canvas's frames while the mouse drags a slider to and fro."""
    if not control.is_slider:
        return []
    mouse, track, knob = (
        area.page.mouse,
        control.box.locator(".noUi-base").bounding_box(),
        control.handle.bounding_box(),
    )
    x, y = knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2
    mouse.move(x, y)
    mouse.down()
    area.evaluate(DRAGGED)
    end, move = time.monotonic() + DRAG_SECONDS, 0
    while time.monotonic() < end:
        move += 1
        share = abs((move / 60) % 2 - 1)  # once along the track in sixty moves
        mouse.move(track["x"] + share * track["width"], y)
    mouse.up()
    times = area.page.evaluate("window.painted")
    return [later - earlier for earlier, later in pairwise(times)]


if __name__ == "__main__":
    main()
