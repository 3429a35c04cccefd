"""Panel of lesson 07: the ways back from a tuned model towards its base, each with its score and what it forgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workbench.analysis.places import Place
from workbench.panels.base import Panel, View, choice, slider
from workbench.plots.updates import Ways, ways_back

STEPS = 4  # of the slider: the base, three settings, the tuned model


@dataclass(frozen=True)
class Route:
    """One tuned model, its base, and the ways between them, each with three settings from the base to the model."""

    base: Place
    tuned: Place
    ways: Ways


def ways_back_panel(routes: Mapping[str, Route], sentence: str, rows: int) -> Panel:
    """A slider from the base to each tuned model, along a way. routes: name of a run -> its route.

    sentence: what the places' answers complete. rows: of the task that were scored. Raises ValueError without routes,
    and for a way that does not have three settings.
    """
    if not routes:
        raise ValueError("There is no tuned model to go back from; train one first.")
    for route in routes.values():
        for way, settings in route.ways.items():
            if len(settings) != STEPS - 1:
                raise ValueError(f"{way!r} has {len(settings)} settings; the slider needs {STEPS - 1}.")

    def view(run: str, way: str, kept: int) -> View:
        return ways_back_view(routes[run], sentence, rows, run, way, kept)

    run, route = next(iter(routes.items()))
    every = list(dict.fromkeys(way for each in routes.values() for way in each.ways))
    controls = {
        "run": choice("run", run, list(routes)),
        "way": choice("way back", next(iter(route.ways)), every),
        "kept": slider("base ... trained", STEPS - 1, 0, STEPS),
    }
    return Panel("How much of the update do you keep?", controls, view)


def ways_back_view(route: Route, sentence: str, rows: int, run: str, way: str, kept: int) -> View:
    """The model at a step of a way: 0 the base, 4 the model as trained, a setting of the way in between.

    Raises ValueError for a way that this run does not have.
    """
    if way not in route.ways:
        raise ValueError(f"{run} has no way {way!r}; choose one of {', '.join(route.ways)}.")
    settings = list(route.ways[way].items())
    name, now = [("the base", route.base), *settings, ("as trained", route.tuned)][kept]
    where = name if kept in (0, STEPS) else f"{way}, {name}"
    text = (
        f"{run}, {where}: {now.exact_match:.0%} of {rows} rows right (as trained {route.tuned.exact_match:.0%}), "
        f"perplexity on other text {now.times:.3g} times the base's (as trained {route.tuned.times:.3g}), KL on the "
        f"task's prompts {now.kl:.3g} nats a token."
    )
    numbers = {"exact_match": now.exact_match, "times": now.times, "kl": now.kl}
    heads = {"the base goes on": route.base, "as trained": route.tuned, "this model": now}
    answers = {f"{head}: {sentence} ...": one.answer or "(nothing)" for head, one in heads.items()}
    result = f"{now.exact_match:.0%} right, perplexity {now.times:.3g} times"
    title = f"{run}: {where}"
    return View(lambda: ways_back(route.ways, route.base, route.tuned, title, now), text, numbers, answers, result)
