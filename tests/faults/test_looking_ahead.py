"""A base whose last token changes what it predicts before it is refused when it is loaded.

huggingface/peft#675 and #1469: LoRA on encoders such as RoBERTa, which read the answers that they are scored on.
"""

import pytest
import torch
from peft import get_peft_model

from support.bases_on_disk import write_base
from workbench import load_base, lora
from workbench.adapters.inject import peft_config
from workbench.errors import ModelError
from workbench.models.checks import sees_ahead

pytestmark = pytest.mark.slow  # many families of models

ENCODERS = {
    "bert": {},
    "roberta": {},
    "electra": {"embedding_size": 32},
    "xlm-roberta": {},
    "roformer": {"embedding_size": 32},
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "gemma3_text": {"use_bidirectional_attention": True, "head_dim": 8},
}
DECODERS = {
    "llama": {},
    "bert": {"is_decoder": True},
    "roberta": {"is_decoder": True},
    "gpt2": {},
    "bloom": {},
    "opt": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"state_size": 8},
    "rwkv": {"attention_hidden_size": 32},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4},
    "mpt": {},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 8},
}


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_encoder_is_refused(family, dtype, tmp_path):
    folder = write_base(tmp_path / family, family, **ENCODERS[family])
    with pytest.raises(ModelError, match="looks ahead: its last token changes what it predicts before it"):
        load_base(folder, dtype=dtype)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_encoder_is_refused(quantization, tmp_path):
    folder = write_base(tmp_path / "bert", "bert")
    with pytest.raises(ModelError, match="looks ahead"):
        load_base(folder, quantization, dtype="float32")


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_decoder_is_taken(family, dtype, tmp_path):
    folder = write_base(tmp_path / family, family, **DECODERS[family])
    assert not load_base(folder, dtype=dtype).model.unreached_by_text


def test_rounding_that_depends_on_the_place_in_a_batch_is_no_looking_ahead():
    logits = torch.randn(1, 6, 50).repeat(3, 1, 1)
    noise = 1e-2 * torch.randn(3, 6, 50)
    assert not sees_ahead(logits, torch.float32)
    assert not sees_ahead(logits + noise, torch.bfloat16)
    logits[1, -1] += 1  # what follows the changed token
    assert not sees_ahead(logits, torch.float32)
    logits[1, 0] += 1e-2
    assert sees_ahead(logits, torch.float32) and sees_ahead(logits, torch.bfloat16)
    logits[:, :, 40:] = float("-inf")  # ids that stand for images, in some families
    assert sees_ahead(logits, torch.float32)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_looking_at_the_logits_breaks_no_gradients(quantization, tmp_path):
    """One evaluation repacks 4-bit weights on some CPUs: any training after it would lose gradients."""
    base = load_base(write_base(tmp_path / "llama", "llama"), quantization, dtype="float32")
    method = lora(rank=2)
    model = get_peft_model(base.model, peft_config(base, method))
    model(torch.arange(8)[None]).logits.square().sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name}
    assert len(found) == 14 and all(gradient.abs().sum() > 0 for gradient in found.values())


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    folder = write_base(tmp_path / "llama", "llama", damage=lambda model: model.model.norm.weight.data.fill_(torch.nan))
    with pytest.raises(ModelError, match=r"holds values in model\.norm\.weight that are not finite"):
        load_base(folder, dtype="float32")


def test_loading_leaves_torchs_random_numbers_alone(tmp_path):
    folder = write_base(tmp_path / "llama", "llama")
    load_base(folder, dtype="float32")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_base(folder, dtype="float32")
    assert torch.equal(torch.rand(4), expected)
