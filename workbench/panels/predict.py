"""The learner's guess before a run: a question without a default, which the notebook's summary compares."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as widgets

from workbench import learner
from workbench.panels.base import show_live, static_class

_answers: dict[tuple[str, ...], str] = {}  # by question and options, so that running a cell again keeps its answer


class Prediction:
    """A question and the learner's answer. `value` is the guess, one of the options; None while there is none.

    The same question asked again in one kernel starts from the answer given before.
    """

    def __init__(self, question: str, control: widgets.RadioButtons) -> None:
        self.question = question
        self.control = control
        asked = (question, *control.options)
        if asked in _answers:
            control.value = _answers[asked]
        control.observe(lambda change: _answers.update({asked: change.new}), "value")
        self.widget = widgets.VBox(
            [widgets.HTML(f"<p style='line-height: 1.5'><b>Predict.</b> {html.escape(question)}</p>"), control]
        )

    @property
    def value(self) -> str | None:
        """The guess; None if there is none."""
        return self.control.value

    def words(self) -> str:
        """The guess as text."""
        return self.value or "none yet"

    def compare(self, outcome: str) -> str:
        """A line or two with the guess and the outcome.

        Lessons compare in their answer, so that a lesson which does has been run to its end.
        """
        learner.note_lesson()
        if self.value is None:
            return f"You made no prediction. It was: {outcome}."
        verdict = "right" if outcome == self.value else "wrong"
        return f"You predicted: {self.words()}. It was: {outcome}. You were {verdict}."

    def _ipython_display_(self) -> None:
        name = static_class()
        options = " / ".join(self.control.options)
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
