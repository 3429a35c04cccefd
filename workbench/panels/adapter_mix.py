"""AdapterMix: adapters of several tasks added up into one, with a weight for each, and scored on all tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import ipywidgets as widgets

from workbench.adapters.saved.several import How, attach, combine
from workbench.models.base import Base
from workbench.models.sharing import in_float32
from workbench.panels.base import SlowPanel, View, choice, steps_slider
from workbench.plots.serving import mixed_scores
from workbench.scoring.evaluation import score
from workbench.scoring.scores import Scores
from workbench.tasks.encoding import encode
from workbench.tasks.tasks import Task

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
WAYS = {
    "sum of the updates": "cat",
    "sum of the factors (linear)": "linear",
    "TIES": "ties",
    "DARE": "dare_linear",
    "DARE and TIES": "dare_ties",
}
MIXTURE = "the-mixture"
ROW_TOKENS = 512


class AdapterMix(SlowPanel):
    """Mixtures of the adapters in `folders` (name -> folder). Controls: how, and a weight for each adapter by its name.

    tasks: name of an adapter -> its task, of which the first `rows` test rows are scored. Raises AdapterError for
    adapters that `attach` refuses.
    """

    def __init__(
        self, base: Base, folders: Mapping[str, str | os.PathLike], tasks: Mapping[str, Task], rows: int = 6
    ) -> None:
        self.names = list(folders)
        self.model = attach(replace(base, model=in_float32(base.model)), folders)
        self.rows = {name: encode(tasks[name].test[:rows], base.tokenizer, ROW_TOKENS) for name in self.names}
        self._scores: dict[tuple[Any, ...], dict[str, Scores]] = {}
        controls: dict[str, widgets.ValueWidget] = {"how": choice("combined as", "cat", list(WAYS.items()))}
        controls |= {name: steps_slider(f"weight of {name}", 0.5, WEIGHTS, heavy=True) for name in self.names}
        super().__init__("Adapters, added up without training", controls, self.compute)

    def compute(self, how: str, raise_if_stale: Callable[[], None] = lambda: None, **weights: float) -> View:
        """The view of one mixture. weights: adapter -> its weight. Raises AdapterError for what PEFT cannot combine."""
        found = {"base": self._measure("base", {}, raise_if_stale)}
        own = {name: self._measure("cat", {name: 1.0}, raise_if_stale)[name] for name in self.names}
        found |= {"own adapter": own, "mixture": self._measure(how, weights, raise_if_stale)}
        exact, loss = (
            {who: {name: one[name][measure] for name in self.names} for who, one in found.items()}
            for measure in ("exact_match", "loss")
        )
        told = [
            f"{name}: {exact['mixture'][name]:.0%} (own adapter {exact['own adapter'][name]:.0%}, base "
            f"{exact['base'][name]:.0%}), loss {loss['mixture'][name]:.3f}"
            for name in self.names
        ]
        kept = sum(exact["mixture"][name] >= exact["own adapter"][name] > 0 for name in self.names)
        count = len(next(iter(self.rows.values())))
        given = ", ".join(f"{weight:g} x {name}" for name, weight in weights.items())
        text = f"{given}. Right answers of {count} rows a task. {'; '.join(told)}."
        numbers = {
            f"{measure} {name}": values["mixture"][name]
            for measure, values in (("exact", exact), ("loss", loss))
            for name in self.names
        }
        title = f"{kept} of {len(self.names)} tasks as good as their own adapter"
        result = ", ".join(f"{name} {exact['mixture'][name]:.0%}" for name in self.names)
        return View(lambda: mixed_scores(weights, exact, loss, title), text, numbers, result=result)

    def _measure(self, how: str, weights: Mapping[str, float], raise_if_stale: Callable[[], None]) -> dict[str, Scores]:
        """Task -> scores of a mixture; without any weight above 0, those of the base."""
        used = {name: weight for name, weight in weights.items() if weight}
        key = (how, *used.items())
        if key in self._scores:
            return self._scores[key]
        if MIXTURE in self.model.peft_config:  # of a view that was given up
            self.model.set_adapter(self.names[0])  # PEFT warns of deleting the active one
            self.model.delete_adapter(MIXTURE)
        if used:
            combine(self.model, used, MIXTURE, cast("How", how))
            self.model.set_adapter(MIXTURE)
        scores = {}
        with nullcontext() if used else self.model.disable_adapter():
            for name, rows in self.rows.items():
                raise_if_stale()
                scores[name] = score(self.model, rows)
        self._scores[key] = scores
        return scores
