"""`simulate` and the fake 4-bit layer against real steps on this CPU and bitsandbytes."""

from itertools import accumulate

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from workbench import full, hybrid, load_base, lora, qlora
from workbench.memory import measure, simulate
from workbench.memory.steps.fake_4bit import Linear4bit, dequantized
from workbench.memory.steps.real_steps import most_allocated, profiled, quantization_tensors
from workbench.memory.steps.recorder import Recorder
from workbench.models import Base


@pytest.mark.parametrize(
    ("method", "checkpointing"),
    [
        (full(), False),
        (lora(4), False),
        (lora(4), True),
        (lora(4, dora=True), False),
        (qlora(4), False),
        (hybrid(["layers.1.mlp"], rank=4), False),
    ],
    ids=["full", "lora", "checkpointed", "dora", "qlora", "hybrid"],
)
def test_the_simulation_predicts_a_real_step(small_directory, method, checkpointing):
    base = load_base(str(small_directory), dtype="float32", quantization="nf4" if method.name == "qlora" else None)
    before = {name: type(module) for name, module in base.model.named_modules()}
    found = measure(base, method, 4, 64, checkpointing)
    said = simulate(small_directory, method, 4, 64, "float32", checkpointing=checkpointing, device="cpu")
    assert said.peak_allocated_bytes == pytest.approx(found, rel=0.03)
    assert {name: type(module) for name, module in base.model.named_modules()} == before
    assert base.model.config._attn_implementation == "workbench_rows"


@pytest.mark.parametrize(
    "method", [full(), lora(8), lora(8, dropout=0.1), lora(8, dora=True)], ids=lambda one: one.label
)
def test_the_simulation_predicts_a_block_that_sets_the_peak(method):
    """With a small vocabulary. Autograd adds the gradients of (rows, tokens, width) out of place, as simulated."""
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=100)
    base = Base(AutoModelForCausalLM.from_config(config), None, "small", "", "config", None, torch.float32)
    found = measure(base, method, 4, 128, checkpointing=True)
    said = simulate(config, method, 4, 128, "float32", checkpointing=True, device="cpu")
    assert said.peak_allocated_bytes == pytest.approx(found, rel=0.005)
    assert max(said.peaks, key=said.peaks.__getitem__) == "backward"


@pytest.mark.parametrize("double", [True, False])
def test_the_fake_4_bit_layer_stores_what_bitsandbytes_stores(double):
    import bitsandbytes as bnb

    options = {"compute_dtype": torch.float32, "quant_type": "nf4", "compress_statistics": double}
    real = bnb.nn.Linear4bit(256, 512, bias=False, **options)
    real.load_state_dict({"weight": torch.randn(512, 256)})
    real = nn.Sequential(real.to("cpu"))
    real[0](torch.ones(1, 256))  # quantizes, if nothing has done so before
    stored = sum(t.untyped_storage().nbytes() for t in [*real.parameters(), *quantization_tensors(real)])
    fake = Linear4bit(nn.Linear(256, 512, bias=False), double)
    said = sum(t.untyped_storage().nbytes() for t in [*fake.parameters(), *fake.buffers()])
    assert said == pytest.approx(stored, abs=64)


def test_the_fake_4_bit_layer_dequantizes_within_the_memory_of_bitsandbytes():
    import bitsandbytes as bnb

    packed, state = bnb.functional.quantize_4bit(torch.randn(512, 1024), quant_type="nf4", compress_statistics=True)
    with profiled() as profile:
        bnb.functional.dequantize_4bit(packed, state)
    with Recorder(set()) as recorder:
        dequantized((512, 1024), torch.float32, double=True)
    most = max(accumulate(storage.bytes if allocated else -storage.bytes for storage, allocated in recorder.events))
    assert most == pytest.approx(most_allocated(profile), abs=64) and most == 512 * 1024 * 4 * (1 + 1 / 64)
