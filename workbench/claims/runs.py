"""What one run of each method says of the claims on memory, speed, files, scores and forgetting (lesson 06)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workbench.claims.ledger import BETS, DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, Verdict
from workbench.results.noise import noise_of_difference, rows_scored
from workbench.training.runs import Run

VISIBLE_GAP = 0.05  # exact match; a smaller lead of full is called on par


LASTING_LOSS = 0.1  # nats a token on general text: the right token is a tenth less likely


def clearly_ahead(first: Run, second: Run) -> bool:
    """Whether the exact match of `first` is above that of `second` by more than two standard errors of both samples."""
    gap, noise = _gap(first, second)
    return gap > noise


def judge(runs: Sequence[Run]) -> list[Verdict]:
    """Verdicts on the six bets from one run of each method on the same task, seed and data.

    A difference in exact match counts when it exceeds two standard errors of the test sample (of both runs).
    """
    by_method = {run.method["name"]: run for run in runs if run.status == "finished"}
    lora, full, hybrid = (by_method.get(name) for name in ("lora", "full", "hybrid"))
    if lora is None or full is None:
        missing = "lora" if lora is None else "full"
        return [Verdict(claim, UNTESTED, f"There is no finished {missing} run.") for claim in BETS]
    rules = (memory_ratio, _speed, _artifact, _parity, _forgetting)
    found = [_judged(claim, rule, lora, full) for claim, rule in zip(BETS, rules, strict=False)]
    if hybrid is None:
        return [*found, Verdict("hybrid", UNTESTED, "There is no finished hybrid run.")]
    return [*found, _judged("hybrid", _hybrid, lora, hybrid, full)]


# What a verdict needs of every run: in words, and whether a run has it. A run of a sweep has its share of a pass alone.
HAS = {
    "a peak of memory": lambda run: run.peak_memory_bytes is not None,
    "step times": lambda run: run.history and not run.together,
    "a saved artifact": lambda run: run.artifact_bytes is not None,
    "scores": lambda run: run.metrics and run.forgetting,
}


NEEDED = {
    "memory-ratio": ("a peak of memory",),
    "speed": ("step times",),
    "artifact": ("a saved artifact",),
    "parity": ("scores",),
    "forgetting": ("scores",),
    "hybrid": ("scores", "a peak of memory"),
}


def _judged(claim: str, rule: Callable[..., Verdict], *runs: Run) -> Verdict:
    """The rule's verdict, if the runs have what it needs."""
    lacking = [what for what in NEEDED[claim] if not all(map(HAS[what], runs))]
    if lacking:
        return Verdict(claim, UNTESTED, f"Not every run has {' and '.join(lacking)} of its own.")
    return rule(*runs)


def memory_ratio(lora: Run, full: Run) -> Verdict:
    """Peak memory of a full run over that of a LoRA run: the claim is 5 to 10 times."""
    ratio = full.peak_memory_bytes / lora.peak_memory_bytes
    verdict = SUPPORTED if ratio >= 5 else DEPENDS if ratio >= 2 else NOT_SUPPORTED
    evidence = f"full needs {ratio:.1f} times the peak memory of LoRA."
    return Verdict("memory-ratio", verdict, evidence, "5 times or more; below 2 is not")


def _speed(lora: Run, full: Run) -> Verdict:
    ratio = full.step_seconds / lora.step_seconds
    verdict = SUPPORTED if ratio > 1.05 else DEPENDS if ratio > 0.95 else NOT_SUPPORTED
    return Verdict("speed", verdict, f"a full step takes {ratio:.2f} times as long as a LoRA step.", "over 1.05")


def _artifact(lora: Run, full: Run) -> Verdict:
    small, whole = lora.artifact_bytes / 1e6, full.artifact_bytes / 1e6
    verdict = NOT_SUPPORTED if small >= 100 else SUPPORTED if 2e3 <= whole <= 16e3 else DEPENDS
    evidence = f"the adapter is {small:.1f} MB, the full checkpoint {whole:,.0f} MB."
    return Verdict(
        "artifact", verdict, evidence, "adapter under 100 MB and checkpoint 2-16 GB; depends: only the first"
    )


def _parity(lora: Run, full: Run) -> Verdict:
    gap, noise = _gap(full, lora)
    learnt = max(run.metrics["exact_match"] - run.before.get("exact_match", 0.0) for run in (lora, full))
    if learnt <= noise:
        return Verdict("parity", UNTESTED, "Neither run has learnt the task by more than noise; train longer.")
    verdict = NOT_SUPPORTED if gap > noise else SUPPORTED if gap + noise < VISIBLE_GAP else DEPENDS
    evidence = f"full minus LoRA is {gap:+.1%} in exact match; this test sees no difference below {noise:.1%}"
    seen = noise < VISIBLE_GAP
    evidence += (
        "." if seen else f", so it can refute parity but hardly support it ({VISIBLE_GAP:.0%} are called on par)."
    )
    return Verdict("parity", verdict, evidence, f"full is less than {VISIBLE_GAP:.0%} ahead, noise included")


def _forgetting(lora: Run, full: Run) -> Verdict:
    a, b = full.forgetting["general_loss"], lora.forgetting["general_loss"]
    verdict = SUPPORTED if a > LASTING_LOSS and a > 1.2 * b else DEPENDS if a > LASTING_LOSS else NOT_SUPPORTED
    evidence = f"loss on general text moved by {a:+.3f} nats a token after full, {b:+.3f} after LoRA."
    rule = f"full loses over {LASTING_LOSS} nats, and a fifth more than LoRA; depends: only the first"
    return Verdict("forgetting", verdict, evidence, rule)


def _hybrid(lora: Run, hybrid: Run, full: Run) -> Verdict:
    over_lora, noise = _gap(hybrid, lora)
    under_full, noise_full = _gap(full, hybrid)
    cheaper = hybrid.peak_memory_bytes < full.peak_memory_bytes
    if over_lora > noise and cheaper:
        verdict = SUPPORTED
    else:
        verdict = DEPENDS if cheaper and under_full <= noise_full and over_lora >= -noise else NOT_SUPPORTED
    share = hybrid.peak_memory_bytes / full.peak_memory_bytes
    evidence = f"hybrid is {over_lora:+.1%} against LoRA (noise {noise:.1%}) at {share:.0%} of full's peak memory."
    return Verdict("hybrid", verdict, evidence, "better than LoRA by more than noise, with less memory than full")


def _gap(first: Run, second: Run) -> tuple[float, float]:
    """Exact match of `first` minus `second`, and what sampling noise alone may do to it."""
    shares = [run.metrics["exact_match"] for run in (first, second)]
    rows = [rows_scored(run.task["test_rows"], run.config["test_limit"]) for run in (first, second)]
    return shares[0] - shares[1], noise_of_difference(*zip(shares, rows, strict=True))
