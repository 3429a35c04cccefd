"""What lesson 09 says in words: hits of a query, measures before and after, the study, and the answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.claims.retrieval import in_words
from workbench.course.lessons import as_quote
from workbench.retrieval.corpus import Corpus, Document
from workbench.retrieval.experiment import Measured
from workbench.retrieval.metrics import Interval, Ranks, bootstrap
from workbench.retrieval.rows import BASE, FULL, LORA, MARGIN, Row, at_chosen_rate, compare, names, scores

if TYPE_CHECKING:
    from PIL.Image import Image

NOT_YET = "The stored study has not come so far; `python -m workbench.study.retrieval [--pages]` goes on with it."
SMALL = 240  # pixels of a page's longer side, as shown
OF_MEASURES = "recall@10: the answer is among the first ten; MRR: the mean of 1 / its rank."
MEASURES = (("NDCG@10", "ndcg"), ("recall@10", "recall"), ("MRR", "reciprocal"))

COSTS = {"better": "no", "worse": "yes", "undecided": "not so much that it could be seen"}
STANDS = {"better": "better than", "worse": "worse than", "undecided": "not told apart from"}

Array = np.ndarray[Any, Any]


def hits(corpus: Corpus, query: int, ranked: Sequence[int], count: int = 3) -> str:
    """A Markdown table of the first documents that a query found; the right one is marked."""
    answer = corpus.answers[query]
    place = list(ranked).index(answer) + 1
    rows = [
        f"| {rank} | {_shown(corpus.documents[found], rank)} | {'the answer' if found == answer else ''} |"
        for rank, found in enumerate(ranked[:count], start=1)
    ]
    head = [f"> {corpus.queries[query]}", "", "| rank | document | |", "| --- | --- | --- |"]
    return "\n".join([*head, *rows, "", f"The answer is at rank {place} of {len(ranked):,}."])


def _shown(document: Document, number: int) -> str:
    """A text quoted, a page as a small picture."""
    if isinstance(document, str):
        return as_quote(document, 90)
    return _picture(document.image(), number)


def _picture(image: Image, number: int) -> str:
    """A page as a small picture in HTML."""
    small, file = image.convert("RGB"), BytesIO()
    small.thumbnail((SMALL, SMALL))
    small.save(file, "png")
    return f'<img alt="page {number}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def training_row(row: Mapping[str, Any]) -> str:
    """A Markdown list: the query, the document and the hard negative of a training row, texts or images."""
    shown = [value if isinstance(value, str) else _picture(value, at) for at, value in enumerate(row.values())]
    return "\n".join(f"- **{name}**: {text}" for name, text in zip(row, shown, strict=True))


def before_and_after(before: Ranks, after: Ranks) -> str:
    """A Markdown table of the three measures, with the paired 95 % interval of their change."""
    rows = []
    for name, measure in MEASURES:
        one, two = getattr(before, measure), getattr(after, measure)
        rows.append(f"| {name} | {one.mean():.3f} | {two.mean():.3f} | {in_words(bootstrap(two - one))} |")
    table = "\n".join(["| measure | before | after | change, 95 % interval |", "| --- | --- | --- | --- |", *rows])
    return f"{table}\n\n{OF_MEASURES}"


def differences(rows: Sequence[Row]) -> dict[str, Interval]:
    """Setting -> its difference from full fine-tuning, and from the base, for the settings that the study has."""
    known = [name for name in names(rows) if name != BASE]
    found = {f"{name} less base": compare(rows, name, BASE) for name in known}
    return found | {f"{name} less full": compare(rows, name, FULL) for name in known if name != FULL and FULL in known}


def gains(rows: Sequence[Row]) -> dict[str, Array]:
    """What the panel offers: differences query by query, means over the seeds."""
    pairs = {f"{LORA} less base": (LORA, BASE), f"{LORA} less full": (LORA, FULL)}
    known = names(rows)
    return {
        label: scores(rows, one).mean(0) - scores(rows, two).mean(0)
        for label, (one, two) in pairs.items()
        if {one, two} <= set(known)
    }


def gain_and_kept(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Setting -> (gain of NDCG@10, rank correlation of other text's similarities with the base's) of each seed."""
    return {
        name: [(row["ndcg"] - start["ndcg"], row["kept"]) for row in at_chosen_rate(rows, name)]
        for start in at_chosen_rate(rows, BASE)  # one, or none where nothing is stored
        for name in names(rows)
        if name != BASE
    }


def cut_vectors(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Setting -> numbers kept of each vector -> mean NDCG@10 over the seeds, for the tuned settings of the study."""
    found = {}
    for name in names(rows):
        own = at_chosen_rate(rows, name)
        sizes = {int(size): float(np.mean([row["cut"][size] for row in own])) for size in own[0]["cut"]}
        found[name] = sizes | {_whole(sizes): float(np.mean([row["ndcg"] for row in own]))}
    return {name: own for name, own in found.items() if name != BASE}


def by_size(measured: Measured) -> dict[int, float]:
    """Numbers kept of each vector -> NDCG@10, of one encoder."""
    cut = {size: own.means()["ndcg@10"] for size, own in measured.cut.items()}
    return cut | {_whole(cut): measured.ranks.means()["ndcg@10"]}


def _whole(cut: Mapping[int, float]) -> int:
    """The numbers of a whole vector: the longest cut one keeps a half."""
    return 2 * max(cut)


def cut_title(own: Mapping[int, float]) -> str:
    """What half of each vector costs, and an eighth."""
    whole = max(own)
    half, eighth = (own[whole] - own[whole // share] for share in (2, 8))
    return f"Half of each vector costs {half:.3f} NDCG@10, seven eighths {eighth:.3f}"


def ready(rows: Sequence[Row]) -> bool:
    """Whether the study has the base and LoRA, without which there is nothing to compare."""
    return {BASE, LORA} <= set(names(rows))


def study_title(rows: Sequence[Row]) -> str:
    """What the comparison of the study says, in a line."""
    gain = compare(rows, LORA, BASE)
    verb = {"better": "gains", "worse": "loses", "undecided": "changes little, by"}[gain.verdict]
    title = f"LoRA {verb} {abs(gain.centre):.3f} NDCG@10"
    return f"{title}, {than_full(compare(rows, LORA, FULL))}" if FULL in names(rows) else title


def than_full(gap: Interval) -> str:
    """LoRA less full, in a few words."""
    if abs(gap.low) <= MARGIN and abs(gap.high) <= MARGIN:
        return "on par with full"
    amount = f"{abs(gap.centre):.3f}"
    words = {"better": f"{amount} more than full", "worse": f"{amount} less than full"}
    return words.get(gap.verdict, "which is not told apart from full")


def seen(found: Interval) -> str:
    """Whether the change of one's own run is seen, in words."""
    words = {"better": "better than before", "worse": "worse than before", "undecided": "not told apart from before"}
    return words[found.verdict]


def answer(rows: Sequence[Row], own: Interval, queries: int, half_width: float) -> str:
    """The answer of lesson 09. own: of the learner's run. half_width: of a difference, with 300 queries."""
    costs = COSTS | {"better": "no, it gains"}
    yours = f"your run is {in_words(own)} NDCG@10 from the base on {queries:,} queries"
    if ready(rows):
        gain = compare(rows, LORA, BASE)
        found = f"{costs[gain.verdict]}. LoRA of rank 8 is {in_words(gain)} from the base over three seeds, and {yours}"
    else:
        found = f"{costs[own.verdict]}; {yours}"
    return (
        f"**The answer:** Against no tuning: {found}. {against_full(rows)}. {_of_ranks(rows)}A test of 300 queries "
        f"sees a difference of this kind only from {half_width:.3f} on.\n\n"
        "What would change it: a domain further from what the encoder knows, many more rows, or a rate that was not "
        "swept for each method."
    )


def against_full(rows: Sequence[Row]) -> str:
    """LoRA against full fine-tuning, as far as the study has come."""
    if not {LORA, FULL} <= set(names(rows)):
        return "Full fine-tuning has not been measured to the end here"
    verdict = COSTS[compare(rows, LORA, FULL).verdict]
    return f"Against full fine-tuning: {verdict}. It is {_beside_full(rows, LORA)}, and {_kept_than_full(rows)}"


def _beside_full(rows: Sequence[Row], name: str) -> str:
    gap = compare(rows, name, FULL)
    return f"{STANDS[gap.verdict]} full fine-tuning, {in_words(gap)}"


def _of_ranks(rows: Sequence[Row]) -> str:
    """A sentence on the rank of LoRA that searches best, if full and several ranks were measured."""
    ranks = [name for name in names(rows) if name.startswith("lora r=")]
    if len(ranks) < 2 or FULL not in names(rows):
        return ""
    best = max(ranks, key=lambda name: scores(rows, name).mean())
    return f"Of {len(ranks)} ranks, {best.removeprefix('lora r=')} searches best; it is {_beside_full(rows, best)}. "


def kept_title(rows: Sequence[Row]) -> str:
    """What search gains and how other text changes, LoRA beside full where both are measured."""
    if not {LORA, FULL} <= set(names(rows)):
        return "What search gains, and how other text changes"
    verb = {"better": "gains more", "worse": "gains less", "undecided": "gains about as much"}
    than = _kept_than_full(rows).partition(" (")[0]
    return f"LoRA of rank 8 {verb[compare(rows, LORA, FULL).verdict]} than full, and {than}"


def _kept_than_full(rows: Sequence[Row]) -> str:
    """By how much LoRA changes the similarities of other text, beside full: "changes other text less (...)"."""
    lora, full = ([row["kept"] for row in at_chosen_rate(rows, name)] for name in (LORA, FULL))
    apart = "less" if min(lora) > max(full) else "more" if max(lora) < min(full) else "about as much"
    agreement = f"agreement with the untuned encoder {np.mean(lora):.3f} against {np.mean(full):.3f}"
    return f"changes other text {apart} ({agreement})"


def starting_values() -> str:
    """A Markdown table: where to begin with encoders of several sizes."""
    rows = [
        "| encoder | method | rank, alpha | learning rate | batch |",
        "| --- | --- | --- | --- | --- |",
        "| 22 million (MiniLM) | LoRA or full | 8, 16 | 5e-4 for LoRA, 1e-4 for full | 32 to 128 |",
        "| 1B | LoRA | 16, 32 | 2e-4 to 5e-4 | 64 and more, with the cached loss |",
        "| 7B or 8B | LoRA or QLoRA | 16, 32 | 1e-4 to 2e-4 | 64 and more, with the cached loss |",
        "| 2B that reads pages | LoRA on the language model alone | 16, 32 | 1e-4 | 64, with the cached loss |",
    ]
    return "\n".join(rows)


def rates(rows: Sequence[Row]) -> Mapping[str, float]:
    """Setting -> the learning rate that the validation queries chose."""
    return {name: at_chosen_rate(rows, name)[0]["rate"] for name in names(rows) if name != BASE}
