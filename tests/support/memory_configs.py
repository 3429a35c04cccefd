"""Configurations for predictions of memory: small ones of several architectures, and those of published runs."""

import csv

from transformers import Gemma2Config, LlamaConfig, Olmo2Config, Qwen2Config, Qwen3Config

from workbench.cost.published import PublishedRun, published_runs
from workbench.paths import DATA

SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 200,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=64),
    "olmo2": Olmo2Config(**SIZES),
    "gemma2": Gemma2Config(**SIZES, head_dim=64),
}


def published() -> list[tuple[PublishedRun, dict[str, str]]]:
    """Every published run, with its row of data/published_runs.csv."""
    with (DATA / "published_runs.csv").open(encoding="utf-8", newline="") as file:
        return list(zip(published_runs(), csv.DictReader(file), strict=True))
