"""One optimisation step: its settings, micro-batches, forward, backward and update, and the check of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from accelerate import Accelerator
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from workbench.adapters.batched import set_slices, slice_losses, stack
from workbench.adapters.methods import Method
from workbench.errors import TrainingError
from workbench.models.padding_free import completion_logits, leaves_padding_out
from workbench.seeds import TORCH_SEEDS
from workbench.tasks.encoding import Encoded, collate, each_batch
from workbench.training.runs import Run

Model: TypeAlias = PreTrainedModel | PeftModel
Batch = dict[str, torch.Tensor]  # as `tasks.collate` makes it
MOST_ROWS = 1_000_000  # of a step, which are held in memory at once
PAD_ID = 0  # any token of the vocabulary does: rows are padded on the right, where causal attention does not look


@dataclass(frozen=True)
class TrainConfig:
    """The settings that a fair comparison keeps the same for every method.

    steps: optimizer updates. batch_size: sequences in one micro-batch of one process; a step takes batch_size *
    accumulation * processes of them. seed: the order of the data. warmup: share of the steps over which the learning
    rate rises linearly; it then falls as a cosine. clip: largest norm of a gradient. weight_decay: AdamW's.
    checkpointing: recompute activations in the backward pass instead of keeping them. max_length: the most tokens of a
    row. evaluate: score before and after training. test_limit: the most test rows, pieces of general text and everyday
    facts to score. save: keep the adapter or checkpoint.
    Raises TrainingError for values that make no sense.
    """

    steps: int = 40
    batch_size: int = 16
    seed: int = 0
    accumulation: int = 1
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    checkpointing: bool = False
    max_length: int = 512
    evaluate: bool = True
    test_limit: int | None = None
    save: bool = True

    def __post_init__(self) -> None:
        counts = ["steps", "batch_size", "accumulation", "max_length"]
        counts += [] if self.test_limit is None else ["test_limit"]
        self._make_plain([*counts, "seed"], Integral, int, "a whole number")
        self._make_plain(["warmup", "clip", "weight_decay"], Real, float, "a number")
        for name in ("checkpointing", "evaluate", "save"):
            if not isinstance(getattr(self, name), bool):
                raise TrainingError(f"{name}={getattr(self, name)!r} must be True or False.")
        if self.seed not in TORCH_SEEDS:
            raise TrainingError(f"seed={self.seed} must be smaller; 0, 1, 2 do.")
        for name in counts:
            if getattr(self, name) < 1:
                raise TrainingError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.batch_size * self.accumulation > MOST_ROWS:
            raise TrainingError(
                f"batch_size * accumulation is {self.batch_size * self.accumulation:,} rows; 16 will do."
            )
        if not 0 <= self.warmup < 1:
            raise TrainingError(f"warmup={self.warmup} is a share of the steps: at least 0 and below 1.")
        if not 0 < self.clip < math.inf:  # a record in JSON could not hold infinity
            raise TrainingError(f"clip={self.clip:g} must be above 0 and finite; to clip nothing, use a large number.")
        if not 0 <= self.weight_decay < math.inf:
            raise TrainingError(f"weight_decay={self.weight_decay:g} must be at least 0 and finite.")

    def _make_plain(self, names: list[str], kind: type, plain: type, words: str) -> None:
        """Convert numbers to Python's own types, since JSON takes none of numpy's; raises TrainingError for others."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TrainingError(f"{name}={value!r} must be {words}.")
            try:
                object.__setattr__(self, name, plain(value))
            except OverflowError as error:
                raise TrainingError(f"{name} is larger than any float.") from error

    def learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 0; `step` counts from 0."""
        warmup_steps = self.warmup * self.steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, self.steps - warmup_steps)))


def adamw(model: nn.Module, method: Method, config: TrainConfig) -> torch.optim.AdamW:
    """The optimizer of every run, with the fused kernel on devices that have it.

    One group of parameters for each learning rate, which the group keeps as `peak_rate`: that of the method, that of B
    in LoRA+, and that of the modules which a hybrid trains in full. The method's own comes first.
    """
    groups: dict[float, list[nn.Parameter]] = {method.learning_rate: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(_peak_rate(name, method), []).append(parameter)
    filled = {rate: own for rate, own in groups.items() if own}
    device = next(iter(filled.values()))[0].device.type
    return torch.optim.AdamW(
        [{"params": own, "lr": rate, "peak_rate": rate} for rate, own in filled.items()],
        weight_decay=config.weight_decay,
        fused=device in ("cpu", "cuda", "mps", "xpu"),
    )


def _peak_rate(name: str, method: Method) -> float:
    """The learning rate of a parameter, before warm-up and decay."""
    if method.full_learning_rate is not None and "lora_" not in name:
        return method.full_learning_rate
    # DoRA's magnitudes go with B, as in PEFT's `create_loraplus_optimizer`.
    with_b = "lora_B" in name or "lora_magnitude" in name
    return method.learning_rate * (method.lora_plus if with_b else 1)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors of the optimizer's state (AdamW's moments and step counters); empty before its first step."""
    return [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]


@dataclass
class Slot:
    """One configuration in the loop: its record, its model, and what trains it.

    model: the PEFT wrapper around the shared base, or the copy that full fine-tuning trains. steps: for each step the
    micro-batches of this process and the completion tokens over all of them and all processes. longest: tokens of the
    largest micro-batch that may come. sliced: the adapter can be computed by `adapters.batched.multi_adapter_model`.
    """

    run: Run
    model: Model
    config: TrainConfig
    trained: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    steps: Iterator[tuple[list[Batch], int]]
    longest: int
    sliced: bool = False
    batches: list[Batch] = field(default_factory=list)  # the micro-batches of the present step,
    tokens: int = 0  # and their completion tokens

    def next_step(self) -> None:
        """Fetch the micro-batches of the next step."""
        self.batches, self.tokens = next(self.steps)


@dataclass
class Group:
    """Slots that share a forward pass, and the model that computes it.

    batched: the model is `adapters.batched.multi_adapter_model`, which gives each slot its own slice of the batch;
    otherwise it is the model of the only slot, as Accelerate has wrapped it.
    """

    model: nn.Module
    slots: list[Slot]
    batched: bool


def train_step(accelerator: Accelerator, group: Group, step: int) -> list[float]:
    """Forward and backward for the group, then clipping and an update for each slot.

    Returns each slot's loss before the update, in nats per completion token. A slot whose loss is not a number is not
    updated. step: counted from 0, for the learning rate; the gradients of step 0 are checked before the update.
    """
    losses = accelerator.reduce(backward(accelerator, group), "sum").tolist()
    if step == 0:
        for slot in group.slots:
            check_gradients(slot.model, scaled=accelerator.scaler is not None)
    for slot, loss in zip(group.slots, losses, strict=True):
        for group_of_rate in slot.optimizer.param_groups:
            group_of_rate["lr"] = group_of_rate["peak_rate"] * slot.config.learning_rate_factor(step)
        if math.isfinite(loss):
            accelerator.clip_grad_norm_(slot.trained, slot.config.clip)
            slot.optimizer.step()
        slot.optimizer.zero_grad(set_to_none=True)
    return losses


def backward(accelerator: Accelerator, group: Group) -> torch.Tensor:
    """Accumulate the gradients of all slots over their micro-batches; returns this process's share of the losses.

    Each slot's loss, of shape (slots,), is the sum over its completion tokens divided by their number in the whole
    step, so that it does not depend on how the rows are split into micro-batches and processes.
    """
    totals = torch.zeros(len(group.slots), device=accelerator.device)
    rounds = list(zip(*(slot.batches for slot in group.slots), strict=True))
    for index, parts in enumerate(rounds):
        batch, counts = stack(parts), [len(part["targets"]) for part in parts]
        if group.batched:
            longest = batch["input_ids"].shape[1]
            bare = leaves_padding_out(group.model, longest)
            set_slices(group.model, [len(p["real"]) if bare else len(p["input_ids"]) * longest for p in parts])
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        last = index == len(rounds) - 1
        with nullcontext() if last else accelerator.no_sync(group.model):
            with accelerator.autocast():
                logits = completion_logits(group.model, batch)
            losses = _losses(group, logits, batch["targets"], counts)
            del logits  # the largest tensor of the step, which the backward pass does not need
            # Gradients are averaged over processes; the loss is a sum over them.
            accelerator.backward(losses.sum() * accelerator.num_processes)
        totals += losses.detach()
    return totals


def _losses(group: Group, logits: torch.Tensor, targets: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """The loss of each slot, (slots,), from the logits of their completion tokens in order."""
    tokens = [slot.tokens for slot in group.slots]
    if group.batched:
        return slice_losses(logits, targets, counts, tokens)
    return F.cross_entropy(logits.float(), targets, reduction="sum").view(1) / tokens[0]


def micro_batches(
    rows: Sequence[Encoded], config: TrainConfig, process: int = 0, processes: int = 1
) -> Iterator[tuple[list[Batch], int]]:
    """For each step: the micro-batches of this process, and the step's completion tokens over all processes."""
    whole = config.batch_size * config.accumulation * processes
    for indices in each_batch(len(rows), whole, config.steps, config.seed):
        chosen = [rows[index] for index in indices]
        tokens = sum(row.completion_tokens for row in chosen)
        mine = chosen[process::processes]
        parts = [mine[i : i + config.batch_size] for i in range(0, len(mine), config.batch_size)]
        yield [collate(part, PAD_ID) for part in parts], tokens


def adapter_gradients(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """Name -> gradient of a batch's mean loss with respect to each adapter's B (that of A is zero while B is zero)."""
    F.cross_entropy(completion_logits(model.train(), batch).float(), batch["targets"]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name}


def check_gradients(model: nn.Module, scaled: bool = False) -> None:
    """Raise TrainingError if a trainable parameter has no gradient, one that is not finite, or one of zeros.

    Before the first update the gradient of A is zero by design, because B is; every other one must be non-zero.
    scaled: the loss was scaled for float16, whose first gradients may overflow (the scaler then lowers the scale).
    """
    faults = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        gradient = parameter.grad
        if gradient is None:
            faults.append(f"{name} (none)")
        elif not scaled and not torch.isfinite(gradient).all():
            faults.append(f"{name} (not finite)")
        elif "lora_A" not in name and not gradient.any():
            faults.append(f"{name} (all zero)")
    if faults:
        raise TrainingError(
            f"{len(faults)} trainable parameters get no usable gradient, first {faults[0]}; nothing was trained. "
            "Load the base through load_base(), and check that no frozen or skipped layer cuts the gradient off. Where "
            "text does not reach them, such as attention to an encoder, take lora() instead of full()."
        )
