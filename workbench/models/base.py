"""Base models: one function that gives a frozen language model with its tokenizer, wherever the weights come from."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from workbench.errors import ModelError
from workbench.machine import preferred_dtype
from workbench.models import catalogue
from workbench.models.checks import check_causal, check_plain, check_tokenizer, check_weights, is_unreached
from workbench.models.cpu_kernels import quicken
from workbench.models.identity import directory_revision, fingerprint, sampled_revision, tokenizer_fingerprint
from workbench.models.padding_free import use_row_attention
from workbench.models.quantized import (
    QUANTIZATIONS,
    check_quantized,
    keep_weights_unpacked,
    quantization_config,
    settle_int8_state,
)
from workbench.models.sharing import own_precision
from workbench.models.sizes import check_sizes, folder_of_download
from workbench.models.sources import folders, hub
from workbench.models.sources.explain import explain
from workbench.models.sources.packaged import PACKAGED, REVISION, packaged_model


@dataclass(frozen=True)
class Base:
    """A frozen pretrained model in evaluation mode, and where it came from.

    name: as it was asked for; of a directory the absolute path, so that runs recognise it however it is spelled.
    quantized_share: of the linear weights, how many are quantized (see `quantized.quantized_share`).
    weights_fingerprint, tokens_fingerprint: of the weights that `revision` stands for, and of the tokenizer; "" where
    none was taken.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str
    source: str  # "package", "hub" or "directory"
    quantization: str | None
    dtype: torch.dtype
    quantized_share: float | None = None
    weights_fingerprint: str = ""
    tokens_fingerprint: str = ""

    @property
    def dtype_name(self) -> str:
        """The dtype of the unquantized weights: "float32"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def identity(self) -> str:
        """The revision, with a fingerprint of the weights, or the tokenizer, that are no longer those it stands for.

        Whatever recognises a base, in this process or in a store, compares this. It reads all weights once.
        """
        weights = fingerprint(self.model) if self.weights_fingerprint else ""
        reads = tokenizer_fingerprint(self.tokenizer) if self.tokens_fingerprint else ""
        changed = [weights] if weights != self.weights_fingerprint else []
        changed += [f"tokenizer {reads}"] if reads != self.tokens_fingerprint else []
        return f"{self.revision}, changed in memory ({', '.join(changed)})" if changed else self.revision

    def is_at(self, identity: str) -> bool:
        """Whether `identity` is this base's own, also as runs recorded it that hashed parts of a folder's files."""
        own = self.identity
        old = identity.startswith("files ") and self.source == "directory" and own == self.revision
        return own == identity or (old and Path(self.name).is_dir() and sampled_revision(Path(self.name)) == identity)

    def with_model(self, model: PreTrainedModel, revision: str, **fields: Any) -> Base:
        """This base with another model, which `revision` stands for from now on. fields: what else differs."""
        return replace(self, model=model, revision=revision, weights_fingerprint=fingerprint(model), **fields)


@own_precision()
def load_base(
    name: str | os.PathLike,
    quantization: str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    device: str | None = None,
    partial_quantization: bool = False,
) -> Base:
    """Load a base model with every parameter frozen.

    name: a name of `catalogue` ("smollm2-135m" is packaged and works offline, the others are fetched from the Hub), a
    Hub id "org/name", or a directory, which comes before a name of the catalogue that is spelled alike.
    quantization: None, "nf4", "fp4" (4 bits a weight) or "int8", applied to the linear layers by bitsandbytes.
    dtype: what the unquantized weights are kept in; None takes what is fast here: what WORKBENCH_DTYPE says, or
    `workbench doctor` found, or a probe of a second at the first use.
    revision: a branch, tag or commit of a Hub repository; the commit it resolved to is recorded.
    device: None takes the GPU where there is one, else the CPU.
    partial_quantization: accept a base of which bitsandbytes can quantize less than 90 %, such as a mixture of experts.

    Raises ModelError, which says what to do, if the model cannot be loaded or is no decoder of text.
    """
    if quantization not in QUANTIZATIONS:
        raise ModelError(f"quantization={quantization!r} is not known; use None, 'nf4', 'fp4' or 'int8'.")
    name = _as_name(name)
    dtype, device = _as_dtype(dtype), device or _device()
    if dtype == torch.float16 and device == "cpu":
        raise ModelError("float16 needs a GPU; use dtype='float32' here.")
    location, source, found = locate(name, revision)
    if revision and source != "hub":
        raise ModelError("revision= is for Hub models; the packaged model and directories have one revision only.")
    options = {"dtype": dtype, "device_map": device, "quantization_config": quantization_config(quantization, dtype)}
    silent = source == "hub" and not hub.answers(location, revision)
    of_hub = {"revision": revision, "trust_remote_code": False, "local_files_only": silent}
    try:
        model, tokenizer = _read(name, location, of_hub, options)
    except ModelError:
        raise
    except Exception as error:  # transformers reads foreign files; what it raises for them is not documented
        raise ModelError(explain(name, source, error, silent)) from error
    share = check_quantized(name, model, quantization, dtype, partial_quantization)
    quicken(model)
    use_row_attention(model)
    found = getattr(model.config, "_commit_hash", None) or revision or "unknown" if source == "hub" else found
    name = location if source == "directory" else name
    marks = fingerprint(model), tokenizer_fingerprint(tokenizer)
    return Base(model, tokenizer, name, found, source, quantization, dtype, share, *marks)


def load_again(base: Base, quantization: str | None) -> Base:
    """The weights that a base was loaded from, once more or in another storage. Raises what `load_base` does.

    Where the base is quantized, it was accepted how much of it is.
    """
    revision = base.revision if base.source == "hub" else None
    device, accepted = base.model.device.type, base.quantization is not None
    return load_base(base.name, quantization, base.dtype, revision, device, partial_quantization=accepted)


def load_tokenizer(name: str | os.PathLike, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of `load_base(name, revision=revision)`, without its weights. Raises ModelError as that does."""
    name = _as_name(name)
    location, source, _ = locate(name, revision)
    silent = source == "hub" and not hub.answers(location, revision)
    try:
        return AutoTokenizer.from_pretrained(
            location, revision=revision, trust_remote_code=False, local_files_only=silent
        )
    except Exception as error:  # as in `load_base`
        raise ModelError(explain(name, source, error, silent)) from error


def _read(
    name: str, location: str, of_hub: dict[str, Any], options: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen model and its tokenizer, both checked.

    of_hub: options of every `from_pretrained`; options: those for the model.
    """
    transformers.utils.logging.disable_progress_bar()  # loading takes a second; downloads keep their bars
    config = AutoConfig.from_pretrained(location, **of_hub)
    if stored := getattr(config, "quantization_config", None):
        raise ValueError(f"its weights are quantized already ({stored.get('quant_method')}); give the original")
    here = Path(location)
    folder = here if here.is_dir() else folder_of_download(location, getattr(config, "_commit_hash", None))
    if folder:
        check_sizes(folder, config)
    model, loading = AutoModelForCausalLM.from_pretrained(location, output_loading_info=True, **options, **of_hub)
    check_plain(name, model)
    check_weights(name, model, loading)
    tokenizer = AutoTokenizer.from_pretrained(location, **of_hub)
    check_tokenizer(name, model, tokenizer)
    keep_weights_unpacked(model)
    settle_int8_state(model)
    model.requires_grad_(False).eval()
    check_causal(name, model, tokenizer)
    return model, tokenizer


def linear_modules(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Name -> (out, in) of every linear layer that can carry an adapter: all but the output head.

    GPT-2's Conv1D is one, though it stores its weight as (in, out). Parts of a multimodal model that text does not
    reach are left out.
    """
    head = model.get_output_embeddings()
    return {
        name: linear_shape(module)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head and not is_unreached(model, name)
    }


def linear_shape(module: Any) -> tuple[int, int]:
    """(out, in) of a layer of `linear_modules`."""
    return (module.nf, module.nx) if isinstance(module, Conv1D) else (module.out_features, module.in_features)


def linear_weight(module: Any) -> torch.Tensor:
    """The weight of such a layer as (out, in): of a Conv1D a transposed view."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def stored_weight(module: Any, weight: torch.Tensor) -> torch.Tensor:
    """A weight (out, in) as such a layer stores it: for a Conv1D (in, out)."""
    return weight.T.contiguous() if isinstance(module, Conv1D) else weight


def locate(name: str, revision: str | None = None) -> tuple[str, str, str]:
    """Where `load_base` loads `name` from: a directory or Hub id, the kind of source, and the revision as far as known.

    The kinds are those of `Base.source`. Raises ModelError if there is no such model.
    """
    if name == PACKAGED:
        return str(packaged_model()), "package", REVISION
    if folders.holds_model(name):
        path = Path(name).expanduser()
        try:
            folders.check_folder(path)
            return str(path.resolve()), "directory", directory_revision(path)
        except OSError as error:
            raise ModelError(
                f"{path} cannot be read ({error.strerror}); give a directory that you may read."
            ) from error
    if known := catalogue.find(name):
        return known.hub_id, "hub", revision or "main"
    path = Path(name).expanduser()
    if path.is_dir():
        raise ModelError(folders.without_config(path))
    if path.is_file():
        raise ModelError(f"{path} is a file; give the directory that save_pretrained wrote.")
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or name.endswith(("/", "\\"))
    if looks_like_path or name.count("/") != 1:
        names = ", ".join(catalogue.names())
        raise ModelError(
            f"No model {folders.short(name)!r}: no such directory, and not a Hub id like 'org/name'; names known here: "
            f"{names}."
        )
    return name, "hub", revision or "main"


def _as_name(name: object) -> str:
    """The name or path as text. Raises ModelError for anything else."""
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else name
    if not isinstance(text, str) or not text.strip():
        raise ModelError(f"name={name!r} must be a name or a path, e.g. '{PACKAGED}'.")
    return text


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """The dtype that was asked for, or the one that is fast here. Raises ModelError for another."""
    if dtype is None:
        return preferred_dtype()
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ModelError("dtype must be float32, bfloat16 or float16.")
    return dtype


def _device() -> str:
    """The device that Accelerate gives this process; the first call also joins the other processes of a launch.

    On a Mac the CPU: Apple's GPUs have no float64, in which updates are measured, and nothing here was tried on them.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    return "cpu" if device.type == "mps" else str(device)
