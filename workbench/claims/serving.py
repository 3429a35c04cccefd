"""Rules that judge many adapters on one base: swapping, files, untouched weights, and the GPUs that it takes."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED
from workbench.claims.rules import NotTested, Outcome, rule
from workbench.claims.runs import SIZES, size_verdict
from workbench.cost.roofline import SHARED, WHOLE, Service
from workbench.serving.measure import Several

CHEAP = 10  # times less than a whole model, in bytes or in seconds


@rule("swap")
def _swap(several: Several) -> Outcome:
    smaller = several.model_bytes / (several.adapter_bytes / several.tasks)
    faster = several.load_seconds / several.swap_seconds
    cheap = [ratio >= CHEAP for ratio in (smaller, faster)]
    verdict = SUPPORTED if all(cheap) else DEPENDS if any(cheap) else NOT_SUPPORTED
    evidence = (
        f"{several.tasks} adapters share one base; each is {smaller:.0f} times smaller than a whole model, and a swap "
        f"takes {several.swap_seconds * 1e3:.3g} ms, {faster:,.0f} times less than loading a model."
    )
    return verdict, evidence, f"{CHEAP} times smaller and {CHEAP} times faster; depends: only one of the two"


@rule("artifact")
def _artifact(several: Several) -> Outcome:
    small, whole = several.adapter_bytes / several.tasks / 1e6, several.model_bytes / 1e6
    return size_verdict(small, whole), f"an adapter is {small:.1f} MB, a whole model {whole:,.0f} MB.", SIZES


@rule("modules")
def _modules(several: Several) -> Outcome:
    verdict = SUPPORTED if several.unchanged and several.restored else NOT_SUPPORTED
    kept = "are the same to the last bit" if several.unchanged else "have changed"
    back = "gives the base's own logits" if several.restored else "does not give the base's own logits"
    evidence = (
        f"after {several.tasks} adapters were attached and swapped, the base's weights {kept}; disabling them {back}."
    )
    return verdict, evidence, "weights and logits of the base are the same, bit for bit"


@rule("serving")
def _serving(services: Mapping[int, Mapping[str, Service]]) -> Outcome:
    if not services:
        raise NotTested("There are no services to compare.")
    fewer = {tasks: ways[SHARED].gpus < ways[WHOLE].gpus for tasks, ways in services.items()}
    verdict = SUPPORTED if all(fewer.values()) else DEPENDS if any(fewer.values()) else NOT_SUPPORTED
    told = [
        f"{tasks} {'task takes' if tasks == 1 else 'tasks take'} {ways[SHARED].in_words} with adapters and "
        f"{ways[WHOLE].in_words} with whole models"
        for tasks, ways in services.items()
    ]
    return verdict, f"{'; '.join(told)}.", "fewer GPUs for any number of tasks; depends: only for many"
