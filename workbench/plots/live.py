"""Loss curves that grow while models train: one picture for all the runs of a comparison, or of a sweep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from IPython.display import DisplayHandle, display

from workbench.adapters.methods import targets_in_words
from workbench.console import progress_wanted
from workbench.plots.style import Figure, picture, pixel_width, to_png
from workbench.plots.training import History, LossEntry, losses, sweep_losses
from workbench.results.rows import setting_in_words
from workbench.training.loop import OnStep, StepReport
from workbench.training.runs import FAILED, Run

REDRAW_SECONDS = 2.0
# setting -> how a label states it
LABEL_FORMS = {
    "task": "{}",
    "rank": "r = {:g}",
    "targets": "{}",
    "alpha": "alpha {:g}",
    "learning_rate": "rate {:g}",
    "seed": "seed {}",
}


class LivePicture:
    """A picture that is replaced in place, so that a saved notebook holds the last one.

    Stopping the cell stops the run. With WORKBENCH_PROGRESS=0 there is no progress, and a run is drawn only at its last
    step; one that ends earlier is not drawn (a sweep is, when all of its runs have diverged).
    """

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None
        self._drawn_at = -math.inf

    def show(self, figure: Figure) -> None:
        """Display the figure in the place of the one before."""
        data, metadata = picture(to_png(figure), figure.alt, pixel_width(figure))
        if self._handle is None:
            self._handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self._handle.update(data, metadata=metadata, raw=True)

    def _redraw(self, last: bool, draw: Callable[[], Figure]) -> None:
        """Show what `draw` returns, after the last step or if the picture is old."""
        if last or (progress_wanted() and time.monotonic() - self._drawn_at > REDRAW_SECONDS):
            self.show(draw())
            self._drawn_at = time.monotonic()


class LiveLosses(LivePicture):
    """Draws the losses of one run after another: `train(..., on_step=live.curve("lora r=8", "lora"))`."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.histories: dict[str, tuple[str, list[LossEntry]]] = {}

    def curve(self, label: str, method: str) -> OnStep:
        """A callback for one run. label: its name in the legend, numbered if it is taken; method: the method's name."""
        history: list[LossEntry] = []
        label = _numbered(label, self.histories)
        self.histories[label] = (method, history)

        def on_step(report: StepReport) -> None:
            if math.isnan(report["loss"]):  # the run has diverged
                return
            history.append({"step": report["step"], "loss": report["loss"]})  # the report also holds the model
            last = report["step"] == report["steps"]
            note = "" if last else f": {label}, about {report['seconds_left']:.0f} s left"
            self._redraw(last, lambda: losses(self.histories, self.steps, note))

        return on_step


class LiveSweep(LivePicture):
    """Draws the losses of runs that train together: `sweep(..., on_step=LiveSweep(config.steps).on_step)`.

    The curves of earlier passes stay.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self._runs: dict[str, Run] = {}  # by id: a pass that ran out of memory begins again with new records

    @property
    def histories(self) -> dict[str, History]:
        """Label -> history of every run so far, in rising order of the settings that differ."""
        return {label: run.history for label, run in label_runs(self._runs.values()).items()}

    @property
    def _ordered(self) -> bool:
        """Whether the runs differ in one setting at most, so that their order means something."""
        return len(_differing([_settings(run) for run in self._runs.values()])) < 2

    def on_step(self, report: StepReport) -> None:
        """The callback of a sweep."""
        runs = report["runs"]
        self._runs |= {run.id: run for run in runs}
        last = report["step"] == report["steps"] or all(run.status in FAILED for run in runs)
        over = last and not report["passes_left"]
        note = "" if over else f": about {report['seconds_left']:.0f} s left"
        self._redraw(last, lambda: sweep_losses(self.histories, self.steps, note, self._ordered))


def label_runs(runs: Iterable[Run]) -> dict[str, Run]:
    """Label -> run, in rising order. A label names only the settings in which these runs differ: "r = 8, seed 1"."""
    described = [(_settings(run), run) for run in runs]
    differing = _differing([settings for settings, _ in described])
    described.sort(key=lambda pair: [(pair[0][name] is None, pair[0][name]) for name in differing])
    labelled: dict[str, Run] = {}
    for settings, run in described:
        parts = [LABEL_FORMS[name].format(settings[name]) for name in differing if settings[name] is not None]
        stem = ", ".join(parts) or run.label
        stem += f" ({run.status})" if run.status in FAILED else ""
        labelled[_numbered(stem, labelled)] = run
    return labelled


def _differing(described: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names in LABEL_FORMS of what is not the same in all of these settings."""
    return [name for name in LABEL_FORMS if len({settings[name] for settings in described}) > 1]


def _numbered(label: str, taken: Collection[str]) -> str:
    """The label, with the first number that makes it unique if it is taken: "lora r=8, 2"."""
    numbered, number = label, 1
    while numbered in taken:
        number += 1
        numbered = f"{label}, {number}"
    return numbered


def _settings(run: Run) -> dict[str, Any]:
    method = run.method
    row = {name: method.get(name) for name in ("rank", "alpha", "learning_rate", "layers", "rslora")}
    row |= {"targets": targets_in_words(method.get("targets", "all-linear")), "seed": run.config["seed"]}
    row |= {"task": run.task["name"]}
    return row | {"targets": setting_in_words(row)}
