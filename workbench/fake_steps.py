"""Two real training steps of a real model on fake tensors: every shape and lifetime, and no memory behind them.

The model is built by transformers and PEFT from its configuration alone. A dispatch mode writes down when each storage
comes and goes; nothing is computed, so a step of an 8B model takes seconds on a laptop.
"""

from __future__ import annotations

import copy
import math
import warnings
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate

import torch
from peft import get_peft_model, prepare_model_for_kbit_training
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights

from workbench import WorkbenchError
from workbench.machine import LiveBytes, first_line
from workbench.memory_setup import MemoryModelError, Setup
from workbench.methods import apply, peft_config
from workbench.models import Base
from workbench.quick import plain
from workbench.stand_ins import ATTENTION, FakeAdamW8bit, fuse_dropout, store_in_4_bits
from workbench.steps import optimizer_tensors

PHASES = ("forward", "backward", "optimizer")
# The random state cannot be read while tensors are fake; a few bytes.
CHECKPOINTING = {"use_reentrant": False, "preserve_rng_state": False}


@dataclass(eq=False)
class Storage:
    """One storage's life. born and died are positions in the record of events."""

    bytes: int
    born: int
    phase: str
    module: str
    block: Block | None
    last_size: int
    role: str = ""
    died: float = math.inf


@dataclass(eq=False)
class Block:
    """One run of one transformer block: what outlives it was kept for the backward pass."""

    ended: float = math.inf


class Recorder(TorchDispatchMode):
    """Writes down every storage that is made while it is active, and when it goes.

    events: (storage, comes) in order of time. Autograd adds the two gradients of a tied weight in place on real
    tensors, but out of place while a mode is active; such an addition is written down as what it stands for.
    """

    def __init__(self, trained_shapes: set[tuple[int, ...]]):
        super().__init__()
        self.trained_shapes = trained_shapes
        self.events: list[tuple[Storage, bool]] = []
        self.phase = ""
        self.modules: list[str] = [""]
        self.blocks: list[Block | None] = [None]
        self._alive: dict[int, Storage] = {}

    def begin(self, phase: str) -> int:
        """What follows belongs to `phase`; returns where in the events that is."""
        self.phase = phase
        return len(self.events)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.prim.device.default:  # most of the calls, and nothing is made
            return operation(*args)
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten.add.Tensor and self.phase == "backward" and self._adds_gradients(args):
            self._forget(args[0].untyped_storage()._cdata)
        tree_map_only(torch.Tensor, self.follow, result)
        return result

    def _adds_gradients(self, operands) -> bool:
        shapes = [tuple(part.shape) if isinstance(part, torch.Tensor) else None for part in operands]
        return shapes[0] == shapes[1] and shapes[0] in self.trained_shapes

    def follow(self, tensor: torch.Tensor, role: str = "") -> Storage:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            size = tensor.shape[-1] if tensor.dim() else 1
            made = Storage(
                storage.nbytes(), len(self.events), self.phase, self.modules[-1], self.blocks[-1], size, role
            )
            self._alive[key] = made
            self.events.append((made, True))
            weakref.finalize(storage, self._forget, key, made)
        return self._alive[key]

    def _forget(self, key: int, made: Storage | None = None) -> None:
        found = self._alive.get(key)
        if found is None or (made is not None and found is not made):
            return
        del self._alive[key]
        found.died = len(self.events)
        self.events.append((found, False))

    def watch(self, model: nn.Module) -> None:
        """Note which module and which transformer block is running."""

        def enter(name, is_block):
            def hook(*_):
                self.modules.append(name)
                self.blocks.append(Block() if is_block else self.blocks[-1])

            return hook

        def leave(is_block):
            def hook(*_):
                self.modules.pop()
                block = self.blocks.pop()
                if is_block:
                    block.ended = len(self.events)

            return hook

        blocks = {id(block) for module in model.modules() if isinstance(module, nn.ModuleList) for block in module}
        for name, module in model.named_modules():
            is_block = id(module) in blocks
            module.register_forward_pre_hook(enter(name, is_block))
            module.register_forward_hook(leave(is_block), always_call=True)


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
    except (ValueError, LookupError, AttributeError, TypeError, ImportError, RuntimeError, AssertionError) as error:
        if isinstance(error, WorkbenchError):
            raise
        first = first_line(error)[:160]
        raise MemoryModelError(
            f"transformers cannot build and train {family!r} as a language model: {first}"
        ) from error


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


def real_peak(base: Base, setup: Setup) -> int:
    """The same two steps for real: what the model holds, and the highest sum of the allocations beside it.

    The profiler does not tell of memory that goes if it came before the profile, so both steps are in it.
    """
    model = plain(apply(base, setup.method)).train()
    model.set_attn_implementation(ATTENTION[setup.attention, setup.device])
    if setup.checkpointing:
        model.activation_checkpointing_enable(CHECKPOINTING)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, batch = make_optimizer(setup, trained), make_batch(setup, model.config.vocab_size)
    before = LiveBytes([*model.parameters(), *model.buffers(), *quantization_tensors(model)]).now
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(2):
            outputs = forward(model, batch, setup)
            outputs.loss.backward()
            update(optimizer, trained)
            optimizer.zero_grad()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return before + max(accumulate(changes))


def quantization_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Scales and codes beside bitsandbytes' 4-bit weights."""
    states = [getattr(parameter, "quant_state", None) for parameter in model.parameters()]
    states += [state.state2 for state in states if state is not None and state.nested]
    return [value for state in states if state for value in vars(state).values() if torch.is_tensor(value)]


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
    method, config = setup.method, copy.deepcopy(config)  # building a model writes into its configuration
    whole = method.name == "full" and setup.dtype == "mixed"
    dtype = torch.float32 if whole or setup.dtype == "float32" else torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
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
