"""The canvas widget: the JavaScript files of this folder, and the colours and arrays that the kernel sends them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib import colormaps

from workbench.plots.style import MATRIX_COLOURS, PALETTE

SHADES = 64  # of a heat map
SHARED = ("canvas", "panel")  # the files that every script begins with


class Canvas(anywidget.AnyWidget):
    """A picture that a script draws in the browser.

    script: the name of a JavaScript file in this folder, without ".js". controls: the panel's, by name; the script
    follows them. facts: what else the script needs to know. arrays and buffer: its arrays, see `packed`.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    look = traitlets.Dict().tag(sync=True)
    controls = traitlets.Dict().tag(sync=True)  # name -> [id of the control's model, the values of a list or None]
    facts = traitlets.Dict().tag(sync=True)
    arrays = traitlets.Dict().tag(sync=True)
    buffer = traitlets.Bytes().tag(sync=True)

    def __init__(
        self,
        script: str,
        controls: Mapping[str, widgets.ValueWidget],
        facts: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
    ):
        followed = {name: [control.model_id, options_of(control)] for name, control in controls.items()}
        places, buffer = packed(arrays)
        super().__init__(
            _esm=source(script), look=look(), controls=followed, facts=dict(facts), arrays=places, buffer=buffer
        )
        self.add_class("workbench-picture")

    def send_state_of(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Replace facts and arrays, in one message."""
        places, buffer = packed(arrays)
        with self.hold_sync():
            self.facts, self.arrays, self.buffer = dict(facts), places, buffer


def source(*scripts: str) -> str:
    """The JavaScript module of a panel: the shared files and its own, one after the other, in one scope."""
    folder = Path(__file__).parent
    return "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in (*SHARED, *scripts))


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
