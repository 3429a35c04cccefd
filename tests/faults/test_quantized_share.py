"""A base is called quantized if its linear weights are, whatever holds them; the share is recorded and said.

bitsandbytes#1849, unsloth#4032 and #5344: mixtures of experts, and layers that are not exactly nn.Linear, stay in 16
bits without a word.
"""

import pytest
import torch

from support.bases_on_disk import few_rows as rows, write_base
from workbench import RunStore, TrainConfig, load_base, qlora, train
from workbench.adapters.quantized_models import dequantize_base
from workbench.cli import parser
from workbench.errors import ModelError
from workbench.models.quantized import quantized_share

pytestmark = pytest.mark.slow  # many families of models

ROUTED = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
WHOLE = ["llama", "gpt2", "phi3", "gpt_neox", "opt", "bloom"]
PARTIAL = {
    "mixtral": (ROUTED, 0.14, "experts.gate_up_proj"),
    "qwen3_moe": (ROUTED | {"head_dim": 8}, 0.25, "experts.gate_up_proj"),
    "gpt_oss": (ROUTED | {"head_dim": 8}, 0.14, "experts.down_proj"),
    "phimoe": (ROUTED, 0.14, "experts.gate_up_proj"),
    "falcon": ({}, 0.0, "dense_h_to_4h"),
    "granitemoe": (ROUTED, 0.14, "experts.gate_up_proj"),
}


@pytest.mark.parametrize("family", WHOLE)
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_base_of_plain_layers_is_whole(family, kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    base = load_base(write_base(tmp_path / family, family), kind, dtype="float32")
    assert base.quantized_share == 1 and "linear weights" not in capsys.readouterr().err


@pytest.mark.parametrize("family, kind", [("mamba", "nf4"), ("mamba", "fp4"), ("mamba", "int8"), ("rwkv", "int8")])
def test_a_model_that_computes_with_the_codes_themselves_is_refused(family, kind, tmp_path):
    """Its own operations read the weight of a layer, which they then do not call."""
    with pytest.raises(ModelError, match=r"its own operations read as numbers \(.*\)\. Load it without quantization"):
        load_base(write_base(tmp_path / family, family), kind, dtype="float32")


@pytest.mark.parametrize("family", PARTIAL)
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_less_than_nine_tenths_is_refused_unless_asked_for(family, kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    fields, share, left = PARTIAL[family]
    folder = write_base(tmp_path / family, family, **fields)
    with pytest.raises(ModelError, match=rf"quantizes {share:.0%} of its linear weights; .*{left}.* in float32"):
        load_base(folder, kind, dtype="float32")
    base = load_base(folder, kind, dtype="float32", partial_quantization=True)
    assert base.quantized_share == pytest.approx(share, abs=0.01)
    assert f"{share:.0%} of the linear weights are in {kind}" in capsys.readouterr().err


def test_without_quantization_there_is_no_share(tmp_path):
    base = load_base(write_base(tmp_path / "mixtral", "mixtral", **ROUTED), dtype="float32")
    assert base.quantized_share is None and quantized_share(base.model)[0] == 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_four_bits_still_give_about_the_logits(family, tmp_path):
    """GPT-2's weights lie the other way round."""
    folder = write_base(tmp_path / family, family, damage=_widen)
    plain, packed = (load_base(folder, kind, dtype="float32").model for kind in (None, "nf4"))
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        wanted, found = plain(ids).logits, packed(ids).logits
    assert torch.corrcoef(torch.stack([wanted.flatten(), found.flatten()]))[0, 1] > 0.9


def _widen(model):
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.dim() > 1 else 1)


@pytest.mark.slow
def test_the_share_is_in_the_record(tmp_path):
    folder, store = write_base(tmp_path / "mixtral", "mixtral", **ROUTED), RunStore(tmp_path / "runs")
    base = load_base(folder, "nf4", dtype="float32", partial_quantization=True)
    run = train(
        base, rows(), qlora(rank=2, targets=["q_proj"]), TrainConfig(steps=1, batch_size=2, evaluate=False), store
    )
    assert store.get(run.id).base["quantized_share"] == pytest.approx(base.quantized_share)


def test_what_is_left_in_16_bits_is_dequantized_as_it_is(tmp_path):
    folder = write_base(tmp_path / "falcon", "falcon")
    base = load_base(folder, "nf4", dtype="float32", partial_quantization=True)
    restored = dequantize_base(base)
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(restored.model(ids).logits, base.model(ids).logits)


def test_the_shell_can_ask_for_it_too():
    for command in ("train", "sweep"):
        assert parser().parse_args([command, "--partial-quantization"]).partial_quantization is True
        assert parser().parse_args([command]).partial_quantization is False
