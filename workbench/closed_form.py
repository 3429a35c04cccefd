"""Training memory as a sum of a few lines: weights, gradients, optimizer state, what each block keeps, the logits.

`simulate` is the check of every line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedConfig

from workbench.block_memory import Blocks
from workbench.memory_setup import BLOCK_4BIT, BLOCK_8BIT, CODE_BOOK_VALUES, SMALLEST_8BIT, Setup
from workbench.model_shapes import shape_of
from workbench.quantization import stored_parts
from workbench.trained_parts import LOWERED, Line, Roles

SHARDED = ("weights", "adapters", "gradients", "optimizer state")  # by ZeRO stage 3
OTHER_GRADIENT = "the other gradient of the tied embeddings"
COPIES = (LOWERED, OTHER_GRADIENT)  # whole copies of weights, of which sharding leaves one block at a time
ROOTS = "roots of the second averages, all at once (foreach)"  # as large as the optimizer's share


@dataclass(frozen=True)
class Closed:
    """lines: at the highest moment of the step. peaks: phase -> bytes. moments: see MemoryReport."""

    lines: list[Line]
    peaks: dict[str, int]
    moments: list[tuple[int, int]]
    trainable_parameters: int


def closed_form(config: PreTrainedConfig, setup: Setup) -> Closed:
    """The lines of the highest of the moments at which a step may peak, and the peak of each phase."""
    form = _Form(shape_of(config), setup)
    always, moments = form.always(), form.moments()
    rest = sum(line.bytes for line in always)
    sizes = {name: rest + sum(line.bytes for line in lines) for name, lines in moments.items()}
    peaks = {phase: max(size for name, size in sizes.items() if name[0] == phase) for phase, _ in moments}
    highest = moments[max(sizes, key=sizes.__getitem__)]
    split = [_split([*always, *lines]) for lines in moments.values()]
    return Closed(always + highest, peaks, split, form.trainable)


def _split(lines: Iterable[Line]) -> tuple[int, int]:
    """Bytes that sharding splits over GPUs, and bytes that it leaves on each."""
    shared = kept = 0
    for line in lines:
        if line.component in SHARDED or line.words == ROOTS:
            shared += line.bytes
        elif line.words not in COPIES:
            kept += line.bytes
    return shared, kept


class _Form(Blocks):
    """The lines that are not about blocks, and the moments that they make up."""

    def always(self) -> list[Line]:
        """What is there all the time."""
        shape, rest = self.shape, Counter(self.outside.values())
        for size in shape.biases.values():
            rest[size] += shape.layers
        linear = Counter()
        for out, width in shape.linear.values():
            linear[out * width] += shape.layers
        lines = []
        if self.quantized:
            packed = Counter()
            for size, count in linear.items():
                # All but the offset, a single number.
                stored = stored_parts(size, "nf4", BLOCK_4BIT, double_quantization=True)
                for part in (stored["codes"], stored["scales"], stored["scales of scales"], 4 * CODE_BOOK_VALUES):
                    packed[part] += count
            words = f"{self._numbers(linear):,} weights in 4 bits, a scale of 8 bits for every {BLOCK_4BIT} of them"
            lines += [Line("weights", words, packed), self._line("weights", "other weights", rest, self.stream)]
        else:
            size = self.whole if self.full else self.frozen
            lines.append(self._line("weights", "weights" if self.full else "frozen weights", linear + rest, size))
            if not self.full and self.whole_weights:
                words = "copies of weights that are trained whole"
                lines.append(self._line("weights", words, self.whole_weights, self.whole))
        if self.adapter_weights:
            lines.append(self._line("adapters", "adapter weights", self.adapter_weights, 4))
        return [*lines, self._state()]

    def _state(self) -> Line:
        state = Counter()
        for numbers, size in ((self.whole_weights, self.whole), (self.adapter_weights, 4)):
            for number, count in numbers.items():
                if self.setup.optimizer != "adamw8bit":
                    state[number * size] += 2 * count
                elif number < SMALLEST_8BIT:
                    state[number * 4] += 2 * count
                else:
                    state[number] += 2 * count
                    state[4 * -(-number // BLOCK_8BIT)] += 2 * count
        how = "1 byte and a share of a scale, small ones 4" if self.setup.optimizer == "adamw8bit" else "as the weights"
        return Line("optimizer state", f"two averages of {self.trainable:,} gradients, {how}", state)

    def _gradients(self) -> Line:
        sizes = Counter({number * self.whole: count for number, count in self.whole_weights.items()})
        for number, count in self.adapter_weights.items():
            sizes[number * 4] += count
        return Line("gradients", f"{self.trainable:,} gradients, as the trained weights", sizes)

    def _gradients_above(self, lowest: Roles) -> Line:
        """All but those of the lowest block's layers; an untied lookup's comes last, too."""
        sizes = Counter(self._gradients().tensors)
        whole, adapters = self._trained_in(lowest)
        sizes.subtract([*(self.whole * number for number in whole), *(4 * number for number in adapters)])
        if self._is_opened("model.embed_tokens") and not (self.full and self.shape.tied):
            sizes[self.whole * self.table] -= 1
        return Line("gradients", "gradients above the lowest block", sizes)

    def moments(self) -> dict[tuple[str, str], list[Line]]:
        """(phase, moment) -> what is there beside: the moments at which a step may peak."""
        kept, held, scratch = self._kept_by_blocks(), self._held(), self._scratch()
        lowered, above = self._lowered(False), [*kept, self._tail()]
        largest, lowest = self._largest(), self.blocks[self._first_kept()]
        running = [self._one_block(largest)] if self.setup.checkpointing else []
        again = self._again(largest) if self.setup.checkpointing else []
        # DoRA needs its scratch on the way forward alone.
        passing = [*(scratch if self.setup.checkpointing or self.quantized else []), self._in_flight()]
        moments = {
            ("forward", "block"): [*kept, *lowered, *held, *running, *scratch],
            ("forward", "loss"): [*above, *lowered, *self._logits(after=False), *held],
            ("backward", "loss"): [*above, *self._lowered(True), *self._logits(after=True)],
            ("backward", "block"): [*kept, *held, *self._head_gradient(), *again, *passing],
            ("backward", "lowest block"): [self._gradients_above(lowest), *self._again(lowest), *held, *passing],
            ("backward", "end"): [self._gradients(), *held],
            ("optimizer", "update"): [self._gradients(), *held],
        }
        if self.full and self.shape.tied:
            moments["backward", "end"].append(self._one("temporaries", OTHER_GRADIENT, self.whole * self.table))
        if self.setup.attention == "eager":
            moments |= self._moments_of_scores(kept, held, lowered)
        if self.setup.optimizer == "adamw":
            moments["optimizer", "update"].append(Line("temporaries", ROOTS, self._gradients().tensors))
        return moments

    def _moments_of_scores(self, kept, held, lowered) -> dict[tuple[str, str], list[Line]]:
        """Eager attention makes whole matrices of scores: in a long row, more than all the rest of a block."""
        block, lowest, in_use = self._largest(), self.blocks[self._first_kept()], []
        if not self.setup.checkpointing:
            block, kept, in_use = self.blocks[-1], self._kept_by_blocks(above=1), lowered
        back = [*held, *self._head_gradient(), *self._at_scores(block, backward=True)]
        gradients = self._gradients_above(self._before_scores(lowest))
        return {
            ("forward", "scores"): [*kept, *lowered, *held, *self._at_scores(block, backward=False)],
            ("backward", "scores"): [*kept, *in_use, *back],
            ("backward", "lowest scores"): [gradients, *held, *self._at_scores(lowest, backward=True)],
        }

    def _head_gradient(self) -> list[Line]:
        if not self._is_opened("lm_head"):
            return []
        return [self._one("gradients", "gradient of the head", self.whole * self.table)]

    def _logits(self, after: bool) -> list[Line]:
        """Before the backward pass: logits, in float32, their log-softmax; then two gradients in the place of one."""
        entries = self.tokens * self.shape.vocabulary
        raised = [4] if self.logit == 2 and not after else []
        parts = [self.logit, *raised, 4, *([4, 4] if after else [])]
        words = f"logits: {self.tokens:,} tokens x {self.shape.vocabulary:,} x ({' + '.join(map(str, parts))}) bytes"
        capped = [self._one("logits", "capped logits", self.logit * entries)] if self.shape.capped else []
        return [Line("logits", words, Counter(size * entries for size in parts)), *capped]

    def _held(self) -> list[Line]:
        """What the last call's `outputs` still hold while the next call runs."""
        entries = self.tokens * self.shape.vocabulary
        lines = [self._one("logits", "logits of the last call, still held", self.logit * entries)]
        if not self.setup.checkpointing:
            sizes = [self._cache()] * 2 * self.shape.layers
            lines.append(self._per_token("activations", "keys and values of the last call, still held", sizes))
        return lines

    def _tail(self) -> Line:
        """After the last block: the last normalisation, the head's input, and the mask."""
        h = self.shape.hidden
        sizes = [4 * h]
        if self.full:
            sizes.append(self._normed(self.stream) * h)
        if self._is_opened("lm_head"):
            sizes.append(self.compute * h)
        if self.setup.attention == "sdpa":
            sizes.append(self.setup.sequence_length)
        return self._per_token("activations", "after the last block", sizes)

    def _lowered(self, after: bool) -> list[Line]:
        """Copies of trained weights that autocast makes; checkpointed blocks lose theirs with the forward pass."""
        if not self.mixed:
            return []
        inside = self.adapter_weights + self.whole_weights
        if self._is_opened("model.embed_tokens") and not self.shape.tied:
            inside -= Counter([self.table])  # a lookup is no product
        if after and self.setup.checkpointing:
            inside = Counter([self.table] if self._is_opened("lm_head") else [])
        sizes = Counter({2 * number: count for number, count in inside.items()})
        return [Line("activations", LOWERED, sizes)]
