"""Response time of the panels: from the key press to the painted figure, in Chromium on JupyterLab.

    .venv/bin/python benchmarks/panels.py [NAME ...] [--moves 30]          # part of make bench

For each panel of tests/support/gallery.py that answers its controls, the arrow keys move its longest slider. The time
is taken in the page: from the keydown event to the frame after the browser has decoded the new figure. AdapterLab shows
an adapter trained here on the packaged model; its settings are visited twice, first computed, then from its cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import nbformat  # noqa: E402

from support import gallery  # noqa: E402 - after the path
from support.controls import Control  # noqa: E402
from support.lab_server import CHROMIUM, SKIP_REASON, LabPage, chromium_page, lab_server  # noqa: E402

TARGETS = {"adapter_lab, computed": 2000, "adapter_lab, stored": 150}  # ms; 100 for all others
BACK = {"ArrowLeft": "ArrowRight", "ArrowRight": "ArrowLeft"}
TIMED = """panel => {
    const picture = panel.querySelector('img.widget-image')
    const words = panel.querySelector('.workbench-message')
    const before = words.textContent
    let started
    panel.addEventListener('keydown', event => { started = event.timeStamp }, {capture: true, once: true})
    window.moved = new Promise((resolve, reject) => {
        const seen = new MutationObserver(async () => {
            if (words.textContent == before || words.querySelector('[role=status]')) return
            seen.disconnect()
            await picture.decode().catch(() => {})
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - started)))
        })
        seen.observe(panel, {subtree: true, childList: true, attributes: true, characterData: true})
        setTimeout(() => reject('no new words within a minute'), 60000)
    })
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=sorted(set(gallery.CODE) - gallery.OF_THEIR_OWN))
    parser.add_argument("--moves", type=int, default=30)
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit(SKIP_REASON)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WORKBENCH_RUNS"] = str(Path(scratch, "runs"))
        from workbench import load_base

        gallery.train_a_little(load_base("smollm2-135m", dtype="float32"))
        print("| panel | moves | p50 ms | p95 ms | target for p95 |\n| --- | --- | --- | --- | --- |")
        for name in options.names:
            for label, times in measure(name, Path(scratch), options.moves).items():
                p95 = quantiles(times, n=20, method="inclusive")[-1]
                print(f"| {label} | {len(times)} | {median(times):.0f} | {p95:.0f} | {TARGETS.get(label, 100)} |")


def measure(name: str, scratch: Path, moves: int) -> dict[str, list[float]]:
    """Milliseconds of each move, by the label of the printed row."""
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
            return {name: [timed(area, *step) for step in path]}
        back = [(control, BACK[key]) for control, key in reversed(path)]
        return {
            f"{name}, computed": [timed(area, *step) for step in path],
            f"{name}, stored": [timed(area, *step) for step in back],
        }


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


if __name__ == "__main__":
    main()
