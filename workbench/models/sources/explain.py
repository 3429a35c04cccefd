"""What transformers, the Hub's client or a reader of weights has raised, as a sentence that says what to do."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from workbench.console import first_line
from workbench.models.sources.folders import odd_json
from workbench.models.sources.hub import is_transport_error
from workbench.models.sources.packaged import PACKAGED

PICKLE = (
    "its weights are a pickle with other things than tensors in it, or no file of weights at all; reading it could run "
    "code, so it is refused. Use the model.safetensors of the same model, or save it as one where you trust it"
)

UNUSABLE = (
    "transformers cannot use a value in its config.json or its tokenizer's files, or lacks one there; compare them "
    "with those of the original"
)
MISMATCH = "its config.json names other sizes than its weights have"


def chain(error: BaseException) -> list[BaseException]:
    """The error, and what it was raised from."""
    links = [error]
    while (cause := links[-1].__cause__ or links[-1].__context__) and cause not in links:
        links.append(cause)
    return links


def is_pickle_error(error: BaseException) -> bool:
    """Whether torch has refused a pickle. Its message advises `weights_only=False`, which runs what is in the file."""
    return any(isinstance(link, pickle.UnpicklingError) or "weights_only" in str(link) for link in chain(error))


def in_words(error: BaseException) -> str:
    """What is wrong with a file of weights, as the end of a sentence."""
    if "ignore_mismatched_sizes" in str(error):
        return MISMATCH
    return PICKLE if is_pickle_error(error) else first_line(error)


def explain(name: str, source: str, error: Exception, silent: bool = False) -> str:
    """What is wrong with a base and what to do. source: as in `Base.source`; silent: the Hub did not answer."""
    if source == "hub" and (words := _explain_hub(name, error, silent)):
        return words
    if is_pickle_error(error):
        return f"{name} could not be loaded: {PICKLE}."
    if source == "directory" and (odd := odd_json(Path(name).expanduser())):
        return f"{name} could not be loaded: {odd}."
    text = str(error)
    if "ignore_mismatched_sizes" in text:
        return f"{name} could not be loaded: {MISMATCH}."
    if "Couldn't instantiate the backend tokenizer" in text:
        return (
            f"{name} has no tokenizer that can be read: save the one of its base into the folder, "
            "base.tokenizer.save_pretrained(folder)."
        )
    if "for this kind of AutoModel" in text:
        kind = text.partition("<class '")[2].partition("'")[0].rpartition(".")[2].removesuffix("Config")
        return f"{name} could not be loaded: transformers has no text decoder for its model type ({kind})."
    if isinstance(error, EOFError):
        return f"{name} could not be loaded: one of its files is empty or cut off."
    if isinstance(error, (AttributeError, TypeError, ArithmeticError, LookupError)):
        return f"{name} could not be loaded: {UNUSABLE} ({type(error).__name__}: {first_line(error)[:150]})."
    return f"{name} could not be loaded: {first_line(error)[:200]}"


def _explain_hub(name: str, error: Exception, silent: bool) -> str | None:
    """A sentence on what the Hub answered, or that it did not answer; None if the error has another cause."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    links = chain(error)
    kinds, text = tuple(type(link) for link in links), str(error)
    if GatedRepoError in kinds or "gated repo" in text:
        return f"{name} is gated: accept its licence on its Hub page, then run `hf auth login` and load it again."
    if RevisionNotFoundError in kinds or "is not a valid git identifier" in text:
        return (
            f"{name} has no such revision on the Hub; leave `revision` out or check the repository's branches and tags."
        )
    if RepositoryNotFoundError in kinds or "is not a valid model identifier" in text:
        return f"The Hub has no model {name!r} that you can read; check the spelling, or log in if it is private."
    silent |= is_offline_mode() and "does not appear to have a file" in text  # of which a part was downloaded
    unreachable = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError)
    silent |= any(
        isinstance(link, unreachable) or is_transport_error(link) or "cached files" in str(link) for link in links
    )
    if not silent:
        return None
    offline = "HF_HUB_OFFLINE is set, and " if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    return (
        f"{name} could not be loaded from the Hub: {offline}it is not in the local cache or the network is down; "
        f"load it once with a network, give a local directory, or use '{PACKAGED}'. ({first_line(error)[:200]})"
    )
