"""The input of every memory prediction: the configuration of a model, and the settings of its training step."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from workbench.adapters.methods import Method
from workbench.console import first_line
from workbench.errors import MemoryModelError
from workbench.models import catalogue
from workbench.models.base import Base

# bitsandbytes' storage formats. The constants are not in `fake_kernels`, so that the closed form need not import
# bitsandbytes.
BLOCK_4BIT = 64  # weights that share one scale in 4-bit storage
CODE_BOOK_VALUES = 16 + 256  # float32 values in the two code books of a 4-bit layer: of its weights and of its scales
BLOCK_8BIT = 256  # values that share one scale in the state of the 8-bit optimizers
SMALLEST_8BIT = 4096  # the state of parameters with fewer elements stays in float32

Source: TypeAlias = str | os.PathLike[str] | PreTrainedConfig | Base  # what a model's configuration can be read from


@dataclass(frozen=True)
class Setup:
    """The settings of one training step.

    method: of `workbench.adapters.methods`. batch_size, sequence_length: of one padded batch, in sequences and tokens.
    dtype: "bfloat16": everything in bfloat16, also in full fine-tuning, except adapters, which PEFT keeps in float32;
    qlora's base is prepared by `prepare_model_for_kbit_training`. "mixed", as `workbench.train` does: trained weights
    are kept in float32, and computed with in bfloat16 under autocast. "float32": everything in float32.
    optimizer: "adamw" (torch's default on a GPU, foreach), "adamw_fused", or "adamw8bit" (bitsandbytes).
    attention: "sdpa" for the kernel that torch's sdpa takes on a GPU for a padded batch (memory-efficient attention
    with a mask), "flash" for batches without a mask, or "eager" (which stores the whole matrix of scores).
    checkpointing: recompute activations in the backward pass. device: "cuda", or "cpu" for a step on this machine.

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

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method):
            raise MemoryModelError(f"method={self.method!r} must be a method, e.g. lora() or full().")
        for name, known in (
            ("dtype", ("bfloat16", "mixed", "float32")),
            ("optimizer", ("adamw", "adamw_fused", "adamw8bit")),
            ("attention", ("sdpa", "flash", "eager")),
            ("device", ("cuda", "cpu")),
        ):
            if getattr(self, name) not in known:
                raise MemoryModelError(f"{name}={getattr(self, name)!r} is not known; use one of {', '.join(known)}.")
        for name in ("batch_size", "sequence_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MemoryModelError(f"{name}={value!r} must be a whole number of at least 1.")
        if self.method.name == "qlora" and self.method.dora:
            raise MemoryModelError("DoRA on 4-bit weights is not modelled; use lora(dora=True), or qlora() without.")
        if self.device == "cpu" and self.attention == "flash":
            raise MemoryModelError("attention='flash' names a GPU kernel: use attention='sdpa' with device='cpu'.")

    @property
    def tokens(self) -> int:
        """Tokens of one step, padding included."""
        return self.batch_size * self.sequence_length

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


def shipped() -> list[str]:
    """Names of the models whose configuration ships in data/models: all of `catalogue`."""
    return catalogue.names()


def model_config(model: Source) -> PreTrainedConfig:
    """The transformers configuration of `model`.

    model: a name or a Hub id of `catalogue`, another Hub id that is in the local cache or can be fetched, a directory
    with a config.json, the path of such a file, a configuration, or a loaded base.

    Raises MemoryModelError if there is no such model, or if its configuration cannot be read.
    """
    if isinstance(model, Base):
        model = model.model.config
    if isinstance(model, PreTrainedConfig):
        return _text_part(model)
    if isinstance(model, str | os.PathLike):
        return _read(os.fspath(model))
    raise MemoryModelError(
        f"A model cannot be given as {type(model).__name__}; give a name like 'llama-3.2-1b', a Hub id, the path of a "
        "config.json or of its folder, a transformers configuration, or a base from load_base()."
    )


def model_name(model: Source) -> str:
    """A name for reports: `model` itself if it is a name or a path, a base's name, or a configuration's model_type."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    return model.name if isinstance(model, Base) else model.model_type


def language_model(config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """A language model with the given configuration, built on torch's default device.

    config: is copied, because building a model changes its configuration. options: of
    `AutoModelForCausalLM.from_config`. Raises MemoryModelError if transformers cannot build the model.
    """
    try:
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    except Exception as error:  # the code of each family raises its own exceptions
        raise MemoryModelError(
            f"transformers cannot build {config.model_type!r} as a language model: {first_line(error)[:160]}"
        ) from error


def meta_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The language model with the given configuration on the meta device: shapes, but no weights.

    Models are cached, so do not change what this returns. Raises MemoryModelError if transformers cannot build it.
    """
    # mypy does not accept a class as a hashable argument of a cached function.
    return _meta_model(type(config), config.to_json_string(use_diff=False))  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _meta_model(kind: type[PreTrainedConfig], fields: str) -> PreTrainedModel:
    with torch.device("meta"):
        return language_model(kind.from_dict(json.loads(fields)))


def _read(name: str) -> PreTrainedConfig:
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file() and (known := catalogue.find(name)):
        path = known.config_file
    if path.is_file():
        return _from_file(path.absolute(), path.stat().st_mtime_ns)
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise MemoryModelError(
            f"No model {name!r}: it is neither a file, nor a folder with a config.json, nor a Hub id like 'org/name'; "
            f"names known here: {', '.join(shipped())}."
        )
    try:
        return _text_part(AutoConfig.from_pretrained(name, trust_remote_code=False))
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        first = first_line(error)[:160]
        raise MemoryModelError(
            f"The configuration of {name!r} is neither in the local cache nor could it be downloaded ({first}); "
            "give the path of its config.json, or try again with a network connection."
        ) from error


@lru_cache(maxsize=64)
def _from_file(path: Path, _modified: int) -> PreTrainedConfig:
    """_modified: the file's modification time, as part of the cache's key, so that an edited file is read again."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MemoryModelError(f"{path} is not a JSON file: {error}") from error
    return _text_part(_from_fields(fields, path))


def _from_fields(fields: object, path: Path) -> PreTrainedConfig:
    if not isinstance(fields, dict) or fields.get("model_type") is None:
        raise MemoryModelError(f"{path} has no model_type; give the config.json of a transformers model.")
    try:
        return AutoConfig.for_model(**fields)
    except Exception as error:  # each family validates its fields with other exceptions
        kind, first = fields["model_type"], first_line(error)[:200]
        raise MemoryModelError(f"transformers cannot read {path}, a {kind!r} model: {first}") from error


def _text_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """The language model's part of a multimodal configuration; other configurations as they are."""
    return config.get_text_config()
