"""Take the picture of the lab that the README shows: lesson 01's panel in JupyterLab, as a learner sees it.

.venv/bin/python tools/site/picture.py       # writes data/pictures/lab.png; needs Chromium
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.lab_server import CHROMIUM, SKIP_REASON, LabPage, chromium_page, lab_server  # noqa: E402 - after the path

LESSON = "01_delta_w.ipynb"
COLOURS = 192  # enough for the panel, and half of the size


def main() -> None:
    """Take the picture, and store it with few colours."""
    target = ROOT / "data" / "pictures" / "lab.png"
    with live_panel() as (page, _):
        page.screenshot(path=target)
    with Image.open(target) as picture:
        picture.convert("RGB").quantize(COLOURS).save(target, optimize=True)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} KB")


@contextmanager
def live_panel() -> Iterator[tuple[Any, Any]]:
    """Lesson 01 in JupyterLab, run to its end and scrolled to its first panel: the page, and the panel on it."""
    if CHROMIUM is None:
        sys.exit(SKIP_REASON)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "notebooks")
        shutil.copytree(ROOT / "notebooks", folder)
        with lab_server(Path(scratch), folder) as address, chromium_page(1280, 860) as page:
            page.emulate_media(color_scheme="light")
            lab = LabPage(page, address, folder)
            lab.open(LESSON)
            lab.run_all()
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=300_000)
            panel = page.locator(".jupyter-widgets.widget-vbox:has(.workbench-canvas)").first
            for _ in range(3):  # cells above it get their height only when they come into view
                panel.evaluate("panel => panel.scrollIntoView({block: 'start'})")
                page.wait_for_timeout(1000)
            yield page, panel


if __name__ == "__main__":
    main()
