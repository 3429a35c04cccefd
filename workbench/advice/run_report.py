"""A report of runs as one HTML file: no other file, no network and no script is needed to read or to print it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import datetime

from workbench.adapters.methods import targets_in_words
from workbench.claims.book import LIMITS, OWN, comparable
from workbench.claims.ledger import UNTESTED
from workbench.claims.rules import verdicts
from workbench.commentary.lora_or_full import first_lora, lead_in_words, row_by_row
from workbench.errors import RunError
from workbench.plots.comparisons import paired_differences
from workbench.plots.runs import costs
from workbench.plots.style import Figure, picture, pixel_width, to_png
from workbench.plots.training import losses
from workbench.results.noise import rows_scored, times_of_perplexity, two_standard_errors
from workbench.training.runs import Run

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 920px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #d9d9d9 }
table { border-collapse: collapse; width: 100%; font-size: 0.9em } caption { text-align: left; color: #555 }
th, td { text-align: right; padding: 3px 10px 3px 0; border-bottom: 1px solid #eee; vertical-align: top }
th:first-child, td:first-child { text-align: left }
.words td, .words th { text-align: left }
figure { margin: 1em 0; break-inside: avoid } img { max-width: 100%; height: auto }
math { font-size: 1.1em }
@media print { body { margin: 0; max-width: none } h2 { break-after: avoid } tr { break-inside: avoid } }
"""
# What an adapter does, in MathML, which browsers draw without a network: W' = W + (alpha / r) B A
FORMULA = (
    '<math display="block"><msup><mi>W</mi><mo>&#8242;</mo></msup><mo>=</mo><mi>W</mi><mo>+</mo><mfrac><mi>&#945;</mi>'
    "<mi>r</mi></mfrac><mi>B</mi><mi>A</mi></math>"
)
CAVEATS = (
    "Each run has one seed: another seed moves a score by several points, which the intervals over rows do not hold. "
    "The intervals are for more rows of the same kind. Times and memory are of this computer."
)


def report(runs: Sequence[Run], title: str = "") -> str:
    """The HTML. runs: of one task and base, in the order in which they are shown.

    Raises RunError if there is none, or if they are of several tasks or bases.
    """
    if not runs:
        raise RunError("There are no finished runs to report; train some first, or name them.")
    for what in ("task", "base"):
        keys = {(run.task["name"], run.task["sha256"]) if what == "task" else run.base["revision"] for run in runs}
        if len(keys) > 1:
            raise RunError(f"These runs are of {len(keys)} {what}s; a report is about one. Name runs of one {what}.")
    first = runs[0]
    heading = title or f"Fine-tuning {first.base['name']} on {first.task['name']}"
    names = run_names(runs)
    histories = {name: (run.method["name"], run.history) for name, run in zip(names, runs, strict=True)}
    parts = [
        f"<h1>{html.escape(heading)}</h1>",
        f"<p>{html.escape(_summary(runs, names))}</p>",
        "<h2>Scores</h2>",
        _scores(runs, names),
        *_paired(runs, names),
        "<h2>Costs</h2>",
        _figure(costs(runs)),
        "<h2>Training</h2>",
        _figure(losses(histories, _steps(runs))),
        "<h2>What these runs say about common claims</h2>",
        _claims(runs),
        "<h2>How to repeat them</h2>",
        f"<p>An adapter adds the product of two small matrices to a weight:</p>{FORMULA}",
        _settings(runs),
        f"<h2>What this does not show</h2><p>{html.escape(CAVEATS)}</p>",
    ]
    return _page(heading, "\n".join(parts))


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _summary(runs: Sequence[Run], names: Sequence[str]) -> str:
    task, days = runs[0].task, sorted({run.began.date() for run in runs})
    when = f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"
    best = max((run for run in runs if "exact_match" in run.metrics), key=_exact, default=None)
    name = next((name for name, run in zip(names, runs, strict=True) if run is best), "")
    score = f" The highest exact match is {_exact(best):.0%}, by {name}." if best else ""
    before = runs[0].before.get("exact_match")
    base = f" The base without training has {before:.0%}." if before is not None else ""
    told = f"{len(runs)} run{'s' * (len(runs) != 1)} of {when}, on {task['train_rows']:,} training rows and up to "
    return f"{told}{task['test_rows']:,} test rows.{score}{base} Written {datetime.now():%Y-%m-%d %H:%M}."


def _exact(run: Run) -> float:
    return run.metrics["exact_match"]


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name of its own for each run: its label, and what else tells it from others of this label, or its id's end."""
    told = [_settings_in_words(run) for run in runs]
    names = []
    for run, own in zip(runs, told, strict=True):
        others = [other for one, other in zip(runs, told, strict=True) if one.label == run.label]
        differing = [words for place, words in enumerate(own) if len({other[place] for other in others}) > 1]
        names.append(", ".join([run.label, *differing]))
    return [
        f"{name}, {run.id.rpartition('-')[2]}" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]


def _settings_in_words(run: Run) -> list[str]:
    """What a label leaves out, one text for each setting."""
    steps = f"{run.config.get('steps')} steps"
    return [f"rate {run.method['learning_rate']:g}", _adapters(run), steps, f"seed {run.config['seed']}"]


def _adapters(run: Run) -> str:
    """Alpha, targets and blocks of the adapters; of full fine-tuning nothing."""
    method = run.method
    if not method.get("rank"):
        return "-"
    layers = method.get("layers")
    blocks = "" if layers is None else f", blocks {', '.join(map(str, layers))}"
    return f"alpha {method['alpha']:g}, {targets_in_words(method.get('targets', 'all-linear'))}{blocks}"


def _steps(runs: Sequence[Run]) -> int:
    return max((len(run.history) for run in runs), default=1)


def _scores(runs: Sequence[Run], names: Sequence[str]) -> str:
    heads = ["method", "exact match", "labels right", "loss (nats)", "perplexity on other text", "status"]
    rows = []
    for run, name in zip(runs, names, strict=True):
        count = rows_scored(run.task["test_rows"], run.config.get("test_limit"))
        exact, general = run.metrics.get("exact_match"), run.forgetting.get("general_loss")
        rows.append(
            [
                name,
                "-" if exact is None else f"{exact:.0%} ± {100 * two_standard_errors(exact, count):.0f}",
                _form(run.metrics.get("label_accuracy"), "{:.0%}"),
                _form(run.metrics.get("loss"), "{:.3f}"),
                "-" if general is None else f"times {times_of_perplexity(general):.3g}",
                run.status,
            ]
        )
    return _table(
        heads, rows, "± is two standard errors of the test rows, in points; other text is Python's documentation"
    )


def _paired(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    found = row_by_row(runs, names)
    if not found:
        return []
    first = first_lora(runs)
    base = next(name for run, name in zip(runs, names, strict=True) if run is first)
    title = f"Each against {base}"
    if len(found) == 1:
        ((name, one),) = found.items()
        title = lead_in_words(one, name, base)
    words = [f"{name}: {one.in_words(name, base)}." for name, one in found.items()]
    told = "".join(f"<li>{html.escape(each)}</li>" for each in words)
    drawn = _figure(paired_differences({f"{name} minus {base}": one for name, one in found.items()}, title))
    return [f"<h2>Row by row against {html.escape(base)}</h2>", drawn, f"<ul>{told}</ul>"]


def _claims(runs: Sequence[Run]) -> str:
    found = [one for one in verdicts(runs=comparable(runs)) if one.verdict != UNTESTED]
    if not found:
        return (
            "<p>No claim can be judged by these runs: that takes a LoRA run and another method, with the same steps, "
            "batch size and seed.</p>"
        )
    rows = [[one.claim, one.verdict, one.evidence, one.rule] for one in found]
    return _table(["claim", "verdict", "numbers", "counts as supported"], rows, LIMITS[OWN], words=True)


def _settings(runs: Sequence[Run]) -> str:
    heads = ["run", "method", "adapters", "rate", "steps", "batch", "seed", "frozen", "computed in"]
    rows = [
        [
            run.id,
            run.label,
            _adapters(run),
            f"{run.method['learning_rate']:g}",
            _form(run.config.get("steps"), "{}"),
            _form(run.config.get("batch_size"), "{}"),
            f"{run.config['seed']}",
            run.precision.get("frozen", "-"),
            run.precision.get("compute", "-"),
        ]
        for run in runs
    ]
    first = runs[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    told = (
        f"Base {first.base['name']}, {first.base['revision']}. Data {first.task['source']}, sha256 "
        f"{first.task['sha256']}. {first.hardware.get('processor', 'Unknown processor')}. {versions}."
    )
    return _table(heads, rows, "", words=True) + f"<p>{html.escape(told)}</p>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str, words: bool = False) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    told = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    kind = ' class="words"' if words else ""
    return f"<table{kind}>{told}<tr>{head}</tr>{body}</table>"


def _form(value: object, form: str) -> str:
    return "-" if value is None else form.format(value)


def _figure(figure: Figure) -> str:
    """The figure as an image inside the page, with its description."""
    data, _ = picture(to_png(figure, dpi=160), figure.alt, pixel_width(figure))
    return f"<figure>{data['text/html']}</figure>"
