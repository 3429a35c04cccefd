"""The learner's guess before a run: a question with a default, which the notebook's summary compares."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from workbench.panels.base import show_live, static_class

_answers: dict[tuple, Any] = {}  # by question and options, so that running a cell again keeps its answer


class Prediction:
    """A question and the learner's answer. value: the guess; changed: whether it differs from the default.

    The same question asked again in one kernel starts from the answer given before.
    """

    def __init__(self, question: str, control: widgets.ValueWidget, unit: str = "") -> None:
        self.question = question
        self.control = control
        self.unit = unit
        self.default = control.value
        asked = (question, *getattr(control, "options", ()))
        control.value = _answers.get(asked, control.value)
        control.observe(lambda change: _answers.update({asked: change.new}), "value")
        self.widget = widgets.VBox(
            [widgets.HTML(f"<p style='line-height: 1.5'><b>Predict.</b> {html.escape(question)}</p>"), control]
        )

    @property
    def value(self) -> Any:
        """The guess: one of the texts, or a number."""
        return self.control.value

    @property
    def changed(self) -> bool:
        """Whether the learner left the default."""
        return self.value != self.default

    def words(self) -> str:
        """The guess as text, marked if it is the default."""
        return f"{self.value}{self.unit}" + ("" if self.changed else " (the default)")

    def compare(self, outcome: str | float) -> str:
        """One line with the guess and the outcome. outcome: text, or a number in the guess's unit."""
        if isinstance(self.value, str):
            verdict = "as you said" if outcome == self.value else "not what you said"
            return f"You predicted: {self.words()}. It was: {outcome} - {verdict}."
        return f"You predicted {self.words()}. It was {outcome:.3g}{self.unit}."

    def _ipython_display_(self) -> None:
        name = static_class()
        still = (
            f'<p class="{name}"><b>Predict.</b> {html.escape(self.question)}<br>Guess: {html.escape(self.words())}</p>'
        )
        text = f"Predict. {self.question} Guess: {self.words()}"
        show_live(self.widget, {"text/html": still, "text/plain": text}, {}, name)


def predict_choice(question: str, options: Sequence[str], default: str) -> Prediction:
    """A question to be answered with one of a few texts."""
    layout = widgets.Layout(width="max-content")
    return Prediction(question, widgets.RadioButtons(options=list(options), value=default, layout=layout))


def predict_number(
    question: str, low: float, high: float, default: float, step: float = 1, unit: str = ""
) -> Prediction:
    """A question to be answered with a number on a slider. unit: written after the number, e.g. " %"."""
    kind = widgets.IntSlider if all(isinstance(x, int) for x in (low, high, default, step)) else widgets.FloatSlider
    layout = widgets.Layout(width="560px", max_width="100%")
    control = kind(value=default, min=low, max=high, step=step, layout=layout, description=unit.strip())
    return Prediction(question, control, unit)
