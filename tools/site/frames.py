"""Take a strip of frames of lesson 01's panel in JupyterLab while a pair of matrices is being trained.

.venv/bin/python tools/site/frames.py [--to FILE]       # build/frames.png; needs Chromium
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from picture import ROOT, live_panel
from PIL import Image

FRAMES, APART = 6, 500  # ms; Play makes a training step a frame


def main() -> None:
    """Press Play, take the frames, and join them from top to bottom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "frames.png", help="default: build/frames.png")
    target = parser.parse_args().to
    with live_panel() as (page, panel):
        panel.get_by_role("button", name="Play").click()
        taken = []
        for _ in range(FRAMES):
            taken.append(panel.locator(".workbench-canvas").screenshot())
            page.wait_for_timeout(APART)
    pictures = [Image.open(io.BytesIO(one)).convert("RGB") for one in taken]
    strip = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), "white")
    top = 0
    for one in pictures:
        strip.paste(one, (0, top))
        top += one.height
    target.parent.mkdir(parents=True, exist_ok=True)
    strip.save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
