"""What the logits and their loss hold, by how the loss is computed, and what a loop keeps of the step before."""

from __future__ import annotations

import math
from collections import Counter

from workbench.memory.formula.block_memory import cache_bytes
from workbench.memory.formula.trained_model import (
    Term,
    TrainedModel,
    term_of_tensor,
    term_per_token,
    trains_in_full,
)
from workbench.memory.setup import LOSS_CHUNKS, fused_chunk


def logits_in_forward(model: TrainedModel) -> list[Term]:
    """The terms of the moment at which the loss is computed."""
    number, size = model.tokens * model.shape.vocabulary, model.logit_bytes
    if model.setup.loss == "fused":
        return _fused(model, backward=False)
    if model.setup.loss == "chunked":
        part = math.ceil(model.tokens / LOSS_CHUNKS) * model.shape.vocabulary
        copy = [4 * part] if size == 2 else []
        return [_term(model, "logits and log-softmax of all tokens", size * number, 4 * number, *copy), *_capped(model)]
    raised = [4 * number] if size == 2 else []
    return [_term(model, "logits and their log-softmax", size * number, *raised, 4 * number), *_capped(model)]


def logits_in_backward(model: TrainedModel) -> list[Term]:
    """The terms of the moment at which the loss passes its gradient to the logits: two gradients in float32."""
    number = model.tokens * model.shape.vocabulary
    if model.setup.loss == "fused":
        return _fused(model, backward=True)
    kept = [model.logit_bytes * number] if model.setup.keep_outputs else []
    if model.setup.loss == "chunked":
        part = 4 * math.ceil(model.tokens / LOSS_CHUNKS) * model.shape.vocabulary
        return [
            _term(model, "logits of all tokens, gradients of a part", *kept, 4 * number, part, part),
            *_capped(model),
        ]
    return [_term(model, "logits and their gradients", *kept, 4 * number, 4 * number, 4 * number), *_capped(model)]


def previous_outputs(model: TrainedModel) -> list[Term]:
    """What `outputs = model(**batch)` of the previous step holds until the call of the next step returns."""
    if not model.setup.keep_outputs:
        return []
    terms = []
    if model.setup.loss != "fused":
        size = model.logit_bytes * model.tokens * model.shape.vocabulary
        terms.append(term_of_tensor("logits", "logits of the previous step, not freed yet", size))
    if not model.setup.checkpointing:
        sizes = [cache_bytes(model)] * 2 * model.shape.layers
        words = "keys and values of the previous step, not freed yet"
        terms.append(term_per_token(model, "activations", words, sizes))
    return terms


def _fused(model: TrainedModel, backward: bool) -> list[Term]:
    """The gradient of the hidden states is made in the forward pass, chunk by chunk, and with it that of the head."""
    shape = model.shape
    terms = [term_per_token(model, "logits", "gradient of the last hidden states", [model.stream_bytes * shape.hidden])]
    if trains_in_full(model.method, "lm_head"):
        terms.append(term_of_tensor("gradients", "gradient of the output head", model.trained_bytes * shape.embedding))
    if not backward:
        chunk = fused_chunk(model.tokens, shape.vocabulary, shape.hidden) * shape.vocabulary * model.logit_bytes
        terms.append(term_of_tensor("logits", "logits of one chunk", chunk))
    return terms


def _capped(model: TrainedModel) -> list[Term]:
    if not model.shape.capped:
        return []
    return [term_of_tensor("logits", "capped logits", model.logit_bytes * model.tokens * model.shape.vocabulary)]


def _term(model: TrainedModel, words: str, *sizes: int) -> Term:
    """A term for the given tensors, in bytes."""
    each = sum(sizes) / (model.tokens * model.shape.vocabulary)
    words = f"{words}: {model.tokens:,} tokens x {model.shape.vocabulary:,} x {each:g} bytes"
    return Term("logits", words, Counter(sizes))
