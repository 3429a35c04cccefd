"""What lesson 05 says in words: spikes of the loss, what each knob moves, and which one to turn first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, median

from workbench.claims.ranks import one_step_off, points, recall_by, seed_range, steps_off
from workbench.claims.study import compared, comparisons
from workbench.course.lessons import START_MODELS, adapter_size
from workbench.results.noise import perplexity_in_words
from workbench.results.paired import Comparison
from workbench.results.reference import paired_rows, spread_in_words, study_rows
from workbench.results.rows import Row, by_best_rate, grouped, mean_of, usable
from workbench.results.run_pairs import compare_runs
from workbench.training.runs import Run

WINDOW, FACTOR, AT_LEAST = 5, 1.5, 0.3  # a spike: above the median of the last steps by so much, in nats
KNOBS = {"rank 64": "lora r=64", "rank 1": "rank 1", "alpha 8": "alpha=8", "alpha 128": "alpha=128", "rsLoRA": "rslora"}


def spikes(losses: Sequence[float]) -> list[int]:
    """The steps, from 1, at which the loss jumps: above the median of the steps before by FACTOR and AT_LEAST."""
    found = []
    for place in range(WINDOW, len(losses)):
        usual = median(losses[place - WINDOW : place])
        if losses[place] > max(FACTOR * usual, usual + AT_LEAST):
            found.append(place + 1)
    return found


def spikes_in_words(runs: Mapping[str, Run]) -> str:
    """A Markdown list: at which step each run's loss jumped, and how it ended. runs: by label."""
    lines, jumped = [], False
    for label, run in runs.items():
        losses = [entry["loss"] for entry in run.history]
        if not losses:
            continue
        end = mean(losses[-WINDOW:])
        jumps = spikes(losses)
        jumped = jumped or bool(jumps)
        what = f"a jump at step {jumps[0]}" if jumps else "no jump"
        more = f" and {len(jumps) - 1} more" if len(jumps) > 1 else ""
        lines.append(f"- {label}: {what}{more}; the last steps are at {end:.2g} nats ({run.status}).")
    advice = (
        "No run jumped."
        if not jumped
        else (
            "A jump sets a run back by many steps. Where one comes late, the score says more about the jump than about "
            "the setting: lower the rate, train longer, or look at other seeds before you blame the rank."
        )
    )
    return "\n".join([*lines, "", advice])


def row_by_row(runs: Mapping[str, Run]) -> dict[str, Comparison]:
    """Label -> a run minus the first one, row by row; without those that have no scores. runs: by label."""
    first, *_ = runs.values()
    return compare_runs(first, {label: run for label, run in runs.items() if run is not first})


def row_by_row_title(found: Mapping[str, Comparison]) -> str:
    """A title: how far another rate, and how far another rank, moves the score at most."""
    moved = {
        knob: max((abs(one.difference) for label, one in found.items() if knob in label), default=None)
        for knob in ("rate", "rank")
    }
    told = [f"another {knob}: up to {most:.0f} points" for knob, most in moved.items() if most is not None]
    return "; ".join(told).capitalize()


def best_rates_title(grid: Sequence[Row], full: Sequence[Row]) -> str:
    """A title: the range of the ranks' best learning rates, and full fine-tuning's."""
    found = {rank: _best(own) for rank, own in grouped(grid, lambda row: row["rank"]).items()}
    rates = f"Best rate of ranks {min(found):g} to {max(found):g}: {_span(found.values())}"
    return f"{rates}; of full fine-tuning: {_span(_about_best(full))}"


def alpha_title(alphas: Sequence[Row]) -> str:
    """A title: the best rate of the smallest and of the largest alpha."""
    best = {alpha: _best(own) for alpha, own in grouped(alphas, lambda row: row["alpha"]).items()}
    low, high = min(best), max(best)
    return f"Best rate at alpha {low:g}: {best[low]:g}; at alpha {high:g}: {best[high]:g}"


def size_title(few: Sequence[Row]) -> str:
    """A title: the most bits that adapters on one matrix took in, and those on some whole blocks.

    few: rows of adapters below rank 1 on all layers, as in `reference.stored_sweeps("few")`.
    """
    found = usable(few, "memorised_bits")
    told = []
    for where, own in (
        ("one matrix", [row for row in found if row["targets"] != "all-linear"]),
        ("whole blocks", [row for row in found if row["targets"] == "all-linear"]),
    ):
        told.append(f"{where}: {max(row['memorised_bits'] for row in own):,.0f} bits at most")
    return "; ".join(told).capitalize()


def study_knobs(task: str) -> str:
    """A Markdown list: other ranks and alphas against rank 8 with alpha 32 in the study, each at its own best rate.

    With what each has forgotten. Row by row where the study stored rows; in one sentence with the range of the seeds
    where only the first one has it.
    """
    study = paired_rows()
    found = {label: comparisons(study, name, "lora", [task]).get(task) for label, name in KNOBS.items()}
    told = "\n".join(
        f"- {label} against rank 8, alpha 32: {one.in_words(label, 'rank 8')}. Perplexity on other text, times the "
        f"base's: {_perplexity(study, task, KNOBS[label])}, with rank 8 {_perplexity(study, task, 'lora')}."
        for label, one in found.items()
        if one
    )
    if not (lacking := [name for label, name in KNOBS.items() if not found[label]]):
        return told
    earlier = study_rows("lora", *lacking, needed=("lora", *KNOBS.values()))
    where = f"In {'a first' if told else 'the'} study, on `{task}` (lora is rank 8, alpha 32)"
    words = spread_in_words([row for row in earlier if row["task"] == task], "exact_match", where)
    return f"{told}\n\n{words}" if told else words


def _perplexity(study: Sequence[Row], task: str, name: str) -> str:
    return perplexity_in_words(mean_of(compared(study, task, name), "forgetting"))


def recall_table(grid: Sequence[Row], full: Sequence[Row]) -> str:
    """A Markdown table: recall by rank and learning rate, the mean over seeds, the best rate of each rank in bold."""
    groups = grouped(usable([*grid, *full], "exact_match"), lambda row: row["rank"])
    rates = sorted({row["learning_rate"] for own in groups.values() for row in own})
    lines = [f"| recall | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---" * (len(rates) + 1) + "|"]
    for rank, own in groups.items():
        by_rate = _means_by_rate(own, "exact_match")
        best = max(by_rate.values())
        shown = {rate: f"**{one:.0%}**" if one == best else f"{one:.0%}" for rate, one in by_rate.items()}
        cells = [shown.get(rate, "") for rate in rates]
        lines.append(f"| {'full' if rank is None else f'rank {rank}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def two_passes_in_words(alphas: Sequence[Row], targets: Sequence[Row]) -> str:
    """The scores of one configuration that was trained in two passes: "83% and 90%"."""
    rate = targets[0]["learning_rate"]
    twice = [row for row in alphas if (row["alpha"], row["learning_rate"]) == (32, rate)]
    twice += [row for row in targets if (row["rank"], row["seed"]) == (8, 0)]
    return " and ".join(f"{row['exact_match']:.0%}" for row in twice)


def starting_values() -> str:
    """A Markdown table: for 1B, 7B and 8B, the adapters of rank 16, and three learning rates to try first."""
    lines = ["| model | trained at rank 16 | could hold, at 2 bits each | rates to try first |", "|---" * 4 + "|"]
    for name, rate in START_MODELS.items():
        size, rates = adapter_size(name, 16), ", ".join(f"{rate * factor:.2g}" for factor in (0.5, 1, 2, 4))
        lines.append(f"| {name} | {size / 1e6:.0f} million | {2 * size / 8e6:.0f} MB of facts | {rates} |")
    return "\n".join(lines)


def outcome(grid: Sequence[Row]) -> str:
    """What costs more recall in the stored grid, as the prediction words it."""
    by_rank = recall_by(grid)
    span, off = max(by_rank.values()) - min(by_rank.values()), one_step_off(grid)
    if max(span, off) <= seed_range(grid):
        return "neither costs more than luck"
    return "the worst rank" if span >= off else "the rate"


def answer(grid: Sequence[Row], full: Sequence[Row]) -> str:
    """The answer of lesson 05, in Markdown."""
    by_rank, off, luck = recall_by(grid), one_step_off(grid), seed_range(grid)
    down, up = steps_off(grid)
    span = max(by_rank.values()) - min(by_rank.values())
    ranks = ", ".join(f"{recall:.0%} at rank {rank:g}" for rank, recall in sorted(by_rank.items()))
    first = {"the rate": "The learning rate first", "the worst rank": "The rank first"}
    told = first.get(outcome(grid), "Neither stands out from luck")
    best, tied = [own[0]["learning_rate"] for own in by_best_rate(grid).values()], _about_best(full)
    ratios = [rate / whole for rate in best for whole in tied]
    inside = "less than two seeds of one rank can differ" if span <= luck else "more than two seeds of one rank differ"
    return (
        f"**The answer:** {told}: in the stored runs, half or twice the best learning rate costs {points(off)} of "
        f"recall on average ({points(up)} above it, {points(down)} below). Ranks, each at its own best rate, differ by "
        f"{points(span)}, {inside} ({points(luck)}): {ranks}. LoRA's best rates are {_span(ratios)} times "
        "those that suit full fine-tuning.\n\n"
        "What would change it: with far more to learn than the adapter can hold (section 2 does the sum), rank becomes "
        "the limit; a new alpha moves the best rate, so tune the rate again after it."
    )


def _span(rates: Iterable[float]) -> str:
    """The lowest and the highest of these rates, or of their ratios."""
    low, high = f"{min(rates := list(rates)):g}", f"{max(rates):g}"
    return low if low == high else f"{low} to {high}"


def _about_best(rows: Sequence[Row]) -> list[float]:
    """The learning rates whose bits are within one in a hundred of the most: these cannot be told apart."""
    bits = _means_by_rate(rows, "memorised_bits")
    return [rate for rate, most in bits.items() if most >= 0.99 * max(bits.values())]


def _best(rows: Sequence[Row]) -> float:
    """The learning rate with the most bits memorised, in the mean of its seeds."""
    bits = _means_by_rate(rows, "memorised_bits")
    return max(bits, key=lambda rate: bits[rate])


def _means_by_rate(rows: Sequence[Row], measure: str) -> dict[float, float]:
    """Learning rate -> the mean of a measure over the finished rows."""
    rates = grouped(usable(rows, measure), lambda row: row["learning_rate"])
    return {rate: mean_of(own, measure) for rate, own in rates.items()}
