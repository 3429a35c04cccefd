"""The forward pass of a step with each way to compute the loss, and the batch that goes into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from peft import PeftModel
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from workbench.memory.setup import LOSS_CHUNKS, Setup
from workbench.memory.steps.fake_kernels import FakeFusedLoss
from workbench.memory.steps.fake_model import TrainedModule


@dataclass
class Outputs:
    """The loss of a step, and what a loop holds with it: logits, and the cache of keys and values."""

    loss: Tensor
    logits: Any = None
    cache: Any = None


def make_batch(setup: Setup, vocabulary: int, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Token ids, mask and labels of a batch, each (batch_size, sequence_length); of packed rows (1, tokens)."""
    ids = torch.randint(0, vocabulary, setup.rows, device=device)
    mask = torch.ones(setup.rows, dtype=torch.long, device=device)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}
    if setup.packed:
        batch["position_ids"] = torch.arange(setup.tokens, device=device)[None] % setup.sequence_length
    return batch


def forward(model: TrainedModule, batch: dict[str, Tensor], setup: Setup) -> Outputs | CausalLMOutputWithPast:
    """The outputs of a step, with its loss.

    loss="whole" is the model's own, for which it converts the logits to float32. If `setup.keep_outputs`, the cache of
    keys and values is on, because most loops do not pass `use_cache=False`: to follow such a loop, keep the outputs
    until the next call has returned, as `outputs = model(**batch)` does. Otherwise the outputs hold the loss alone.
    """
    options = {} if setup.keep_outputs else {"use_cache": False}
    device = batch["input_ids"].device.type
    with autocast(setup.device, device) if setup.dtype == "mixed" else nullcontext():
        outputs = model(**batch, **options) if setup.loss == "whole" else _loss_in_parts(model, batch, setup, options)
        return outputs if setup.keep_outputs else Outputs(outputs.loss)


@contextmanager
def autocast(device: str, where: str) -> Iterator[None]:
    """Autocast to bfloat16 on the device type `where` of the tensors: for fake ones "cpu", also if `device` is "cuda".

    PEFT asks whether autocast is enabled for CUDA; with "cuda" the answer is yes.
    """
    if where != "cpu":
        with torch.autocast(where, torch.bfloat16):
            yield
        return
    with torch.autocast("cpu", torch.bfloat16), cuda_autocast(device == "cuda"):
        yield


@contextmanager
def cuda_autocast(enabled: bool) -> Iterator[None]:
    """What the question whether autocast is enabled for CUDA is answered meanwhile.

    On a GPU checkpointing restores it when it recomputes a block, but for tensors on the CPU it asks for "cpu" only.
    """
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", enabled)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)


def _loss_in_parts(model: TrainedModule, batch: dict[str, Tensor], setup: Setup, options: dict[str, bool]) -> Outputs:
    """The mean loss per token, from the last hidden states and the output head."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    decoded = inner.base_model(**inputs, **options)
    hidden = decoded.last_hidden_state.flatten(0, 1)
    targets = F.pad(batch["labels"], (0, 1), value=-100)[:, 1:].flatten()
    cache = decoded.past_key_values
    head, cap = inner.get_output_embeddings(), getattr(inner.config, "final_logit_softcapping", None)
    if setup.loss == "fused":
        return Outputs(FakeFusedLoss.apply(hidden, head.weight), cache=cache)
    parts = [head(part) for part in hidden.chunk(LOSS_CHUNKS)]
    if cap:
        parts = [torch.tanh(part / cap) * cap for part in parts]
    losses = [
        F.cross_entropy(part.float(), target, reduction="sum")
        for part, target in zip(parts, targets.chunk(LOSS_CHUNKS), strict=True)
    ]
    return Outputs(torch.stack(losses).sum() / len(targets), parts, cache)
