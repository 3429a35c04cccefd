"""Two real training steps of a real model on fake tensors: every shape and lifetime, and no memory behind them.

The model is built by transformers and PEFT from its configuration alone. A recorder writes down when each storage
comes and goes; nothing is computed, so a step of an 8B model takes seconds on a laptop.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from peft import get_peft_model, prepare_model_for_kbit_training
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from workbench.adapters.inject import peft_config
from workbench.console import first_line
from workbench.errors import MemoryModelError, WorkbenchError
from workbench.memory.fake_kernels import ATTENTION, FakeAdamW8bit, fuse_dropout, store_in_4_bits
from workbench.memory.recorder import Recorder, Storage
from workbench.memory.setup import Setup, language_model
from workbench.models.base import Base
from workbench.training.step import optimizer_tensors

PHASES = ("forward", "backward", "optimizer")
# The random state cannot be read while tensors are fake; a few bytes.
CHECKPOINTING = {"use_reentrant": False, "preserve_rng_state": False}


@dataclass(frozen=True)
class Steps:
    """What `fake_steps` found: the events, where the second step's phases begin and end, and the sizes to tell by."""

    events: list[tuple[Storage, bool]]
    bounds: dict[str, tuple[int, int]]
    middles: list[int]
    vocabulary: int
    trainable_parameters: int

    def middle_of(self, storage: Storage) -> int:
        """When the backward pass began, of the step that `storage` was made in."""
        return next((place for place in self.middles if place >= storage.born), 0)


def fake_steps(config: PreTrainedConfig, setup: Setup) -> Steps:
    """Two steps of the loop, from build to update. Raises MemoryModelError for what cannot be built or followed."""
    family = config.model_type
    try:
        with torch.device("meta"):
            model = build(config, setup)
        with FakeTensorMode():
            make_fake(model)
            return _follow(model, setup, config.vocab_size)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
        raise MemoryModelError(
            f"The steps of {family!r} depend on the numbers in its tensors, and fake tensors have none."
        ) from error
    except WorkbenchError:
        raise
    except (RuntimeError, ValueError) as error:  # of torch or PEFT; other kinds would be mistakes of ours
        raise MemoryModelError(f"A step of {family!r} does not run as configured: {first_line(error)[:160]}") from error


def _follow(model: nn.Module, setup: Setup, vocabulary: int) -> Steps:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, batch = make_optimizer(setup, trained), make_batch(setup, vocabulary)
    recorder = Recorder({tuple(parameter.shape) for parameter in trained if parameter.dim() == 2})
    recorder.watch(model)
    for name, parameter in model.named_parameters():
        recorder.follow(parameter, "adapters" if ".lora_" in name else "weights")
    for buffer in model.buffers():
        recorder.follow(buffer, "weights")
    marks = []
    outputs = None
    with recorder:
        for _ in range(2):
            marks.append(recorder.begin("forward"))
            outputs = forward(model, batch, setup)
            marks.append(recorder.begin("backward"))
            outputs.loss.backward()
            _refuse_idle(model)
            for parameter in trained:
                recorder.follow(parameter.grad).role = "gradients"
            marks.append(recorder.begin("optimizer"))
            update(optimizer, trained)
            for tensor in optimizer_tensors(optimizer):
                recorder.follow(tensor).role = "optimizer state"
            optimizer.zero_grad()
    events = list(recorder.events)  # before the model goes
    starts = marks[-3:]
    bounds = dict(zip(PHASES, zip(starts, [*starts[1:], len(events)], strict=True), strict=True))
    return Steps(events, bounds, [marks[1], marks[4]], vocabulary, sum(parameter.numel() for parameter in trained))


def _refuse_idle(model: nn.Module) -> None:
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if idle:
        raise MemoryModelError(
            f"{len(idle)} trainable parameters of {model.config.model_type!r}, {idle[0]} among them, get no gradient "
            "in the step that is followed here, a decoder's on tokens alone; train others, or another model."
        )


def forward(model: nn.Module, batch: dict[str, torch.Tensor], setup: Setup):
    """The model's own loss, whose logits are raised to float32. Nothing asks for `use_cache=False`: most loops do not.

    The caller keeps what comes back until the next call has returned, as `outputs = model(**batch)` in a loop does.
    """
    with autocast(setup.device) if setup.dtype == "mixed" else nullcontext():
        return model(**batch)


@contextmanager
def autocast(device: str):
    """Autocast for tensors on the CPU, which fake tensors claim to be, that PEFT takes for the GPU's where it asks."""
    with torch.autocast("cpu", torch.bfloat16):
        torch.set_autocast_enabled("cuda", device == "cuda")
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)


def update(optimizer, trained: list[nn.Parameter]) -> None:
    torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
    optimizer.step()


def make_batch(setup: Setup, vocabulary: int) -> dict[str, torch.Tensor]:
    """Token ids, labels and the mask of a padded batch, (batch_size, sequence_length) each."""
    size = (setup.batch_size, setup.sequence_length)
    ids = torch.randint(0, vocabulary, size)
    return {"input_ids": ids, "attention_mask": torch.ones(size, dtype=torch.long), "labels": ids.clone()}


def build(config: PreTrainedConfig, setup: Setup) -> nn.Module:
    """The model as `setup` trains it: quantized, with adapters, in its dtypes, checkpointed. Needs no weights."""
    with no_init_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 still reads names that transformers 5 has renamed
        return _build(config, setup)


def _build(config: PreTrainedConfig, setup: Setup) -> nn.Module:
    method = setup.method
    whole = method.name == "full" and setup.dtype == "mixed"
    dtype = torch.float32 if whole or setup.dtype == "float32" else torch.bfloat16
    model = language_model(config, dtype=dtype)
    model.tie_weights()
    kernel = ATTENTION[setup.attention, setup.device]
    model.set_attn_implementation(kernel)
    if model.config._attn_implementation != kernel:
        raise MemoryModelError(f"{config.model_type!r} takes no other attention than its own, which is not modelled.")
    model.requires_grad_(method.name == "full")
    if method.name == "qlora":
        store_in_4_bits(model)
        if setup.dtype != "mixed":
            prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if method.name != "full":
        base = Base(model, None, config.model_type, "", "config", "nf4" if method.name == "qlora" else None, dtype)
        model = get_peft_model(model, peft_config(base, method), low_cpu_mem_usage=True)
        if setup.dtype == "mixed":
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
    model.train()
    if setup.device == "cuda":
        fuse_dropout(model)
    if setup.checkpointing:
        model.activation_checkpointing_enable(CHECKPOINTING)
    return model


def make_fake(model: nn.Module) -> None:
    """Put a fake tensor in the place of every parameter and buffer on the meta device; what is tied stays tied."""
    made = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                tensors[name] = made[id(tensor)]


def make_optimizer(setup: Setup, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    if setup.optimizer == "adamw8bit":
        return FakeAdamW8bit(trained)
    # On a GPU torch takes foreach unless told otherwise.
    fused = setup.optimizer == "adamw_fused"
    return torch.optim.AdamW(trained, foreach=not fused, fused=fused)
