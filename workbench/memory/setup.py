"""The input of every memory prediction: a model's configuration, without its weights, and how it is trained."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict, Unpack

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from workbench.adapters.methods import Method
from workbench.console import first_line
from workbench.errors import MemoryModelError
from workbench.models import catalogue
from workbench.models.base import Base

# What bitsandbytes stores. The constants are here, not beside its stand-ins, so that formulas need not import it.
BLOCK_4BIT = 64  # weights that share one scale in 4-bit storage
CODE_BOOK_VALUES = 16 + 256  # float32 values that each 4-bit layer keeps: of its weights' codes and its scales' codes
BLOCK_8BIT = 256  # values that share one scale in the 8-bit optimizers
SMALLEST_8BIT = 4096  # tensors of fewer numbers keep float32 state

Source = str | os.PathLike | PreTrainedConfig | Base  # of a model's configuration


@dataclass(frozen=True)
class Setup:
    """What is trained, and how.

    method: of `workbench.adapters.methods`. batch_size, sequence_length: of one padded batch.
    dtype: "bfloat16" is the plain loop: everything in bfloat16, full fine-tuning too, adapters alone in float32 (PEFT's
    default); qlora goes through `prepare_model_for_kbit_training`. "mixed" is what `workbench.train` does: whatever
    trains is kept in float32 and computed in bfloat16 under autocast. "float32" is all in float32.
    optimizer: "adamw" (torch's default on a GPU, foreach), "adamw_fused", or "adamw8bit" (bitsandbytes).
    attention: "sdpa" as torch does it on a GPU for a padded batch (a mask, the memory-efficient kernel), "flash" for
    batches without a mask, or "eager" (the whole matrix of scores).
    device: "cuda", or "cpu" to describe a run on this machine, whose kernels differ.

    Raises MemoryModelError for what cannot be.
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
        """Tokens of one step, padding among them."""
        return self.batch_size * self.sequence_length

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
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
    order or by name. Raises MemoryModelError for what cannot be, and TypeError for fields that a Setup does not have.
    """
    options: dict[str, Any] = {**named}
    if not isinstance(setup, Setup):
        return Setup(setup, *fields, **options)
    if fields:
        raise TypeError("After a Setup, give the fields to change by name, e.g. batch_size=8.")
    return replace(setup, **options)


def shipped() -> list[str]:
    """Names of the models whose configuration ships in data/models: all of `catalogue`."""
    return catalogue.names()


def model_config(model: Source) -> PreTrainedConfig:
    """The transformers configuration of `model`.

    model: a name or a Hub id of `catalogue`, another Hub id that is in the local cache or can be fetched, a directory
    with a config.json, the path of such a file, a configuration, or a loaded base.

    Raises MemoryModelError where there is none, or where it cannot be read.
    """
    if isinstance(model, Base):
        model = model.model.config
    if isinstance(model, PreTrainedConfig):
        return _text_part(model)
    if isinstance(model, str | os.PathLike):
        return _read(os.fspath(model))
    raise MemoryModelError(
        f"A model cannot be given as {type(model).__name__}; give a name like 'llama-3.2-1b', a Hub id, the path of a "
        "config.json or its folder, a transformers configuration, or what load_base() returned."
    )


def model_name(model: Source) -> str:
    """What `model` was asked for as: its name or path, the name of a loaded base, or a configuration's model_type."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    return model.name if isinstance(model, Base) else model.model_type


def language_model(config: PreTrainedConfig, **options) -> PreTrainedModel:
    """The language model that `config` describes; with no weights where the default device is meta.

    config: left as it is, though building writes into it. options: of `AutoModelForCausalLM.from_config`. Raises
    MemoryModelError where transformers cannot.
    """
    try:
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    except Exception as error:  # whatever a family's own code raises
        raise MemoryModelError(
            f"transformers cannot build {config.model_type!r} as a language model: {first_line(error)[:160]}"
        ) from error


def _read(name: str) -> PreTrainedConfig:
    path = Path(name).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file() and (known := catalogue.find(name)):
        path = known.config_file
    if path.is_file():
        return _from_file(path.absolute(), path.stat().st_mtime_ns)
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise MemoryModelError(
            f"No model {name!r}: no such file or folder with a config.json, and not a Hub id like 'org/name'; "
            f"names known here: {', '.join(shipped())}."
        )
    try:
        return _text_part(AutoConfig.from_pretrained(name, trust_remote_code=False))
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        first = first_line(error)[:160]
        raise MemoryModelError(
            f"The configuration of {name!r} is neither in the local cache nor could it be fetched and read ({first}); "
            "give the path of its config.json, or load it once with a network."
        ) from error


@lru_cache(maxsize=64)
def _from_file(path: Path, _changed: int) -> PreTrainedConfig:
    """_changed: when the file was, so that an edited one is read again."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MemoryModelError(f"{path} is no JSON file: {error}") from error
    return _text_part(_from_fields(fields, path))


def _from_fields(fields: object, path: Path) -> PreTrainedConfig:
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind is None:
        raise MemoryModelError(f"{path} names no model_type; give the config.json of a transformers model.")
    try:
        return AutoConfig.for_model(**fields)
    except Exception as error:  # each family checks its own fields in its own way
        first = first_line(error)[:200]
        raise MemoryModelError(f"transformers cannot read {path}, a {kind!r} model: {first}") from error


def _text_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """The language model's part of a multimodal configuration."""
    return config.get_text_config()
