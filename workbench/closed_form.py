"""Training memory as a sum of a few lines: weights, gradients, optimizer state, what each block keeps, the logits.

What a block keeps for its backward pass follows from its operations. A product keeps its input if its weight is
trained; a normalisation keeps its input in float32; a gate keeps both its factors; attention keeps queries, keys,
values and result. `simulate` is the check of every line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedConfig

from workbench.memory_setup import Setup
from workbench.methods import choose_targets, lies_within
from workbench.model_shapes import READERS, Shape, in_block, module_names, parameters_outside, shape_of
from workbench.stand_ins import BLOCK_4BIT, BLOCK_8BIT, BLOCK_SCALES

SHARDED = ("weights", "adapters", "gradients", "optimizer state")  # by ZeRO stage 3
# Whole copies of weights, of which sharding leaves one block at a time.
LOWERED, OTHER_GRADIENT = "trained weights lowered by autocast", "the other gradient of the tied embeddings"


@dataclass(frozen=True)
class Line:
    """One line of the sum. tensors: size in bytes -> how many such tensors."""

    component: str
    words: str
    tensors: Counter[int]

    @property
    def bytes(self) -> int:
        return sum(size * count for size, count in self.tensors.items())


@dataclass(frozen=True)
class Closed:
    """lines: at the highest moment of the step. peaks: phase -> bytes. unsharded_bytes: see MemoryReport."""

    lines: list[Line]
    peaks: dict[str, int]
    unsharded_bytes: int
    trainable_parameters: int


def closed_form(config: PreTrainedConfig, setup: Setup) -> Closed:
    """The lines of the highest of the moments at which a step may peak, and the peak of each phase."""
    form = _Form(shape_of(config), setup)
    always, moments = form.always(), form.moments()
    rest = sum(line.bytes for line in always)
    sizes = {name: rest + sum(line.bytes for line in lines) for name, lines in moments.items()}
    peaks = {phase: max(size for name, size in sizes.items() if name[0] == phase) for phase, _ in moments}
    unsharded = max(_unsharded(lines) for (phase, _), lines in moments.items() if phase != "optimizer")
    return Closed(always + moments[max(sizes, key=sizes.__getitem__)], peaks, unsharded, form.trainable)


def _unsharded(lines: Iterable[Line]) -> int:
    own = [line for line in lines if line.component not in SHARDED and line.words not in (LOWERED, OTHER_GRADIENT)]
    return sum(line.bytes for line in own)


class _Form:
    """The bytes of one number, by kind, and the tensors that follow from them."""

    def __init__(self, shape: Shape, setup: Setup):
        self.shape, self.setup, self.method = shape, setup, setup.method
        self.full, self.quantized = self.method.name == "full", self.method.name == "qlora"
        self.mixed = setup.dtype == "mixed"
        self.tokens = setup.batch_size * setup.sequence_length
        self.frozen = 4 if setup.dtype == "float32" else 2
        self.whole = 2 if setup.dtype == "bfloat16" else 4  # what is trained itself, not by an adapter
        raised = self.quantized and not self.mixed  # prepare_model_for_kbit_training: all but 4-bit weights
        self.stream = 4 if raised or (self.full and self.mixed) else self.frozen  # embeddings, and between blocks
        self.compute = 4 if raised else self.frozen
        self.logit = 4 if self.stream == 4 and not self.mixed else 2
        self.outside = parameters_outside(shape)
        self.blocks = self._roles()
        self.whole_weights, self.adapter_weights = self._trained()
        self.trainable = self._numbers(self.whole_weights + self.adapter_weights)

    # --- which parameters are trained ---

    def _roles(self) -> list[tuple[frozenset[str], frozenset[str]]]:
        """Of each block: the linear layers that carry an adapter, and those that are trained whole."""
        kinds, blocks = self.shape.linear, range(self.shape.layers)
        if self.full:
            return [(frozenset(), frozenset(kinds)) for _ in blocks]
        linear, modules = module_names(self.shape)
        adapted = set(choose_targets(self.method, linear, modules, self.shape.family))
        opened = {name for name in linear if self._is_opened(name)}
        return [
            tuple(frozenset(kind for kind in kinds if in_block(layer, kind) in chosen) for chosen in (adapted, opened))
            for layer in blocks
        ]

    def _is_opened(self, name: str) -> bool:
        return self.full or any(lies_within(name, module) for module in self.method.full_modules)

    def _copies_tied_head(self) -> bool:
        """PEFT trains a copy of a head that is named, and leaves the embeddings that it was tied to alone."""
        return self.shape.tied and not self.full and self._is_opened("lm_head")

    def _trained(self) -> tuple[Counter[int], Counter[int]]:
        """Sizes, in numbers, of the tensors trained whole, and of those of the adapters."""
        whole, adapters = Counter(), Counter()
        whole.update(size for name, size in self.outside.items() if self._is_opened(name))
        if self._copies_tied_head():
            whole[self.shape.vocabulary * self.shape.hidden] += 1
        for (adapted, opened), blocks in Counter(self.blocks).items():
            for name in opened:
                out, width = self.shape.linear[name]
                whole[out * width] += blocks
                if name in self.shape.biases:
                    whole[out] += blocks
            for name in adapted:
                out, width = self.shape.linear[name]
                for size in (self.method.rank * width, self.method.rank * out, *([out] if self.method.dora else [])):
                    adapters[size] += blocks
        return whole, adapters

    @staticmethod
    def _numbers(tensors: Counter[int]) -> int:
        return sum(size * count for size, count in tensors.items())

    # --- what is there all the time ---

    def always(self) -> list[Line]:
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
                scales = -(-size // BLOCK_4BIT)
                for part in (size // 2, scales, 4 * -(-scales // BLOCK_SCALES), 4 * (16 + 256)):
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

    def _line(self, component: str, words: str, numbers: Counter[int], size: int) -> Line:
        told = f"{self._numbers(numbers):,} {words} x {size} bytes"
        return Line(component, told, Counter({number * size: count for number, count in numbers.items()}))

    def _state(self) -> Line:
        state = Counter()
        for numbers, size in ((self.whole_weights, self.whole), (self.adapter_weights, 4)):
            for number, count in numbers.items():
                if self.setup.optimizer == "adamw8bit":
                    state[number] += 2 * count
                    state[4 * -(-number // BLOCK_8BIT)] += 2 * count
                else:
                    state[number * size] += 2 * count
        how = "1 byte and a scale for every 256" if self.setup.optimizer == "adamw8bit" else "as the weights"
        return Line("optimizer state", f"two averages of {self.trainable:,} gradients, {how}", state)

    def _gradients(self) -> Line:
        sizes = Counter({number * self.whole: count for number, count in self.whole_weights.items()})
        for number, count in self.adapter_weights.items():
            sizes[number * 4] += count
        return Line("gradients", f"{self.trainable:,} gradients, as the trained weights", sizes)

    # --- the moments at which a step may peak ---

    def moments(self) -> dict[tuple[str, str], list[Line]]:
        shape, tokens = self.shape, self.tokens
        entries = tokens * shape.vocabulary
        table = shape.vocabulary * shape.hidden
        held = self._held()
        kept, block = self._kept_by_blocks(), self._largest_block()
        tail = self._tail()
        head_gradient = (
            [self._one("gradients", "gradient of the head", self.whole * table)] if self._is_opened("lm_head") else []
        )
        capped = [self._one("logits", "capped logits", self.logit * entries)] if shape.capped else []
        scratch = self._scratch()
        again = self.setup.checkpointing or self.quantized  # DoRA needs its scratch on the way forward alone
        recomputed = [block] if self.setup.checkpointing else []
        moments = {
            ("forward", "loss"): [
                *kept,
                tail,
                *self._lowered(False),
                self._logits(entries, after=False),
                *capped,
                *held,
            ],
            ("forward", "block"): [*kept, *self._lowered(False), *held, *recomputed, scratch],
            ("backward", "loss"): [*kept, tail, *self._lowered(True), self._logits(entries, after=True), *capped],
            ("backward", "block"): [
                *(*kept, *held, *head_gradient, *recomputed, *([scratch] if again else [])),
                self._in_flight(),
            ],
            ("backward", "end"): [self._gradients(), *held],
            ("optimizer", "update"): [self._gradients(), *held],
        }
        if self.full and shape.tied:
            moments["backward", "end"].append(self._one("temporaries", OTHER_GRADIENT, self.whole * table))
        if self.setup.optimizer == "adamw":
            words = "roots of the second averages, all at once (foreach)"
            moments["optimizer", "update"].append(Line("temporaries", words, self._gradients().tensors))
        return moments

    def _one(self, component: str, words: str, size: int) -> Line:
        return Line(component, words, Counter([size]))

    def _per_token(self, component: str, words: str, sizes: Iterable[int], blocks: str = "") -> Line:
        sizes = Counter(sizes)
        told = f"{words}: {self.tokens:,} tokens x {self._numbers(sizes):,} bytes{blocks}"
        return Line(component, told, Counter({size * self.tokens: count for size, count in sizes.items()}))

    def _logits(self, entries: int, after: bool) -> Line:
        """Before the backward pass: logits, in float32, their log-softmax; then two gradients in the place of one."""
        raised = [4] if self.logit == 2 and not after else []
        parts = [self.logit, *raised, 4, *([4, 4] if after else [])]
        words = f"logits: {self.tokens:,} tokens x {self.shape.vocabulary:,} x ({' + '.join(map(str, parts))}) bytes"
        return Line("logits", words, Counter(size * entries for size in parts))

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

    # --- what the blocks keep ---

    def _kept_by_blocks(self) -> list[Line]:
        active, h = self.blocks[self._first_kept() :], self.shape.hidden
        if self.setup.checkpointing:
            return [self._per_token("activations", "block inputs", [self.stream * h] * len(active))]
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

    def _largest_block(self) -> Line:
        sizes = max((self._kept(roles) for roles in set(self.blocks)), key=sum)
        return self._per_token("activations", "one block, computed again", sizes)

    def _kept(self, roles: tuple[frozenset[str], frozenset[str]]) -> list[int]:
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
            return [*sizes, 4 * scores, *([2 * scores] if c == 2 else [])]
        return [*sizes, c * setup.sequence_length, 4 * shape.heads]

    def _cache(self) -> int:
        """Bytes a token of the keys, or the values, which the model hands out unless told not to."""
        return (4 if self.full and self.mixed else self.compute) * self.shape.keys

    def _lowered(self, after: bool) -> list[Line]:
        """Copies of trained weights that autocast makes; checkpointed blocks lose theirs with the forward pass."""
        if not self.mixed:
            return []
        lookup = self.shape.vocabulary * self.shape.hidden if not self.shape.tied else None  # is not multiplied by
        inside = self.adapter_weights + self.whole_weights
        if self._is_opened("model.embed_tokens") and lookup:
            inside -= Counter([lookup])
        if after and self.setup.checkpointing:
            inside = Counter([self.shape.vocabulary * self.shape.hidden] if self._is_opened("lm_head") else [])
        sizes = Counter({2 * number: count for number, count in inside.items()})
        return [Line("activations", LOWERED, sizes)]

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

    def _scratch(self) -> Line:
        """The most that is made and thrown away inside of a block."""
        if self.method.dora:
            adapted = frozenset().union(*(adapted for adapted, _ in self.blocks))
            return max((self._dora(*self.shape.linear[name]) for name in adapted), key=lambda line: line.bytes)
        size = max(out * width for out, width in self.shape.linear.values()) if self.quantized else 0
        return self._one("temporaries", "the largest layer's weights, unpacked", 2 * size)

    def _dora(self, out: int, width: int) -> Line:
        """DoRA makes the whole update to find its norm: the identity times A and B, the weights, and their sum.

        Its result is then put together from three parts in float32.
        """
        low = 2 if self.mixed else 4
        copies = [4 * out * width] * (3 if self.frozen == 4 else 4) + [4 * out * self.tokens] * 3
        if self.mixed:
            copies += [2 * out * width, 4 * width * self.tokens]
        return Line("temporaries", "DoRA's norm of a whole layer", Counter([low * width * width, *copies]))
