"""What the blocks of a decoder keep for the backward pass, and the most that stands in one beside it.

It follows from a block's operations. A product keeps its input if its weight is trained; a normalisation keeps its
input in float32; a gate keeps both its factors; attention keeps queries, keys, values and result.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

from workbench.memory_setup import BLOCK_4BIT
from workbench.model_shapes import READERS
from workbench.quantization import stored_parts
from workbench.trained_parts import LOWERED, Line, Parts, Roles


class Blocks(Parts):
    """The lines of the sum that are about blocks."""

    def _kept_by_blocks(self, above: int = 0) -> list[Line]:
        """above: how many of the highest blocks to leave out."""
        active, h = self.blocks[self._first_kept() : len(self.blocks) - above], self.shape.hidden
        if self.setup.checkpointing:
            return [self._per_token("activations", "block inputs", [self.stream * h] * len(active))]
        if not active:
            return []
        sizes = Counter()
        for roles, blocks in Counter(active).items():
            for size in self._kept(roles):
                sizes[size] += blocks
        sizes.update(() if self.full else map(self._norm_input, self._opened_norms()))
        if not self._is_opened("model.embed_tokens") and self.shape.family != "olmo2":
            sizes[4 * h] -= 1  # nothing before the first normalisation is trained
        return [self._per_token("activations", f"kept by {len(active)} blocks", sizes)]

    def _first_kept(self) -> int:
        """The lowest block that gradients reach."""
        # With checkpointing, transformers asks the embeddings' output for a gradient, whatever trains.
        if self.setup.checkpointing or self._is_opened("model.embed_tokens"):
            return 0
        trained = [layer for layer, roles in enumerate(self.blocks) if any(roles)]
        return min([*trained, *(int(name.split(".")[2]) for name in self._opened_norms())])

    def _opened_norms(self) -> list[str]:
        return [name for name in self.outside if name.startswith("model.layers.") and self._is_opened(name)]

    def _norm_input(self, name: str) -> int:
        """Bytes a token that a norm keeps for the gradient of its weight."""
        width = {"q_norm": self.shape.queries, "k_norm": self.shape.keys}.get(
            name.rpartition(".")[2], self.shape.hidden
        )
        return self._normed(self.stream if width == self.shape.hidden else self.compute) * width

    def _largest(self) -> Roles:
        return max(set(self.blocks), key=lambda roles: sum(self._kept(roles)))

    def _one_block(self, roles: Roles) -> Line:
        words = "one block, computed again" if self.setup.checkpointing else "kept by one block"
        return self._per_token("activations", words, self._kept(roles))

    def _again(self, roles: Roles) -> list[Line]:
        """A block on the way back: what it keeps, and the trained weights that it lowers again if computed again."""
        lines = [self._one_block(roles)]
        if self.mixed and self.setup.checkpointing:
            sizes = Counter(2 * number for number in chain(*self._trained_in(roles)))
            lines.append(Line("activations", LOWERED, sizes))
        return lines

    def _at_scores(self, roles: Roles, backward: bool) -> list[Line]:
        """A block while its eager attention holds most: what comes after the scores is not there yet, or has gone."""
        shape, length, before = self.shape, self.setup.sequence_length, self._before_scores(roles)
        low, scores = 2 if self.mixed else self.compute, shape.heads * length
        kept = Counter(self._kept(before)) - Counter([4 * shape.hidden, *[self.compute * shape.inner] * 3])
        # Two gradients in float32; they come when the lowered probabilities, which are among what is kept, have gone.
        words, beside = ("gradients of the scores", [4, low]) if backward else ("scores", [4])
        lines = [
            self._per_token("activations", "one block, up to its attention", kept),
            self._per_token("temporaries", words, [size * scores for size in beside]),
        ]
        if self.setup.checkpointing or not backward:
            lines.append(self._per_token("activations", "mask", [low * length]))
        return lines + (self._again(before)[1:] if backward else [])

    @staticmethod
    def _before_scores(roles: Roles) -> Roles:
        """Of a block's layers, those that come before the scores."""
        return tuple(names & frozenset(READERS[0]) for names in roles)

    def _kept(self, roles: Roles) -> list[int]:
        """Bytes a token of each tensor that a block keeps."""
        adapted, opened = roles
        shape, c = self.shape, self.compute
        sizes = [4 * width for width in shape.norms]
        if self.full:
            sizes += [self._normed(self.stream if width == shape.hidden else c) * width for width in shape.norms]
        sizes += self._attention()
        sizes += [c * shape.inner] * 3  # into the nonlinearity, out of it, and the other factor
        for names in READERS:
            sizes += self._inputs(names, adapted, opened)
        low = 2 if self.mixed else 4
        for name in adapted:
            sizes.append(low * self.method.rank)
            if self.method.dora:
                sizes += [c * shape.linear[name][0], low * shape.linear[name][0]]
        return sizes

    def _normed(self, usual: int) -> int:
        """Bytes of a normalised number, kept for the norm's weight: some families multiply before they lower."""
        return 4 if self.shape.family in ("olmo2", "gemma", "gemma2") else usual

    def _inputs(self, names: tuple[str, ...], adapted: frozenset[str], opened: frozenset[str]) -> list[int]:
        """What products keep of the tensor that they all read: itself, or copies in another dtype."""
        width = self.shape.linear[names[0]][1]
        of_adapters, of_whole = [name for name in names if name in adapted], [name for name in names if name in opened]
        itself, copies = False, []
        if of_whole:
            # Autocast lowers what comes out of a norm once for each product; the other two come in bfloat16.
            if self.mixed and self.stream == 4 and len(names) > 1:
                copies += [2 * width] * len(of_whole)
            else:
                itself = True
        for _ in of_adapters:
            if self.method.dropout:
                copies += [width, (2 if self.mixed else 4) * width]
            elif self.compute == 4 or (self.quantized and self.mixed):
                itself = True
            else:
                copies.append((2 if self.mixed else 4) * width)
        # The result of attention is kept by attention itself.
        return copies + ([self.compute * width] if itself and names != READERS[1] else [])

    def _attention(self) -> list[int]:
        shape, setup = self.shape, self.setup
        c = 2 if self.mixed else self.compute
        grouped = shape.heads != shape.key_heads
        if setup.attention == "flash":
            return [c * shape.queries, c * shape.keys, c * shape.keys, c * shape.queries, 4 * shape.heads]
        sizes = [c * shape.queries] * 4
        if grouped and not setup.checkpointing:
            sizes += [self._cache()] * 2  # beside their repetitions
        scores = shape.heads * setup.sequence_length
        if setup.attention == "eager":
            capped = [c * scores] if shape.capped_scores else []
            return [*sizes, *capped, 4 * scores, *([2 * scores] if c == 2 else [])]
        return [*sizes, c * setup.sequence_length, 4 * shape.heads]

    def _cache(self) -> int:
        """Bytes a token of the keys, or the values, which the model hands out unless told not to."""
        return (4 if self.full and self.mixed else self.compute) * self.shape.keys

    def _in_flight(self) -> Line:
        """Gradients on their way through the last product of a block, while all that the block kept is still there."""
        shape, c = self.shape, self.compute
        adapted, opened = self.blocks[-1]
        sizes = [self.stream * shape.hidden] * 2 + [c * shape.inner]
        if "mlp.down_proj" in adapted:
            sizes += [4 * shape.inner] * (2 if self.method.dropout else 1)
        tensors = Counter(size * self.tokens for size in sizes)
        if "mlp.down_proj" in opened:
            tensors[self.whole * shape.hidden * shape.inner] += 1
        return Line("temporaries", "gradients on their way through one block", tensors)

    def _scratch(self) -> list[Line]:
        """The most that is made and thrown away inside of a block."""
        if self.method.dora:
            adapted = frozenset().union(*(adapted for adapted, _ in self.blocks))
            return [max((self._dora(*self.shape.linear[name]) for name in adapted), key=lambda line: line.bytes)]
        if not self.quantized:
            return []
        size = max(map(math.prod, self.shape.linear.values()))
        words = "the largest layer's weights, unpacked, and their scales"
        scales = stored_parts(size, "nf4", BLOCK_4BIT, double_quantization=True)["scales"]
        return [Line("temporaries", words, Counter([self.frozen * size, 4 * scales]))]

    def _dora(self, out: int, width: int) -> Line:
        """DoRA makes the whole update to find its norm: the identity times A and B, the weights, and their sum.

        Its result is then put together from three parts in float32.
        """
        low = 2 if self.mixed else 4
        copies = [4 * out * width] * (3 if self.frozen == 4 else 4) + [4 * out * self.tokens] * 3
        if self.mixed:
            copies += [2 * out * width, 4 * width * self.tokens]
        return Line("temporaries", "DoRA's norm of a whole layer", Counter([low * width * width, *copies]))
