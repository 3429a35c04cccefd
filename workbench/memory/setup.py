"""The input of every memory prediction: the configuration of a model, and the settings of its training step."""

from __future__ import annotations

import copy
import json
import logging
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

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
    """The transformers configuration of `model`; of a multimodal one, the language model's part.

    model: a name or a Hub id of `catalogue`, another Hub id that is in the local cache or can be fetched, a directory
    with a config.json, the path of such a file, a configuration, or a loaded base.

    Raises MemoryModelError if there is no such model, or if its configuration cannot be read.
    """
    return whole_config(model).get_text_config()


def whole_config(model: Source) -> PreTrainedConfig:
    """The configuration that `model_config` takes the language model's part of."""
    if isinstance(model, Base):
        return model.model.config
    if isinstance(model, PreTrainedConfig):
        return model
    if isinstance(model, str | os.PathLike):
        return _read(os.fspath(model))
    raise MemoryModelError(
        f"A model cannot be given as {type(model).__name__}; give a name like 'llama-3.2-1b', a Hub id, the path of a "
        "config.json or of its folder, a transformers configuration, or a base from load_base()."
    )


@dataclass(frozen=True)
class Towers:
    """The parts of a multimodal model that text does not reach: how many weights, and a sentence for reports."""

    weights: int = 0
    words: str = ""

    def bytes(self, setup: Setup) -> int:
        """Their bytes, in the dtype in which the model's weights are kept."""
        masters = setup.dtype == "mixed" and setup.method.name == "full"
        return self.weights * (4 if masters or setup.dtype == "float32" else 2)


def towers_of(model: Source) -> Towers:
    """The vision and audio towers that `load_base` would load along with the language model, if it can load them."""
    whole = whole_config(model)
    text = whole.get_text_config()
    if text is whole:
        return Towers()
    kind = f"{whole.model_type!r} is multimodal"
    try:
        models = meta_model(whole), meta_model(text)
    except MemoryModelError:
        return Towers(0, f"{kind} and load_base() cannot load it: this is its language model alone")
    whole_size, text_size = (sum(weight.numel() for weight in built.parameters()) for built in models)
    weights = max(whole_size - text_size, 0)
    return Towers(weights, f"{kind}: its {weights:,} weights that text does not reach are counted as frozen")


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
            f"transformers cannot build {config.model_type!r} as a language model: {shortened(error)}"
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
        # transformers writes an infinite number as {"__float__": "Infinity"}
        return language_model(kind.from_dict(kind._decode_special_floats(json.loads(fields))))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the logs of torch and transformers: what goes wrong becomes one sentence."""
    log, before = logging.getLogger("torch._subclasses.fake_tensor"), transformers_logging.get_verbosity()
    log.disabled = True
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        log.disabled = False
        transformers_logging.set_verbosity(before)


def shortened(error: BaseException) -> str:
    """What an exception of another library says, in a line that fits into a sentence of ours."""
    return textwrap.shorten(first_line(error), 200, placeholder=" ...")


def _read(name: str) -> PreTrainedConfig:
    text = _config_text(name)
    if text is not None:
        return _from_text(*text)
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise MemoryModelError(
            f"No model {textwrap.shorten(name, 80)!r}: it is neither a file, nor a folder with a config.json, nor a "
            f"Hub id like 'org/name'; names known here: {', '.join(shipped())}."
        )
    try:
        return _unquantized(AutoConfig.from_pretrained(name, trust_remote_code=False), name)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        if isinstance(error, MemoryModelError):
            raise
        raise MemoryModelError(
            f"The configuration of {name!r} is neither in the local cache nor could it be downloaded "
            f"({shortened(error)}); give the path of its config.json, or try again with a network connection."
        ) from error


def _config_text(name: str) -> tuple[Path, str] | None:
    """The configuration's file and what is in it, for a path or a name of the catalogue; None for another name."""
    try:
        given = Path(name).expanduser()
        path = given / "config.json" if given.is_dir() else given
        if not path.is_file() and (given / "adapter_config.json").is_file():
            raise MemoryModelError(f"{given} holds an adapter, not a model; give the model that it belongs to.")
        if not path.is_file() and (known := catalogue.find(name)):
            path = known.config_file
        return (path.absolute(), path.read_text(encoding="utf-8")) if path.is_file() else None
    except UnicodeDecodeError as error:
        raise MemoryModelError(f"{path} is not a JSON file: {error}") from error
    except (OSError, RuntimeError) as error:  # no permission, a name that is too long, ~somebody who is not there
        raise MemoryModelError(
            f"{textwrap.shorten(name, 80)!r} cannot be read ({shortened(error)[:120]}); give another folder or "
            f"config.json, or one of {', '.join(shipped())}."
        ) from error


@lru_cache(maxsize=64)
def _from_text(path: Path, text: str) -> PreTrainedConfig:
    """text: what the file holds, as part of the cache's key, so that an edited file is read again."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise MemoryModelError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(fields, dict) or fields.get("model_type") is None:
        raise MemoryModelError(f"{path} has no model_type; give the config.json of a transformers model.")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)  # as load_base does
    except Exception as error:  # each family validates its fields with other exceptions
        kind = fields["model_type"]
        raise MemoryModelError(f"transformers cannot read {path}, a {kind!r} model: {shortened(error)}") from error
    return _unquantized(config, str(path))


def _unquantized(config: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """Raises MemoryModelError for weights that are stored quantized, which `load_base` refuses too."""
    if stored := getattr(config, "quantization_config", None):
        kind = stored.get("quant_method") if isinstance(stored, dict) else type(stored).__name__
        raise MemoryModelError(f"The weights of {name} are quantized already ({kind}); give the original model.")
    return config
