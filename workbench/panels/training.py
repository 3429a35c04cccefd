"""A panel that trains: controls for the method, buttons to start and stop, and loss and score during the run."""

from __future__ import annotations

import html
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import ipywidgets as widgets
from torch import nn

from workbench.adapters.methods import Method, full, hybrid, last_mlp, lora, qlora
from workbench.models.base import Base, load_again
from workbench.panels.base import USER_ERRORS, alert, choice, show_live, static_class, steps_slider
from workbench.panels.live.canvas import Canvas
from workbench.panels.live.charts import EMPTY, charts_of
from workbench.panels.live.growth import Growth, growth
from workbench.plots.style import picture, pixel_width, to_png
from workbench.plots.training import History, LossEntry, training_panel
from workbench.results.tables import runs_table
from workbench.scoring import evaluation
from workbench.tasks.encoding import Encoded, encode
from workbench.tasks.tasks import Task
from workbench.training.lifecycle import train
from workbench.training.loop import StepReport, StopUnscored
from workbench.training.runs import Run
from workbench.training.step import TrainConfig
from workbench.training.store import RunStore

METHODS = ("lora", "qlora", "hybrid", "full")
RANKS = (1, 2, 4, 8, 16, 32, 64)
ALPHAS = (1, 2, 4, 8, 16, 32, 64, 128)
RATES = (2.5e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
SCORINGS = 8  # during a run
REDRAW_SECONDS = 0.2  # every picture has all steps so far


@dataclass
class Job:
    """A run in progress, and the panels that show it: the one that began it, and those that were made meanwhile."""

    label: str
    about: tuple[str, str]  # the base and the data
    panels: list[TrainingPanel]
    history: list[LossEntry] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    base: Base | None = None
    growth: Growth | None = None
    stopping: bool = False
    over: bool = False
    words: str = ""
    thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


_jobs: list[Job] = []  # the last one that was begun in this process, which trains one run at a time


class TrainingPanel:
    """Controls for a run, the buttons *Train* and *Stop*, the curves of the run, and a table of all runs.

    base, task, config: as for `train`. store: where runs are saved. runs: earlier runs, drawn in grey and in the table.
    rows: how many test rows are scored during a run (at its end, all that `config` asks for).
    `runs` holds every run, those trained here last. Training is in a thread: other cells can run meanwhile, slower.
    A panel that is made while a run is in progress, as when its cell is run again, shows that run and can stop it.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        config: TrainConfig,
        store: RunStore | None = None,
        runs: Sequence[Run] = (),
        rows: int = 16,
    ):
        self.base, self.task, self.config, self.store = base, task, config, store or RunStore()
        self.runs, self._earlier = list(runs), list(runs)
        self.rows = encode(task.test[: min(rows, config.test_limit or rows)], base.tokenizer, config.max_length)
        self.curves: dict[str, tuple[list[LossEntry], dict[int, float]]] = {}
        self._bases = {base.quantization: base}
        self._drawn_at = 0.0
        self._job: Job | None = None
        start = "qlora" if base.quantization else "lora"
        used = (run.method["learning_rate"] for run in runs)  # so that the next run can differ in one setting only
        rates = sorted({f"{rate:.3g}": rate for rate in (*used, *RATES)}.items(), key=itemgetter(1))
        self.controls = {
            "method": choice("method", start, METHODS),
            "rank": steps_slider("rank r", 8, RANKS),
            "alpha": steps_slider("alpha", 32, ALPHAS),
            "learning_rate": steps_slider("learning rate", lora().learning_rate, rates),
        }
        self._rate_elsewhere = full().learning_rate  # full's while an adapter's is shown, and vice versa
        self.controls["method"].observe(self._method_changed, "value")
        self.train_button = widgets.Button(description="Train", icon="play", tooltip="Train with these settings")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True, tooltip="End it, keep it")
        self.train_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.canvas = Canvas("charts", {}, EMPTY, {})
        self.message = widgets.HTML("<p>Nothing is training.</p>").add_class("workbench-message")
        self.table = widgets.HTML()
        layout = widgets.Layout(flex_flow="row wrap")
        controls = widgets.HBox(list(self.controls.values()), layout=layout)
        buttons = widgets.HBox([self.train_button, self.stop_button], layout=layout)
        title = widgets.HTML(f"<b>Train {html.escape(base.name)} on {html.escape(task.name)}</b>")
        self.widget = widgets.VBox([title, controls, buttons, self.message, self.canvas, self.table])
        self._draw()
        self._tabulate()
        if _jobs and _jobs[-1].running:
            self._follow(_jobs[-1])

    @property
    def values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    @property
    def training(self) -> bool:
        """Whether a run that this panel shows is in progress."""
        return self._job is not None and self._job.running

    @property
    def _thread(self) -> threading.Thread | None:
        return self._job.thread if self._job else None

    def start(self) -> None:
        """What the button *Train* does: start a run in a thread, and return."""
        if self.training:
            return
        try:
            method = method_for(self.base, **self.values)
        except USER_ERRORS as error:
            self.message.value = alert(error)
            return
        label = f"{len(self.curves) + 1}: {method.label}, rate {method.learning_rate:g}"
        self._job = job = Job(label, self._about, [self])
        job.thread = threading.Thread(target=self._train, args=(method, job), daemon=True)
        job.words = f"{method.label}: scoring the base, then taking the first step ..."
        self._busy(True, job.words)
        if not (_jobs and _jobs[-1].running):  # else `train` will refuse this one
            _jobs[:] = [job]
        job.thread.start()

    def _follow(self, job: Job) -> None:
        """Show a run that another panel has begun."""
        self._job = job
        if job.about == self._about:
            self.curves[job.label] = (job.history, job.scores)
        job.panels.append(self)
        self._busy(True, job.words)
        if job.over:  # just now
            self._busy(False, "Nothing is training.")

    @property
    def _about(self) -> tuple[str, str]:
        return self.base.name, self.task.sha256

    def stop(self) -> None:
        """What the button *Stop* does: the run ends after the current step and is saved as interrupted, unscored."""
        if self._job is None or not self._job.running:
            return  # the run ended before the click arrived
        self._job.stopping = True
        for panel in self._job.panels:
            panel.stop_button.disabled = True
            panel._say("Stopping after this step ..." if self._job.history else "Stopping after the first step ...")

    def wait(self, seconds: float = 600) -> None:
        """Return when the run is over, for code that goes on with `runs`."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _train(self, method: Method, job: Job) -> None:
        """What the thread runs. The panels show its errors: nothing else would."""
        self.curves[job.label] = (job.history, job.scores)
        try:
            base = job.base = self._base_for(method)
            run = train(base, self.task, method, self.config, self.store, lambda report: self._step(job, report))
        except Exception as error:
            job.over = True
            for panel in job.panels:
                panel._ended("")
                panel.message.value = alert(error)
            if not isinstance(error, USER_ERRORS):
                raise
            return
        job.over = True
        for panel in job.panels:
            if job.about == panel._about:
                panel.runs.append(run)
                panel._tabulate()
            panel._ended(_outcome(run))

    def _ended(self, words: str) -> None:
        self.curves = {name: curve for name, curve in self.curves.items() if curve[0]}  # drop one without a step
        self._draw()
        self._busy(False, words)

    def _step(self, job: Job, report: StepReport) -> bool:
        if math.isnan(report["loss"]):  # the run has diverged
            return False
        step, steps = report["step"], report["steps"]
        job.history.append({"step": step, "loss": report["loss"]})
        job.growth = growth(report["model"], job.base.model) if job.base else None
        last = step == steps
        if last or step % max(1, steps // SCORINGS) == 0:
            job.scores[step] = live_score(report["model"], self.rows)
        if stopping := job.stopping:
            job.words = f"{job.label}: stopping after step {step} of {steps}; saving it ..."
        else:
            score = f", exact match {list(job.scores.values())[-1]:.0%} on {len(self.rows)} rows" if job.scores else ""
            rest = "scoring all rows ..." if self.config.evaluate else "saving it ..."
            left = rest if last else f"about {report['seconds_left']:.0f} s left"
            job.words = f"{job.label}: step {step} of {steps}, loss {report['loss']:.3f}{score}; {left}"
        for panel in job.panels:
            panel._show_step(job, last)
        if stopping:
            raise StopUnscored
        return False

    def _show_step(self, job: Job, last: bool) -> None:
        if last:
            self.stop_button.disabled = True  # only the scoring is left, which cannot be stopped
        self._say(job.words)
        if last or time.monotonic() - self._drawn_at > REDRAW_SECONDS:
            self._draw()

    def _base_for(self, method: Method) -> Base:
        wanted = (self.base.quantization or "nf4") if method.name == "qlora" else None
        if wanted not in self._bases:
            self._bases[wanted] = load_again(self.base, wanted)
        return self._bases[wanted]

    def _method_changed(self, change: dict[str, Any]) -> None:
        """Swap the learning rates of full fine-tuning, which needs a far lower one, and of adapters."""
        if (change["old"] == "full") != (change["new"] == "full"):
            rate = self.controls["learning_rate"]
            rate.value, self._rate_elsewhere = self._rate_elsewhere, rate.value

    def _busy(self, busy: bool, words: str) -> None:
        for control in (*self.controls.values(), self.train_button):
            control.disabled = busy
        self.stop_button.disabled = not busy
        self._say(words)

    def _say(self, words: str) -> None:
        self.message.value = f'<p role="status" style="line-height: 1.5">{html.escape(words)}</p>'

    def _draw(self) -> None:
        earlier: dict[str, History] = {run.id: run.history for run in self._earlier if run.history}
        finals = [
            (len(run.history), run.metrics["exact_match"]) for run in self._earlier if "exact_match" in run.metrics
        ]
        steps = max([self.config.steps, *(len(history) for history in earlier.values())])
        update = self._job.growth if self._job and self._job.about == self._about else None
        self._figure = training_panel(earlier, self.curves, finals, steps, len(self.rows), update)
        self.canvas.send_state_of(*charts_of(self._figure))
        self._drawn_at = time.monotonic()

    def _tabulate(self) -> None:
        self.table.value = runs_table(self.runs)

    def _ipython_display_(self) -> None:
        name = static_class()
        data, metadata = picture(to_png(self._figure), self._figure.alt, pixel_width(self._figure), css_class=name)
        data["text/html"] = f'<div class="{name}">{data["text/html"]}{self.table.value}</div>'
        show_live(self.widget, data, metadata, name)


def method_for(base: Base, method: str, rank: int, alpha: float, learning_rate: float) -> Method:
    """The method that the controls describe; a hybrid trains the MLP of the last block in full."""
    if method == "full":
        return full(learning_rate)
    if method == "hybrid":
        return hybrid([last_mlp(base.model.config)], rank, alpha, learning_rate)
    return {"lora": lora, "qlora": qlora}[method](rank, alpha, learning_rate)


def live_score(model: nn.Module, rows: Sequence[Encoded]) -> float:
    """Exact match of a model during its training, in the precision of the training; the model's mode is restored."""
    was_training = model.training
    model.eval()
    try:
        return evaluation.score(model, rows)["exact_match"]
    finally:
        model.train(was_training)


def _outcome(run: Run) -> str:
    score = f" Exact match {run.metrics['exact_match']:.0%} on all scored rows." if "exact_match" in run.metrics else ""
    return f"{run.label}: {run.status} after {len(run.history)} steps, {run.seconds:.0f} s.{score} {run.advice or ''}"
