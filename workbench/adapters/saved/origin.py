"""Which base an adapter was made for: written next to it, and compared with the base that it is put on.

PEFT's own files name the base, and nothing checks the name: it may be a folder that has moved. The shapes of an adapter
say nothing of the vocabulary, or of the constants of norms and positions, so these are compared by a hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from workbench.errors import AdapterError, DamagedError
from workbench.models.base import Base
from workbench.models.identity import config_sha256
from workbench.paths import write_json
from workbench.stored import read_json

ORIGIN_FILE = "base.json"
CHANGED = " + "  # in the revision of a base whose weights are not those of its name


class Origin(TypedDict):
    """What base.json holds.

    config_sha256: of the configuration (see `models.identity`). vocabulary: rows of the embeddings.
    """

    name: str
    revision: str
    config_sha256: str
    vocabulary: int


def origin_of(base: Base) -> Origin:
    """The base as an adapter's folder records it."""
    return {
        "name": base.name,
        "revision": base.revision,
        "config_sha256": config_sha256(base.model.config),
        "vocabulary": base.model.get_input_embeddings().weight.shape[0],
    }


def write_origin(base: Base, folder: Path) -> None:
    """Write base.json into an adapter's folder."""
    write_json(folder / ORIGIN_FILE, origin_of(base))


def check_origin(base: Base, folder: Path) -> None:
    """Raise AdapterError, with both names, if base.json is there and is about another base."""
    try:
        wanted: Origin = read_json(folder / ORIGIN_FILE, Origin)
    except FileNotFoundError:
        return
    except (OSError, DamagedError) as error:
        raise AdapterError(f"{folder / ORIGIN_FILE} cannot be read ({error}); export the adapter again.") from error
    found = origin_of(base)
    apart = []
    if wanted["vocabulary"] != found["vocabulary"]:
        apart.append(f"a vocabulary of {wanted['vocabulary']:,} tokens instead of {found['vocabulary']:,}")
    if wanted["config_sha256"] != found["config_sha256"]:
        apart.append("another configuration")
    if CHANGED in wanted["revision"] and wanted["revision"] != base.identity:
        apart.append(f"weights that were changed after loading ({wanted['revision']})")
    if apart:
        raise AdapterError(
            f"The adapter in {folder} was made for {wanted['name']}, which has {' and '.join(apart)}, not for "
            f"{base.name}; load_base({wanted['name']!r})."
        )
