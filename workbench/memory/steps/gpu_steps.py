"""Real training steps with random weights on a device: the peak of memory and the seconds, to compare predictions with.

Memory and time do not depend on the values of weights, so that nothing has to be downloaded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from workbench.errors import MemoryModelError
from workbench.memory.configs import language_model
from workbench.memory.setup import Setup
from workbench.memory.steps.fake_model import CHECKPOINTING, TrainedModule, base_dtype, prepare
from workbench.memory.steps.fake_steps import make_optimizer, update
from workbench.memory.steps.forward_pass import forward, make_batch
from workbench.memory.steps.real_steps import most_allocated, profiled, quantization_tensors
from workbench.models.cpu_kernels import plain
from workbench.models.quantized import keep_weights_unpacked
from workbench.training.peak_memory import LiveBytes

COUNTED_STEPS = 2  # of which the second has the optimizer's state, as in `simulate`


@dataclass(frozen=True)
class Measured:
    """What steps took. allocated_bytes: the peak of live tensors. reserved_bytes: what the allocator of a GPU reserved
    for COUNTED_STEPS steps, None on a CPU. step_seconds: the median of the timed steps."""

    allocated_bytes: int
    reserved_bytes: int | None
    step_seconds: float


def measured_steps(config: PreTrainedConfig, setup: Setup, device: torch.device, timed: int = 5) -> Measured:
    """Build the model with random weights on `device`, take COUNTED_STEPS steps for their memory and `timed` for time.

    Raises MemoryModelError for setups that one process cannot run, and torch.OutOfMemoryError if memory is short.
    """
    if setup.sharded or setup.loss == "fused":
        raise MemoryModelError("measured_steps() runs one process with torch's own loss: use gpus=1 and loss='whole'.")
    model = real_model(config, setup, device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(setup, trained, fake=False)
    batch = make_batch(setup, config.vocab_size, device)
    if setup.attention == "sdpa" and not setup.packed:  # a batch without padding would get a kernel without a mask
        batch["attention_mask"][0, -1], batch["labels"][0, -1] = 0, -100
    step = _Step(model, optimizer, trained, batch, setup)
    peak, reserved = _peaks(step, model, device)
    return Measured(peak, reserved, _seconds(step, device, timed))


def real_model(config: PreTrainedConfig, setup: Setup, device: torch.device) -> TrainedModule:
    """The model of `setup` with random weights on `device`, ready for training."""
    dtype = base_dtype(setup)
    with torch.device(device):
        model = language_model(config, dtype=dtype)
    model.tie_weights()
    plain(model).set_attn_implementation("eager" if setup.attention == "eager" else "sdpa")
    model.requires_grad_(False)
    if setup.method.name == "qlora":
        quantize(model, dtype, setup.double_quantization, device)
    trained = prepare(model, setup, dtype).train()
    if setup.checkpointing:
        trained.activation_checkpointing_enable(CHECKPOINTING)
    return trained


def quantize(model: PreTrainedModel, dtype: torch.dtype, double: bool, device: torch.device) -> None:
    """Store every linear layer but the output head in NF4, in place, as `load_base(..., quantization="nf4")` does."""
    import bitsandbytes as bnb

    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or layer is head:
            continue
        options = {"compute_dtype": dtype, "compress_statistics": double, "quant_type": "nf4"}
        stored = bnb.nn.Linear4bit(
            layer.in_features, layer.out_features, layer.bias is not None, device="meta", **options
        )
        weight = layer.weight.data.to("cpu")
        stored.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=double, quant_type="nf4")
        if layer.bias is not None:
            stored.bias = nn.Parameter(layer.bias.data, requires_grad=False)
        model.set_submodule(name, stored.to(device))
    keep_weights_unpacked(model)
    model.is_loaded_in_4bit = True


class _Step:
    """One step of the loop that `simulate` follows; calling it takes the step."""

    def __init__(
        self,
        model: TrainedModule,
        optimizer: torch.optim.Optimizer,
        trained: Sequence[nn.Parameter],
        batch: dict[str, torch.Tensor],
        setup: Setup,
    ) -> None:
        self.model, self.optimizer, self.trained, self.batch, self.setup = model, optimizer, trained, batch, setup
        self.outputs: object = None

    def __call__(self) -> None:
        outputs = forward(self.model, self.batch, self.setup)
        self.outputs = outputs if self.setup.keep_outputs else None
        loss = outputs.loss
        del outputs
        loss.backward()
        update(self.optimizer, self.trained)
        self.optimizer.zero_grad()


def _peaks(step: _Step, model: TrainedModule, device: torch.device) -> tuple[int, int | None]:
    """The peak of bytes allocated in COUNTED_STEPS steps, and on a GPU the bytes reserved after them."""
    if device.type != "cuda":
        before = LiveBytes([*model.parameters(), *model.buffers(), *quantization_tensors(model)]).now
        with profiled() as profile:
            for _ in range(COUNTED_STEPS):
                step()
        return before + most_allocated(profile), None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(COUNTED_STEPS):
        step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def _seconds(step: _Step, device: torch.device, timed: int) -> float:
    seconds = []
    for _ in range(timed):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return median(seconds)
