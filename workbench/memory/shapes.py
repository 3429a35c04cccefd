"""The sizes of a decoder's parts, by family, as far as training memory depends on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from transformers import PreTrainedConfig

from workbench.errors import MemoryModelError
from workbench.memory.setup import language_model

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma", "gemma2")
# Normalisations over the hidden size, in a block.
USUAL_NORMS = ("input_layernorm", "post_attention_layernorm")
NORMS = {
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma2": (*USUAL_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
}
# Products that read the same tensor.
READERS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


@dataclass(frozen=True)
class Shape:
    """The sizes that a family's model is built from. linear: name in a block -> (out, in)."""

    family: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int
    tied: bool
    capped: bool
    capped_scores: bool
    biased: frozenset[str]  # the linear layers with a bias

    @property
    def queries(self) -> int:
        return self.heads * self.head

    @property
    def keys(self) -> int:
        return self.key_heads * self.head

    @cached_property
    def linear(self) -> dict[str, tuple[int, int]]:
        return {
            "self_attn.q_proj": (self.queries, self.hidden),
            "self_attn.k_proj": (self.keys, self.hidden),
            "self_attn.v_proj": (self.keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.queries),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }

    @cached_property
    def biases(self) -> dict[str, int]:
        return {name: self.linear[name][0] for name in self.biased}

    @cached_property
    def norms(self) -> tuple[int, ...]:
        """Widths of what a block normalises, in numbers a token."""
        of_heads = (self.queries, self.keys) if self.family in ("qwen3", "olmo2") else ()
        return (self.hidden,) * len(NORMS.get(self.family, USUAL_NORMS)) + of_heads

    @property
    def norm_weights(self) -> tuple[int, ...]:
        """Parameters of a block's normalisations; those of qwen3's heads are shared by all heads."""
        return self.norms[:-2] + (self.head,) * 2 if self.family == "qwen3" else self.norms


def head_size(config: PreTrainedConfig) -> int:
    """The width of one attention head; families without a field for it divide the hidden size evenly."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def shape_of(config: PreTrainedConfig) -> Shape:
    """The sizes of the model that `config` describes.

    Raises MemoryModelError for a family that is not in FAMILIES, and for sizes that no model can have.
    """
    if config.model_type not in FAMILIES:
        raise MemoryModelError(
            f"estimate() knows the blocks of {', '.join(FAMILIES)}, not of {config.model_type!r}; use simulate(), "
            "which builds what transformers can build."
        )
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if (size := getattr(config, name)) < 1:
            raise MemoryModelError(f"{name}={size} in the model's configuration must be at least 1.")
    heads = config.num_attention_heads
    of_keys = getattr(config, "num_key_value_heads", None) or heads
    if heads % of_keys:
        raise MemoryModelError(f"{heads} attention heads cannot share {of_keys} heads of keys and values evenly.")
    return Shape(
        config.model_type,
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        heads,
        of_keys,
        head_size(config),
        config.vocab_size,
        config.tie_word_embeddings,
        bool(getattr(config, "final_logit_softcapping", None)),
        bool(getattr(config, "attn_logit_softcapping", None)),
        _biased(type(config), config.to_json_string(use_diff=False)),
    )


@lru_cache(maxsize=32)
def _biased(kind: type[PreTrainedConfig], fields: str) -> frozenset[str]:
    """The linear layers of a block that have a bias: families read different flags, so one block is built."""
    config = kind.from_dict(json.loads(fields))
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    with torch.device("meta"):
        model = language_model(config)
    biases = (name.removesuffix(".bias") for name, _ in model.named_parameters() if name.endswith(".bias"))
    biased = frozenset(name.removeprefix(in_block(0, "")) for name in biases)
    unknown = biased.difference(*READERS)
    if unknown:
        raise MemoryModelError(f"estimate() knows no bias of {', '.join(sorted(unknown))}; use simulate().")
    return biased


def in_block(layer: int, part: str) -> str:
    """The full name of a part of a block."""
    return f"model.layers.{layer}.{part}"


@lru_cache(maxsize=32)
def parameters_outside(shape: Shape) -> dict[str, int]:
    """Parameters outside of the blocks' linear layers: name -> numbers; a tied head has none of its own."""
    table = shape.vocabulary * shape.hidden
    found = {"model.embed_tokens": table, "model.norm": shape.hidden}
    if not shape.tied:
        found["lm_head"] = table
    names = (*NORMS.get(shape.family, USUAL_NORMS), "self_attn.q_norm", "self_attn.k_norm")
    for layer in range(shape.layers):
        for name, width in zip(names, shape.norm_weights, strict=False):
            found[in_block(layer, name)] = width
    return found


@lru_cache(maxsize=32)
def module_names(shape: Shape) -> tuple[list[str], list[str]]:
    """Full names of the blocks' linear layers, and of all modules."""
    layers = range(shape.layers)
    linear = [in_block(layer, kind) for layer in layers for kind in shape.linear]
    parts = [in_block(layer, part) for layer in layers for part in ("self_attn", "mlp")]
    blocks = [f"model.layers.{layer}" for layer in layers]
    return linear, [*linear, *parts, *blocks, *parameters_outside(shape), "lm_head", "model"]
