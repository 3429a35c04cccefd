"""The whole ledger: every claim with what the study, the predictions and the learner's own runs say about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, Claim, Verdict, claims, kept_verdicts
from workbench.claims.rules import Evidence, verdicts
from workbench.cost.gpus import gpus
from workbench.cost.grid import grid
from workbench.cost.published import published_pair
from workbench.results import reference
from workbench.retrieval.published import published_scores
from workbench.retrieval.rows import retrieval_rows
from workbench.serving.fleet import Fleet
from workbench.training.runs import Run
from workbench.training.store import RunStore

OWN, LESSONS = "your runs", "your lessons"
STUDY, SWEEPS, PREDICTED = "reference study", "stored sweeps", "prediction"
SEARCH, PUBLISHED = "study of search", "published scores"
LIMITS = {
    OWN: "your task and computer; one run of each method, so another seed can turn it",
    LESSONS: "measured once on this computer, on the small model of a lesson",
    STUDY: "one model of 135M parameters on a CPU, short runs, three seeds of each method",
    SWEEPS: "96 facts to be recalled by a model of 135M parameters, mostly one seed",
    PREDICTED: "computed for a GPU, not measured on one",
    SEARCH: "one encoder of 22M parameters on documentation in English, three seeds of each method",
    PUBLISHED: "300 queries each, one run of each method, the scores of single queries unknown",
}

SERVED = ("llama-3.1-8b", 16, "L4")  # model, rank and GPU of lesson 08
TASKS_SERVED = (1, 20, 200)


@dataclass(frozen=True)
class Entry:
    """A claim with all that is known. lead: the evidence that decides, None without any."""

    claim: Claim
    lead: str | None
    verdict: str
    found: dict[str, Verdict]  # source of the evidence -> its verdict

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        evidence = {
            source: {"verdict": one.verdict, "evidence": one.evidence, "rule": one.rule, "limit": LIMITS[source]}
            for source, one in self.found.items()
        }
        return {**asdict(self.claim), "verdict": self.verdict, "decided_by": self.lead, "evidence": evidence}


def book(store: RunStore | None = None) -> list[Entry]:
    """Every claim, in the order of the ledger, judged by all evidence that is here.

    The learner's own runs come first where they decide: they are of the learner's task. What lessons measured on this
    computer comes second. store: of the runs and the lessons.
    """
    store = store or RunStore()
    rows, paired = grid(), reference.paired_rows()
    services = {tasks: Fleet(tasks, *SERVED).services for tasks in TASKS_SERVED}
    found: dict[str, list[Verdict]] = {
        OWN: verdicts(runs=comparable(store.all())),
        LESSONS: kept_verdicts(store),
        STUDY: [
            *verdicts(study=reference.study_rows(needed=reference.RANKS_AND_ALPHAS), paired=paired),
            *verdicts("obsolete", paired=paired, grid=rows),
        ],
        SWEEPS: verdicts(**stored_sweeps()),
        PREDICTED: verdicts(grid=rows, gpus=gpus(), published=published_pair(), services=services),
        SEARCH: verdicts(searches=retrieval_rows()),
        PUBLISHED: verdicts(published_search=published_scores()),
    }
    return entries(found)


def entries(found: Mapping[str, Iterable[Verdict]]) -> list[Entry]:
    """Every claim with what each source says. found: source -> verdicts, the weightiest source first."""
    by_source = {source: {one.claim: one for one in own} for source, own in found.items()}
    listed = []
    for id, claim in claims().items():
        own = {source: known[id] for source, known in by_source.items() if id in known}
        decided = [source for source, one in own.items() if one.verdict != UNTESTED]
        lead = next(iter(decided), None)
        listed.append(Entry(claim, lead, own[lead].verdict if lead else UNTESTED, own))
    return listed


def comparable(runs: Sequence[Run]) -> list[Run]:
    """The finished runs of the latest set that can be compared: same base, data, steps, batch and seed.

    The set with the most methods; of equal ones the latest. Empty if no two methods can be compared.
    """
    sets: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        if run.status == "finished":
            sets.setdefault(_setting(run), []).append(run)
    methods = {key: len({run.method["name"] for run in own}) for key, own in sets.items()}
    several = [key for key in sets if methods[key] > 1]
    if not several:
        return []
    best = max(several, key=lambda key: (methods[key], max(run.began for run in sets[key])))
    return sorted(sets[best], key=lambda run: run.began)


def _setting(run: Run) -> tuple[object, ...]:
    config = run.config
    return (
        run.base["name"],
        run.base["revision"],
        run.task["sha256"],
        *(config.get(name) for name in ("steps", "batch_size", "accumulation", "seed")),
    )


def stored_sweeps() -> Evidence:
    """The evidence of the stored rank sweeps, as their rules take it."""
    rows = reference.stored_sweeps
    few = [row for row in rows("few") if row["targets"] == "down_proj"]  # on one matrix of one block
    return {"ranks": rows("rate", "seeds"), "few": few, "alphas": rows("alpha"), "full": rows("full")}


def summary(listed: Sequence[Entry]) -> str:
    """How many claims have which verdict, in a sentence."""
    counts = {verdict: sum(one.verdict == verdict for one in listed) for verdict in (SUPPORTED, DEPENDS)}
    against = sum(one.verdict == NOT_SUPPORTED for one in listed)
    untested = sum(one.verdict == UNTESTED for one in listed)
    own = sum(one.lead in (OWN, LESSONS) for one in listed)
    return (
        f"Of {len(listed)} claims {counts[SUPPORTED]} are supported, {counts[DEPENDS]} depend on the case, "
        f"{against} are not supported and {untested} were not tested; your own runs and lessons decided {own}."
    )


def as_text(listed: Sequence[Entry]) -> str:
    """The ledger for a terminal."""
    lines = []
    for one in listed:
        lines.append(f"{one.claim.id}: {one.verdict}{f' ({one.lead})' if one.lead else ''}")
        lines.append(f"  {one.claim.text} [{one.claim.source}]")
        for source, verdict in one.found.items():
            lines.append(f"  {source} ({LIMITS[source]}): {verdict.verdict}. {verdict.evidence}")
    return "\n".join([*lines, "", summary(listed)])


def as_markdown(listed: Sequence[Entry]) -> str:
    """The ledger as a table: claim, verdict, what decided, and its numbers."""
    lines = ["| claim | verdict | decided by | numbers, spread and limit |", "| --- | --- | --- | --- |"]
    for one in listed:
        verdict = one.found.get(one.lead or "")
        told = f"{verdict.evidence} *{LIMITS[one.lead or '']}.*" if verdict else _why_not(one)
        lines.append(f"| **{one.claim.id}**: {one.claim.text} | {one.verdict} | {one.lead or ''} | {told} |")
    return "\n".join([*lines, "", summary(listed)])


def _why_not(one: Entry) -> str:
    reasons = [verdict.evidence for verdict in one.found.values()]
    lessons = " and ".join(one.claim.notebooks)
    where = f"lesson {lessons} measures it" if len(one.claim.notebooks) == 1 else f"lessons {lessons} measure it"
    return " ".join(reasons) or f"No evidence is stored; {where}."
