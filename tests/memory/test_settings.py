"""The settings of a step beyond method, batch and dtype: the closed form against the simulation, and by hand."""

import re

import numpy as np
import pytest
from transformers import Gemma2Config, LlamaConfig

from support.memory_configs import CONFIGS, SIZES
from workbench import full, hybrid, lora, qlora
from workbench.cost.fits import setups
from workbench.cost.gpus import gpus
from workbench.cost.roofline import gpus_if_sharded, step_phases
from workbench.errors import HardwareError, MemoryModelError
from workbench.memory import Setup, estimate, simulate
from workbench.memory.setup import fused_chunk

SHALLOW = LlamaConfig(**SIZES | {"num_hidden_layers": 6, "vocab_size": 2000})
GEMMA = Gemma2Config(**SIZES, head_dim=64)
WIDE = LlamaConfig(**SIZES | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "method", "options"),
    [
        (CONFIGS["llama"], lora(8), {"loss": "chunked"}),
        (CONFIGS["llama"], full(), {"loss": "chunked", "keep_outputs": False}),
        (GEMMA, lora(8), {"loss": "chunked", "dtype": "mixed"}),
        (CONFIGS["llama"], lora(8), {"loss": "fused"}),
        (CONFIGS["qwen2"], full(), {"loss": "fused", "keep_outputs": False, "checkpointing": True}),
        (CONFIGS["llama"], hybrid(["lm_head"], rank=8), {"loss": "fused"}),
        (CONFIGS["llama"], lora(8), {"keep_outputs": False}),
        (CONFIGS["llama"], qlora(8), {"keep_outputs": False, "checkpointing": True}),
        (SHALLOW, lora(8), {"adapter_dtype": "bfloat16"}),
        (SHALLOW, lora(64), {"adapter_dtype": "bfloat16", "checkpointing": True, "optimizer": "adamw_fused"}),
        (SHALLOW, qlora(8), {"adapter_dtype": "bfloat16", "prepared": False}),
        (SHALLOW, qlora(8), {"prepared": False}),
        (SHALLOW, qlora(8), {"prepared": False, "checkpointing": True, "double_quantization": False}),
        (WIDE, qlora(8), {"double_quantization": False, "batch_size": 1, "sequence_length": 32}),
        (SHALLOW, lora(8), {"packed": True}),
        (SHALLOW, lora(8), {"packed": True, "attention": "flash", "checkpointing": True}),
        (WIDE, full(), {"optimizer": "paged_adamw", "checkpointing": True}),
        (WIDE, full(), {"optimizer": "paged_adamw8bit", "checkpointing": True}),
        (WIDE, lora(64), {"optimizer": "paged_adamw", "checkpointing": True}),
        (WIDE, full(), {"gpus": 4, "checkpointing": True, "optimizer": "adamw_fused"}),
        (WIDE, full(), {"gpus": 4}),
        (WIDE, qlora(16), {"gpus": 2, "checkpointing": True}),
        (WIDE, lora(16), {"gpus": 2, "offload": True, "checkpointing": True}),
        (WIDE, full(), {"accumulate": True}),
        (WIDE, full(), {"accumulate": True, "checkpointing": True, "optimizer": "adamw8bit"}),
        (SHALLOW, full(), {"accumulate": True, "dtype": "mixed", "checkpointing": True, "keep_outputs": False}),
        (SHALLOW, lora(128), {"accumulate": True, "checkpointing": True}),
    ],
)
def test_the_closed_form_agrees_with_the_simulation(config, method, options):
    setup = Setup(method, **{"batch_size": 4, "sequence_length": 256, **options})
    closed, simulated = estimate(config, setup), simulate(config, setup)
    assert closed.trainable_parameters == simulated.trainable_parameters
    assert closed.peak_allocated_bytes == pytest.approx(simulated.peak_allocated_bytes, rel=0.04)
    for report in (closed, simulated):
        assert sum(report.components.values()) == report.peak_allocated_bytes == max(report.peaks.values())
    assert not closed.validated


def bytes_of(model="llama-3.2-3b", method=None, **options) -> int:
    return estimate(
        model, method or lora(16), **{"batch_size": 4, "sequence_length": 1024, **options}
    ).peak_allocated_bytes


def test_a_fused_loss_takes_less_than_a_chunked_one_and_that_less_than_a_whole_one():
    whole, chunked, fused = (bytes_of(loss=loss, checkpointing=True) for loss in ("whole", "chunked", "fused"))
    assert fused < chunked < whole
    logits = 4 * 1024 * 128_256
    assert whole - fused > 10 * logits  # four float32 and 16-bit copies of them, less what else peaks then


@pytest.mark.parametrize(("tokens", "chunk"), [(8192, 256), (1, 1), (100, 4)])
def test_the_chunk_of_the_fused_loss_is_ligers(tokens, chunk):
    """128,256 / 3,072 is 42 parts: of 8,192 tokens 196 each, rounded up to a power of two."""
    assert fused_chunk(tokens, 128_256, 3072) == chunk


def test_packed_rows_need_a_mask_for_all_pairs_unless_the_kernel_takes_none():
    """16 rows of 128 tokens as one of 2,048: the mask of a block is 16 times as large."""
    padded, packed = (bytes_of(batch_size=16, sequence_length=128, packed=packed) for packed in (False, True))
    mask = 16 * 128 * 2 * (2048 - 128)
    assert packed - padded == pytest.approx(28 * mask, rel=0.02)
    options = {"batch_size": 16, "sequence_length": 128, "attention": "flash"}
    assert bytes_of(packed=True, **options) == bytes_of(packed=False, **options)


def test_adapters_in_bfloat16_take_half():
    reports = [estimate("llama-3.2-1b", lora(64), adapter_dtype=dtype) for dtype in ("float32", "bfloat16")]
    assert [report.components["adapters"] for report in reports] == [
        4 * reports[0].trainable_parameters,
        2 * reports[0].trainable_parameters,
    ]
    assert reports[1].components["activations"] < reports[0].components["activations"]  # no float32 copies of inputs


def test_a_base_that_is_not_prepared_keeps_its_embeddings_in_16_bits():
    setup = Setup(qlora(8), checkpointing=True)
    prepared, plain = (estimate("llama-3.1-8b", setup, prepared=prepared) for prepared in (True, False))
    embeddings = 2 * 128_256 * 4096
    assert prepared.components["weights"] - plain.components["weights"] == pytest.approx(2 * embeddings, rel=0.01)


def test_32_bit_scales_take_four_times_the_room_of_8_bit_ones():
    double, single = (
        estimate("llama-3.1-8b", qlora(8), double_quantization=double).components["weights"] for double in (True, False)
    )
    scales = 6_979_321_856 / 64
    assert single - double == pytest.approx(3 * scales, rel=0.02)


def test_paged_state_is_outside_of_the_allocator():
    plain, paged = (bytes_of("llama-3.2-1b", full(), optimizer=name) for name in ("adamw8bit", "paged_adamw8bit"))
    assert plain - paged <= 2 * 1_235_814_400
    state = estimate("llama-3.2-1b", full(), optimizer="paged_adamw8bit").components["optimizer state"]
    assert state == pytest.approx(2 * 4 * 1_235_814_400 / 256, rel=0.02)  # the scales, and the state of the norms
    assert estimate("llama-3.2-1b", full(), optimizer="paged_adamw").components["optimizer state"] < 1e6


def test_accumulated_gradients_take_their_room_in_every_phase():
    """The loss of full fine-tuning in bfloat16 meets gradients of 2 bytes for each weight, of LoRA few."""
    parameters = 1_235_814_400
    for method, added in ((full(), 2 * parameters), (lora(16), 0)):
        once, summed = (
            estimate("llama-3.2-1b", method, accumulate=accumulate, checkpointing=True) for accumulate in (False, True)
        )
        assert summed.peaks["forward"] - once.peaks["forward"] == pytest.approx(added, abs=5e7)
        assert summed.peaks["optimizer"] == once.peaks["optimizer"] and not summed.validated


def test_sharding_splits_states_and_offloading_removes_them():
    one, two, eight = (estimate("llama-3.1-8b", full(), 1, 256, gpus=count, checkpointing=True) for count in (1, 2, 8))
    assert one.components["optimizer state"] == 2 * two.components["optimizer state"]
    assert one.peak_allocated_bytes > two.peak_allocated_bytes > eight.peak_allocated_bytes
    offloaded = estimate("llama-3.1-8b", full(), 1, 256, gpus=8, offload=True, checkpointing=True)
    assert offloaded.components["weights"] == offloaded.components["optimizer state"] == 0
    # gathered: two blocks of 218 million weights, and the embeddings and the head
    gathered = 2 * (2 * 218_112_000 + 2 * 128_256 * 4096)
    assert gathered < offloaded.peak_allocated_bytes < 2 * gathered


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "liger"}, "loss='liger' is not known; use one of whole, chunked, fused."),
        ({"optimizer": "sgd"}, "paged_adamw, paged_adamw8bit"),
        ({"gpus": 0}, "gpus=0 must be a whole number of at least 1"),
        ({"adapter_dtype": "bfloat16", "dtype": "mixed"}, "is modelled for dtype='bfloat16' without DoRA"),
        ({"device": "cpu", "loss": "fused"}, "loss='fused' names a GPU kernel: use loss='chunked'"),
        ({"device": "cpu", "gpus": 2}, "describe GPUs: leave them out with device='cpu'"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(MemoryModelError, match=re.escape(words)):
        Setup(lora(8), **options)


def test_a_family_that_transformers_runs_with_eager_attention_is_told_so():
    """Gemma 2 caps its scores, which no kernel of sdpa does; a catalogue of what fits must not forget it."""
    assert "use attention='eager'" in estimate(GEMMA, lora(8)).note
    assert "use attention='eager'" in simulate(GEMMA, lora(8), batch_size=1, sequence_length=8).note
    assert "attention='eager'" not in estimate(GEMMA, lora(8), attention="eager").note
    assert "attention='eager'" not in estimate(SHALLOW, lora(8)).note
    assert {setup.attention for setup in setups("gemma-2-2b").values()} == {"eager"}


def test_numbers_of_numpy_are_the_setting_of_python():
    setup = Setup(lora(8), batch_size=np.int64(2), sequence_length=np.int32(64))
    assert setup == Setup(lora(8), batch_size=2, sequence_length=64)
    assert {type(setup.batch_size), type(setup.sequence_length)} == {int}


def test_the_time_of_a_step_that_is_split_over_gpus_is_refused():
    report = estimate("llama-3.2-1b", full(), gpus=2)
    with pytest.raises(HardwareError, match="split over GPUs, or offloaded, is not modelled: use gpus=1"):
        step_phases(report)
    with pytest.raises(HardwareError, match="for gpus=1"):
        gpus_if_sharded(report, gpus()["T4"])
