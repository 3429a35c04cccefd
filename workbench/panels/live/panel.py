"""A panel whose script computes its picture in the browser, at every frame, without waiting for the kernel.

The controls are ipywidgets as in every panel, and the script follows their models in the browser. The kernel computes
the words and the numbers, and draws the still picture for saved notebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np

from workbench.panels.base import Panel, View
from workbench.panels.live.canvas import Canvas
from workbench.panels.live.standalone import MIME, panel_state


class LivePanel(Panel):
    """A Panel with a script of its own.

    view: as for Panel; its figure is drawn for saved copies only. script, facts, arrays: as for Canvas.
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
        self._script = script, controls, facts, arrays
        super().__init__(title, controls, view)

    def _make_canvas(self) -> Canvas:
        return Canvas(*self._script)

    def _for_copies(self) -> dict[str, Any]:
        return {MIME: panel_state(self._script[0], self.canvas, self.controls)}

    def _show(self, view: View) -> None:
        self.canvas.layout.display = None  # after an error; the script has drawn the settings already
