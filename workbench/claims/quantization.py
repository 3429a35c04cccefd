"""The rule on QLoRA's memory, from one LoRA run and one QLoRA run. Lesson 03 uses it."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.adapters.quantized_models import model_bytes
from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED
from workbench.claims.rules import Outcome, rule
from workbench.claims.runs import clearly_ahead, one_of_each, peak_memory, step_seconds
from workbench.models.base import Base
from workbench.training.runs import Run

FURTHER = 0.1  # the share of LoRA's peak that QLoRA must save to have lowered memory "further"


def saving_in_16_bits(lora: Run, qlora: Run, base: Base) -> float:
    """The share of LoRA's peak that QLoRA would have saved if all frozen weights but the 4-bit codes were in 16 bits.

    base: the one that `lora` was trained on; QLoRA's embeddings and norms are in its precision too. Raises NotTested if
    a run has no peak memory of its own.
    """
    lean = []
    for run, kind in ((lora, None), (qlora, "nf4")):
        here, in_16 = (model_bytes(base.model, kind, other=size) for size in (base.dtype.itemsize, 2))
        lean.append(peak_memory(run) - here + in_16)
    return 1 - lean[1] / lean[0]


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
