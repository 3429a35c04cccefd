"""Loss curves that grow while models train: one picture for all the runs of a comparison, or of a sweep."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable

from IPython.display import display
from matplotlib.figure import Figure

from workbench.adapters.methods import targets_in_words
from workbench.console import progress_wanted
from workbench.plots import style
from workbench.plots.runs import losses
from workbench.plots.sweeps import sweep_losses
from workbench.results.rows import setting_in_words
from workbench.training.loop import OnStep, StepReport
from workbench.training.runs import Run

REDRAW_SECONDS = 2.0
WORDS = {"rank": "r = {:g}", "targets": "{}", "alpha": "alpha {:g}", "learning_rate": "rate {:g}", "seed": "seed {}"}


class LivePicture:
    """A picture that is replaced in place, so that a saved notebook holds the last one.

    Stopping the cell stops the run. Without progress (WORKBENCH_PROGRESS=0) a run is drawn at its last step alone, and
    one that ends before it is not drawn (a sweep is, when all of its runs have diverged).
    """

    def __init__(self):
        self._handle = None
        self._drawn = 0.0

    def _due(self, last: bool) -> bool:
        return last or (progress_wanted() and time.monotonic() - self._drawn > REDRAW_SECONDS)

    def _draw(self, figure: Figure) -> None:
        data, metadata = style.picture(style.to_png(figure), figure.alt, int(figure.get_figwidth() * 100))
        if self._handle is None:
            self._handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self._handle.update(data, metadata=metadata, raw=True)
        self._drawn = time.monotonic()


class LiveLosses(LivePicture):
    """Draws the losses of one run after another: `train(..., on_step=live.curve("lora r=8", "lora"))`."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.histories: dict[str, tuple[str, list[dict]]] = {}

    def curve(self, label: str, method: str) -> OnStep:
        """A callback for one run. label: its name in the legend, numbered if it is there already; method: its name."""
        history: list[dict] = []
        label = _numbered(label, self.histories)
        self.histories[label] = (method, history)

        def on_step(entry: StepReport) -> None:
            if math.isnan(entry["loss"]):  # the run has diverged
                return
            history.append({"step": entry["step"], "loss": entry["loss"]})  # an entry also holds the model
            last = entry["step"] == entry["steps"]
            if self._due(last):
                note = "" if last else f": {label}, about {entry['seconds_left']:.0f} s left"
                self._draw(losses(self.histories, self.steps, note))

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
    def histories(self) -> dict[str, list[dict]]:
        """Label -> history of every run so far, in rising order of what differs between them."""
        return {label: run.history for label, run in told_apart(self._runs.values()).items()}

    def on_step(self, entry: StepReport) -> None:
        """The callback of a sweep."""
        runs = entry["runs"]
        self._runs |= {run.id: run for run in runs}
        last = entry["step"] == entry["steps"] or all(run.status == "diverged" for run in runs)
        if self._due(last):
            left = entry["seconds_left"]
            self._draw(sweep_losses(self.histories, self.steps, f": about {left:.0f} s left" if left >= 1 else ""))


def told_apart(runs: Iterable[Run]) -> dict[str, Run]:
    """Label -> run, in rising order; a label names only what differs between these runs: "r = 8, seed 1"."""
    described = [(_settings(run), run) for run in runs]
    differing = [name for name in WORDS if len({settings[name] for settings, _ in described}) > 1]
    described.sort(key=lambda pair: [(pair[0][name] is None, pair[0][name]) for name in differing])
    labelled: dict[str, Run] = {}
    for settings, run in described:
        words = (WORDS[name].format(settings[name]) for name in differing if settings[name] is not None)
        stem = ", ".join(words) or run.label
        stem += " (diverged)" if run.status == "diverged" else ""
        labelled[_numbered(stem, labelled)] = run
    return labelled


def _numbered(label: str, taken: Collection[str]) -> str:
    """The label, or with the first number that is free: "lora r=8, 2"."""
    numbered, number = label, 1
    while numbered in taken:
        number += 1
        numbered = f"{label}, {number}"
    return numbered


def _settings(run: Run) -> dict:
    method = run.method
    row = {name: method.get(name) for name in ("rank", "alpha", "learning_rate", "layers", "rslora")}
    row |= {"targets": targets_in_words(method.get("targets", "all-linear")), "seed": run.config["seed"]}
    return row | {"targets": setting_in_words(row)}
