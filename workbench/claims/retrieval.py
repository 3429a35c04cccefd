"""Rules on search: does LoRA cost an encoder NDCG@10, in published scores and in the stored study?"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED
from workbench.claims.rules import NotTested, Outcome, rule
from workbench.retrieval.metrics import Interval
from workbench.retrieval.published import PublishedScore, by_method, difference
from workbench.retrieval.rows import BASE, FULL, LORA, MARGIN, Row, compare, names

RULE = "LoRA is below the base; depends: above the base and below full"
SPOKEN = {BASE: "the base", FULL: "full", LORA: "LoRA of rank 8"}


@rule("retrieval")
def _published(published_search: Sequence[PublishedScore]) -> Outcome:
    told, verdicts = [], []
    for experiment in dict.fromkeys(score.experiment for score in published_search):
        own = by_method(published_search, experiment)
        told.append(f"{experiment}: {', '.join(f'{name} {score.ndcg:.3f}' for name, score in own.items())}")
        if {"base", "lora", "full"} <= own.keys():
            gain, gap = difference(own["lora"], own["base"]), difference(own["lora"], own["full"])
            verdicts.append(_judged(gain, gap))
            told[-1] += f"; LoRA is {gain.centre:+.3f} from the base, and {in_words(gap)} from full"
    if not verdicts:
        raise NotTested("No published experiment has the base, LoRA and full fine-tuning.")
    verdict = verdicts[0] if len(set(verdicts)) == 1 else DEPENDS
    return verdict, f"{'. '.join(told)}. Intervals are the widest that so many queries allow.", RULE


@rule("retrieval")
def _measured(searches: Sequence[Row]) -> Outcome:
    _check(searches)
    gain, gap = compare(searches, LORA, BASE), compare(searches, LORA, FULL)
    evidence = f"NDCG@10: {SPOKEN[LORA]} is {in_words(gain)} from the base and {in_words(gap)} from full."
    return _judged(gain, gap), evidence, RULE


@rule("parity")
def _parity(searches: Sequence[Row]) -> Outcome:
    _check(searches)
    gap = compare(searches, FULL, LORA)
    on_par = gap.low >= -MARGIN and gap.high <= MARGIN
    verdict = SUPPORTED if on_par or gap.high < 0 else NOT_SUPPORTED if gap.low > 0 else UNTESTED
    evidence = f"search: full is {in_words(gap)} NDCG@10 from {SPOKEN[LORA]}"
    evidence += f"; within {MARGIN:g} they are on par." if on_par else "."
    return verdict, evidence, f"full is not better, or the whole interval is within {MARGIN:g} NDCG@10"


def _check(searches: Sequence[Row]) -> None:
    if lacking := [name for name in (BASE, LORA, FULL) if name not in names(searches)]:
        raise NotTested(f"The study of search has no {', '.join(lacking)} yet.")


def _judged(gain: Interval, gap: Interval) -> str:
    """gain: LoRA less the base. gap: LoRA less full."""
    if gain.verdict == "worse":
        return SUPPORTED
    if gain.verdict == "undecided":
        return UNTESTED
    return DEPENDS if gap.verdict == "worse" else NOT_SUPPORTED


def in_words(found: Interval) -> str:
    """A difference with its interval: "+0.031 (+0.020 to +0.042)"."""
    return f"{found.centre:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
