"""The rule on real updates: whether that of a full run is worth as much as the product of two small matrices."""

from __future__ import annotations

from workbench.analysis.places import Cuts
from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED
from workbench.claims.rules import NotTested, Outcome, rule
from workbench.results.noise import noise_of_difference

USUAL_RANK = 8  # of LoRA in this course
NEARLY_ALL = 0.9  # of the gain


@rule("update")
def _update(cuts: Cuts) -> Outcome:
    if cuts.whole - cuts.base <= noise_of_difference((cuts.whole, cuts.rows), (cuts.base, cuts.rows)):
        raise NotTested("The full run has not learned the task by more than noise; train longer.")
    kept = {rank: cuts.kept(rank) for rank in sorted(cuts.by_rank) if rank}
    enough = [rank for rank, share in kept.items() if share >= NEARLY_ALL]
    verdict = SUPPORTED if any(rank <= USUAL_RANK for rank in enough) else DEPENDS if enough else NOT_SUPPORTED
    told = ", ".join(f"{share:.0%} at rank {rank}" for rank, share in kept.items())
    without = f" ({cuts.kept(0):.0%} without any, from embeddings and norms alone)" if 0 in cuts.by_rank else ""
    evidence = f"full's own update, cut, keeps of the gain in exact match: {told}{without}."
    condition = f"{NEARLY_ALL:.0%} are left at rank {USUAL_RANK} or below; depends: at a higher one that was tried"
    return verdict, evidence, condition
