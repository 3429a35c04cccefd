"""A panel whose picture is drawn in the browser, at every frame, by the JavaScript files of this folder.

The controls are ipywidgets as in every panel. The canvas follows their models in the browser, so that the picture does
not wait for the kernel. The kernel computes the words and the numbers, and draws the still picture for saved notebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib import colormaps

from workbench.panels.base import Panel, View
from workbench.plots.style import MATRIX_COLOURS, PALETTE

SHADES = 64  # of a heat map
SHARED = ("canvas", "panel")  # the files that every script begins with


def source(script: str) -> str:
    """The JavaScript module of a panel: the shared files and its own, one after the other, in one scope."""
    folder = Path(__file__).parent
    return "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in (*SHARED, script))


class Canvas(anywidget.AnyWidget):
    """The canvas on the page. facts: what the script needs to know; arrays and buffer: its matrices (see `packed`)."""

    _esm = traitlets.Unicode().tag(sync=True)
    look = traitlets.Dict().tag(sync=True)
    controls = traitlets.Dict().tag(sync=True)  # name -> [id of the control's model, the values of a list or None]
    facts = traitlets.Dict().tag(sync=True)
    arrays = traitlets.Dict().tag(sync=True)
    buffer = traitlets.Bytes().tag(sync=True)


class LivePanel(Panel):
    """A Panel with a canvas in the place of its PNG.

    view: as for Panel; its figure is drawn for saved copies only. script: the name of a JavaScript file in this folder,
    without ".js". facts, arrays: what the script is given once.
    """

    def __init__(
        self,
        title: str,
        controls: Mapping[str, widgets.ValueWidget],
        view: Callable[..., View],
        script: str,
        facts: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
    ):
        places, buffer = packed(arrays)
        followed = {name: [control.model_id, options_of(control)] for name, control in controls.items()}
        self.canvas = Canvas(
            _esm=source(script), look=look(), controls=followed, facts=dict(facts), arrays=places, buffer=buffer
        )
        super().__init__(title, controls, view)

    def _picture(self) -> widgets.Widget:
        return self.canvas

    def _show(self, view: View) -> None:
        self.canvas.layout.display = None

    def _hide(self) -> None:
        self.canvas.layout.display = "none"


def packed(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, dict[str, Any]], bytes]:
    """Arrays as one buffer of float64, and where in it each begins, counted in numbers, with its shape."""
    places: dict[str, dict[str, Any]] = {}
    start = 0
    for name, array in arrays.items():
        places[name] = {"start": start, "shape": list(array.shape)}
        start += array.size
    parts = [np.ascontiguousarray(array, dtype="<f8").tobytes() for array in arrays.values()]
    return places, b"".join(parts)


def options_of(control: widgets.ValueWidget) -> list[Any] | None:
    """The values of a list of choices in their order; None for a control that holds its value itself."""
    if not hasattr(control, "options"):
        return None
    return [option[1] if isinstance(option, tuple) else option for option in control.options]


def look() -> dict[str, Any]:
    """The colours of the still figures, for the script."""
    shades = (255 * colormaps[MATRIX_COLOURS](np.linspace(0, 1, SHADES))[:, :3]).round().astype(int)
    return {"palette": PALETTE, "matrix": shades.tolist()}
