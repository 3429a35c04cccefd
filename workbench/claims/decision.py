"""Rules on the claims that are decisions: is full fine-tuning still needed? Lesson 10 uses them.

Full fine-tuning is compared with the setting of LoRA that scores best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED
from workbench.claims.memory import FULLS, LORAS, pairs
from workbench.claims.rules import NotTested, Outcome, rule
from workbench.claims.study import compared, full_against_best
from workbench.cost.grid import GridRow
from workbench.results.paired import Comparison
from workbench.results.rows import Row

RARELY, MOSTLY = 0.25, 0.5  # shares of the tasks that decide
FEWEST = 3  # of them, for a claim on how often full fine-tuning is needed
HALF = 0.5  # of full's memory


def against_best(study: Sequence[Row]) -> dict[str, tuple[str, Comparison]]:
    """Task -> the best setting of LoRA there, and full fine-tuning against it; only tasks that decide.

    Raises NotTested if there are fewer than FEWEST.
    """
    found: dict[str, tuple[str, Comparison]] = {}
    for task in dict.fromkeys(row["task"] for row in study):
        if compared(study, task, "lora") and compared(study, task, "full"):
            best, one = full_against_best(study, task)
            if one.verdict != "undecided":
                found[task] = best, one
    if len(found) < FEWEST:
        told = f" ({', '.join(f'`{task}`' for task in found)})" if found else ""
        raise NotTested(
            f"Full fine-tuning and the best setting of LoRA are told apart, or on par, on {len(found)} of the study's "
            f"tasks{told}; a claim on most cases needs {FEWEST}."
        )
    return found


@rule("fallback")
def _fallback(paired: Sequence[Row]) -> Outcome:
    found = against_best(paired)
    needed = _share_better(found)
    verdict = SUPPORTED if needed < RARELY else DEPENDS if needed < MOSTLY else NOT_SUPPORTED
    condition = (
        f"full is better than the best LoRA on fewer than {RARELY:.0%} of the tasks; depends: below {MOSTLY:.0%}"
    )
    return verdict, _told(found), condition


@rule("obsolete")
def _obsolete(paired: Sequence[Row], grid: Sequence[GridRow]) -> Outcome:
    found = against_best(paired)
    shares = [lora["reserved_bytes"] / full["reserved_bytes"] for full, lora in pairs(grid, FULLS, LORAS)]
    if not shares:
        raise NotTested("The grid has no pair of full fine-tuning and LoRA.")
    needed, lean = _share_better(found), sum(share <= HALF for share in shares)
    cheaper = lean >= MOSTLY * len(shares)
    verdict = NOT_SUPPORTED if needed > MOSTLY or lean == 0 else SUPPORTED if needed == 0 and cheaper else DEPENDS
    evidence = (
        f"{_told(found)} LoRA takes half of full's memory or less in {lean} of {len(shares)} configurations. What most "
        "teams do is not measured here."
    )
    return verdict, evidence, "full is better on no task, and LoRA mostly takes half the memory; not: better on most"


def _share_better(found: Mapping[str, tuple[str, Comparison]]) -> float:
    return sum(one.verdict == "better" for _, one in found.values()) / len(found)


def _told(found: Mapping[str, tuple[str, Comparison]]) -> str:
    told = [f"`{task}`: {one.in_words('full', f'LoRA ({best})')}" for task, (best, one) in found.items()]
    return f"{'; '.join(told)}."
