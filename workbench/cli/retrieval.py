"""`workbench retrieval`: fine-tune an encoder to search real documentation, and compare before and after."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from workbench.cli.options import DEFAULT, Commands, full_modules_of, given, refuse_unused
from workbench.console import say

if TYPE_CHECKING:
    from workbench.adapters.methods import Method
    from workbench.retrieval.experiment import Experiment, Outcome

RATES = {"full": 1e-4, "lora": 5e-4, "hybrid": 5e-4}  # the best of the study
PAGE_RATES = {"full": 2e-5, "lora": 2e-4, "hybrid": 2e-4}


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    parser = commands.add_parser("retrieval", help="fine-tune an encoder for search, and compare before and after")
    parser.add_argument("--model", help="an encoder: a folder or Hub id; default: the packaged all-minilm-l6-v2, or "
                        "Qwen/Qwen3-VL-Embedding-2B for pages")  # fmt: skip
    parser.add_argument("--pages", nargs="?", const="", metavar="DATA", help="search pages as images, not texts: a "
                        "folder that datasets saved or a Hub id; needs a GPU, torchvision and, without DATA, the "
                        "Hub")  # fmt: skip
    parser.add_argument("--method", default="lora", choices=tuple(RATES), help=DEFAULT)
    parser.add_argument("--rank", type=int, help="default: 8")
    parser.add_argument("--alpha", type=float, help="default: twice the rank")
    parser.add_argument("--learning-rate", type=float, help="default: 1e-4 for full and 5e-4 for the others; for pages "
                        "2e-5 and 2e-4")  # fmt: skip
    parser.add_argument(
        "--full-modules", help="hybrid: modules to train whole, e.g. layer.5.intermediate,layer.5.output"
    )
    parser.add_argument("--full-learning-rate", type=float, help="hybrid: of these modules (default: a tenth)")
    parser.add_argument("--rows", type=int, help="training rows; default: 1280, of pages 2560")
    parser.add_argument("--seed", type=int, default=0, help=DEFAULT)
    parser.add_argument("--json", action="store_true", help="print the whole record")
    parser.set_defaults(command=_retrieval)


def _retrieval(options: argparse.Namespace) -> int:
    method = _method(options)
    experiment = _experiment(options)
    say(f"Searching {len(experiment.corpus.documents):,} documents with the encoder as it is.")
    _ = experiment.before
    say(f"Training on {experiment.rows:,} rows: {method.label}, learning rate {method.learning_rate:g}.")
    outcome, _ = experiment.run(method, options.seed)
    if options.json:
        print(json.dumps(experiment.record(outcome), indent=1))
    else:
        print(in_words(experiment, outcome))
    return 0


def _experiment(options: argparse.Namespace) -> Experiment:
    from workbench.retrieval.corpus import read_corpus
    from workbench.retrieval.experiment import Experiment
    from workbench.retrieval.pages import page_experiment

    chosen = {"encoder": options.model, "rows": options.rows, "pages": options.pages}
    chosen = {name: value for name, value in chosen.items() if value not in (None, "")}
    return Experiment(read_corpus(), **chosen) if options.pages is None else page_experiment(**chosen)


def _method(options: argparse.Namespace) -> Method:
    from workbench.adapters.methods import Method

    own = given(options, ("rank", "alpha", "full_learning_rate"))
    usual = RATES if options.pages is None else PAGE_RATES
    rate = usual[options.method] if options.learning_rate is None else options.learning_rate
    if options.method == "full":
        refuse_unused([*own, *given(options, ("full_modules",))], "full")
        return Method.from_options("full", learning_rate=rate)
    rank = own.pop("rank", 8)
    alpha = own.pop("alpha", 2 * rank)
    modules = full_modules_of(options)
    return Method.from_options(options.method, modules, rate, rank=rank, alpha=alpha, **own)


def in_words(experiment: Experiment, outcome: Outcome) -> str:
    """Before and after, the three measures with 95 % intervals over the queries, and what was forgotten."""
    from workbench.retrieval.metrics import bootstrap

    before, after = experiment.before, outcome.after
    lines = [
        f"{outcome.method.label}, seed {outcome.seed}: {outcome.tuned.trainable_parameters:,} weights trained in "
        f"{outcome.seconds:.0f} s; {len(experiment.corpus.queries):,} queries"
    ]
    for name, measure in (("NDCG@10", "ndcg"), ("recall@10", "recall"), ("MRR", "reciprocal")):
        one, two = (getattr(measured.ranks, measure) for measured in (before, after))
        gain = bootstrap(two - one)
        lines.append(
            f"  {name}: {one.mean():.3f} -> {two.mean():.3f}, {gain.centre:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
        )
    lines.append(f"  other text: {after.kept(before):.3f} rank correlation with the similarities of before")
    return "\n".join(lines)
