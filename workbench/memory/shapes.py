"""Sizes of the parts of a decoder on which training memory depends, by model family."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache

from transformers import PreTrainedConfig

from workbench.errors import MemoryModelError
from workbench.memory.configs import meta_model

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma", "gemma2")
# The norms of a block that act on the hidden size.
USUAL_NORMS = ("input_layernorm", "post_attention_layernorm")
NORMS = {
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma2": (*USUAL_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
}
# The linear layers of a block, grouped by the tensor that they read.
SHARED_INPUTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    tied: the output head shares the weights of the embeddings. capped, capped_scores: the logits, or the attention
    scores, go through a soft cap (gemma2). biased: the linear layers of a block with a bias, by name in the block.
    """

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    capped: bool
    capped_scores: bool
    biased: frozenset[str]

    @property
    def queries(self) -> int:
        """The width of all queries of one token."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """The width of all keys of one token, and of all values."""
        return self.key_heads * self.head_size

    @property
    def embedding(self) -> int:
        """Elements of the embedding matrix, and of the output head."""
        return self.vocabulary * self.hidden

    @cached_property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Name in a block -> (out, in) of each linear layer."""
        return {
            "self_attn.q_proj": (self.queries, self.hidden),
            "self_attn.k_proj": (self.keys, self.hidden),
            "self_attn.v_proj": (self.keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.queries),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    @cached_property
    def biases(self) -> dict[str, int]:
        """Name in a block -> width of the bias, of each linear layer that has one."""
        return {name: self.linear[name][0] for name in self.biased}

    @cached_property
    def norms(self) -> tuple[int, ...]:
        """Width of the input of each norm of a block, in elements per token."""
        of_heads = (self.queries, self.keys) if self.family in ("qwen3", "olmo2") else ()
        return (self.hidden,) * len(NORMS.get(self.family, USUAL_NORMS)) + of_heads

    @property
    def norm_weights(self) -> tuple[int, ...]:
        """Parameters of each norm of a block; in qwen3 all heads share one norm of the head's size."""
        return self.norms[:-2] + (self.head_size,) * 2 if self.family == "qwen3" else self.norms


def head_size(config: PreTrainedConfig) -> int:
    """The width of one attention head; if the configuration has no field for it, hidden size / number of heads."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def shape_of(config: PreTrainedConfig) -> Shape:
    """The sizes of the model that `config` describes.

    Raises MemoryModelError for a family that is not in FAMILIES, and for sizes that are impossible.
    """
    if config.model_type not in FAMILIES:
        raise MemoryModelError(
            f"estimate() supports {', '.join(FAMILIES)}, but not {config.model_type!r}; use simulate(), on the command "
            "line --simulate, which follows the steps of other decoders."
        )
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if (size := getattr(config, name)) < 1:
            raise MemoryModelError(f"{name}={size} in the model's configuration must be at least 1.")
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % key_heads:
        raise MemoryModelError(f"num_attention_heads={heads} must be a multiple of num_key_value_heads={key_heads}.")
    return Shape(
        family=config.model_type,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=heads,
        key_heads=key_heads,
        head_size=head_size(config),
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        capped=bool(getattr(config, "final_logit_softcapping", None)),
        capped_scores=bool(getattr(config, "attn_logit_softcapping", None)),
        biased=_biased(config),
    )


def _biased(config: PreTrainedConfig) -> frozenset[str]:
    """The linear layers of a block with a bias. Families read different fields for this, so one block is built."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    names = (name for name, _ in meta_model(config).named_parameters() if name.endswith(".bias"))
    biased = frozenset(name.removesuffix(".bias").removeprefix(in_block(0, "")) for name in names)
    unknown = biased.difference(*SHARED_INPUTS)
    if unknown:
        raise MemoryModelError(f"estimate() does not support a bias in {', '.join(sorted(unknown))}; use simulate().")
    return biased


def in_block(layer: int, module: str) -> str:
    """The full name of a module in a block."""
    return f"model.layers.{layer}.{module}"


@lru_cache(maxsize=32)
def other_parameters(shape: Shape) -> dict[str, int]:
    """Module -> number of parameters, of all modules except the blocks' linear layers. A tied head has none."""
    found = {"model.embed_tokens": shape.embedding, "model.norm": shape.hidden}
    if not shape.tied:
        found["lm_head"] = shape.embedding
    names = (*NORMS.get(shape.family, USUAL_NORMS), "self_attn.q_norm", "self_attn.k_norm")
    for layer in range(shape.layers):
        for name, width in zip(names, shape.norm_weights, strict=False):
            found[in_block(layer, name)] = width
    return found


@lru_cache(maxsize=32)
def module_names(shape: Shape) -> tuple[list[str], list[str]]:
    """Full names of the blocks' linear layers, and of all modules of the model."""
    layers = range(shape.layers)
    linear = [in_block(layer, kind) for layer in layers for kind in shape.linear]
    parts = [in_block(layer, part) for layer in layers for part in ("self_attn", "mlp")]
    blocks = [f"model.layers.{layer}" for layer in layers]
    return linear, [*linear, *parts, *blocks, *other_parameters(shape), "lm_head", "model"]
