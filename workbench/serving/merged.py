"""A run's adapter merged into its base, and written as a whole model that needs no PEFT."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel

from workbench.adapters.merging import merge
from workbench.adapters.quantized_models import dequantize_base
from workbench.adapters.saved.checkpoints import directory_bytes
from workbench.adapters.saved.origin import CHANGED
from workbench.console import first_line
from workbench.errors import ServingError
from workbench.models.base import Base, load_base, locate
from workbench.paths import folder_of
from workbench.training.runs import Run

RESTORABLE = ("nf4", "fp4")  # whose 16-bit weights are computed from the codes


def base_of(run: Run, dtype: torch.dtype | str | None = None) -> Base:
    """The base that a run was trained on, loaded as `Run.load` wants it. dtype: as for `load_base`."""
    own = run.base
    revision = own["revision"] if own["source"] == "hub" else None
    return load_base(own["name"], own["quantization"], dtype, revision, partial_quantization=True)


def merge_run(run: Run, base: Base) -> Base:
    """The run's adapter added to the base's weights: a plain model without PEFT, in the dtype of `base`.

    base: what the run was trained on; it stays as it is. A QLoRA run is merged into the restored weights that it was
    trained with, in 16 bits. Raises ServingError for a full run, and for a quantized base where the 16-bit weights are
    needed; AdapterError for an update that is no plain sum, such as DoRA's.
    """
    check_has_adapter(run, "merge")
    wanted = run.base["quantization"]
    if base.quantization != wanted or base.quantization not in (None, *RESTORABLE):
        kind = f"{base.quantization} codes" if base.quantization else "unquantized weights"
        remedy = "serve this run unmerged"
        if wanted in (None, *RESTORABLE):
            remedy = f"load_base({run.base['name']!r}{f', quantization={wanted!r}' if wanted else ''})"
        raise ServingError(
            f"Merging {run.id} needs the 16-bit weights of {run.base['name']} that it was trained with "
            f"({wanted or 'not quantized'}), and {base.name} is loaded as {kind}: {remedy}."
        )
    tuned = run.load(base)
    onto = dequantize_base(base) if base.quantization else base
    assert isinstance(tuned.model, PeftModel)  # a run with an adapter loads as one
    merged = merge(onto.model, tuned.model)
    assert isinstance(merged, PreTrainedModel)
    return onto.with_model(merged, f"{tuned.revision}, merged")


def write_merged(run: Run, base: Base, folder: str | os.PathLike) -> int:
    """Merge, and write model and tokenizer into a new folder as transformers does. Returns the bytes on disk.

    Raises ServingError for a folder that holds something already, and what `merge_run` raises.
    """
    folder = new_folder(folder)
    merged = merge_run(run, base)
    try:
        merged.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)  # half a model is none, and the next try needs an empty folder
        if isinstance(error, OSError | SafetensorError):
            raise ServingError(f"{folder} cannot be written ({first_line(error)}); free some space there.") from error
        raise
    return directory_bytes(folder)


def check_has_adapter(run: Run, what: str) -> None:
    """Raise ServingError for a run without an adapter. what: the verb that needs one."""
    if run.method["name"] == "full":
        raise ServingError(
            f"There is nothing to {what} in {run.id}: full fine-tuning has no adapter, and {run.artifact_dir} holds "
            "the whole model, which transformers loads as it is."
        )


def check_loads_by_name(base: Base) -> None:
    """Raise ServingError for a base whose weights are not those that its name loads: merged, or changed in memory."""
    _, source, found = locate(base.name)
    own = base.identity
    if own != (base.revision if source == "hub" else found) or CHANGED in own:
        raise ServingError(
            f"The weights of this base are not those of {base.name!r} ({own}), and others would load those: save the "
            "base (base.model.save_pretrained and base.tokenizer.save_pretrained into one folder), load_base that "
            "folder, and train on it."
        )


def new_folder(folder: str | os.PathLike) -> Path:
    """The folder, made if need be. Raises ServingError if it holds something or cannot be made."""
    try:
        path = folder_of(folder)
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ServingError(f"{path} is not empty; name a new folder.")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ServingError(f"{folder} cannot be used ({why}); name a new folder.") from error
    return path
