"""Rules that judge one run of each method: memory, speed, files, scores and forgetting. Lessons 03 and 06 use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED
from workbench.claims.rules import NotTested, Outcome, rule
from workbench.results.noise import CLEAR_FORGETTING, DOUBLED, noise_of_difference, rows_scored
from workbench.results.paired import MARGIN
from workbench.results.run_pairs import compare_runs
from workbench.training.runs import Run

T = TypeVar("T")

SIZES = "adapter under 100 MB and whole model 2-16 GB; depends: only the first"


def one_of_each(runs: Sequence[Run], *methods: str) -> list[Run]:
    """The last finished run of each of the methods, in this order. Raises NotTested if one is missing."""
    by_method = {run.method["name"]: run for run in runs if run.status == "finished"}
    for name in methods:
        if name not in by_method:
            raise NotTested(f"There is no finished {name} run.")
    return [by_method[name] for name in methods]


def peak_memory(run: Run) -> int:
    """Bytes. Raises NotTested for a run that has no peak of its own, such as one of a sweep."""
    return _own(run.peak_memory_bytes, "a peak of memory")


def step_seconds(run: Run) -> float:
    """Raises NotTested for a run that has no step times of its own, such as one of a sweep."""
    return _own(None if run.together else run.step_seconds, "step times")


def exact_match(run: Run) -> float:
    """Raises NotTested for a run that was not scored."""
    return _own(run.metrics.get("exact_match"), "scores")


def gap(first: Run, second: Run) -> tuple[float, float]:
    """Exact match of `first` minus `second`, and two standard errors of this difference."""
    shares = [exact_match(run) for run in (first, second)]
    rows = [rows_scored(run.task["test_rows"], run.config["test_limit"]) for run in (first, second)]
    return shares[0] - shares[1], noise_of_difference(*zip(shares, rows, strict=True))


def clearly_ahead(first: Run, second: Run) -> bool:
    """Whether the exact match of `first` is above that of `second` by more than two standard errors of both samples."""
    lead, noise = gap(first, second)
    return lead > noise


@rule("memory-ratio")
def _memory_ratio(runs: Sequence[Run]) -> Outcome:
    lora, full = one_of_each(runs, "lora", "full")
    ratio = peak_memory(full) / peak_memory(lora)
    verdict = SUPPORTED if ratio >= 5 else DEPENDS if ratio >= 2 else NOT_SUPPORTED
    return verdict, f"full needs {ratio:.1f} times the peak memory of LoRA.", "5 times or more; below 2 is not"


@rule("speed")
def _speed(runs: Sequence[Run]) -> Outcome:
    lora, full = one_of_each(runs, "lora", "full")
    ratio = step_seconds(full) / step_seconds(lora)
    verdict = SUPPORTED if ratio > 1.05 else DEPENDS if ratio > 0.95 else NOT_SUPPORTED
    return verdict, f"a full step takes {ratio:.2f} times as long as a LoRA step.", "over 1.05"


@rule("artifact")
def _artifact(runs: Sequence[Run]) -> Outcome:
    small, whole = (_own(run.artifact_bytes, "a saved artifact") / 1e6 for run in one_of_each(runs, "lora", "full"))
    return size_verdict(small, whole), f"the adapter is {small:.1f} MB, the full checkpoint {whole:,.0f} MB.", SIZES


def size_verdict(adapter: float, model: float) -> str:
    """The verdict on the sizes of files that the claim names, both in MB."""
    return NOT_SUPPORTED if adapter >= 100 else SUPPORTED if 2e3 <= model <= 16e3 else DEPENDS


@rule("parity")
def _parity(runs: Sequence[Run]) -> Outcome:
    lora, full = one_of_each(runs, "lora", "full")
    lead, noise = gap(full, lora)
    if max(exact_match(run) - run.before.get("exact_match", 0.0) for run in (lora, full)) <= noise:
        raise NotTested("Neither run has learnt the task by more than noise; train longer.")
    if found := compare_runs(lora, {"full": full}).get("full"):
        verdict = {"better": NOT_SUPPORTED, "undecided": DEPENDS}.get(found.verdict, SUPPORTED)
        return verdict, f"{found.in_words('full', 'LoRA')}.", f"full is at most {MARGIN:g} points ahead, row by row"
    on_par = MARGIN / 100
    verdict = NOT_SUPPORTED if lead > noise else SUPPORTED if lead + noise < on_par else DEPENDS
    evidence = f"full minus LoRA is {lead:+.1%} in exact match; this test sees no difference below {noise:.1%}."
    return verdict, evidence, f"full is less than {on_par:.0%} ahead, noise included"


@rule("forgetting")
def _forgetting(runs: Sequence[Run]) -> Outcome:
    lora, full = (_own(run.forgetting.get("general_loss"), "scores") for run in one_of_each(runs, "lora", "full"))
    verdict = SUPPORTED if full >= DOUBLED else DEPENDS if full > CLEAR_FORGETTING else NOT_SUPPORTED
    evidence = f"loss on general text moved by {full:+.3f} nats a token after full, {lora:+.3f} after LoRA."
    return (
        verdict,
        evidence,
        f"full at least doubles the perplexity, {DOUBLED:.2f} nats; depends: it loses over {CLEAR_FORGETTING}",
    )


@rule("hybrid")
def _hybrid(runs: Sequence[Run]) -> Outcome:
    lora, full, hybrid = one_of_each(runs, "lora", "full", "hybrid")
    over_lora, under_full = _lead(hybrid, lora), _lead(full, hybrid)
    whole, peak = peak_memory(full), peak_memory(hybrid)
    verdict = NOT_SUPPORTED
    if peak < whole and over_lora != "worse" and under_full != "better":
        verdict = DEPENDS
    if peak < whole and over_lora == "better":
        verdict = SUPPORTED
    points = 100 * (exact_match(hybrid) - exact_match(lora))
    evidence = f"hybrid is {points:+.1f} points against LoRA ({over_lora}) at {peak / whole:.0%} of full's peak memory."
    condition = "better than LoRA, with less memory than full; depends: not told apart from LoRA, nor worse than full"
    return verdict, evidence, condition


def _lead(first: Run, second: Run) -> str:
    """How `first` stands against `second`: as in `Comparison`, or by two standard errors where no rows are stored."""
    if found := compare_runs(second, {"first": first}).get("first"):
        return found.verdict
    lead, noise = gap(first, second)
    return "better" if lead > noise else "worse" if lead < -noise else "undecided"


def _own(value: T | None, what: str) -> T:
    if value is None:
        raise NotTested(f"Not every run has {what} of its own.")
    return value
