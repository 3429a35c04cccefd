"""The learner's guess before a run: a question without a default, which the notebook's summary compares."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from workbench import learner
from workbench.panels.base import show_live, static_class

_answers: dict[tuple, Any] = {}  # by question and options, so that running a cell again keeps its answer


class Prediction:
    """A question and the learner's answer. `value` is the guess: a text or a number, None while there is none.

    The same question asked again in one kernel starts from the answer given before.
    """

    def __init__(self, question: str, control: widgets.ValueWidget, unit: str = "") -> None:
        self.question = question
        self.control = control
        self.unit = unit
        asked = (question, *getattr(control, "options", ()))
        if asked in _answers:
            control.value = _answers[asked]
        control.observe(lambda change: _answers.update({asked: change.new}), "value")
        self.widget = widgets.VBox(
            [widgets.HTML(f"<p style='line-height: 1.5'><b>Predict.</b> {html.escape(question)}</p>"), control]
        )

    @property
    def value(self) -> Any:
        """The guess: one of the texts, or a number; None if there is none, or none that can be read."""
        given = self.control.value
        if not isinstance(self.control, widgets.Text):
            return given
        try:
            return float(given)
        except ValueError:
            return None

    def words(self) -> str:
        """The guess as text."""
        if self.value is None:
            return "none yet"
        return f"{self.value:g}{self.unit}" if isinstance(self.value, float) else f"{self.value}"

    def compare(self, outcome: str | float) -> str:
        """A line or two with the guess and the outcome. outcome: text, or a number in the guess's unit.

        Lessons compare in their answer, so that a lesson which does has been run to its end.
        """
        learner.note_lesson()
        was = outcome if isinstance(outcome, str) else f"{outcome:.3g}{self.unit}"
        if self.value is None:
            return f"You made no prediction. It was: {was}."
        guess = f"You predicted: {self.words()}. It was: {was}."
        if isinstance(outcome, str):
            guess += " You were right." if outcome == self.value else " You were wrong."
        return guess

    def _ipython_display_(self) -> None:
        name = static_class()
        options = " / ".join(getattr(self.control, "options", ()))
        asked = f"{self.question} {options}".strip()
        data = {
            "text/html": f'<p class="{name}"><b>Predict.</b> {html.escape(asked)}<br>'
            f"Your prediction: {html.escape(self.words())}</p>",
            "text/plain": f"Predict. {asked} Your prediction: {self.words()}",
        }
        show_live(self.widget, data, {}, name)


def predict_choice(question: str, options: Sequence[str]) -> Prediction:
    """A question to be answered with one of a few texts."""
    layout = widgets.Layout(width="max-content")
    return Prediction(question, widgets.RadioButtons(options=list(options), value=None, layout=layout))


def predict_number(question: str, unit: str = "") -> Prediction:
    """A question to be answered with a number, typed in. unit: written after the number, e.g. " %"."""
    control = widgets.Text(placeholder="a number", description=unit.strip(), layout=widgets.Layout(width="240px"))
    return Prediction(question, control, unit)
