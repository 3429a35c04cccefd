"""Verdicts on claims: a registry of rules, each of which judges one claim by one kind of evidence.

A rule is a function decorated with `rule(claim)`. Its parameters name the evidence that it needs, by the keys of
`Evidence`. It returns an `Outcome`, or raises NotTested if the evidence lacks something. One claim can have several
rules.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, Unpack

import workbench.claims
from workbench.claims.ledger import UNTESTED, Verdict, claims
from workbench.results.rows import Row
from workbench.training.runs import Run

if TYPE_CHECKING:
    from workbench.analysis.places import Cuts
    from workbench.cost.gpus import Gpu
    from workbench.cost.grid import GridRow
    from workbench.cost.roofline import Service
    from workbench.retrieval.published import PublishedScore
    from workbench.serving.measure import Several

# One of ledger.VERDICTS or UNTESTED, a sentence with the numbers, and what counts as supported.
Outcome: TypeAlias = tuple[str, str, str]
Judge = TypeVar("Judge", bound=Callable[..., Outcome])


class NotTested(Exception):  # noqa: N818 - an outcome, not an error
    """The evidence lacks what a rule needs; the message says what, in a sentence."""


class Evidence(TypedDict, total=False):
    """The kinds of evidence.

    runs: one run of each method on the same base, task, seed and data; a full run of a few steps without scores is
    enough for its memory. grid, gpus, published: what `cost.grid.grid`, `cost.gpus.gpus` and
    `cost.published.published_pair` return. ranks, few, alphas, full: rows of rank sweeps on one task, each of which
    varies the learning rate and: the rank, with adapters on all linear layers; the rank, with adapters on one module;
    alpha, at one rank; nothing else, in full fine-tuning. study: rows of the reference study, of any tasks. paired:
    those of them that say which test rows were right. cuts: of one full run whose update was cut to several ranks.
    several: what `serving.measure.several` returns. services: number of tasks -> what `cost.roofline.serve` returns.
    searches, published_search: what `retrieval.rows.retrieval_rows` and `retrieval.published.published_scores` return.
    """

    runs: Sequence[Run]
    grid: Sequence[GridRow]
    gpus: Mapping[str, Gpu]
    published: Mapping[str, float]
    ranks: Sequence[Row]
    few: Sequence[Row]
    alphas: Sequence[Row]
    full: Sequence[Row]
    study: Sequence[Row]
    paired: Sequence[Row]
    cuts: Cuts
    several: Several
    services: Mapping[int, Mapping[str, Service]]
    searches: Sequence[Row]
    published_search: Sequence[PublishedScore]


@dataclass(frozen=True)
class Rule:
    """A rule of one claim. needs: keys of `Evidence`, which are the parameters of `judge`."""

    claim: str
    needs: tuple[str, ...]
    judge: Callable[..., Outcome]

    def verdict(self, evidence: Mapping[str, Any]) -> Verdict:
        """The verdict on evidence that holds at least what the rule needs."""
        try:
            return Verdict(self.claim, *self.judge(**{name: evidence[name] for name in self.needs}))
        except NotTested as lacking:
            return Verdict(self.claim, UNTESTED, str(lacking))


_REGISTERED: list[Rule] = []


def rule(claim: str) -> Callable[[Judge], Judge]:
    """Register the decorated function as a rule of this claim."""

    def register(judge: Judge) -> Judge:
        _REGISTERED.append(Rule(claim, tuple(signature(judge).parameters), judge))
        return judge

    return register


def rules() -> list[Rule]:
    """The rules of all modules in this folder, in the order of the ledger."""
    for module in pkgutil.iter_modules(workbench.claims.__path__):
        import_module(f"{workbench.claims.__name__}.{module.name}")
    order = list(claims())
    return sorted(_REGISTERED, key=lambda one: (order.index(one.claim), one.judge.__module__))


def verdicts(*wanted: str, **evidence: Unpack[Evidence]) -> list[Verdict]:
    """The verdict of every rule for which all evidence is given, in the order of the ledger.

    wanted: only these claims; none: all. Raises ValueError for an unknown claim or kind of evidence.
    """
    for words, known in ((wanted, claims()), (evidence, Evidence.__annotations__)):
        if unknown := [word for word in words if word not in known]:
            raise ValueError(f"No claim or evidence is called {', '.join(unknown)}; use one of {', '.join(known)}.")
    chosen = [one for one in rules() if not wanted or one.claim in wanted]
    return [one.verdict(evidence) for one in chosen if evidence.keys() >= set(one.needs)]
