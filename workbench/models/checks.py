"""What is verified about a base when it is loaded: its weights, its tokenizer, and that it does not look ahead."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.console import first_line, say
from workbench.errors import ModelError, TaskError
from workbench.seeds import RandomNumbers

PROBE_TOKENS = 6
OFFSETS = 2  # rows of a table of positions that stand before the first one, in OPT and BART
# Buffers that older versions of transformers stored along with the weights.
OLD_BUFFERS = re.compile(r"(^|\.)(inv_freq|masked_bias|position_ids|attn\.bias|attention\.bias)$")


def carries_adapter(model: nn.Module) -> bool:
    """Whether PEFT has changed a model: wrapped it, or put a layer of its own anywhere into it."""
    return any(kind.__module__.startswith("peft.") for module in model.modules() for kind in type(module).__mro__)


def check_plain(name: str, model: nn.Module) -> None:
    """Raise ModelError for a model that has come with an adapter."""
    if carries_adapter(model):
        raise ModelError(
            f"{name} is a model and an adapter at once, which transformers attached unasked. Download the two, move "
            "adapter_config.json and adapter_model.* into a folder of their own, and load the model's folder."
        )


def check_weights(name: str, model: PreTrainedModel, loading: Mapping[str, Any]) -> None:
    """Raise ModelError for files with fewer or more tensors than the configuration has places for.

    loading: what `from_pretrained` tells about them. transformers initialises missing tensors at random, and skips what
    it has no place for. Outside of the model's blocks (another head, a tower for images) that is only said.
    """
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"{name} cannot be loaded: its weights lack {len(missing)} tensors of its config.json, first {missing[0]}."
        )
    unused = sorted(key for key in loading["unexpected_keys"] if not OLD_BUFFERS.search(key))
    if adapter := [key for key in unused if "lora_" in key or ".base_layer." in key]:
        raise ModelError(
            f"{name} cannot be loaded: its weights hold an adapter's tensors, first {adapter[0]}. Save the model again "
            "after merge_and_unload()."
        )
    if inside := [key for key in unused if _has_place(model, key)]:
        raise ModelError(
            f"{name} cannot be loaded: its weights hold {len(inside)} tensors that its config.json has no place for, "
            f"first {inside[0]}. Correct config.json, for instance its number of layers."
        )
    if unused:
        say(
            f"{name}: {len(unused)} tensors of its files have no place in a text model and are left out, first "
            f"{unused[0]}."
        )


def _has_place(model: PreTrainedModel, key: str) -> bool:
    """Whether a tensor that the model has no parameter for belongs into its blocks, or is the bias of a weight."""
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    short = {name.removeprefix(f"{model.base_model_prefix}.") for name in own}
    blocks = {_until_number(name) for name in own | short} - {""}
    return _until_number(key) in blocks or (key.endswith(".bias") and f"{key[:-5]}.weight" in own | short)


def _until_number(key: str) -> str:
    """The part of a tensor's name before its first number, which names the list of blocks; "" without a number."""
    found = re.match(r"(.*?)\.\d+\.", key)
    return found[1] if found else ""


def check_tokenizer(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError for a tokenizer that is none, or whose tokens the model's embedding table does not have.

    A pad token need not be in the table, since batches are not padded with it. Other added tokens outside of it are
    said: only a text that holds them cannot be used.
    """
    ids, added = tokenizer.get_vocab(), set(tokenizer.added_tokens_decoder)
    own = [id for id in ids.values() if id not in added]
    if not own:  # transformers makes up an empty one for a folder without
        raise ModelError(
            f"{name} has no tokenizer: save that of its base into the folder, base.tokenizer.save_pretrained(folder)."
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{name} has a tokenizer without an end-of-text token, so a model cannot learn to stop.")
    rows = table_rows(model)
    remedy = f"resize the table, model.resize_token_embeddings({max(ids.values()) + 1}), and save it"
    if max(own) >= rows:
        raise ModelError(
            f"{name} has a tokenizer with ids up to {max(own)} and an embedding table of {rows} rows: {remedy}, or "
            "give it the tokenizer that it was trained with."
        )
    for kind in ("eos", "bos"):
        if (getattr(tokenizer, f"{kind}_token_id") or 0) >= rows:
            token = getattr(tokenizer, f"{kind}_token")
            raise ModelError(
                f"{name} has an embedding table of {rows} rows, and its {kind} token {token!r} lies outside of it: "
                f"{remedy}, or set tokenizer.{kind}_token to a token that is in the table."
            )
    outside = sorted(token for token, id in ids.items() if id >= rows and id != tokenizer.pad_token_id)
    if outside:
        say(
            f"{name}: {len(outside)} tokens of its tokenizer lie outside of its embedding table, first {outside[0]!r}; "
            f"texts must not hold them. To use them, {remedy}."
        )


def table_rows(model: PreTrainedModel) -> int:
    """How many token ids the model has an embedding for and can predict."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(len(table.weight) for table in tables if getattr(table, "weight", None) is not None)


def most_tokens(model: nn.Module) -> int | None:
    """How long a text may be where the model looks its positions up in a table; None where it computes them."""
    config = getattr(model, "config").get_text_config()  # noqa: B009 - PEFT passes the base's on
    most = getattr(config, "max_position_embeddings", None)
    words = [getattr(model, f"get_{side}_embeddings")() for side in ("input", "output")]
    named = {id(each.weight) for each in words if getattr(each, "weight", None) is not None}
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    found = (each.shape[0] for each in (*tables, *model.buffers()) if each.dim() > 1 and id(each) not in named)
    return most if isinstance(most, int) and any(most <= rows <= most + OFFSETS for rows in found) else None


def check_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], what: str
) -> None:
    """Raise TaskError for a text with a token, or at a position, that the model has no embedding for.

    `what` names the rows.
    """
    known, most = table_rows(model), most_tokens(model)
    for number, ids in enumerate(rows, start=1):
        if most is not None and len(ids) > most:
            raise TaskError(
                f"{what} {number} has {len(ids)} tokens, and the model knows {most} positions: shorten the text, or "
                "take a model for longer ones."
            )
        if (largest := max(ids, default=0)) >= known:
            raise TaskError(
                f"{what} {number} holds the token {tokenizer.convert_ids_to_tokens(largest)!r}, whose id {largest} is "
                f"outside of the model's embedding table of {known} rows: take it out of the text, or resize the table."
            )


def check_causal(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compute a few logits; raise ModelError if that fails, or if a token changes what is predicted before it.

    A model that sees ahead would be scored on completions that it reads. Also notes on the model, for `linear_modules`,
    which of its parts text does not reach.
    """
    _check_finite(name, model)
    logits, reached = _probe(name, model, _probe_rows(model, tokenizer))
    if logits.isnan().any():
        raise ModelError(
            f"{name} computes no numbers in {str(model.dtype).removeprefix('torch.')}: {_no_numbers(model)}."
        )
    if sees_ahead(logits, model.dtype):
        said = next((key for key in ("is_causal", "causal") if getattr(model.config, key, None) is False), "is_decoder")
        raise ModelError(
            f"{name} ({type(model).__name__}) looks ahead: its last token changes what it predicts before it, so it "
            "would read the answers that it is scored on. Use a decoder; if this one was trained as one, say so in its "
            f'config.json ("{said}": true).'
        )
    model.unreached_by_text = _unreached(model, reached)
    if model.unreached_by_text:
        say(
            f"{name}: text does not reach {', '.join(model.unreached_by_text)}; these parts get no adapters, and "
            "full() leaves them as they are."
        )


def _check_finite(name: str, model: PreTrainedModel) -> None:
    """Raise ModelError for a weight that is no number; the logits of a few tokens need not show it."""
    for path, parameter in model.named_parameters():
        wide = torch.float32 if parameter.dtype == torch.float16 else None  # whose sum may be too large for it
        if parameter.is_floating_point() and not parameter.detach().sum(dtype=wide).isfinite():
            raise ModelError(f"{name} holds values in {path} that are not finite (nan or inf): {_no_numbers(model)}.")


def _no_numbers(model: PreTrainedModel) -> str:
    if model.dtype == torch.float32:
        return "its weights are damaged; download them again, or save them from a model that computes"
    return "its weights are damaged, or too large for this dtype; load it with dtype='float32'"


def is_unreached(model: nn.Module, name: str) -> bool:
    """Whether a module or parameter of a loaded base lies in a part that text does not reach."""
    return any(f"{name}.".startswith(f"{part}.") for part in getattr(model, "unreached_by_text", ()))


def sees_ahead(logits: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether the middle one of three rows, alike but for its last token there, has other logits before that token.

    The first and the last row are equal: what they differ in is the noise of rounding.
    """
    first, changed, last = logits[:, :-1].float().clamp(-1e9, 1e9)  # some families predict -inf for what is no text
    spread = (first - first.median()).abs().median()
    floor = max(1e-5, torch.finfo(dtype).eps / 8) * spread
    return bool((changed - first).abs().mean() > floor + 10 * (last - first).abs().mean())


def _probe_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Three rows of ordinary tokens; in the middle one the last token is another."""
    rows = table_rows(model)
    # Any number of the configuration may be the id of a token that stands for an image or a sound.
    odd = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *_numbers(model.config.to_dict())}
    plain = [id for id in range(rows) if id not in odd]
    plain = plain if len(plain) > PROBE_TOKENS else list(range(rows))
    chosen = [plain[i * (len(plain) - 1) // PROBE_TOKENS] for i in range(PROBE_TOKENS + 1)]
    text = chosen[:PROBE_TOKENS]
    return torch.tensor([text, [*text[:-1], chosen[-1]], text], device=model.device)


def _numbers(value: Any) -> set[int]:
    """All whole numbers within a configuration."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return set().union(*map(_numbers, value)) if value else set()
    return {value} if isinstance(value, int) else set()


def _probe(name: str, model: PreTrainedModel, rows: torch.Tensor) -> tuple[torch.Tensor, set[str]]:
    """The logits of `rows`, and the names of all modules that computed something for them."""
    reached: set[str] = set()

    def note(path: str) -> Any:
        return lambda *_: reached.add(path)

    handles = [module.register_forward_hook(note(path)) for path, module in model.named_modules()]
    try:
        with torch.no_grad(), RandomNumbers(0):
            return model(input_ids=rows, use_cache=False).logits, reached
    except Exception as error:  # whatever a family raises for what it cannot do
        raise _cannot_compute(name, model, error) from error
    finally:
        for handle in handles:
            handle.remove()


def _cannot_compute(name: str, model: PreTrainedModel, error: Exception) -> ModelError:
    """What to say of a model that computes nothing from tokens."""
    who, why = f"{name} ({type(model).__name__})", first_line(error)[:120]
    if getattr(model, "hf_quantizer", None) is not None:
        words = f"{who} cannot compute with quantized weights, which its own operations read as numbers ({why})"
        return ModelError(f"{words}. Load it without quantization.")
    return ModelError(f"{who} computes nothing from text alone ({why}). Take a decoder of text.")


def _unreached(model: PreTrainedModel, reached: set[str]) -> tuple[str, ...]:
    """The largest parts with weights, blocks included, that text does not reach; experts are not looked into.

    An embedding may be read without being called.
    """
    above = {path.rsplit(".", count)[0] for path in reached for count in range(path.count(".") + 1)}
    found: list[str] = []
    for path, module in model.named_modules():
        inside = any(part.isdigit() for part in path.split(".")[:-1]) or any(
            path.startswith(f"{top}.") for top in found
        )
        plain = isinstance(module, nn.Embedding) or not any(True for _ in module.parameters())
        if path and path not in above and not inside and not plain:
            found.append(path)
    return tuple(found)
