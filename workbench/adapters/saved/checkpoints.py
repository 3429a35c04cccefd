"""Save and load what was trained, as PEFT adapters or full checkpoints; and compare what was saved with it."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft import (
    PeftConfig,
    PeftModel,
    PeftModelForCausalLM,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from workbench.adapters.adapter_files import (
    BASE_PREFIX,
    Entry,
    check_brought_along,
    check_finite,
    check_header,
    read_adapter_config,
    read_header,
    starts_in_the_base,
)
from workbench.adapters.carriers import quiet_peft
from workbench.adapters.guard import own_parameters, unmoved
from workbench.adapters.merging import check_same_logits, logits_on_random_tokens
from workbench.adapters.saved.origin import check_origin
from workbench.errors import AdapterError, ModelError
from workbench.models.base import Base
from workbench.models.checks import check_weights
from workbench.models.cpu_kernels import quicken
from workbench.models.padding_free import use_row_attention
from workbench.models.sharing import shared_copy
from workbench.models.sizes import check_sizes
from workbench.models.sources.explain import in_words
from workbench.paths import folder_of

# What PEFT, transformers and safetensors raise for damaged or unsuitable files.
DAMAGES = (
    *(RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, EOFError),
    *(SafetensorError, UnpicklingError),
)


def save(model: PreTrainedModel | PeftModel, directory: str | os.PathLike) -> int:
    """Write a tuned model: an adapter in PEFT's own format, or a whole checkpoint. Returns the bytes on disk."""
    directory = _folder(directory)
    with warnings.catch_warnings():
        # PEFT asks the Hub whether the vocabulary has changed; it has not, and there may be no network.
        warnings.filterwarnings("ignore", message=".*Could not find a config file.*")
        options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AdapterError(f"{directory} cannot be made ({error.strerror}); choose another folder.") from error
        model.save_pretrained(directory, safe_serialization=True, **options)
    return directory_bytes(directory)


def _folder(directory: str | os.PathLike) -> Path:
    try:
        return folder_of(directory)
    except ValueError as error:
        raise AdapterError(f"{error}; give the path of the adapter's folder.") from error


def load(base: Base, directory: str | os.PathLike) -> PreTrainedModel | PeftModel:
    """The tuned model: `base` with the adapter in a stock PEFT wrapper (sharing the base's weights), or the checkpoint.

    Raises AdapterError when the directory is incomplete or the adapter belongs to another base: every tensor of the
    file must have a place in the model, every adapter tensor of the model must be in the file, and a base.json, where
    there is one, must agree.
    """
    directory = _folder(directory)
    if (directory / "adapter_config.json").is_file():
        model = _load_adapter(base, directory)
    elif (directory / "config.json").is_file():
        model = _load_checkpoint(base, directory)
    else:
        raise AdapterError(f"{directory} holds neither adapter_config.json nor config.json; was the run saved?")
    return model.requires_grad_(False).eval()


def _load_adapter(base: Base, directory: Path) -> PeftModel:
    config = _config_of(directory)
    check_origin(base, directory)
    try:
        header = read_header(directory)
        check_header(config, header)
        with unmoved(base.model, "Loading the adapter"), quiet_peft():
            model = _with_empty_adapter(base, config, header)
            _check_names(model, header)
            weights = load_peft_weights(str(directory), device=str(base.model.device))
            check_finite(weights)
            own = dict(model.named_parameters(remove_duplicate=False))  # biases and embeddings stay in the base's dtype
            weights = {name: each.to(own[name].dtype) if name in own else each for name, each in weights.items()}
            # Assigned, not copied: biases and embeddings that come with the adapter must not overwrite the base's.
            set_peft_model_state_dict(model, weights, low_cpu_mem_usage=True)
            model.came_along = sorted(header.keys() & own.keys())  # for merge()
            _raise(model)
            set_peft_model_state_dict(model, weights)  # again: assigning has rounded them to the base's dtype
    except (AdapterError, *DAMAGES) as error:
        why = str(error) if isinstance(error, AdapterError) else in_words(error)
        made_for = (
            f" Its configuration says that it was made for {other}." if (other := _other_base(config, base)) else ""
        )
        words = f"The adapter in {directory} is damaged or does not fit {base.name}: {why}{made_for}"
        raise AdapterError(words) from error
    return model


def _other_base(config: PeftConfig, base: Base) -> str | None:
    """The name of the base in PEFT's configuration, where it is not the one that this base was loaded from."""
    named = config.base_model_name_or_path
    return None if named in (None, "", base.name, base.model.name_or_path) else named


def _config_of(directory: Path) -> PeftConfig:
    try:
        return read_adapter_config(directory)
    except AdapterError as error:
        raise AdapterError(f"The adapter in {directory} cannot be used here: {error}") from error
    except DAMAGES as error:
        raise AdapterError(f"The configuration of the adapter in {directory} is damaged: {in_words(error)}") from error


def _with_empty_adapter(base: Base, config: PeftConfig, header: dict[str, Entry]) -> PeftModel:
    """A copy of the base with the layers of the adapter, whose weights take no memory yet where PEFT can do that.

    What PEFT then replaces or subtracts in the copy is not the base's.
    """
    copy = shared_copy(base.model)
    adapted = {name.removeprefix(BASE_PREFIX).split(".lora_")[0] + ".weight" for name in header}
    own_parameters(copy, adapted if starts_in_the_base(config) else ())
    if config.is_prompt_learning:
        # Its prefix lies in the cache: neither batches without padding nor a repeated cache go with it.
        copy.set_attn_implementation("eager" if copy.config._attn_implementation == "eager" else "sdpa")
        copy.config.num_virtual_tokens = config.num_virtual_tokens  # tells it from the base where results are kept
    config.inference_mode = True
    if hasattr(config, "init_lora_weights") and not starts_in_the_base(config):
        config.init_lora_weights = True  # however it started, its weights come from the file
    # PEFT repeats layers, and finds such a start, only with memory; the ranks of both are checked before.
    empty = not starts_in_the_base(config) and getattr(config, "layer_replication", None) is None
    return PeftModelForCausalLM(copy, config, "default", low_cpu_mem_usage=empty)


def _raise(model: PeftModel) -> None:
    """Adapters and opened modules in float32, as they are trained, whatever they are stored in."""
    if hasattr(model.base_model, "_cast_adapter_dtype"):
        model.base_model._cast_adapter_dtype(adapter_name="default", autocast_adapter_dtype=True)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()


def _load_checkpoint(base: Base, directory: Path) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        check_sizes(directory, config)
        # The text part of a multimodal model has a class, but no entry in the automatic choice.
        alike = isinstance(base.model, PreTrainedModel) and type(config) is type(base.model.config)
        kind: Any = type(base.model) if alike else AutoModelForCausalLM
        model, loading = kind.from_pretrained(
            directory, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
        if missing := sorted(loading["missing_keys"]):  # transformers would initialise them at random
            raise AdapterError(f"its weights lack {missing[0]}.")
        check_weights(str(directory), model, loading)
    except ModelError as error:
        raise AdapterError(str(error)) from error
    except DAMAGES as error:
        raise AdapterError(f"The checkpoint in {directory} is damaged: {in_words(error)}") from error
    model.to(base.model.device)
    quicken(model)
    use_row_attention(model)
    return model


def _check_names(model: PeftModel, header: dict[str, Entry]) -> None:
    """Compare tensor names, since PEFT skips extra tensors and leaves missing ones at their initial values."""
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    if missing := sorted(wanted.keys() - header.keys()):
        raise AdapterError(f"{missing[0]} is in the model only.")
    check_brought_along(model, header, header.keys() - wanted.keys())


def gives_numbers(model: PreTrainedModel | PeftModel) -> bool:
    """Whether a model computes numbers: after a step that was far too large its loss is none, which nobody has seen."""
    trained = model.training
    try:
        (logits,) = logits_on_random_tokens(model.eval())
    finally:
        model.train(trained)
    return bool((logits < math.inf).all())  # a few predict -inf for what is no text


def check_saved(base: Base, model: PreTrainedModel | PeftModel, directory: str | os.PathLike) -> None:
    """Load what `save` has written and compare a few logits; raises AdapterError if they are not those of `model`."""
    directory = Path(directory)
    loaded = load(base, directory)
    trained = model.training
    try:
        check_same_logits(model.eval(), loaded, f"What was saved in {directory} is not what was trained")
    finally:
        model.train(trained)


def directory_bytes(directory: str | os.PathLike) -> int:
    """The size of all files in a folder and below it."""
    return sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
