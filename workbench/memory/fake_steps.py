"""Two training steps of the real model on fake tensors, which have shapes and lifetimes but no contents.

transformers and PEFT build the model from its configuration. A recorder logs allocation and release of every storage.
Nothing is computed, so a step of an 8B model takes seconds on a laptop.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import CausalLMOutputWithPast

from workbench.adapters.adapter_files import BASE_PREFIX
from workbench.adapters.carriers import inject
from workbench.adapters.inject import peft_config
from workbench.errors import MemoryModelError, WorkbenchError
from workbench.memory.fake_kernels import (
    ATTENTION,
    FakeAdamW8bit,
    fuse_dropout,
    kept_unquantized,
    store_in_4_bits,
    with_own_forward,
)
from workbench.memory.recorder import Recorder, Storage
from workbench.memory.setup import Setup, language_model, quiet, shortened
from workbench.models.base import Base
from workbench.training.step import optimizer_tensors

PHASES = ("forward", "backward", "optimizer")
# The random state cannot be saved while tensors are fake; it has a few bytes.
CHECKPOINTING = {"use_reentrant": False, "preserve_rng_state": False}


TrainedModule: TypeAlias = PreTrainedModel | PeftModel


@dataclass(frozen=True)
class Steps:
    """The log of two training steps.

    events: (storage, whether it is an allocation). bounds: phase -> positions of its first event, and of the first
    event after it, in the second step. backward_starts: position at which each step's backward pass starts. remarks:
    what a reader of the figures should know of this model.
    """

    events: list[tuple[Storage, bool]]
    bounds: dict[str, tuple[int, int]]
    backward_starts: list[int]
    vocabulary: int
    trainable_parameters: int
    remarks: tuple[str, ...] = ()

    def backward_start(self, storage: Storage) -> int:
        """Where the first backward pass after the allocation of `storage` starts; 0 if there is none."""
        return next((start for start in self.backward_starts if start >= storage.allocated_at), 0)


def fake_steps(config: PreTrainedConfig, setup: Setup) -> Steps:
    """Build the model, take two steps and log them.

    Raises MemoryModelError if the model cannot be built, or its steps cannot run on fake tensors.
    """
    left_out: set[str] = set()
    while True:
        try:
            with quiet():
                return _fake_steps(config, setup, left_out)
        except UnfitLayersError as error:
            if setup.method.targets != "all-linear" or error.layers <= left_out:
                raise
            left_out |= error.layers


class UnfitLayersError(MemoryModelError):
    """Layers that cannot carry an adapter, by name: the model reads their weights, or their output is no tensor."""

    def __init__(self, words: str, layers: set[str]) -> None:
        super().__init__(words)
        self.layers = layers


def _fake_steps(config: PreTrainedConfig, setup: Setup, left_out: set[str]) -> Steps:
    family, odd = config.model_type, set[str]()
    try:
        with torch.device("meta"):
            model = build(config, setup, left_out)
        odd, remarks = with_own_forward(model), _remarks(model, setup, left_out)
        with FakeTensorMode():
            make_fake(model)
            return replace(_follow(model, setup, config.vocab_size), remarks=remarks)
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException) as error:
        raise MemoryModelError(
            f"simulate() does not support {family!r}: its steps depend on the contents of tensors, and fake tensors "
            "have none. Use another model."
        ) from error
    except WorkbenchError:
        raise
    except Exception as error:
        if not _raised_by_a_library(error):
            raise
        words = f"A step of {family!r} does not run as configured: {shortened(error)}"
        raise UnfitLayersError(words, odd) if odd else MemoryModelError(words) from error


def _raised_by_a_library(error: Exception) -> bool:
    """Whether code of torch, transformers or PEFT raised it; else it is a bug of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, RuntimeError | ValueError) or (bool(frames) and "site-packages" in frames[-1].filename)


def _remarks(model: TrainedModule, setup: Setup, left_out: set[str]) -> tuple[str, ...]:
    kinds = sorted({name.rpartition(".")[2] for name in left_out})
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    remarks = [kept_unquantized(inner)] if setup.method.name == "qlora" else []
    has_attention = any("att" in name for name, _ in inner.named_modules())
    if setup.attention != "eager" and has_attention and not inner._supports_sdpa:
        remarks.append("transformers by itself runs this family with eager attention")
    if kinds:
        remarks.append(f"{', '.join(kinds)} cannot carry adapters in some layers, and these are left out")
    return tuple(filter(None, remarks))


def _follow(model: TrainedModule, setup: Setup, vocabulary: int) -> Steps:
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
            _check_gradients(model)
            for parameter in trained:
                if parameter.grad is not None:
                    recorder.follow(parameter.grad).role = "gradients"
            marks.append(recorder.begin("optimizer"))
            update(optimizer, trained)
            for tensor in optimizer_tensors(optimizer):
                recorder.follow(tensor).role = "optimizer state"
            optimizer.zero_grad()
    events = list(recorder.events)  # without the release of the model itself
    starts = marks[-3:]
    bounds = dict(zip(PHASES, zip(starts, [*starts[1:], len(events)], strict=True), strict=True))
    return Steps(events, bounds, [marks[1], marks[4]], vocabulary, sum(parameter.numel() for parameter in trained))


def _check_gradients(model: TrainedModule) -> None:
    """Raise MemoryModelError if a trainable parameter has no gradient after the backward pass."""
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if idle:
        raise UnfitLayersError(
            f"{len(idle)} trainable parameters of {model.config.model_type!r}, {idle[0]} among them, get no gradient "
            "from a step of a decoder on tokens alone, which simulate() follows; train other modules or another model.",
            {name.removeprefix(BASE_PREFIX).partition(".lora_")[0] for name in idle if ".lora_" in name},
        )


def forward(model: TrainedModule, batch: dict[str, torch.Tensor], setup: Setup) -> CausalLMOutputWithPast:
    """The model's outputs with its own loss, for which it converts the logits to float32.

    The cache of keys and values is on, because most loops do not pass `use_cache=False`. To follow such a loop, keep
    the outputs until the next call has returned, as `outputs = model(**batch)` does.
    """
    with autocast(setup.device) if setup.dtype == "mixed" else nullcontext():
        return model(**batch)


@contextmanager
def autocast(device: str) -> Iterator[None]:
    """Autocast to bfloat16 for tensors on the CPU, where fake tensors are, also if `device` is "cuda".

    PEFT asks whether autocast is enabled for CUDA; with "cuda" the answer is yes.
    """
    with torch.autocast("cpu", torch.bfloat16):
        torch.set_autocast_enabled("cuda", device == "cuda")
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)


def update(optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter]) -> None:
    """Clip the gradients and take a step of the optimizer."""
    torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
    optimizer.step()


def make_batch(setup: Setup, vocabulary: int) -> dict[str, torch.Tensor]:
    """Token ids, mask and labels of a padded batch, (batch_size, sequence_length) each."""
    size = (setup.batch_size, setup.sequence_length)
    ids = torch.randint(0, vocabulary, size)
    return {"input_ids": ids, "attention_mask": torch.ones(size, dtype=torch.long), "labels": ids.clone()}


def build(config: PreTrainedConfig, setup: Setup, left_out: Collection[str] = ()) -> TrainedModule:
    """The model ready for training: quantized, with adapters, in its dtypes, checkpointed. Its weights are not set.

    left_out: layers that get no adapter.
    """
    with no_init_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 still reads names that transformers 5 has renamed
        masters = setup.method.name == "full" and setup.dtype == "mixed"
        dtype = torch.float32 if masters or setup.dtype == "float32" else torch.bfloat16
        model = _prepare(_build_base(config, setup, dtype), setup, dtype, left_out).train()
        if setup.device == "cuda":
            fuse_dropout(model)
        if setup.checkpointing:
            model.activation_checkpointing_enable(CHECKPOINTING)
    return model


def _build_base(config: PreTrainedConfig, setup: Setup, dtype: torch.dtype) -> PreTrainedModel:
    """The base in `dtype`, with the attention of the setup."""
    kernel = ATTENTION[setup.attention, setup.device]
    at_once = {"attn_implementation": kernel} if kernel == "eager" else {}  # some families cannot change it later
    model = language_model(config, dtype=dtype, **at_once)
    model.tie_weights()
    model.set_attn_implementation(kernel)
    if model.config._attn_implementation != kernel:
        remedy = "another model" if kernel == "eager" else "attention='eager'"
        raise MemoryModelError(
            f"simulate() does not support {config.model_type!r} with attention={setup.attention!r}: it only runs with "
            f"its own implementation. Use {remedy}."
        )
    return model


def _prepare(model: PreTrainedModel, setup: Setup, dtype: torch.dtype, left_out: Collection[str]) -> TrainedModule:
    """Quantize the base and add adapters, if the method does."""
    method = setup.method
    model.requires_grad_(method.name == "full")
    if method.name == "full":
        return model
    if method.name == "qlora":
        store_in_4_bits(model)
        if setup.dtype != "mixed":
            prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    base = Base(model, None, model.config.model_type, "", "config", method.base_quantization, dtype)
    adapters = peft_config(base, method)
    adapters.target_modules = set(adapters.target_modules or ()).difference(left_out)
    adapted = inject(model, adapters)
    if setup.dtype == "mixed":
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return adapted


def make_fake(model: nn.Module) -> None:
    """Replace every parameter and buffer on the meta device by a fake tensor; tied weights stay tied."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        registered: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in registered:
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                tensors[name] = made[id(tensor)]


def make_optimizer(setup: Setup, trained: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of the setup; the 8-bit one has the state of bitsandbytes' AdamW8bit, and updates nothing."""
    if setup.optimizer == "adamw8bit":
        return FakeAdamW8bit(trained)
    # foreach is torch's default on a GPU.
    fused = setup.optimizer == "adamw_fused"
    return torch.optim.AdamW(trained, foreach=not fused, fused=fused)
