"""`estimate`: training memory as a sum of terms: model states, what each block saves for the backward pass, the logits.

A step may peak at several moments, such as the loss or the optimizer's update. The terms of each are summed up, and the
largest sum is the peak. `simulate` checks every term.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Unpack

from workbench.adapters.methods import Method
from workbench.errors import MemoryModelError
from workbench.memory.allocator import segments_bytes
from workbench.memory.configs import Source, model_config, model_name, towers_of
from workbench.memory.formula.block_memory import lowest_block_with_gradient, norm_output_bytes, saved_by_blocks
from workbench.memory.formula.block_moments import (
    AUTOCAST_COPIES,
    block_at_scores,
    block_in_backward,
    largest_block,
    largest_temporaries,
    layers_before_scores,
    passing_block,
)
from workbench.memory.formula.loss_memory import logits_in_backward, logits_in_forward, previous_outputs
from workbench.memory.formula.model_states import (
    gradients,
    gradients_above,
    head_gradient,
    new_gradients,
    resident,
)
from workbench.memory.formula.trained_model import (
    Term,
    TrainedModel,
    term_of_tensor,
    term_per_token,
    trained_model,
    trains_in_full,
)
from workbench.memory.report import COMPONENTS, CONTEXT_BYTES, CUBLAS_BYTES, EAGER_ONLY, MemoryReport, validation
from workbench.memory.setup import Setup, SetupFields, as_setup
from workbench.memory.shapes import shape_of
from workbench.memory.sharding import STATES, gathered, split, whole_gradients

TIED_GRADIENT = "second gradient of the tied embeddings"
# Copies of whole weights; sharding leaves those of one block at a time.
WEIGHT_COPIES = (AUTOCAST_COPIES, TIED_GRADIENT)
FOREACH_TEMPORARIES = "sqrt(exp_avg_sq), the foreach temporaries"  # sharded like the optimizer state

Moments = dict[tuple[str, str], list[Term]]  # (phase, moment) -> the terms on top of `resident`


def estimate(model: Source, setup: Setup | Method, *fields: Any, **named: Unpack[SetupFields]) -> MemoryReport:
    """The report of `simulate` in closed form, in milliseconds; its `terms` say what was added up. For GPUs only.

    setup: a `Setup`, or a method followed by the other fields of a Setup, in their order or by name. Raises
    MemoryModelError for device="cpu" and for architectures that it does not support (`simulate` may support them), and
    MethodError if the method does not fit the model.
    """
    setup = as_setup(setup, *fields, **named)
    if setup.device != "cuda":
        raise MemoryModelError("estimate() describes a GPU; for device='cpu' use simulate().")
    started = time.perf_counter()
    config, towers = model_config(model), towers_of(model)
    shape = shape_of(config)
    trained = trained_model(shape, setup)
    always, moments = resident(trained), moments_of(trained)
    if towers.weights:
        always.append(term_of_tensor("weights", "parts that text does not reach", towers.bytes(setup)))
    held = {moment: _on_one_gpu(trained, moment, [*always, *terms]) for moment, terms in moments.items()}
    sums = {moment: _bytes(terms) for moment, terms in held.items()}
    highest = max(sums, key=sums.__getitem__)
    terms = [*held[highest], term_of_tensor("temporaries", "cuBLAS workspace", CUBLAS_BYTES)]
    components, sizes = dict.fromkeys(COMPONENTS, 0), Counter[int]()
    for term in terms:
        components[term.component] += term.bytes
        sizes.update(term.tensors)
    remark = EAGER_ONLY if shape.capped_scores and setup.attention != "eager" else ""
    validated, note = validation(setup, config.model_type, remark, towers.words)
    return MemoryReport(
        model=model_name(model),
        setup=setup,
        config=config,
        components=components,
        peaks=_peaks(sums),
        peak_allocated_bytes=sum(components.values()),
        peak_reserved_bytes=segments_bytes(sizes),
        context_bytes=CONTEXT_BYTES,
        trainable_parameters=trained.trainable,
        seconds=time.perf_counter() - started,
        validated=validated,
        note=note,
        terms=[(term.words, term.bytes) for term in terms],
        moments=[_sharded_and_kept([*always, *terms]) for terms in moments.values()],
    )


def moments_of(model: TrainedModel) -> Moments:
    """The moments at which a step may peak, each with the terms on top of `resident`."""
    saved, outputs = saved_by_blocks(model), previous_outputs(model)
    copies, above = _autocast_copies(model, after_loss=False), [*saved, _after_last_block(model)]
    running = [passing_block(model)] if model.setup.checkpointing else []
    moments: Moments = {
        ("forward", "block"): [*saved, *copies, *outputs, *running, *largest_temporaries(model)],
        ("forward", "loss"): [*above, *copies, *logits_in_forward(model), *outputs],
        ("backward", "loss"): [*above, *_autocast_copies(model, after_loss=True), *logits_in_backward(model)],
        **_moments_of_blocks(model),
        ("backward", "end"): [*new_gradients(model), *outputs],
        ("optimizer", "update"): [*new_gradients(model), *outputs],
    }
    if model.full and model.shape.tied:
        size = model.trained_bytes * model.shape.embedding
        moments["backward", "end"].append(term_of_tensor("temporaries", TIED_GRADIENT, size))
    if model.setup.accumulate:
        moments |= _moments_of_sums(model, above)
    if model.setup.attention == "eager":
        moments |= _moments_of_scores(model)
    if model.setup.optimizer == "adamw":
        foreach = Term("temporaries", FOREACH_TEMPORARIES, gradients(model).tensors)
        moments["optimizer", "update"].append(foreach)
    return moments


def _moments_of_blocks(model: TrainedModel) -> Moments:
    """The backward pass of the highest block, while all others wait, and of the lowest, when most gradients exist."""
    lowest, outputs = model.blocks[lowest_block_with_gradient(model)], previous_outputs(model)
    at_lowest = [*gradients_above(model, lowest), *outputs]
    if model.setup.checkpointing:
        highest, waiting = largest_block(model), saved_by_blocks(model)
        sizes = [model.stream_bytes * model.shape.hidden]
        at_lowest.append(term_per_token(model, "activations", "input of the lowest block", sizes))
    else:
        highest = model.blocks[-1]
        waiting = [*saved_by_blocks(model, leave_out=1), *_autocast_copies(model, after_loss=False)]
    at_highest = [*waiting, *outputs, *head_gradient(model)]
    moments: Moments = {}
    for number, terms in enumerate(block_in_backward(model, highest)):
        moments["backward", f"block, {number}"] = [*at_highest, *terms]
    for number, terms in enumerate(block_in_backward(model, lowest)):
        moments["backward", f"lowest block, {number}"] = [*at_lowest, *terms]
    return moments


def _moments_of_sums(model: TrainedModel, above: list[Term]) -> Moments:
    """The gradients of head and embeddings, before they are added to those of earlier batches."""
    size = model.trained_bytes * model.shape.embedding
    new, outputs = term_of_tensor("temporaries", "gradient to be added", size), previous_outputs(model)
    moments: Moments = {}
    if trains_in_full(model.method, "lm_head"):
        logits = model.logit_bytes * model.tokens * model.shape.vocabulary
        gradient = term_of_tensor("logits", "gradient of the logits", logits)
        moments["backward", "head"] = [*above, *outputs, gradient, new]
    if trains_in_full(model.method, "model.embed_tokens") and not model.shape.tied:
        moments["backward", "embeddings"] = [*outputs, new]
    return moments


def _moments_of_scores(model: TrainedModel) -> Moments:
    """Eager attention makes whole matrices of scores, which with long rows are larger than the rest of a block."""
    lowest, outputs = model.blocks[lowest_block_with_gradient(model)], previous_outputs(model)
    copies = _autocast_copies(model, after_loss=False)
    if model.setup.checkpointing:
        block, saved, in_use = largest_block(model), saved_by_blocks(model), []
    else:
        block, saved, in_use = model.blocks[-1], saved_by_blocks(model, leave_out=1), copies
    backward = [*outputs, *head_gradient(model), *block_at_scores(model, block, backward=True)]
    above = gradients_above(model, layers_before_scores(lowest))
    return {
        ("forward", "scores"): [*saved, *copies, *outputs, *block_at_scores(model, block, backward=False)],
        ("backward", "scores"): [*saved, *in_use, *backward],
        ("backward", "lowest scores"): [*above, *outputs, *block_at_scores(model, lowest, backward=True)],
    }


def _on_one_gpu(model: TrainedModel, moment: tuple[str, str], terms: list[Term]) -> list[Term]:
    """The terms of a moment as each GPU has them, if the setup splits model states over several."""
    if not model.setup.sharded:
        return terms
    phase, _ = moment
    kept = split(terms, model.setup, also=(FOREACH_TEMPORARIES,))
    kept = [term for term in kept if term.words not in WEIGHT_COPIES]
    if phase == "optimizer":
        return kept
    return [*kept, *gathered(model), *(whole_gradients(model) if phase == "backward" else [])]


def _bytes(terms: Iterable[Term]) -> int:
    return sum(term.bytes for term in terms)


def _peaks(sums: dict[tuple[str, str], int]) -> dict[str, int]:
    """Phase -> the largest sum of its moments, with cuBLAS's workspace."""
    peaks: dict[str, int] = {}
    for (phase, _), size in sums.items():
        peaks[phase] = max(peaks.get(phase, 0), size + CUBLAS_BYTES)
    return peaks


def _sharded_and_kept(terms: Iterable[Term]) -> tuple[int, int]:
    """Bytes that sharding splits over GPUs, and bytes that it leaves on each, with cuBLAS's workspace."""
    sharded, kept = 0, CUBLAS_BYTES
    for term in terms:
        if term.component in STATES or term.words == FOREACH_TEMPORARIES:
            sharded += term.bytes
        elif term.words not in WEIGHT_COPIES:
            kept += term.bytes
    return sharded, kept


def _after_last_block(model: TrainedModel) -> Term:
    """What the last norm and the output head save, and the mask."""
    hidden = model.shape.hidden
    sizes = [4 * hidden]
    if model.full:
        sizes.append(norm_output_bytes(model, model.stream_bytes) * hidden)
    if trains_in_full(model.method, "lm_head"):
        sizes.append(model.compute_bytes * hidden)
    if model.setup.attention == "sdpa":
        sizes.append(model.setup.rows[1])
    return term_per_token(model, "activations", "after the last block", sizes)


def _autocast_copies(model: TrainedModel, after_loss: bool) -> list[Term]:
    """Copies of trained weights that autocast makes; those of checkpointed blocks are freed with the forward pass."""
    if not model.mixed:
        return []
    copied = model.adapter_weights + model.full_weights
    if trains_in_full(model.method, "model.embed_tokens") and not model.shape.tied:
        copied -= Counter([model.shape.embedding])  # looking up an embedding is not an autocast operation
    if after_loss and model.setup.checkpointing:
        copied = Counter([model.shape.embedding] if trains_in_full(model.method, "lm_head") else [])
    sizes = Counter({2 * number: count for number, count in copied.items()})
    return [Term("activations", AUTOCAST_COPIES, sizes)]
