"""The folder that a server reads: one subfolder for each model, whose name is the name to ask for."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import snapshot_download

from workbench.adapters.saved.checkpoints import save
from workbench.errors import ServingError
from workbench.models.base import Base, locate
from workbench.serving.merged import check_loads_by_name, new_folder
from workbench.training.runs import Run

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # one part of a path, without '@', which would begin a revision

OF_A_MODEL = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
)


def serving_folder(models: Mapping[str, Run | Base], base: Base, folder: str | os.PathLike) -> Path:
    """Write what `transformers serve` needs for each model into a new folder; returns the folder.

    models: name -> a run on `base`, or a whole model such as `merge_run` gives. An adapter lies next to links to the
    base's files, which is how transformers loads both: a copy of the base in memory for each name. A whole model is
    written in full.
    Raises ServingError for a name that is none, a run of a quantized base, or one that the server cannot load.
    """
    folder = new_folder(folder)
    for name, model in models.items():
        if not NAME.fullmatch(name):
            raise ServingError(f"{name!r} cannot name a model; use letters, digits, '-', '_' and '.'.")
        own = folder / name
        own.mkdir()
        if isinstance(model, Run):
            _write_run(model, base, own)
        else:
            save(model.model, own)
        base.tokenizer.save_pretrained(own)
    return folder


def _write_run(run: Run, base: Base, folder: Path) -> None:
    if run.base["quantization"] or run.method["name"] == "hybrid" or run.method.get("dora"):
        raise ServingError(
            f"{run.id} ({run.label}) cannot be served as an adapter by transformers: merge it first "
            f"(`workbench merge {run.id} --to FOLDER`), and serve that folder."
        )
    run.load(base)  # complete, undamaged, and of this base, or an error
    check_loads_by_name(base)
    assert run.artifact_dir is not None
    shutil.copytree(run.artifact_dir, folder, dirs_exist_ok=True)
    if run.method["name"] == "full":
        return
    for file in _files_of(base):
        if not (folder / file.name).exists():
            _link(file, folder / file.name)


def _files_of(base: Base) -> list[Path]:
    """Configuration and weights of the base, where they are on this computer."""
    location, source, _ = locate(base.name)
    if source == "hub":
        location = snapshot_download(location, revision=base.revision, local_files_only=True)
    return [file for pattern in OF_A_MODEL for file in sorted(Path(location).glob(pattern))]


def _link(file: Path, link: Path) -> None:
    """A symbolic link, or a copy where the system allows none."""
    try:
        link.symlink_to(file.resolve())
    except OSError:
        shutil.copy2(file, link)
