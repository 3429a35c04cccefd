"""What one LoRA, one QLoRA and one full run say of the claims about memory. Used in lesson 03."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.adapters.quantized_models import model_bytes
from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, Verdict
from workbench.claims.runs import clearly_ahead, memory_ratio
from workbench.models.base import Base
from workbench.training.runs import Run

FURTHER = 0.1  # the share of LoRA's peak that QLoRA must save to have lowered memory "further"


def judge_quantization(runs: Sequence[Run]) -> list[Verdict]:
    """Verdicts on `qlora` and `memory-ratio` from runs of the three methods on the same base, task and batches.

    full may be a run of a few steps without scores: its peak is that of any longer run.
    """
    by_method = {run.method["name"]: run for run in runs if run.status == "finished" and run.peak_memory_bytes}
    lora, qlora, full = (by_method.get(name) for name in ("lora", "qlora", "full"))
    found = []
    if lora is None or qlora is None:
        found.append(Verdict("qlora", UNTESTED, "There is no finished pair of LoRA and QLoRA."))
    else:
        found.append(_qlora(lora, qlora))
    if lora is None or full is None:
        found.append(Verdict("memory-ratio", UNTESTED, "There is no finished pair of LoRA and full."))
    else:
        found.append(memory_ratio(lora, full))
    return found


def saving_in_16_bits(lora: Run, qlora: Run, base: Base) -> float:
    """The share of LoRA's peak that QLoRA would have saved, had all frozen weights that are not codes been in 16 bits.

    base: what `lora` was trained on; QLoRA's embeddings and norms are in its precision too.
    """
    lean = []
    for run, kind in ((lora, None), (qlora, "nf4")):
        here, in_16 = (model_bytes(base.model, kind, other=size) for size in (base.dtype.itemsize, 2))
        lean.append(run.peak_memory_bytes - here + in_16)
    return 1 - lean[1] / lean[0]


def _qlora(lora: Run, qlora: Run) -> Verdict:
    saved = 1 - qlora.peak_memory_bytes / lora.peak_memory_bytes
    verdict = SUPPORTED if saved >= FURTHER else DEPENDS if saved > 0 else NOT_SUPPORTED
    slower = qlora.step_seconds / lora.step_seconds
    evidence = (
        f"QLoRA's peak is {qlora.peak_memory_bytes / 1e6:,.0f} MB, LoRA's {lora.peak_memory_bytes / 1e6:,.0f} MB "
        f"({saved:.0%} saved); its step takes {slower:.2f} times as long. Exact match {_scores(lora, qlora)}. "
        "Whether a larger model then fits a consumer GPU is not tested by this."
    )
    rule = f"QLoRA's peak at least {FURTHER:.0%} below LoRA's; depends: by less"
    return Verdict("qlora", verdict, evidence, rule)


def _scores(lora: Run, qlora: Run) -> str:
    if "exact_match" not in lora.metrics or "exact_match" not in qlora.metrics:
        return "was not measured"
    shares = f"is {qlora.metrics['exact_match']:.0%} against {lora.metrics['exact_match']:.0%}"
    apart = clearly_ahead(lora, qlora) or clearly_ahead(qlora, lora)
    return f"{shares}, a difference {'beyond' if apart else 'within'} the noise of the test sample"
