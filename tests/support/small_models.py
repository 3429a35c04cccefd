"""Small random models of real architectures, saved as directories, for tests that need not be about SmolLM2."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Olmo2Config, PreTrainedConfig, Qwen3Config

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict]] = {
    "llama": (LlamaConfig, {}),
    "olmo2": (Olmo2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": (Gemma2Config, {"head_dim": 16, "final_logit_softcapping": 5.0}),
}


def write_model(folder: Path, architecture: str, tokenizer, seed: int = 0) -> Path:
    """Save a model of `architecture` with random weights and the given tokenizer; returns its directory."""
    kind, extra = CONFIGS[architecture]
    tokens = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": 0,
        "bos_token_id": 1,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(kind(**SIZES, **tokens, **extra), dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
