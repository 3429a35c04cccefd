"""Which method for a stated need: options are struck out one question after the other, each by a measured number.

Nothing here is a matter of taste that is not stated in `Needs`. A reason names the rows that it comes from; what would
change the choice is found by asking again with one need changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from workbench.advice.measured import KINDS, Measured
from workbench.cost.fits import RANK, setups
from workbench.cost.gpus import find_gpu, gpus
from workbench.cost.roofline import CACHE_SHARE, Phase, job, room_for_weights, step_phases
from workbench.errors import WorkbenchError
from workbench.memory.closed_form import estimate
from workbench.memory.report import MemoryReport
from workbench.results.noise import CLEAR_FORGETTING

PROMPTING, LORA, QLORA, HYBRID, FULL = "do not fine-tune", "LoRA", "QLoRA", "hybrid", "full"
OPTIONS = (PROMPTING, LORA, QLORA, HYBRID, FULL)  # of several that are left, the first is taken: the simplest


@dataclass(frozen=True)
class Needs:
    """What somebody needs, in their own units.

    model: a name of the catalogue. gpu: a name of the GPU table. kind: of what is to be learnt, one of KINDS. tokens:
    of the training, in millions. dollars: for it, at most. tasks: tuned models to serve at once on that GPU. points: of
    exact match that may be given up for a simpler method. careful: little else may be forgotten. few_shot, wanted: the
    score of few-shot prompting, and the one that is enough, as shares; None if not measured or not known.
    """

    model: str = "llama-3.1-8b"
    gpu: str = "RTX 4090"
    kind: str = next(iter(KINDS))
    tokens: float = 10.0
    dollars: float = 100.0
    tasks: int = 1
    points: float = 3.0
    careful: bool = False
    few_shot: float | None = None
    wanted: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise WorkbenchError(f"kind={self.kind!r} is not known; use one of: {'; '.join(KINDS)}.")
        find_gpu(self.gpu)  # raises for one that is not in the table
        if self.tasks < 1 or self.tokens <= 0:
            raise WorkbenchError("tasks must be at least 1, and tokens above 0.")


@dataclass(frozen=True)
class Step:
    """One question: what was found, the rows that say so, and the options that it strikes out with the reason."""

    question: str
    finding: str
    source: str
    struck: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """The choice, None if nothing is left; the steps that led there; and each changed need that turns it."""

    choice: str | None
    steps: list[Step]
    left: list[str]
    changes: dict[str, str | None] = field(default_factory=dict)

    def as_text(self) -> str:
        """The recommendation as a list in Markdown."""
        lines = [f"**{self.choice or 'Nothing fits these needs'}**", ""]
        for number, step in enumerate(self.steps, start=1):
            struck = f" Out: {', '.join(step.struck)}." if step.struck else ""
            lines.append(f"{number}. *{step.question}* {step.finding}{struck} ({step.source})")
        turned = [f"{change}: {choice or 'nothing fits'}" for change, choice in self.changes.items()]
        lines += ["", f"What would change it: {'; '.join(turned) or 'none of the single changes that were tried'}."]
        return "\n".join([*lines, "", f"What nobody knows: {UNKNOWN}"])


UNKNOWN = (
    "whether a model of your size behaves as the one of 135M parameters on which quality and forgetting were measured, "
    "and how close your task is to ours. One run of each method that is left, on your own rows, tells more than this."
)


def decide(needs: Needs, known: Measured, alternatives: bool = True) -> Decision:
    """The simplest option that no question strikes out. known: what `measured(study)` made of the reference study.

    alternatives: also ask again with single needs changed. Raises what `memory.estimate` raises for an unknown model.
    """
    left, steps = list(OPTIONS), list[Step]()
    # What may be forgotten comes first where it matters, or a method would be out for scoring no better.
    last = (_forgetting, _quality) if needs.careful else (_quality, _forgetting)
    for question in (_prompting, _memory, _money, _serving, *last):
        step = question(needs, known, left)
        steps.append(step)
        left = [option for option in left if option not in step.struck]
        if left == [PROMPTING] or not left:
            break
    choice = left[0] if left else None
    decision = Decision(choice, steps, left)
    return replace(decision, changes=_changes(needs, known, choice)) if alternatives else decision


# --- the questions


def _prompting(needs: Needs, known: Measured, left: list[str]) -> Step:
    question = "Is prompting with examples good enough?"
    if needs.few_shot is None or needs.wanted is None:
        finding = "Not known: measure it on your test rows before you train anything."
        return Step(question, finding, "no row", {PROMPTING: "not measured"})
    finding = f"The untrained base with examples scores {needs.few_shot:.0%}; {needs.wanted:.0%} is wanted."
    source = "few-shot prompting, measured on your test rows"
    if needs.few_shot >= needs.wanted:
        return Step(question, finding, source, dict.fromkeys(OPTIONS[1:], "not needed"))
    return Step(question, finding, source, {PROMPTING: "scores too little"})


def _memory(needs: Needs, known: Measured, left: list[str]) -> Step:
    gpu = find_gpu(needs.gpu)
    sizes = {option: report.total_bytes for option, report in reports(needs.model).items() if option in left}
    finding = (
        f"The {gpu.name} has {gpu.usable_bytes / 1e9:.0f} GB: {_listed(sizes, lambda size: f'{size / 1e9:.0f} GB')}."
    )
    struck = {option: "does not fit" for option, size in sizes.items() if not gpu.fits(size)}
    return Step("What fits your GPU?", finding, f"memory predicted for {needs.model}, 4 x 512 tokens", struck)


def _money(needs: Needs, known: Measured, left: list[str]) -> Step:
    gpu = find_gpu(needs.gpu)
    question = "What does the training cost?"
    if gpu.price_per_hour is None:
        return Step(question, f"The table has no price of the {gpu.name}.", "GPU table")
    found = {option: report for option, report in reports(needs.model).items() if option in left}
    phases = _phases(needs.model)
    jobs = {
        option: job(phases[option], gpu, report.setup.tokens, needs.tokens * 1e6) for option, report in found.items()
    }
    finding = f"{needs.tokens:g} million tokens: {_listed(jobs, lambda one: f'${one.money:.2f} in {one.hours:.1f} h')}."
    struck = {option: "too expensive" for option, one in jobs.items() if one.money > needs.dollars}
    return Step(question, finding, f"roofline of the {gpu.name} at ${gpu.price_per_hour:g} an hour", struck)


def _serving(needs: Needs, known: Measured, left: list[str]) -> Step:
    question = "How many tuned models must be served at once?"
    if needs.tasks == 1:
        return Step(question, "One: an adapter can be merged, so all methods serve alike.", "no row needed")
    gpu, found = find_gpu(needs.gpu), reports(needs.model)
    room = room_for_weights(gpu)
    whole = found[LORA].components["weights"]  # in 16 bits, as they are served
    own, adapters = needs.tasks * whole, needs.tasks * 2 * found[LORA].trainable_parameters
    shared = {option: found[option].components["weights"] + adapters for option in (LORA, QLORA)}
    finding = (
        f"{needs.tasks} whole models take {own / 1e9:.0f} GB, adapters on one base {shared[LORA] / 1e9:.0f} GB, or "
        f"{shared[QLORA] / 1e9:.0f} on one in 4 bits; the {gpu.name} has {room / 1e9:.0f}, with {CACHE_SHARE:.0%} kept "
        "free for requests."
    )
    struck = {option: "one whole model a task" for option in (FULL, HYBRID) if own > room}
    struck |= {option: "base and adapters do not fit" for option, size in shared.items() if size > room}
    source = f"bytes of {needs.model}'s weights and adapters of rank {RANK}"
    return Step(question, finding, source, {option: why for option, why in struck.items() if option in left})


def _quality(needs: Needs, known: Measured, left: list[str]) -> Step:
    found = known.leads[needs.kind]
    question = "Is full fine-tuning better at this kind of task?"
    if not found:
        return Step(question, "Not measured on a task of this kind.", "no row")
    told = "; ".join(lead.sentence for lead in found)
    source = "; ".join(lead.source for lead in found)
    lead = max(found, key=lambda one: (one.better, one.points))
    needed = lead.better and lead.points > needs.points
    if needed and FULL in left:
        worse = dict.fromkeys((one for one in (LORA, QLORA, HYBRID) if one in left), "scores less")
        return Step(question, f"{told}.", source, worse)
    struck = {FULL: "not shown to be better by that much"} if FULL in left and len(left) > 1 and not needed else {}
    lost = f" You give up about {lead.points:.0f} points, because full is out." if needed else ""
    told += f". You would give up {needs.points:g} points for a simpler method"
    return Step(question, f"{told}.{lost}", source, struck)


def _forgetting(needs: Needs, known: Measured, left: list[str]) -> Step:
    question = "May the model forget other things?"
    if not needs.careful:
        return Step(question, "Yes, as you said.", "no row needed")
    measured = known.forgetting[needs.kind]
    found = {option: value for option, value in measured.items() if option in left}
    if not found:
        return Step(question, "No, but none of the options that are left was measured.", "no row")
    least = min(found.values())
    struck = {option: "forgets more" for option, value in found.items() if value > least + CLEAR_FORGETTING}
    struck |= {option: "not measured" for option in left if option not in found}
    finding = f"No. Loss gained on general text at equal score: {_listed(measured, lambda nats: f'{nats:+.2f} nats')}."
    out = [option for option, value in measured.items() if option not in left and value < least - CLEAR_FORGETTING]
    if out:
        finding += (
            f" {' and '.join(out)} would forget less, and cannot be had. Train at a lower rate, "
            "or keep a part of the update (lesson 07), and measure text of your own."
        )
    source = f"study: {', '.join(KINDS[needs.kind])}, each at its gentlest rate, adapters with rank 8 and alpha 32"
    return Step(question, finding, source, struck)


# --- what the questions compute with


@cache
def reports(model: str) -> Mapping[str, MemoryReport]:
    """Option -> the predicted memory of a step of 4 x 512 tokens with checkpointing."""
    found = setups(model)
    return {option: estimate(model, found[option]) for option in (LORA, QLORA, HYBRID, FULL)}


@cache
def _phases(model: str) -> Mapping[str, list[Phase]]:
    return {option: step_phases(report) for option, report in reports(model).items()}


def _listed(values: Mapping[str, object], word: Callable) -> str:
    return ", ".join(f"{option} {word(value)}" for option, value in values.items())


def _changes(needs: Needs, known: Measured, choice: str | None) -> dict[str, str | None]:
    """Each single change of a need that leads to another choice, in words -> that choice."""
    found = {}
    for name, value, words in _other_needs(needs):
        change: dict[str, Any] = {name: value}
        changed = decide(replace(needs, **change), known, alternatives=False).choice
        if changed != choice:
            found[words] = changed
    return found


def _other_needs(needs: Needs) -> list[tuple[str, object, str]]:
    """Single changes worth trying: (field, value, words)."""
    table = gpus()
    usable = table[needs.gpu].usable_bytes
    larger = sorted((one for one in table.values() if one.usable_bytes > usable), key=lambda one: one.usable_bytes)
    smaller = [one for one in table.values() if one.usable_bytes < usable]
    sizes = [*larger, *sorted(smaller, key=lambda one: -one.usable_bytes)[:1]]
    tried: list[tuple[str, object, str]] = [
        ("gpu", one.name, f"a {one.name} ({one.usable_bytes / 1e9:.0f} GB)") for one in _first_of_each_size(sizes)
    ]
    tried += [("kind", kind, f"the task is {kind}") for kind in KINDS if kind != needs.kind]
    tried += [("tasks", count, f"{count} tasks to serve") for count in (1, 10) if count != needs.tasks]
    tried += [("careful", not needs.careful, "forgetting matters" if not needs.careful else "forgetting is allowed")]
    tried += [
        ("points", points, f"giving up {points:g} points at most") for points in (0, 10) if points != needs.points
    ]
    if needs.wanted is not None:
        tried.append(("few_shot", needs.wanted, f"prompting scores {needs.wanted:.0%}"))
    return tried


def _first_of_each_size(table: Sequence) -> list:
    """Of GPUs of about equal memory only the first, so that the list stays short."""
    kept: list = []
    for gpu in table:
        if all(abs(gpu.usable_bytes / one.usable_bytes - 1) > 0.15 for one in kept):
            kept.append(gpu)
    return kept
