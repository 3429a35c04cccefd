"""Batches without padding: the same logits and gradients as padded ones, and no row sees another."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from hypothesis import given, settings, strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig, OPTConfig, Qwen3NextConfig

from support.small_models import write_model
from workbench import full, hybrid, load_base, lora, qlora
from workbench.adapters import apply
from workbench.models import completion_logits
from workbench.models.cpu_kernels import PADDED
from workbench.models.padding_free import leaves_padding_out, row_layout, use_row_attention
from workbench.tasks import collate
from workbench.tasks.encoding import Encoded

ROWS = [Encoded((5, 6, 7, 8, 9), 2), Encoded((3, 4), 1), Encoded((11, 12, 13, 14, 15, 16, 17, 18), 5)]
METHODS = {
    "lora": lora(rank=4),
    "dora": lora(rank=4, dora=True),
    "qlora": qlora(rank=4),
    "hybrid": hybrid(["layers.1.mlp"], rank=4),
    "full": full(1e-3),
}


def padded(model):
    """The model with attention over padded rows."""
    model.set_attn_implementation(PADDED)
    return model


def small(directory, method: str, dtype: str = "float32"):
    return load_base(str(directory), quantization="nf4" if method == "qlora" else None, dtype=dtype)


def gradients(model, batch) -> dict[str, torch.Tensor]:
    F.cross_entropy(completion_logits(model, batch).float(), batch["targets"]).backward()
    return {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_logits_and_gradients_are_those_of_padded_rows(small_directory, method, checkpointing):
    batch, found = collate(ROWS, 0), []
    for prepare in (lambda model: model, padded):
        model = prepare(apply(small(small_directory, method), METHODS[method])).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # else A would get no gradient
                torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(len(name)))
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        found.append((completion_logits(model, batch), gradients(model, batch)))
        assert leaves_padding_out(model) == (prepare is not padded)
    (logits, ours), (their_logits, theirs) = found
    assert torch.allclose(logits, their_logits, atol=1e-5)
    assert ours.keys() == theirs.keys() and ours
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-6 + 1e-4 * theirs[name].abs().max().item()), name


def test_in_bfloat16_they_differ_by_rounding(small_directory):
    """Measured against float32, which both approximate."""
    batch = collate(ROWS, 0)
    exact = completion_logits(small(small_directory, "lora").model, batch)
    ours = completion_logits(small(small_directory, "lora", "bfloat16").model, batch).float()
    theirs = completion_logits(padded(small(small_directory, "lora", "bfloat16").model), batch).float()
    error, their_error = ((logits - exact).norm() / exact.norm() for logits in (ours, theirs))
    assert error <= 1.5 * their_error + 1e-3


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(2, 9), min_size=2, max_size=5), data=st.data())
def test_no_row_sees_another(small, lengths, data):
    """Other tokens in one row leave the logits of every other row as they are, to the last bit."""
    rows = [Encoded(tuple(range(20 * i + 3, 20 * i + 3 + length)), 1) for i, length in enumerate(lengths)]
    changed = data.draw(st.integers(0, len(rows) - 1))
    other = [*rows]
    other[changed] = Encoded(tuple(token + 7 for token in rows[changed].ids), 1)
    before, after = (completion_logits(small.model, collate(each, 0)) for each in (rows, other))
    own = torch.tensor([i == changed for i, row in enumerate(rows) for _ in row.ids[1:]])
    assert torch.equal(before[~own], after[~own]) and not torch.equal(before[own], after[own])


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_layout_is_there_and_back(lengths):
    longest = max(lengths)
    real = torch.tensor([i * longest + t for i, length in enumerate(lengths) for t in range(length)])
    layout = row_layout(real, len(lengths), longest)
    source, places = layout[0].flatten(1)
    assert layout.shape == (1, 2, len(lengths), longest) and layout.dtype == torch.int64
    assert torch.equal(source[places[: len(real)]], torch.arange(len(real)))


@pytest.mark.parametrize("architecture", ["llama", "olmo2", "qwen3", "gemma2"])
def test_families_that_use_the_registry_leave_padding_out(base, tmp_path, architecture):
    loaded = load_base(str(write_model(tmp_path / "model", architecture, base.tokenizer)), dtype="float32").model
    batch = collate(ROWS, 0)
    assert leaves_padding_out(loaded) or loaded.config._attn_implementation == "eager"
    ours = completion_logits(loaded, batch)
    alone = [loaded(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1] for row in ROWS]
    assert torch.allclose(ours, torch.cat(alone), atol=1e-5)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 300}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
CONFIGS = {
    "state space": MambaConfig(**SIZES),
    "linear attention": Qwen3NextConfig(
        **SIZES, **HEADS, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, layer_types=["linear_attention", "full_attention"],
    ),
    "learned positions": OPTConfig(**SIZES, num_attention_heads=4, ffn_dim=64, word_embed_proj_dim=32),
    "without a registry": LlamaConfig(**SIZES, **HEADS, attn_implementation="eager"),
}  # fmt: skip


@pytest.mark.parametrize("family", CONFIGS)
def test_whatever_cannot_leave_padding_out_pads(family):
    """The logits are those of each row alone, in one form or the other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS[family]).eval()
    use_row_attention(model)
    if family != "learned positions":
        assert not leaves_padding_out(model)
    with torch.no_grad():
        ours = completion_logits(model, collate(ROWS, 0))
        alone = [model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1] for row in ROWS]
    assert torch.allclose(ours, torch.cat(alone), atol=1e-4)


def test_rows_beyond_a_sliding_window_are_padded():
    """Their mask is another; the sum over a window that one long row would need is left to transformers."""
    config = LlamaConfig(**SIZES, **HEADS)
    config.sliding_window = 6
    model = AutoModelForCausalLM.from_config(config).eval()
    use_row_attention(model)
    assert leaves_padding_out(model, 6) and not leaves_padding_out(model, 7)
