"""A loss curve that grows while a model trains: one picture for all the runs of a comparison."""

from __future__ import annotations

import time
from collections.abc import Callable

from IPython.display import display

from workbench import plots
from workbench.machine import progress_wanted
from workbench.plots_runs import losses

REDRAW_SECONDS = 2.0


class LiveLosses:
    """Draws the losses of one run after another: `train(..., on_step=live.curve("lora r=8", "lora"))`.

    The picture is replaced in place, so that a saved notebook holds the last one. Stopping the cell stops the run.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self.histories: dict[str, tuple[str, list[dict]]] = {}
        self._handle = None
        self._drawn = 0.0

    def curve(self, label: str, method: str) -> Callable[[dict], None]:
        """A callback for one run. label: its name in the legend; method: "full", "lora", "qlora" or "hybrid"."""
        history: list[dict] = []
        self.histories[label] = (method, history)

        def on_step(entry: dict) -> None:
            history.append(entry)
            last = entry["step"] == entry["steps"]
            if last or (progress_wanted() and time.monotonic() - self._drawn > REDRAW_SECONDS):
                self._draw("" if last else f": {label}, about {entry['seconds_left']:.0f} s left")

        return on_step

    def _draw(self, note: str) -> None:
        figure = losses(self.histories, self.steps, note)
        data, metadata = plots.picture(plots.to_png(figure), figure.alt, int(figure.get_figwidth() * 100))
        if self._handle is None:
            self._handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self._handle.update(data, metadata=metadata, raw=True)
        self._drawn = time.monotonic()
