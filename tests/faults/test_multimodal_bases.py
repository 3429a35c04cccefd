"""Towers for images that text does not reach get no adapters, are left as they are by full(), and are named.

axolotl#3500, NVIDIA-NeMo/Automodel#3031: vision towers of a multimodal base without a gradient.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from support.bases_on_disk import SIZES, few_rows, write_base
from workbench import RunStore, TrainConfig, full, load_base, lora, train
from workbench.adapters.inject import apply
from workbench.errors import ModelError
from workbench.models import linear_modules

TEXT = SIZES | {"vocab_size": 600, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
VISION |= {"image_size": 28, "patch_size": 14}
SAM = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "mlp_dim": 64}
SAM |= {"image_size": 64, "patch_size": 16, "global_attn_indexes": [0]}
FAMILIES = {
    "gemma3": (
        AutoModelForImageTextToText,
        {"text_config": TEXT | {"head_dim": 8}, "vision_config": VISION, "mm_tokens_per_image": 4},
        ("model.vision_tower", "model.multi_modal_projector"),
    ),
    "got_ocr2": (
        AutoModelForImageTextToText,
        {"text_config": TEXT | {"model_type": "qwen2"}, "vision_config": SAM, "image_token_index": 9},
        ("model.vision_tower", "model.multi_modal_projector"),
    ),
    "git": (
        AutoModelForCausalLM,
        {**{name: size for name, size in TEXT.items() if name != "num_key_value_heads"}, "vision_config": VISION},
        ("git.image_encoder", "git.visual_projection"),
    ),
    "fuyu": (
        AutoModelForCausalLM,
        {**TEXT, "patch_size": 4, "num_channels": 3, "text_config": TEXT | {"model_type": "persimmon"}},
        ("model.vision_embed_tokens",),
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def multimodal(request, tmp_path_factory):
    auto, fields, towers = FAMILIES[request.param]
    fields = {name: value for name, value in fields.items() if name not in ("bos_token_id", "eos_token_id")}
    folder = tmp_path_factory.mktemp("bases") / request.param
    return load_base(write_base(folder, request.param, auto, **fields), dtype="float32"), towers


def test_the_parts_that_text_does_not_reach_are_known(multimodal):
    base, towers = multimodal
    assert base.model.unreached_by_text == towers
    found = linear_modules(base.model)
    assert found and not any(name.startswith(towers) for name in found)
    trained = {name for name, parameter in apply(base, full(1e-3)).named_parameters() if parameter.requires_grad}
    assert trained and not any(name.startswith(towers) for name in trained)


def test_they_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    auto, fields, _ = FAMILIES["got_ocr2"]
    folder = write_base(tmp_path / "ocr", "got_ocr2", auto, **fields)
    base = load_base(folder, "nf4", dtype="float32")
    said = capsys.readouterr().err
    assert "text does not reach model.vision_tower, model.multi_modal_projector; these parts get no adapters" in said
    assert base.quantized_share == 1, "of what text reaches"


@pytest.mark.slow
@pytest.mark.parametrize("method", [lora(rank=2), full(1e-2)], ids=["lora", "full"])
def test_they_stay_as_they_are(method, multimodal, tmp_path):
    base, towers = multimodal
    store = RunStore(tmp_path)
    run = train(base, few_rows(), method, TrainConfig(steps=2, batch_size=2, test_limit=2), store)
    assert run.status == "finished"
    tuned = dict(run.load(base).model.named_parameters())
    for name, parameter in base.model.named_parameters():
        if name.startswith(towers):
            own = tuned.get(name, tuned.get(f"base_model.model.{name}"))
            assert torch.equal(own, parameter)


def test_a_family_without_a_decoder_of_text_is_refused(tmp_path):
    fields = {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model"},
    }
    folder = write_base(tmp_path / "llava", "llava", AutoModelForImageTextToText, **fields)
    with pytest.raises(ModelError, match=r"transformers has no text decoder for its model type \(Llava\)"):
        load_base(folder, dtype="float32")
