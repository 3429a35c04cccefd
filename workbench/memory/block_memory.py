"""What the blocks of a decoder keep for the backward pass, and the largest temporaries of one block.

It follows from a block's operations. A product keeps its input if its weight is trained; a normalisation keeps its
input in float32; a gate keeps both its factors; attention keeps queries, keys, values and result.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

from workbench.adapters.quantization import stored_parts
from workbench.memory.setup import BLOCK_4BIT
from workbench.memory.shapes import READERS, parameters_outside
from workbench.memory.trained_parts import LOWERED, Line, Parts, Roles, line_per_token, trained_in, trains_whole


def kept_by_blocks(parts: Parts, above: int = 0) -> list[Line]:
    """What all blocks keep for the backward pass. above: how many of the highest blocks to leave out."""
    active, hidden = parts.blocks[lowest_reached(parts) : len(parts.blocks) - above], parts.shape.hidden
    if parts.setup.checkpointing:
        return [line_per_token(parts, "activations", "block inputs", [parts.stream_bytes * hidden] * len(active))]
    if not active:
        return []
    sizes: Counter[int] = Counter()
    for roles, blocks in Counter(active).items():
        for size in kept_by_block(parts, roles):
            sizes[size] += blocks
    sizes.update(() if parts.full else (_norm_input(parts, name) for name in _trained_norms(parts)))
    if not trains_whole(parts.method, "model.embed_tokens") and parts.shape.family != "olmo2":
        sizes[4 * hidden] -= 1  # nothing before the first normalisation is trained
    return [line_per_token(parts, "activations", f"kept by {len(active)} blocks", sizes)]


def lowest_reached(parts: Parts) -> int:
    """The index of the lowest block that gradients reach."""
    # With checkpointing, transformers asks the embeddings' output for a gradient, whatever trains.
    if parts.setup.checkpointing or trains_whole(parts.method, "model.embed_tokens"):
        return 0
    trained = [layer for layer, roles in enumerate(parts.blocks) if any(roles)]
    return min([*trained, *(int(name.split(".")[2]) for name in _trained_norms(parts))])


def largest_block(parts: Parts) -> Roles:
    """What is trained of the block that keeps most."""
    return max(dict.fromkeys(parts.blocks), key=lambda roles: sum(kept_by_block(parts, roles)))


def one_block(parts: Parts, roles: Roles) -> Line:
    """What one block keeps."""
    words = "one block, computed again" if parts.setup.checkpointing else "kept by one block"
    return line_per_token(parts, "activations", words, kept_by_block(parts, roles))


def block_in_backward(parts: Parts, roles: Roles) -> list[Line]:
    """What a block keeps, and the copies of its trained weights that autocast makes again if it is computed again."""
    return [one_block(parts, roles), *_lowered_again(parts, roles)]


def block_at_scores(parts: Parts, roles: Roles, backward: bool) -> list[Line]:
    """A block while its eager attention holds most: what comes after the scores is not there yet, or has gone."""
    shape, length, before = parts.shape, parts.setup.sequence_length, before_scores(roles)
    low, scores = 2 if parts.mixed else parts.compute_bytes, shape.heads * length
    later = [4 * shape.hidden, *[parts.compute_bytes * shape.inner] * 3]
    kept = Counter(kept_by_block(parts, before)) - Counter(later)
    # Two gradients in float32; they come when the lowered probabilities, which are among what is kept, have gone.
    words, beside = ("gradients of the scores", [4, low]) if backward else ("scores", [4])
    lines = [
        line_per_token(parts, "activations", "one block, up to its attention", kept),
        line_per_token(parts, "temporaries", words, [size * scores for size in beside]),
    ]
    if parts.setup.checkpointing or not backward:
        lines.append(line_per_token(parts, "activations", "mask", [low * length]))
    return lines + (_lowered_again(parts, before) if backward else [])


def before_scores(roles: Roles) -> Roles:
    """Of a block's layers, those that come before the scores of its attention."""
    return Roles(*(names & frozenset(READERS[0]) for names in roles))


def kept_by_block(parts: Parts, roles: Roles) -> list[int]:
    """Bytes a token of each tensor that a block keeps for the backward pass."""
    shape, compute = parts.shape, parts.compute_bytes
    sizes = [4 * width for width in shape.norms]
    if parts.full:
        for width in shape.norms:
            usual = parts.stream_bytes if width == shape.hidden else compute
            sizes.append(normed_bytes(parts, usual) * width)
    sizes += _kept_by_attention(parts)
    sizes += [compute * shape.inner] * 3  # into the nonlinearity, out of it, and the other factor
    for names in READERS:
        sizes += _inputs(parts, names, roles)
    low = 2 if parts.mixed else 4
    for name in roles.adapted:
        sizes.append(low * parts.method.rank)
        if parts.method.dora:
            sizes += [compute * shape.linear[name][0], low * shape.linear[name][0]]
    return sizes


def normed_bytes(parts: Parts, usual: int) -> int:
    """Bytes of a normalised number, kept for the norm's weight: some families multiply before they lower."""
    return 4 if parts.shape.family in ("olmo2", "gemma", "gemma2") else usual


def cache_bytes(parts: Parts) -> int:
    """Bytes a token of one block's keys, or its values, which the model returns unless told not to."""
    return (4 if parts.full and parts.mixed else parts.compute_bytes) * parts.shape.keys


def gradients_in_flight(parts: Parts) -> Line:
    """Gradients on their way through the last product of a block, while all that the block kept is still there."""
    shape, roles = parts.shape, parts.blocks[-1]
    sizes = [parts.stream_bytes * shape.hidden] * 2 + [parts.compute_bytes * shape.inner]
    if "mlp.down_proj" in roles.adapted:
        sizes += [4 * shape.inner] * (2 if parts.method.dropout else 1)
    tensors = Counter(size * parts.tokens for size in sizes)
    if "mlp.down_proj" in roles.whole:
        tensors[parts.whole_bytes * shape.hidden * shape.inner] += 1
    return Line("temporaries", "gradients on their way through one block", tensors)


def scratch(parts: Parts) -> list[Line]:
    """The most that is made and thrown away inside of a block: DoRA's norm, or unpacked 4-bit weights."""
    if parts.method.dora:
        adapted = frozenset[str]().union(*(roles.adapted for roles in parts.blocks))
        return [max((_dora(parts, name) for name in adapted), key=lambda line: line.bytes)]
    if not parts.quantized:
        return []
    size = max(map(math.prod, parts.shape.linear.values()))
    words = "the largest layer's weights, unpacked, and their scales"
    scales = stored_parts(size, "nf4", BLOCK_4BIT, double_quantization=True)["scales"]
    return [Line("temporaries", words, Counter([parts.frozen_bytes * size, 4 * scales]))]


def _dora(parts: Parts, name: str) -> Line:
    """DoRA makes the whole update to find its norm: the identity times A and B, the weights, and their sum.

    Its result is then put together from three parts in float32.
    """
    out, width = parts.shape.linear[name]
    low = 2 if parts.mixed else 4
    copies = [4 * out * width] * (3 if parts.frozen_bytes == 4 else 4) + [4 * out * parts.tokens] * 3
    if parts.mixed:
        copies += [2 * out * width, 4 * width * parts.tokens]
    return Line("temporaries", "DoRA's norm of a whole layer", Counter([low * width * width, *copies]))


def _trained_norms(parts: Parts) -> list[str]:
    """Full names of the blocks' normalisations that are trained."""
    names = parameters_outside(parts.shape)
    return [name for name in names if name.startswith("model.layers.") and trains_whole(parts.method, name)]


def _norm_input(parts: Parts, name: str) -> int:
    """Bytes a token that a norm keeps for the gradient of its weight."""
    shape = parts.shape
    width = {"q_norm": shape.queries, "k_norm": shape.keys}.get(name.rpartition(".")[2], shape.hidden)
    return normed_bytes(parts, parts.stream_bytes if width == shape.hidden else parts.compute_bytes) * width


def _lowered_again(parts: Parts, roles: Roles) -> list[Line]:
    if not (parts.mixed and parts.setup.checkpointing):
        return []
    sizes = Counter(2 * number for number in chain(*trained_in(parts.shape, parts.method, roles)))
    return [Line("activations", LOWERED, sizes)]


def _inputs(parts: Parts, names: tuple[str, ...], roles: Roles) -> list[int]:
    """Bytes a token that products keep of the tensor that they all read: itself, or copies in another dtype."""
    width = parts.shape.linear[names[0]][1]
    of_adapters = [name for name in names if name in roles.adapted]
    of_whole = [name for name in names if name in roles.whole]
    itself, copies = False, []
    if of_whole:
        # Autocast lowers what comes out of a norm once for each product; the other two come in bfloat16.
        if parts.mixed and parts.stream_bytes == 4 and len(names) > 1:
            copies += [2 * width] * len(of_whole)
        else:
            itself = True
    for _ in of_adapters:
        if parts.method.dropout:
            copies += [width, (2 if parts.mixed else 4) * width]
        elif parts.compute_bytes == 4 or (parts.quantized and parts.mixed):
            itself = True
        else:
            copies.append((2 if parts.mixed else 4) * width)
    # The result of attention is kept by attention itself.
    return copies + ([parts.compute_bytes * width] if itself and names != READERS[1] else [])


def _kept_by_attention(parts: Parts) -> list[int]:
    """Bytes a token of each tensor that attention keeps, by its kernel."""
    shape, setup = parts.shape, parts.setup
    size = 2 if parts.mixed else parts.compute_bytes
    if setup.attention == "flash":
        return [size * shape.queries, size * shape.keys, size * shape.keys, size * shape.queries, 4 * shape.heads]
    sizes = [size * shape.queries] * 4
    if shape.heads != shape.key_heads and not setup.checkpointing:
        sizes += [cache_bytes(parts)] * 2  # beside their repetitions
    scores = shape.heads * setup.sequence_length
    if setup.attention == "eager":
        capped = [size * scores] if shape.capped_scores else []
        return [*sizes, *capped, 4 * scores, *([2 * scores] if size == 2 else [])]
    return [*sizes, size * setup.sequence_length, 4 * shape.heads]
