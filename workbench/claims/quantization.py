"""The rule on QLoRA's memory, from one LoRA run and one QLoRA run. Lesson 03 uses it."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED
from workbench.claims.rules import Outcome, rule
from workbench.claims.runs import clearly_ahead, one_of_each, peak_memory, step_seconds
from workbench.training.runs import Run

FURTHER = 0.1  # the share of LoRA's peak that QLoRA must save to have lowered memory "further"


@rule("qlora")
def _qlora(runs: Sequence[Run]) -> Outcome:
    lora, qlora = one_of_each(runs, "lora", "qlora")
    saved = 1 - peak_memory(qlora) / peak_memory(lora)
    verdict = SUPPORTED if saved >= FURTHER else DEPENDS if saved > 0 else NOT_SUPPORTED
    slower = step_seconds(qlora) / step_seconds(lora)
    evidence = (
        f"QLoRA's peak is {peak_memory(qlora) / 1e6:,.0f} MB, LoRA's {peak_memory(lora) / 1e6:,.0f} MB "
        f"({saved:.0%} saved); its step takes {slower:.2f} times as long. Exact match {_scores(lora, qlora)}. "
        "Whether a larger model then fits a consumer GPU is not tested by this."
    )
    return verdict, evidence, f"QLoRA's peak at least {FURTHER:.0%} below LoRA's; depends: by less"


def _scores(lora: Run, qlora: Run) -> str:
    if "exact_match" not in lora.metrics or "exact_match" not in qlora.metrics:
        return "was not measured"
    shares = f"is {qlora.metrics['exact_match']:.0%} against {lora.metrics['exact_match']:.0%}"
    apart = clearly_ahead(lora, qlora) or clearly_ahead(qlora, lora)
    return f"{shares}, a difference {'beyond' if apart else 'within'} the noise of the test sample"
