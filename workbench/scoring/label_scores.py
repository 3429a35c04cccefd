"""Which label is the most likely after each prompt: only labels that can win are scored, as branches of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from workbench.models.padding_free import leaves_padding_out
from workbench.scoring.progress import ScoringProgress
from workbench.scoring.row_scores import RowScores, in_batches, score_rows
from workbench.tasks.encoding import Encoded

Label = tuple[int, ...]  # token ids, end-of-text included
ROUNDING = 1e-3  # nats by which two computations of the same log-likelihood may differ
TRIED_FIRST = 2  # rivals of the right label
BRANCHED = 128  # rows of attention in a batch, each a prompt with one label


@dataclass(frozen=True)
class Choice:
    """A prompt, the labels to choose from, and which of them is right."""

    prompt: tuple[int, ...]
    labels: tuple[Label, ...]
    right: int


def chosen_right(
    model: PreTrainedModel, choices: Sequence[Choice], found: RowScores, progress: ScoringProgress | None = None
) -> list[bool]:
    """For each choice, whether the right label is the most likely one; of equal ones the first counts.

    found: of the rows of prompt and right label, with each label's first token asked for. A label is never more likely
    than its first token, so a rival whose first token is less likely than the whole right label is out. Of the others
    the TRIED_FIRST with the most likely first tokens come first: where one of them wins, nothing else is scored.
    """
    open_labels = {}
    for place, (choice, nats, firsts) in enumerate(zip(choices, found.nats, found.firsts, strict=True)):
        rivals = [label for label, first in enumerate(firsts) if label != choice.right and first >= -nats - ROUNDING]
        open_labels[place] = sorted(rivals, key=firsts.__getitem__, reverse=True)
    beaten = set()
    for count in (TRIED_FIRST, None):
        tried = {place: labels[:count] for place, labels in open_labels.items() if labels and place not in beaten}
        prompts = [choices[place].prompt for place in tried]
        rivals_of = [tuple(choices[place].labels[label] for label in labels) for place, labels in tried.items()]
        scored = label_likelihoods(model, prompts, rivals_of, progress)
        for (place, labels), likely in zip(tried.items(), scored, strict=True):
            # Of equal ones the first counts.
            best = max((value, -label) for value, label in zip(likely, labels, strict=True))
            if best > (-found.nats[place], -choices[place].right):
                beaten.add(place)
            open_labels[place] = open_labels[place][len(labels) :]
    return [place not in beaten for place in range(len(choices))]


@torch.no_grad()
def label_likelihoods(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[Label]],
    progress: ScoringProgress | None = None,
) -> list[list[float]]:
    """Log-likelihood of each label after its prompt. labels: those of each prompt.

    A model that takes padding-free batches reads each prompt once, and its labels as branches of it. Others read every
    label with its prompt.
    """
    progress = progress or ScoringProgress("labels", 0)
    rows = [Encoded((*prompt, *each), len(prompt)) for prompt, own in zip(prompts, labels, strict=True) for each in own]
    if not rows:
        return []
    if not leaves_padding_out(model, max(len(row.ids) for row in rows)):
        progress.expect(sum(len(row.ids) for row in rows))
        sums = iter(score_rows(model, rows, on_batch=progress.advance).nats)
        return [[-next(sums) for _ in own] for own in labels]
    likely: list[list[float]] = [[] for _ in prompts]
    sizes = [len(prompt) + sum(map(len, own)) for prompt, own in zip(prompts, labels, strict=True)]
    progress.expect(sum(sizes))
    for batch in in_batches(sizes):
        for places in _split(batch, labels):
            tree = _Tree()
            for place in places:
                tree.add(prompts[place], labels[place])
            sums = iter(tree.likelihoods(model))
            for place in places:
                likely[place] = [next(sums) for _ in labels[place]]
            progress.advance(sum(sizes[place] for place in places))
    return likely


def _split(places: Sequence[int], labels: Sequence[Sequence[Label]]) -> list[list[int]]:
    """The places in parts of at most BRANCHED labels; attention computes a prompt again for each of them."""
    parts: list[list[int]] = []
    count = 0
    for place in places:
        if not parts or count + len(labels[place]) > BRANCHED:
            parts.append([])
            count = 0
        parts[-1].append(place)
        count += len(labels[place])
    return parts


@dataclass
class _Tree:
    """Prompts with their labels as one padding-free batch, in which the tokens of a prompt stand once.

    tokens, positions: what the model reads. rows: for attention, the tokens of each prompt with one label, by number.
    asked: for each token of a label, the number of the token that predicts it; targets: that token; label: its row.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)

    def add(self, prompt: Sequence[int], labels: Sequence[Label]) -> None:
        """Add a prompt and its labels; nothing is predicted from the last token of a label, so it is not read."""
        trunk = self._read(prompt, 0)
        for label in labels:
            branch = self._read(label[:-1], len(prompt))
            self.asked += [trunk[-1], *branch]
            self.targets += label
            self.label += [len(self.rows)] * len(label)
            self.rows.append([*trunk, *branch])

    def _read(self, ids: Sequence[int], position: int) -> list[int]:
        numbers = list(range(len(self.tokens), len(self.tokens) + len(ids)))
        self.tokens += ids
        self.positions += range(position, position + len(ids))
        return numbers

    def likelihoods(self, model: PreTrainedModel) -> list[float]:
        """Log-likelihood of each label, in the order in which they were added."""
        device = next(model.parameters()).device
        asked = torch.tensor(self.asked, device=device)
        kept, which = asked.unique(return_inverse=True)  # the end of a prompt predicts the start of all its labels
        logits = model(
            input_ids=torch.tensor([self.tokens], device=device),
            position_ids=torch.tensor([self.positions], device=device),
            attention_mask=self._layout().to(device),
            logits_to_keep=kept,
            use_cache=False,
        ).logits[0]
        targets, label = torch.tensor(self.targets, device=device), torch.tensor(self.label, device=device)
        found = logits.float().log_softmax(-1)[which, targets]
        return torch.zeros(len(self.rows), device=device).index_add_(0, label, found).tolist()

    def _layout(self) -> torch.Tensor:
        """As `padding_free.row_layout`, but for tokens that stand in several rows: the result of the first counts."""
        length = max(map(len, self.rows))
        places: dict[int, int] = {}
        layout = torch.zeros(2, len(self.rows) * length, dtype=torch.int64)
        for number, row in enumerate(self.rows):
            layout[0, number * length : number * length + len(row)] = torch.tensor(row)
            for column, token in enumerate(row):
                places.setdefault(token, number * length + column)
        layout[1, : len(places)] = torch.tensor([places[token] for token in range(len(self.tokens))])
        return layout.view(1, 2, len(self.rows), length)
