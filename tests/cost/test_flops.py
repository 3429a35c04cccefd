"""FLOPs of a step by formula, from a model without weights, against torch's count while a step runs."""

import pytest
import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config

from workbench import full, hybrid, lora, qlora
from workbench.adapters.inject import peft_config
from workbench.cost.flops import ADAPTERS, ATTENTION, HEAD, LINEAR, step_flops
from workbench.errors import MethodError
from workbench.memory.setup import Setup
from workbench.models import Base

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1500,
    "num_hidden_layers": 8,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**SIZES, head_dim=32, sliding_window=64),
}


def a_base(architecture: str = "llama", device: str = "meta") -> Base:
    with torch.device(device):
        # torch's counter sees the products of eager attention one by one
        model = AutoModelForCausalLM.from_config(CONFIGS[architecture], attn_implementation="eager")
    return Base(model.requires_grad_(False), None, architecture, "", "config", None, torch.float32)


def total_flops(step: dict[str, dict[str, float]]) -> float:
    return sum(sum(parts.values()) for parts in step.values())


def counted(architecture: str, method, batch_size: int, sequence_length: int, checkpointing: bool = False) -> int:
    """What torch counts while one step of the model runs."""
    base = a_base(architecture, "cpu")
    model = base.model
    if method.name == "full":
        model.requires_grad_(True)
    else:
        model = get_peft_model(model, peft_config(base, method))
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    ids = torch.zeros(batch_size, sequence_length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.float().sum().backward()
    return counter.get_total_flops()


METHODS = {
    "full": full(),
    "all linear": lora(rank=8),
    "query and value": lora(rank=16, targets=("q_proj", "v_proj")),
    "upper blocks": lora(rank=4, layers=(6, 7)),
    "dora": lora(rank=8, dora=True),
    "hybrid": hybrid(["layers.7.mlp"], rank=4),
}


@pytest.mark.parametrize(
    ("architecture", "checkpointing", "name"),
    [
        *[("llama", checkpointing, name) for name in METHODS for checkpointing in (False, True)],
        *[(architecture, True, name) for name in ("full", "all linear") for architecture in ("qwen3", "gemma2")],
    ],
)
def test_the_formula_agrees_with_the_count_of_torch(architecture, checkpointing, name):
    formula = total_flops(step_flops(a_base(architecture), Setup(METHODS[name], 2, 96, checkpointing=checkpointing)))
    # the queries, keys and values of the first adapted block need no gradient of their input: 3 % of eight blocks
    assert formula == pytest.approx(counted(architecture, METHODS[name], 2, 96, checkpointing), rel=0.03)


def test_full_fine_tuning_is_counted_exactly():
    formula = step_flops(a_base(), Setup(full(), 3, 64))
    found = counted("llama", full(), 3, 64)
    rotary = 2 * 3 * 64 * 8  # the angles of the rotary embedding are a product too, which FLOP counts leave out
    assert total_flops(formula) == pytest.approx(found, abs=2 * rotary)


def test_six_and_four_for_each_weight_and_token():
    base, tokens = a_base(), 2 * 96
    weights = sum(out * into for out, into in ((128, 128), (32, 128), (32, 128), (128, 128), *[(256, 128)] * 3)) * 8
    whole, few, again = (
        step_flops(base, Setup(method, 2, 96, checkpointing=checkpointing))
        for method, checkpointing in ((full(), False), (lora(rank=1), False), (lora(rank=1), True))
    )

    def linear(step) -> float:
        return sum(parts.get(LINEAR, 0) for parts in step.values()) / (weights * tokens)

    assert (linear(whole), linear(few), linear(again)) == (6, 4, 6)
    assert whole["backward"][HEAD] == 2 * few["backward"][HEAD] and HEAD not in again["recomputation"]
    assert few["forward"][ADAPTERS] < 0.04 * few["forward"][LINEAR]
    assert whole["backward"][ATTENTION] == few["backward"][ATTENTION]


def test_attention_grows_with_the_square_of_the_length():
    base = a_base()
    short, long = (step_flops(base, Setup(lora(), 2, length))["forward"][ATTENTION] for length in (128, 256))
    assert long == 4 * short


def test_four_bit_weights_change_no_product_and_wrong_targets_are_refused():
    base = a_base()
    assert step_flops(base, Setup(qlora(rank=8), 2, 64)) == step_flops(base, Setup(lora(rank=8), 2, 64))
    with pytest.raises(MethodError, match="no such linear layer"):
        step_flops(base, Setup(lora(targets=("query",)), 2, 64))
