"""The decision as a panel: state what you need, and see which options are struck out, by which number. Lesson 10."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.advice.decide import OPTIONS, UNKNOWN, Decision, Needs, decide
from workbench.advice.measured import KINDS, Measured, measured
from workbench.cost.gpus import gpus
from workbench.panels.base import Panel, View, choice, steps_slider, switch
from workbench.plots.decision import options_left
from workbench.results.rows import Row

MODELS = ("llama-3.2-1b", "llama-3.2-3b", "mistral-7b-v0.3", "llama-3.1-8b", "qwen2.5-14b")
QUESTIONS = ("prompting", "memory", "money", "serving", "quality", "forgetting")  # a word for each question


def decide_panel(study: Sequence[Row], few_shot: float | None = None, wanted: float | None = None) -> Panel:
    """A panel of `decide`. study: rows of the reference study. few_shot, wanted: as in `Needs`, measured by you."""
    known = measured(study)

    def view(model: str, gpu: str, kind: str, tasks: int, points: float, careful: bool) -> View:
        needs = Needs(model, gpu, kind, tasks=tasks, points=points, careful=careful, few_shot=few_shot, wanted=wanted)
        return decision_view(needs, known)

    controls = {
        "gpu": choice("your GPU", "RTX 4090", list(gpus())),
        "model": choice("model", "llama-3.2-1b", list(MODELS)),
        "kind": choice("to be learned", next(iter(KINDS)), list(KINDS)),
        "tasks": steps_slider("tasks to serve", 1, [1, 3, 10, 30, 100]),
        "points": steps_slider("points given up", 3.0, [0.0, 1.0, 3.0, 5.0, 10.0]),
        "careful": switch("must not forget", False),
    }
    return Panel("Which one should I use?", controls, view)


def decision_view(needs: Needs, known: Measured) -> View:
    """What the panel shows for these needs."""
    found = decide(needs, known)
    survived = {option: _passed(option, found) for option in OPTIONS}
    reasons = {option: why for step in found.steps for option, why in step.struck.items()}
    turned = [f"{change}: {other or 'nothing fits'}" for change, other in found.changes.items()]
    text = f"{found.choice or 'Nothing fits these needs'}. " + " ".join(
        f"{step.finding} [{step.source}]" for step in found.steps
    )
    answers = {
        "What would change it": "; ".join(turned) or "none of the single changes that were tried",
        "What nobody knows": UNKNOWN,
    }
    numbers = {option: float(count) for option, count in survived.items()}
    order = (*QUESTIONS[:-2], *reversed(QUESTIONS[-2:])) if needs.careful else QUESTIONS  # as decide() asks them
    return View(
        lambda: options_left(survived, reasons, order), text, numbers, answers, result=found.choice or "nothing"
    )


def _passed(option: str, found: Decision) -> int:
    """How many questions it passed."""
    for number, step in enumerate(found.steps):
        if option in step.struck:
            return number
    return len(found.steps)
