"""The settings of a training step, the input of every memory prediction beside the model's configuration."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any, TypedDict, Unpack

from workbench.adapters.methods import Method
from workbench.errors import MemoryModelError

# bitsandbytes' storage formats. The constants are not in `fake_4bit`, so that the closed form need not import
# bitsandbytes.
BLOCK_4BIT = 64  # weights that share one scale in 4-bit storage
BLOCK_8BIT = 256  # values that share one scale in the state of the 8-bit optimizers
SMALLEST_8BIT = 4096  # the state of parameters with fewer elements stays in float32
SMALLEST_PAGED = 100_000  # the state of parameters with fewer elements stays on the GPU
LOSS_CHUNKS = 8  # of loss="chunked"

DTYPES = ("bfloat16", "mixed", "float32")
OPTIMIZERS = ("adamw", "adamw_fused", "adamw8bit", "paged_adamw", "paged_adamw8bit")
OF_TRAINER = "adamw_fused"  # the default of transformers' Trainer; torch's own copies what trains once more
KERNELS = ("sdpa", "flash", "eager")
LOSSES = ("whole", "chunked", "fused")
FLAGS = ("checkpointing", "packed", "prepared", "double_quantization", "keep_outputs", "offload", "accumulate")


@dataclass(frozen=True)
class Setup:
    """The settings of one training step.

    method: of `workbench.adapters.methods`. batch_size, sequence_length: of one padded batch, in sequences and tokens.
    dtype: "bfloat16": everything in bfloat16, also in full fine-tuning, except adapters, which PEFT keeps in float32.
    "mixed", as `workbench.train` does: trained weights are kept in float32, and computed with in bfloat16 under
    autocast. "float32": everything in float32.
    optimizer: "adamw" (torch's default on a GPU, foreach), "adamw_fused", or those of bitsandbytes: "adamw8bit", and
    "paged_adamw" (32 bits) and "paged_adamw8bit", whose state lies in memory that the driver moves between CPU and GPU.
    attention: "sdpa" for the kernel that torch's sdpa takes on a GPU for a padded batch (memory-efficient attention
    with a mask), "flash" for batches without a mask, or "eager" (which stores the whole matrix of scores).
    checkpointing: recompute activations in the backward pass. device: "cuda", or "cpu" for a step on this machine.
    loss: "whole" as in transformers: float32 logits of all tokens. "chunked" as in torchtune and LitGPT: 16-bit logits
    of all tokens, converted in LOSS_CHUNKS parts. "fused" as in Liger: no more logits at once than hidden states.
    packed: the rows of the batch follow one another in one row without padding, as padding-free collators make it; a
    kernel with a mask then needs one for all pairs of tokens. adapter_dtype: "bfloat16" is pure bfloat16
    (`autocast_adapter_dtype=False`). prepared: qlora's base goes through `prepare_model_for_kbit_training`, which
    converts all but the 4-bit weights to float32; it has no effect with "mixed". double_quantization: the scales of its
    weights are stored in 8 bits instead of 32.
    keep_outputs: the loop keeps logits and the cache of keys and values until the next call returns, as
    `outputs = model(**batch)` does; False: there is no cache and logits are dropped at once, as in transformers'
    Trainer. gpus: GPUs over which FSDP (or ZeRO stage 3) splits the model states, each with a batch of its own.
    offload: the split states are kept in the CPU's memory. accumulate: each update uses the gradients of several
    batches, so that those of earlier batches are kept during forward and backward pass.

    Raises MemoryModelError for unknown values and for combinations that cannot be predicted.
    """

    method: Method
    batch_size: int = 4
    sequence_length: int = 512
    dtype: str = "bfloat16"
    optimizer: str = "adamw"
    checkpointing: bool = False
    attention: str = "sdpa"
    device: str = "cuda"
    loss: str = "whole"
    packed: bool = False
    adapter_dtype: str = "float32"
    prepared: bool = True
    double_quantization: bool = True
    keep_outputs: bool = True
    gpus: int = 1
    offload: bool = False
    accumulate: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method):
            raise MemoryModelError(f"method={self.method!r} must be a method, e.g. lora() or full().")
        for name, known in (
            ("dtype", DTYPES),
            ("optimizer", OPTIMIZERS),
            ("attention", KERNELS),
            ("device", ("cuda", "cpu")),
            ("loss", LOSSES),
            ("adapter_dtype", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in known:
                raise MemoryModelError(f"{name}={getattr(self, name)!r} is not known; use one of {', '.join(known)}.")
        for name in ("batch_size", "sequence_length", "gpus"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise MemoryModelError(f"{name}={value!r} must be a whole number of at least 1.")
            object.__setattr__(self, name, int(value))  # JSON takes none of numpy's numbers
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise MemoryModelError(f"{name}={getattr(self, name)!r} must be True or False.")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.method.name == "qlora" and self.method.dora:
            raise MemoryModelError("DoRA on 4-bit weights is not modelled; use lora(dora=True), or qlora() without.")
        if self.device == "cpu" and self.attention == "flash":
            raise MemoryModelError("attention='flash' names a GPU kernel: use attention='sdpa' with device='cpu'.")
        if self.device == "cpu" and self.loss == "fused":
            raise MemoryModelError("loss='fused' names a GPU kernel: use loss='chunked' with device='cpu'.")
        if self.device == "cpu" and (self.gpus > 1 or self.offload):
            raise MemoryModelError("gpus= and offload= describe GPUs: leave them out with device='cpu'.")
        if self.adapter_dtype == "bfloat16" and (self.dtype != "bfloat16" or self.method.dora):
            raise MemoryModelError(
                "adapter_dtype='bfloat16' is modelled for dtype='bfloat16' without DoRA: leave it out, or change those."
            )

    @property
    def tokens(self) -> int:
        """Tokens of one step on one GPU, padding included."""
        return self.batch_size * self.sequence_length

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of the batch as the model sees it, and the tokens of each."""
        return (1, self.tokens) if self.packed else (self.batch_size, self.sequence_length)

    @property
    def sharded(self) -> bool:
        """Whether model states are split over GPUs, or kept in the CPU's memory."""
        return self.gpus > 1 or self.offload

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"method": self.method.to_dict()}


class SetupFields(TypedDict, total=False):
    """The fields of `Setup` after the method, as keyword arguments."""

    batch_size: int
    sequence_length: int
    dtype: str
    optimizer: str
    checkpointing: bool
    attention: str
    device: str
    loss: str
    packed: bool
    adapter_dtype: str
    prepared: bool
    double_quantization: bool
    keep_outputs: bool
    gpus: int
    offload: bool
    accumulate: bool


def as_setup(setup: Setup | Method, *fields: Any, **named: Unpack[SetupFields]) -> Setup:
    """The `Setup` of a call such as `estimate(model, lora(), 4, 512, dtype="mixed")` or `estimate(model, setup)`.

    setup: a Setup, of which `named` replaces fields, or a Method, followed by the other fields of a Setup in their
    order or by name. Raises MemoryModelError as `Setup` does, and TypeError for fields that a Setup does not have.
    """
    options: dict[str, Any] = {**named}
    if not isinstance(setup, Setup):
        return Setup(setup, *fields, **options)
    if fields:
        raise TypeError("After a Setup, pass the fields to change by name, e.g. batch_size=8.")
    return replace(setup, **options)


def code_book_values(double_quantization: bool) -> int:
    """Float32 values in the code books of a 4-bit layer: of its weights, and with double quantization of its scales."""
    return 16 + (256 if double_quantization else 0)


def fused_chunk(tokens: int, vocabulary: int, hidden: int) -> int:
    """Tokens whose logits loss="fused" makes at once: a power of 2, so that they take about the hidden states' room.

    From `fused_linear_cross_entropy_forward` in linkedin/Liger-Kernel.
    """
    parts = math.ceil(vocabulary / hidden)
    return min(tokens, 2 ** math.ceil(math.log2(math.ceil(tokens / parts))))
