"""The learner's guess before a run: a question with a default, kept until the notebook's summary compares it."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as widgets

from workbench.panels.base import show_live, static_class

_answers: dict[tuple, object] = {}  # by question and options: running a question's cell again does not ask anew


class Prediction:
    """A question and the learner's answer. `value` is the guess; `changed` says whether the default was left.

    The same question asked again in one kernel starts from the answer it was given.
    """

    def __init__(self, question: str, control: widgets.ValueWidget, unit: str = ""):
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
    def value(self):
        return self.control.value

    @property
    def changed(self) -> bool:
        return self.value != self.default

    def words(self) -> str:
        """The guess as text, saying so when it is the default."""
        return f"{self.value}{self.unit}" + ("" if self.changed else " (the default)")

    def beside(self, outcome: object) -> str:
        """One line that puts the guess beside what came out. outcome: text, or a number in the guess's unit."""
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
    """Guess one of a few texts."""
    layout = widgets.Layout(width="max-content")
    return Prediction(question, widgets.RadioButtons(options=list(options), value=default, layout=layout))


def predict_number(
    question: str, low: float, high: float, default: float, step: float = 1, unit: str = ""
) -> Prediction:
    """Guess a number on a slider. unit: as it is written after the number, for example " %"."""
    kind = widgets.IntSlider if all(isinstance(x, int) for x in (low, high, default, step)) else widgets.FloatSlider
    layout = widgets.Layout(width="560px", max_width="100%")
    control = kind(value=default, min=low, max=high, step=step, layout=layout, description=unit.strip())
    return Prediction(question, control, unit)
