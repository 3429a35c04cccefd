"""Folders that hold a base of any family, random weights and a small tokenizer, as `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from support.small_tokenizers import make_tokenizer
from workbench.tasks.example import Example
from workbench.tasks.tasks import Task

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}


def write_base(
    folder: Path,
    family: str,
    auto: Any = AutoModelForCausalLM,
    damage: Callable[[Any], object] | None = None,
    **fields: Any,
) -> Path:
    """Save a random base of `family`; `auto` makes it from its configuration, and `damage` may change it before."""
    tokenizer = make_tokenizer("bytes")
    vocabulary = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    sizes = {} if "text_config" in fields else SIZES | vocabulary
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(family, **sizes | fields), dtype=torch.float32)
    if damage:
        damage(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def few_rows() -> Task:
    """A task of a few short rows."""
    examples = tuple(Example(f"The number after {number} is", f" {number + 1}") for number in range(4))
    return Task("numbers", examples, examples[:2], None, "here", "0" * 64)
