"""Train from a panel: choose a method, press the button, watch loss and score move, stop it if you have seen enough."""

from __future__ import annotations

import html
import math
import threading
import time
from collections.abc import Sequence
from operator import itemgetter

import ipywidgets as widgets

from workbench.adapters.methods import Method, full, hybrid, last_mlp, lora, qlora
from workbench.errors import WorkbenchError
from workbench.models.base import Base, load_base
from workbench.panels.base import alert, choice, picture_widget, show_live, static_class, steps_slider
from workbench.plots import style
from workbench.plots.training import training_panel
from workbench.tasks.encoding import encode
from workbench.tasks.tasks import Task
from workbench.training import evaluation
from workbench.training.lifecycle import train
from workbench.training.loop import StepReport
from workbench.training.runs import Run, table
from workbench.training.step import TrainConfig
from workbench.training.store import RunStore

METHODS = ("lora", "qlora", "hybrid", "full")
RANKS = (1, 2, 4, 8, 16, 32, 64)
ALPHAS = (1, 2, 4, 8, 16, 32, 64, 128)
RATES = (2.5e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
LOOKS = 8  # scores in the course of a run
REDRAW_SECONDS = 0.7
# Of the table, with fixed places: a value like -0.0003421 would push it out of a narrow window.
COLUMNS = {
    "method": "{}",
    "rank": "{}",
    "alpha": "{:g}",
    "learning_rate": "{:g}",
    "seed": "{}",
    "loss": "{:.3f}",
    "exact_match": "{:.2f}",
    "forgetting": "{:+.3f}",
    "status": "{}",
}


class TrainingPanel:
    """Controls for a run, the buttons *Train* and *Stop*, its curves as they grow, and a table that the run joins.

    base, task, config: as `train` takes them. store: where runs go. runs: earlier ones, drawn in grey and in the table.
    rows: how many test rows are scored now and then while it trains (all that `config` names are at the end).
    `runs` holds every run, those trained here last. The training is in a thread: other cells run meanwhile, slower.
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
        self.curves: dict[str, tuple[list[dict], dict[int, float]]] = {}
        self._bases = {base.quantization: base}
        self._stopping, self._thread, self._drawn = False, None, 0.0
        start = "qlora" if base.quantization else "lora"
        used = (run.method["learning_rate"] for run in runs)  # so that one thing alone can be changed in a next run
        rates = sorted({f"{rate:.3g}": rate for rate in (*used, *RATES)}.items(), key=itemgetter(1))
        self.controls = {
            "method": choice("method", start, METHODS),
            "rank": steps_slider("rank r", 8, RANKS),
            "alpha": steps_slider("alpha", 32, ALPHAS),
            "learning_rate": steps_slider("learning rate", lora().learning_rate, rates),
        }
        self._rate_elsewhere = full().learning_rate  # full's while an adapter's is shown, and the other way round
        self.controls["method"].observe(self._method_changed, "value")
        self.train_button = widgets.Button(description="Train", icon="play", tooltip="Train with these settings")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True, tooltip="End it, keep it")
        self.train_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.image = picture_widget()
        self.message = widgets.HTML("<p>Nothing is training.</p>").add_class("workbench-message")
        self.table = widgets.HTML()
        layout = widgets.Layout(flex_flow="row wrap")
        controls = widgets.HBox(list(self.controls.values()), layout=layout)
        buttons = widgets.HBox([self.train_button, self.stop_button], layout=layout)
        title = widgets.HTML(f"<b>Train {html.escape(base.name)} on {html.escape(task.name)}</b>")
        self.widget = widgets.VBox([title, controls, buttons, self.message, self.image, self.table])
        self._draw()
        self._tabulate()

    @property
    def values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    @property
    def training(self) -> bool:
        """Whether a run of this panel is on its way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """What the button *Train* does; returns at once."""
        if self.training:
            return
        try:
            method = method_for(self.base, **self.values)
        except (ValueError, WorkbenchError) as error:
            self.message.value = alert(error)
            return
        self._stopping = False
        self._busy(True, f"{method.label}: scoring the base, then taking the first step ...")
        self._thread = threading.Thread(target=self._train, args=(method,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """What the button *Stop* does: the run ends after its present step, and is kept as interrupted."""
        if not self.training:
            return  # it ended while the click was on its way
        self._stopping = True
        self.stop_button.disabled = True
        begun = list(self.curves.values())[-1:]
        self._say("Stopping after this step ..." if begun and begun[0][0] else "Stopping after the first step ...")

    def wait(self, seconds: float = 600) -> None:
        """Return when the run is over. For tests, and for code that goes on with `runs`."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _train(self, method: Method) -> None:
        """The thread: whatever goes wrong in it is said in the panel, which nobody else would see."""
        label = f"{len(self.curves) + 1}: {method.label}, rate {method.learning_rate:g}"
        try:
            self.curves[label] = ([], {})
            base = self._base_for(method)
            run = train(base, self.task, method, self.config, self.store, lambda entry: self._step(label, entry))
            self.runs.append(run)
            self._tabulate()
            self._draw()
            self._busy(False, _outcome(run))
        except Exception as error:
            self.curves = {
                name: curve for name, curve in self.curves.items() if curve[0]
            }  # without one that never began
            self._draw()
            self._busy(False, "")
            self.message.value = alert(error)
            if not isinstance(error, (ValueError, WorkbenchError)):
                raise

    def _step(self, label: str, entry: StepReport) -> bool:
        if math.isnan(entry["loss"]):  # the run has diverged
            return False
        history, scores = self.curves[label]
        history.append({"step": entry["step"], "loss": entry["loss"]})
        last = entry["step"] == entry["steps"]
        if last or entry["step"] % max(1, entry["steps"] // LOOKS) == 0:
            scores[entry["step"]] = live_score(entry["model"], self.rows)
        if last:
            self.stop_button.disabled = True  # there is nothing left to stop but the scoring, which is wanted
        if self._stopping:
            self._say(f"{label}: stopped after step {entry['step']} of {entry['steps']}; scoring all rows ...")
        else:
            score = f", exact match {list(scores.values())[-1]:.0%} on {len(self.rows)} rows" if scores else ""
            left = "scoring all rows ..." if last else f"about {entry['seconds_left']:.0f} s left"
            self._say(f"{label}: step {entry['step']} of {entry['steps']}, loss {entry['loss']:.3f}{score}; {left}")
        if last or time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._draw()
        return self._stopping

    def _base_for(self, method: Method) -> Base:
        wanted = (self.base.quantization or "nf4") if method.name == "qlora" else None
        if wanted not in self._bases:
            revision = self.base.revision if self.base.source == "hub" else None
            self._bases[wanted] = load_base(self.base.name, wanted, self.base.dtype, revision)
        return self._bases[wanted]

    def _method_changed(self, change) -> None:
        """Full wants a far lower rate than adapters do, so each of the two keeps its own."""
        if (change.old == "full") != (change.new == "full"):
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
        earlier = {run.id: run.history for run in self._earlier if run.history}
        finals = [(len(run.history), run.metrics["exact_match"]) for run in self._earlier if run.metrics]
        steps = max([self.config.steps, *(len(history) for history in earlier.values())])
        figure = training_panel(earlier, self.curves, finals, steps, len(self.rows))
        self.image.value = style.to_png(figure)
        self.image.width = str(int(figure.get_figwidth() * 100))
        self._alt, self._drawn = figure.alt, time.monotonic()

    def _tabulate(self) -> None:
        self.table.value = runs_table(self.runs)

    def _ipython_display_(self) -> None:
        name = static_class()
        data, metadata = style.picture(self.image.value, self._alt, int(self.image.width), css_class=name)
        data["text/html"] = f'<div class="{name}">{data["text/html"]}{self.table.value}</div>'
        show_live(self.widget, data, metadata, name)


def method_for(base: Base, method: str, rank: int, alpha: float, learning_rate: float) -> Method:
    """The method that the controls describe; a hybrid opens the MLP of the last block."""
    if method == "full":
        return full(learning_rate)
    if method == "hybrid":
        return hybrid([last_mlp(base.model.config)], rank, alpha, learning_rate)
    return {"lora": lora, "qlora": qlora}[method](rank, alpha, learning_rate)


def live_score(model, rows) -> float:
    """Exact match of a model in the middle of its training, in the training's precision; the model stays as it was."""
    was_training = model.training
    model.eval()
    try:
        return evaluation.score(model, rows)["exact_match"]
    finally:
        model.train(was_training)


def runs_table(runs: Sequence[Run]) -> str:
    """The runs as an HTML table, the newest last."""
    cell = "style='padding: 2px 2px 2px 0; text-align: right; white-space: normal'"
    rows = [
        "".join(f"<td {cell}>{_text(row[name], form)}</td>" for name, form in COLUMNS.items())
        for row in table(sorted(runs, key=lambda run: run.created))
    ]
    names = (name.replace("_", " ").replace("forget", "forget&shy;") for name in COLUMNS)  # may be broken there
    heads = "".join(f"<th scope='col' {cell}>{name}</th>" for name in names)
    note = "loss and forgetting in nats a token, exact match as a share of the test rows"
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    count = f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}"
    look = "style='width: 100%; max-width: 1050px; line-height: 1.3; font-size: 85%'"  # as wide as there is room
    return f"<table {look}><caption>{count}; {note}</caption><tr>{heads}</tr>{body}</table>"


def _text(value: object, form: str) -> str:
    return "-" if value is None else html.escape(form.format(value))


def _outcome(run: Run) -> str:
    score = f" Exact match {run.metrics['exact_match']:.0%} on all scored rows." if run.metrics else ""
    return f"{run.label}: {run.status} after {len(run.history)} steps, {run.seconds:.0f} s.{score} {run.advice or ''}"
