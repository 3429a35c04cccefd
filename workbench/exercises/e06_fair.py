"""Exercise 06.fair: name the best method from a table of runs, without being fooled by luck or by a bad rate."""

from workbench.exercises.framework import Exercise, Mistake


def _runs(table: dict[str, dict[float, list[float]]]) -> list[dict]:
    """{method: {learning rate: scores by seed}} as the list of records that the store keeps."""
    return [
        {"method": method, "learning_rate": rate, "seed": seed, "exact_match": score}
        for method, rates in table.items()
        for rate, scores in rates.items()
        for seed, score in enumerate(scores)
    ]


def _in_words(runs: list[dict]) -> str:
    """A list of records, one method and rate after the other."""
    scores: dict[tuple[str, float], list[str]] = {}
    for run in runs:
        scores.setdefault((run["method"], run["learning_rate"]), []).append(f"{run['exact_match']:.2f}")
    return "runs of " + "; ".join(f"{name} at rate {rate:g}: {', '.join(row)}" for (name, rate), row in scores.items())


EXERCISE = Exercise(
    id="06.fair",
    title="call the winner, or refuse to",
    difficulty="hard",
    minutes=15,
    task="""\
`runs` is a list of records such as `{"method": "lora", "learning_rate": 2e-3, "seed": 0, "exact_match": 0.81}`. Every
method was tried with several learning rates and several seeds. Write `best_method(runs)`, which judges fairly:

- for each method and learning rate, take the mean of `exact_match` over the seeds;
- each method is represented by *its own* best rate, the one with the highest mean;
- the method with the highest mean wins, but only if its *worst* seed is above the *best* seed of every other method
  (each at its best rate); otherwise return the text `"too close to call"`.""",
    function="best_method",
    stub="""\
def best_method(runs):
    # returns the winning method's name, or "too close to call"
    ...
""",
    solution="""\
def best_method(runs):
    scores = {}
    for run in runs:
        scores.setdefault(run["method"], {}).setdefault(run["learning_rate"], []).append(run["exact_match"])
    best = {}
    for method, rates in scores.items():
        best[method] = max(rates.values(), key=lambda seeds: sum(seeds) / len(seeds))
    winner = max(best, key=lambda method: sum(best[method]) / len(best[method]))
    others = [max(seeds) for method, seeds in best.items() if method != winner]
    return winner if min(best[winner]) > max(others) else "too close to call"
""",
    explanation="Each method at its own best rate, seeds averaged, and no verdict inside the seeds' spread. One "
    "caution is left: picking the best of many rates flatters, so give every method the same number of rates.",
    hints=(
        "First collect the scores: a dictionary from method to a dictionary from learning rate to a list of scores.",
        "Per method, keep the list of scores whose mean is highest. These few lists are all that the verdict needs.",
        "The winner has the highest mean. Compare min(scores of the winner) with max(scores) of each other method.",
    ),
    show=_in_words,
    cases=(
        (_runs({"lora": {2e-3: [0.80, 0.90]}, "full": {1e-4: [0.50, 0.60]}}),),
        (_runs({"lora": {2e-3: [0.70, 0.90]}, "full": {1e-4: [0.60, 0.75]}}),),
        (_runs({"lora": {1e-3: [0.70, 0.71], 2e-3: [0.40, 0.75]}, "full": {1e-4: [0.50, 0.51]}}),),
        (
            _runs(
                {
                    "lora": {2e-4: [0.30, 0.31, 0.32], 2e-3: [0.80, 0.82, 0.84], 2e-2: [0.0, 0.0, 0.01]},
                    "full": {1e-4: [0.60, 0.62, 0.64], 1e-3: [0.10, 0.20, 0.95]},
                }
            ),
        ),
        (
            _runs(
                {
                    "lora": {1e-4: [0.29, 0.30, 0.31], 1e-3: [0.89, 0.90, 0.91]},
                    "full": {1e-4: [0.79, 0.80, 0.81], 1e-3: [0.09, 0.10, 0.11]},
                }
            ),
        ),
        (
            _runs(
                {
                    "lora": {2e-3: [0.70, 0.80, 0.90]},
                    "qlora": {2e-3: [0.50, 0.52, 0.54]},
                    "full": {1e-4: [0.66, 0.75, 0.84]},
                }
            ),
        ),
        (
            _runs(
                {
                    "hybrid": {1e-3: [0.55, 0.56], 2e-3: [0.58, 0.59]},
                    "lora": {1e-3: [0.71, 0.72], 2e-3: [0.66, 0.67]},
                    "full": {1e-4: [0.61, 0.62], 2e-3: [0.40, 0.90]},
                }
            ),
        ),
        (
            _runs(
                {
                    "lora": {2e-3: [0.80, 0.82, 0.84]},
                    "full": {1e-4: [0.70, 0.71, 0.72]},
                    "hybrid": {1e-3: [0.40, 0.50, 0.83]},
                }
            ),
        ),
    ),
    wrong=(
        Mistake(
            """\
def best_method(runs):
    return max(runs, key=lambda run: run["exact_match"])["method"]
""",
            "You pick the single best run. One lucky seed wins that way: average over the seeds of a method and rate "
            "first.",
        ),
        Mistake(
            """\
def best_method(runs):
    scores = {}
    for run in runs:
        scores.setdefault(run["method"], []).append(run["exact_match"])
    return max(scores, key=lambda method: sum(scores[method]) / len(scores[method]))
""",
            "You average over all learning rates. A method is then punished for every bad rate that was tried with it: "
            "compare each method at its own best rate.",
        ),
        Mistake(
            """\
def best_method(runs):
    rates = {}
    for run in runs:
        rates.setdefault(run["learning_rate"], []).append(run)
    mean = lambda group: sum(run["exact_match"] for run in group) / len(group)
    shared = max(rates.values(), key=lambda group: (len({run["method"] for run in group}), mean(group)))
    methods = sorted({run["method"] for run in shared})
    return max(methods, key=lambda name: mean([run for run in shared if run["method"] == name]))
""",
            "You compare all methods at one shared learning rate. What suits full fine-tuning is far too small for "
            "LoRA: compare each method at its own best rate.",
        ),
        Mistake(
            """\
def best_method(runs):
    scores = {}
    for run in runs:
        scores.setdefault(run["method"], {}).setdefault(run["learning_rate"], []).append(run["exact_match"])
    best = {method: max(rates.values(), key=max) for method, rates in scores.items()}
    winner = max(best, key=lambda method: sum(best[method]) / len(best[method]))
    others = [max(seeds) for method, seeds in best.items() if method != winner]
    return winner if min(best[winner]) > max(others) else "too close to call"
""",
            "You choose a method's rate by its best seed. One lucky seed chooses a bad rate that way: take the rate "
            "with the highest mean over its seeds.",
        ),
        Mistake(
            """\
def best_method(runs):
    scores = {}
    for run in runs:
        scores.setdefault((run["method"], run["learning_rate"]), []).append(run["exact_match"])
    return max(scores, key=lambda key: sum(scores[key]) / len(scores[key]))[0]
""",
            "Means and rates are right, but you always name a winner. In one of the tables the seeds of two methods "
            "overlap: the difference is no larger than luck, and the answer is 'too close to call'.",
        ),
        Mistake(
            """\
def best_method(runs):
    scores = {}
    for run in runs:
        scores.setdefault(run["method"], {}).setdefault(run["learning_rate"], []).append(run["exact_match"])
    mean = lambda seeds: sum(seeds) / len(seeds)
    best = {method: max(rates.values(), key=mean) for method, rates in scores.items()}
    first, second = sorted(best, key=lambda method: mean(best[method]), reverse=True)[:2]
    return first if min(best[first]) > max(best[second]) else "too close to call"
""",
            "You compare with the runner-up alone. A method with a lower mean can still have one seed above the "
            "winner's worst: look at every other method.",
        ),
        Mistake(
            """\
def best_method(runs):
    scores = {}
    for run in runs:
        scores.setdefault(run["method"], {}).setdefault(run["learning_rate"], []).append(run["exact_match"])
    best = {method: max(rates.values(), key=lambda s: sum(s) / len(s)) for method, rates in scores.items()}
    winner = max(best, key=lambda method: sum(best[method]) / len(best[method]))
    others = [score for method, rates in scores.items() if method != winner for s in rates.values() for score in s]
    return winner if min(best[winner]) > max(others) else "too close to call"
""",
            "You compare with the others' seeds at every learning rate. Only those at a method's best rate count: a "
            "lucky seed at a bad rate is not its result.",
        ),
    ),
)
