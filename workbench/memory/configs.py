"""The configuration of a model, which every memory prediction starts from, and models without weights built from it."""

from __future__ import annotations

import copy
import json
import logging
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from workbench.console import first_line
from workbench.errors import MemoryModelError
from workbench.memory.setup import Setup
from workbench.models import catalogue
from workbench.models.base import Base
from workbench.models.sizes import MANY
from workbench.models.sources import hub

Source: TypeAlias = str | os.PathLike[str] | PreTrainedConfig | Base  # what a model's configuration can be read from


def shipped() -> list[str]:
    """Names of the models whose configuration ships in data/models: all of `catalogue`."""
    return catalogue.names()


def model_config(model: Source) -> PreTrainedConfig:
    """The transformers configuration of `model`; of a multimodal one, the language model's part.

    model: a name or a Hub id of `catalogue`, another Hub id that is in the local cache or can be fetched, a directory
    with a config.json, the path of such a file, a configuration, or a loaded base.

    Raises MemoryModelError if there is no such model, or if its configuration cannot be read, or claims thousands of
    layers.
    """
    config = whole_config(model).get_text_config()
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MANY:  # each takes memory and time, even without weights
        raise MemoryModelError(f"{model_name(model)} names {layers:,} layers, and up to {MANY:,} are predicted here.")
    return config


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
    return _from_hub(name)


@lru_cache(maxsize=64)  # a panel asks for the same model at every move
def _from_hub(name: str) -> PreTrainedConfig:
    try:
        silent = not hub.answers(name, None)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=silent)
        return _unquantized(config, name)
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
