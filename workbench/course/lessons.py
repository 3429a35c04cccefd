"""Sentences and tables of the first lessons, from the numbers that they computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from workbench.adapters.lowrank import lora_parameters
from workbench.memory.configs import model_config
from workbench.memory.shapes import shape_of
from workbench.models.base import Base
from workbench.results.noise import two_standard_errors
from workbench.scoring.evaluation import answers
from workbench.scoring.scores import Scores, unpack_rows
from workbench.tasks.example import Example

# Where to begin on a job of one's own, with adapters on every linear layer: common in the documentation of PEFT and of
# QLoRA (arXiv 2305.14314), and near the rule 5e-5 x 10 x (2000 / hidden)^0.78 of tinker-cookbook.
START_RANK, START_ALPHA = 16, 32
START_MODELS = {"llama-3.2-1b": 5e-4, "mistral-7b-v0.3": 2e-4, "llama-3.1-8b": 2e-4}


def starting_values() -> str:
    """A Markdown table: for a model of 1B, 7B and 8B parameters, settings to start from, and what they train."""
    rows = [
        "| model | rank r | alpha | learning rate | trained numbers | adapter file, float32 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, rate in START_MODELS.items():
        count = adapter_size(name, START_RANK)
        cells = [name, START_RANK, START_ALPHA, f"{rate:.0e}".replace("e-0", "e-"), f"{count / 1e6:.1f} million"]
        rows.append(f"| {' | '.join(map(str, cells))} | {4 * count / 1e6:.0f} MB |")
    return "\n".join(rows)


def adapter_size(model: str, rank: int) -> int:
    """Numbers in the adapters of one rank on every linear layer of a model of the catalogue."""
    shape = shape_of(model_config(model))
    return shape.layers * sum(lora_parameters(*size, rank) for size in shape.linear.values())


def as_quote(text: str, length: int = 120) -> str:
    """Something that a model wrote, in one line of code for Markdown, cut to `length` characters."""
    line = " ".join(text.split()).replace("`", "'").replace("|", "/")
    return f"`{line[:length]}{' ...' if len(line) > length else ''}`" if line else "(nothing)"


def same_mail(prompt: str, wanted: str, written: Sequence[tuple[str, str]]) -> str:
    """A Markdown table with an e-mail's wanted answer and what models wrote. written: (who, answer) pairs."""
    mail = prompt.removesuffix("\nJSON:")
    rows = [f"| {who} | {as_quote(answer)} | {verdict(answer, wanted)} |" for who, answer in written]
    head = ["| | answer | |", "| --- | --- | --- |", f"| wanted | {as_quote(wanted)} | |"]
    return "\n".join([f"> {mail}", "", *head, *rows])


def verdict(answer: str, wanted: str) -> str:
    """ "right" or "wrong", after white space at the ends."""
    return "right" if answer.strip() == wanted.strip() else "wrong"


def perplexity(loss: float) -> str:
    """e^loss: the model is as unsure as if it chose among that many equally likely tokens."""
    return f"{math.exp(loss):.3g}"


def first_answer(parameters: int, trained: int, step_seconds: float, right: bool) -> str:
    """The answer of lesson 00, in Markdown. trained: numbers of the example's adapters."""
    mail = "already answers the order e-mail right" if right else "gets the order e-mail wrong"
    return (
        f"**The answer:** LoRA freezes a model and trains two small matrices for each chosen weight matrix: at rank 8 "
        f"that is {trained / 1e6:.1f} million numbers next to this model's {parameters / 1e6:.0f} million "
        f"({trained / parameters:.1%}). This computer can train that: a step of 256 tokens takes {step_seconds:.2g} "
        f"seconds, and 200 of them about {max(1, round(200 * step_seconds / 60))} minutes. "
        f"Before any training the model {mail}.\n\n"
        "What would change it: twice the text, or a model of twice the size, takes about twice as long; and in a "
        f"larger model a smaller share trains (at rank 8, {adapter_size('llama-3.1-8b', 8) / 8.03e9:.1%} of "
        "Llama-3.1-8B)."
    )


def lora_answer(
    trained: tuple[int, int], steps: int, scores: Sequence[Mapping[str, float]], rows: int, right: tuple[bool, bool]
) -> str:
    """The answer of lesson 02, in Markdown.

    trained: trainable numbers and all numbers. scores: of `rows` unseen e-mails, before and after. right: whether the
    one e-mail was answered right, before and after.
    """
    mail = {
        (False, True): "the order e-mail that the model got wrong is now answered right",
        (True, True): "the order e-mail was answered right before and after",
        (False, False): "our one order e-mail is still answered wrong",
        (True, False): "the order e-mail that was right is now wrong",
    }[right]
    before, after = scores
    shares = [f"{100 * s['exact_match']:.0f} %" for s in scores]
    noise = 100 * two_standard_errors(after["exact_match"], rows)
    return (
        f"**The answer:** LoRA leaves every weight W as it is and adds (alpha / r) B A next to it, which trains "
        f"{trained[0] / trained[1]:.1%} of the model's numbers. After {steps} steps {mail}. Of {rows} e-mails in "
        f"wordings that training never showed, {shares[0]} were exactly right before and {shares[1]} after (give or "
        f"take {noise:.0f} points); the perplexity of a right answer went from {perplexity(before['loss'])} to "
        f"{perplexity(after['loss'])}.\n\n"
        "What would change it: the number of steps and the learning rate, above all. Lessons 05 and 06 measure both."
    )


def scaling_answer(
    alpha: float, ranks: Sequence[int], sizes: Mapping[str, Sequence[float]], wide: Mapping[int, float]
) -> str:
    """What the panel of lesson 02 shows, folded.

    sizes: rule -> movement of the output at each rank. wide: alpha -> movement at the last rank with alpha / r.
    """
    moved = [f"with {rule} it is multiplied by {row[-1] / row[0]:.2g}" for rule, row in sizes.items()]
    steadier = min(sizes, key=lambda rule: abs(math.log(sizes[rule][-1] / sizes[rule][0])))
    plain, root = (row[ranks.index(8)] for row in sizes.values())
    equal = min(wide, key=lambda each: abs(math.log(wide[each] / plain)))
    factor = int(alpha * ranks[-1] / 8)
    return (
        "<details><summary>What the panel shows</summary>"
        f"From rank {ranks[0]} to rank {ranks[-1]}, at alpha {alpha:g}, the movement of the output changes: "
        f"{'; '.join(moved)}. So with {steadier}, you can change the rank and keep alpha; but when you switch to it, "
        f"lower alpha first, because at rank 8 alone it moves the output {root / plain:.1f} times as far.\n\n"
        f"With alpha / r, alpha {equal} at rank {ranks[-1]} moves the output {wide[equal]:.1%}, about as far as alpha "
        f"{alpha:g} at rank 8 ({plain:.1%}). The same factor, alpha {factor}, moves it {wide[factor]:.1%}: a step of "
        "AdamW changes each number by about the same amount, and a higher rank has more numbers. The panel "
        "shows how fast a setting starts, not which one ends best: lesson 05 measures that. In practice keep "
        "one alpha, tune the learning rate, and change alpha only after that. This course has alpha 32 from lesson 05 "
        "on.</details>"
    )


def two_misses(tuned: Base, examples: Sequence[Example], scores: Scores) -> str:
    """Two of the examples that a model answers wrong, as a Markdown table. scores: of these examples."""
    right = unpack_rows(scores.right["exact_match"])
    missed = [example for example, is_right in zip(examples, right, strict=True) if not is_right][:2]
    if not missed:
        return "All of them are right."
    rows = [
        f"| {as_quote(example.completion)} | {as_quote(written)} |"
        for example, written in zip(missed, answers(tuned, missed), strict=True)
    ]
    head = ["What goes wrong, in two answers of those that do; one wrong piece is enough.", ""]
    return "\n".join([*head, "| wanted | written |", "| --- | --- |", *rows])


def lora_claims(modules: Mapping[str, tuple[int, int]], rank: int, trained: tuple[int, int], unchanged: bool) -> str:
    """What lesson 02 says of two claims, folded. modules: adapted layers, name -> (out, in)."""
    few = sum(rank * sum(size) for name, size in modules.items() if name.endswith(("q_proj", "v_proj")))
    kept = "**supported here**" if unchanged else "**not supported here**"
    did = "did not change" if unchanged else "changed"
    return (
        "<details><summary>What this says of two claims</summary>\n\n"
        f"- `modules` (adapters attach to chosen modules; architecture and base weights stay): {kept}. {len(modules)} "
        f"layers, which we chose, have adapters, and the fingerprint of the base weights {did}.\n"
        "- `params` (a few million numbers take the place of billions): **not tested at that size**. Here "
        f"{trained[0]:,} numbers train next to {trained[1]:,}; on query and value alone it would be {few:,}. Lesson 04 "
        "counts billions.\n\n</details>"
    )
