"""The capacity of an adapter, and a first choice of rank, alpha and learning rate that follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from workbench.adapters.inject import adapter_parameters
from workbench.adapters.methods import Method, lora, qlora
from workbench.advice.trying import settings_around, try_settings
from workbench.errors import TrainingError
from workbench.models.base import Base, linear_modules
from workbench.models.sharing import in_float32, shared_copy
from workbench.results.reference import learning_rate_for
from workbench.scoring.evaluation import score
from workbench.tasks.encoding import encode
from workbench.tasks.example import Example
from workbench.tasks.tasks import Task, information_bits
from workbench.training.runs import Run, table
from workbench.training.step import TrainConfig
from workbench.training.trial import check_kinds

BITS_A_PARAMETER = 2.0  # of facts, in trained transformers: Allen-Zhu and Li, arXiv 2404.05405
SAFETY = 4  # BITS_A_PARAMETER is an upper bound: training uses only a part of an adapter's capacity
SMALLEST_RANK, LARGEST_RANK = 8, 256
ALPHA = 32.0  # with alpha / r in front, the best rate hardly depends on r ("LoRA Without Regret", 2025)
SHORT_RUN = 200  # steps, below which that article's ratio to full fine-tuning's rate is 15 instead of 10
SAMPLE_ROWS = 64


def memorised_bits(loss: float, tokens: int, information: float) -> float:
    """Bits of `information` that a model has memorised, 0 or more.

    loss: nats per completion token on the rows to be memorised; tokens: completion tokens of all these rows. What the
    model still lacks is loss * tokens / ln 2 bits.
    """
    return max(0.0, information - loss * tokens / math.log(2))


def rows_with_bits(runs: Sequence[Run], tokenizer: PreTrainedTokenizerBase, facts: Task) -> list[dict[str, Any]]:
    """The table of runs on `facts` or its first rows, each row with `memorised_bits` (None without a score)."""
    encoded = encode(facts.test, tokenizer, max_length=512)
    tokens = sum(row.completion_tokens for row in encoded)
    information = information_bits(len(facts.test))
    return [
        row | {"memorised_bits": None if row["loss"] is None else memorised_bits(row["loss"], tokens, information)}
        for row in table(runs)
    ]


def bits_to_learn(base: Base, task: Task, max_length: int = 512) -> float:
    """Bits in the training completions that the base cannot predict yet: an upper bound on what is to be learnt.

    A rule that the rows have in common needs far fewer bits than the rows themselves; random codes need them all. The
    estimate is made from SAMPLE_ROWS evenly spaced rows.
    """
    distinct = list(dict.fromkeys(task.train))
    count = min(SAMPLE_ROWS, len(distinct))
    sample: list[Example] = [distinct[place * len(distinct) // count] for place in range(count)]
    rows = encode(sample, base.tokenizer, max_length, "Sampled train row")
    tokens = sum(row.completion_tokens for row in rows) / len(rows)
    return score(shared_copy(in_float32(base.model)), rows)["loss"] * tokens * len(distinct) / math.log(2)


def learning_rate_rule(hidden_size: int, steps: int) -> float:
    """A starting rate for LoRA with alpha 32 on a Llama-type model.

    tinker-cookbook's rule, 5e-5 * 10 * (2000 / hidden_size)^0.781, times 1.5 for short runs; rounded to two digits.
    """
    ratio = 15 if steps <= SHORT_RUN else 10
    return float(f"{learning_rate_for(5e-5 * ratio, hidden_size, found_at=2000):.1e}")


def _left_out(base: Base) -> str:
    """A sentence on matrices that cannot have an adapter, such as a mixture's experts; nothing if all can."""
    model, linear = base.model, linear_modules(base.model)
    tables = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    others = {name: p.numel() for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in tables}
    outside = sum(size for name, size in others.items() if name.rpartition(".")[0] not in linear)
    share = outside / sum(others.values())
    return f" {share:.0%} of the blocks' matrices are no linear layers and get none." if share > 0.01 else ""


def recommend(base: Base, task: Task, config: TrainConfig | None = None, budget_minutes: float | None = None) -> Method:
    """Rank, alpha and learning rate for `task`. Its `reasons` are sentences that say where each number comes from.

    Without a budget it is a rule that trains nothing. With `budget_minutes` up to eight settings around the rule's are
    tried in one pass, for no more than that time and about three times the steps of one run, and judged on training
    rows that are held out; the reasons then list what was tried. Raises TrainingError if the budget is too small.
    """
    config = config or TrainConfig()
    check_kinds(base=base, task=task, config=config)
    first = by_rule(base, task, config)
    if budget_minutes is None:
        return first
    if not budget_minutes > 0:
        raise TrainingError(f"budget_minutes={budget_minutes} must be above 0.")
    found = try_settings(base, task, settings_around(first), config, budget_minutes)
    return replace(found.chosen.method, reasons=(first.reasons[0], *found.reasons(config.steps)))


def by_rule(base: Base, task: Task, config: TrainConfig) -> Method:
    """The setting that a rule gives, and on which nothing was tried."""
    bits = bits_to_learn(base, task, config.max_length)
    a_rank = adapter_parameters(base, lora(rank=1))
    needed = SAFETY * bits / (BITS_A_PARAMETER * a_rank)
    rank = min(LARGEST_RANK, max(SMALLEST_RANK, 2 ** math.ceil(math.log2(max(1.0, needed)))))
    hidden = base.model.config.get_text_config().hidden_size
    rate = learning_rate_rule(hidden, config.steps)
    seen = config.steps * config.batch_size * config.accumulation / len(task.train)
    reasons = [
        f"Targets: all {len(linear_modules(base.model))} linear layers, which 'LoRA Without Regret' found best; "
        f"lesson 05 tries the alternatives at equal size.{_left_out(base)}",
        f"Rank {rank}: judged by its loss, the base would need {bits:,.0f} bits, and at most that, to be told the "
        f"training completions. A rank costs "
        f"{a_rank:,} parameters, and parameters hold about {BITS_A_PARAMETER:g} bits each, so with {SAFETY}-fold room "
        f"rank {max(1, math.ceil(needed))} would do; below {SMALLEST_RANK} little is saved.",
        f"Alpha {ALPHA:g}: with alpha / r in front of the update, the best learning rate hardly depends on the rank.",
        f"Learning rate {rate:g}: a rule for Llama-type models of hidden size {hidden} and "
        f"{'short' if config.steps <= SHORT_RUN else 'long'} runs (here {config.steps} steps, {seen:.1f} times through "
        "the data).",
        "All of this is a rule, and nothing was tried: recommend(..., budget_minutes=10) tries settings on your data.",
    ]
    if needed > LARGEST_RANK:
        reasons.append(f"More than rank {LARGEST_RANK} would be needed: full fine-tuning is worth a try.")
    make = qlora if base.quantization else lora
    return replace(make(rank=rank, alpha=ALPHA, learning_rate=rate), reasons=tuple(reasons))
