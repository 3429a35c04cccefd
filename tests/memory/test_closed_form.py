"""`estimate` against published parameter counts and peaks, and against `simulate`."""

import csv
import json
import pickle
import random
import runpy
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from support.memory_configs import CONFIGS, SIZES, TINY, published
from workbench import full, hybrid, lora, qlora
from workbench.errors import MemoryModelError
from workbench.memory import estimate, shapes, shipped, simulate
from workbench.memory.allocator import MIB
from workbench.memory.configs import model_config
from workbench.memory.report import COMPONENTS
from workbench.paths import CHECKOUT
from workbench.plots.memory import COMPONENT_STYLE

# From the models' pages, or the metadata of their files.
PUBLISHED_PARAMETERS = {
    "gemma-2-2b": 2_614_341_888,
    "gemma-2b": 2_506_172_416,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.3": 7_248_023_552,
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "smollm2-1.7b": 1_711_376_384,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "tinyllama-1.1b": 1_100_048_384,
}
METHODS = {
    "full": full(),
    "lora": lora(8),
    "lora q, v of one block": lora(16, targets=["q_proj", "v_proj"], layers=[1]),
    "lora with dropout": lora(8, dropout=0.1),
    "dora": lora(8, dora=True),
    "qlora": qlora(8),
    "hybrid": hybrid(["layers.1.mlp"], rank=8),
}
DEEP = LlamaConfig(**SIZES | {"num_hidden_layers": 8, "vocab_size": 2000})
SHALLOW_SIZES = SIZES | {"num_hidden_layers": 6, "vocab_size": 2000}
SHALLOW = LlamaConfig(**SHALLOW_SIZES)
LONG = {"batch_size": 1, "sequence_length": 1024}


def test_every_shipped_configuration_has_its_published_number_of_parameters():
    assert shipped() == sorted(PUBLISHED_PARAMETERS)
    found = {name: estimate(name, full(), batch_size=1, sequence_length=8).trainable_parameters for name in shipped()}
    assert found == PUBLISHED_PARAMETERS


@pytest.mark.parametrize(("run", "row"), published(), ids=lambda value: getattr(value, "label", ""))
def test_the_closed_form_predicts_every_published_peak(run, row):
    report = estimate(run.model, run.setup)
    assert report.trainable_parameters == int(row["trainable_params"]) and report.validated
    assert report.peak_reserved_bytes == pytest.approx(run.peak_reserved_bytes, rel=0.06)


def test_a_report_holds_its_model_and_setup():
    report = estimate("llama-3.2-1b", lora(4, targets=["q_proj"]), 2, 64)
    told = json.loads(json.dumps(report.to_dict()))
    assert told["model"] == "llama-3.2-1b" and "config" not in told and "LlamaConfig" not in repr(report)
    assert told["setup"] == report.setup.to_dict() and told["setup"]["method"]["targets"] == ["q_proj"]
    copied = pickle.loads(pickle.dumps(report))
    assert copied == report and copied.config.hidden_size == 2048
    assert estimate(CONFIGS["qwen2"], full()).model == "qwen2"


def test_only_architectures_with_published_runs_are_validated():
    for name, validated in {"llama-3.2-1b": True, "qwen3-1.7b": False}.items():
        report = estimate(name, lora())
        assert report.validated == validated and ("the qwen3 architecture" in report.note) != validated


@pytest.mark.parametrize(
    ("config", "biased"),
    [
        (LlamaConfig(**TINY, attention_bias=True, mlp_bias=True), 7),
        (Qwen3Config(**TINY, head_dim=16, attention_bias=True), 4),
        (Qwen2Config(**TINY, attention_bias=True), 3),  # always: it does not read the flag
        (MistralConfig(**TINY, attention_bias=True), 0),  # never: it does not read it either
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_biases_are_those_of_the_real_model(config, biased):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    biases = {name for name, _ in model.model.layers[0].named_parameters() if name.endswith(".bias")}
    assert len(biases) == biased
    assert {f"{name}.bias" for name in shapes.shape_of(config).biased} == biases
    assert estimate(config, full(), 1, 8).trainable_parameters == model.num_parameters()
    opened = sum(parameter.numel() for parameter in model.model.layers[1].parameters())
    report = estimate(config, hybrid(["layers.1"], rank=2, layers=[0]), 1, 8)
    assert report.trainable_parameters - report.components["adapters"] // 4 == opened


def test_an_unsupported_bias_is_refused(monkeypatch):
    monkeypatch.setattr(shapes, "SHARED_INPUTS", (("self_attn.q_proj",),))
    with pytest.raises(MemoryModelError, match=r"a bias in .*mlp.up_proj.*use simulate\(\)"):
        estimate(LlamaConfig(**TINY, attention_bias=True, mlp_bias=True), full())


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(15))
def test_the_closed_form_agrees_with_the_simulation(turn):
    """15 combinations of architectures, methods and options, in which every architecture meets several methods."""
    family, method = list(CONFIGS)[turn % len(CONFIGS)], list(METHODS)[turn % len(METHODS)]
    options = {"dtype": ("bfloat16", "mixed", "float32")[turn % 3], "checkpointing": turn % 2 == 1}
    options |= {"batch_size": (1, 4)[turn % 2], "sequence_length": (64, 256)[turn // 2 % 2]}
    assert_agree(CONFIGS[family], METHODS[method], options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "checkpointing"),
    [
        (lora(8, layers=[7]), False),
        (lora(8, layers=[7]), True),  # gradients reach the embeddings whatever trains
        (hybrid(["input_layernorm"], rank=8, layers=[7]), False),  # gradients reach the first norm
        (hybrid(["layers.2.post_attention_layernorm"], rank=8, layers=[7]), False),
    ],
)
def test_the_closed_form_stops_at_the_lowest_block_with_a_gradient(method, checkpointing):
    assert_agree(DEEP, method, {"checkpointing": checkpointing, "sequence_length": 256})


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"attention": "flash"},
        {"attention": "eager"},
        {"attention": "eager", "dtype": "mixed"},
        {"optimizer": "adamw_fused"},
        {"optimizer": "adamw8bit"},
    ],
)
def test_the_closed_form_agrees_on_kernels_and_optimizers(options):
    assert_agree(CONFIGS["llama"], full(), options | {"sequence_length": 256})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "within"),
    [
        (full(), {"optimizer": "adamw8bit"}, 0.03),
        (full(), {"optimizer": "adamw_fused", "dtype": "mixed"}, 0.01),  # autocast copies the block's weights again
        (hybrid(["mlp"], rank=8), {"optimizer": "adamw8bit"}, 0.03),
        (lora(128), {"optimizer": "adamw_fused"}, 0.03),
    ],
)
def test_the_closed_form_covers_the_end_of_the_backward_pass(method, options, within):
    """Nearly all gradients exist when the lowest block, recomputed, runs its backward pass."""
    assert_agree(SHALLOW, method, {"checkpointing": True, "sequence_length": 256, **options}, within)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "method", "options"),
    [
        (SHALLOW, lora(8), {}),
        (SHALLOW, lora(8), {"dtype": "float32", "sequence_length": 2048}),
        (SHALLOW, full(), {"dtype": "mixed"}),  # peaks in the lowest block, when nearly all gradients exist
        (SHALLOW, lora(8, layers=[4, 5]), {"dtype": "float32", "checkpointing": False}),
        (Gemma2Config(**SHALLOW_SIZES, head_dim=64), lora(8), {}),  # also saves the capped scores
    ],
)
def test_the_closed_form_covers_the_scores_of_eager_attention(config, method, options):
    """With long sequences, their gradients in float32 are larger than the rest of a block."""
    assert_agree(config, method, {"attention": "eager", "checkpointing": True, **LONG, **options}, within=0.03)


@pytest.mark.slow
def test_the_8_bit_optimizer_keeps_the_state_of_small_tensors_in_float32():
    closed, simulated = (predict(SHALLOW, lora(2), 1, 32, optimizer="adamw8bit") for predict in (estimate, simulate))
    two_of_four_bytes = 2 * 4 * closed.trainable_parameters
    assert closed.components["optimizer state"] == simulated.components["optimizer state"] == two_of_four_bytes


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed", "float32"])
def test_dequantized_weights_have_the_dtype_of_the_computation(dtype):
    wide = LlamaConfig(**SIZES | {"hidden_size": 1024, "intermediate_size": 8192, "vocab_size": 200})
    assert_agree(wide, qlora(4), {"dtype": dtype, "batch_size": 1, "sequence_length": 32})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(14))
def test_the_closed_form_agrees_on_drawn_shapes(seed):
    """Small vocabularies, so that a block sets the peak: of every family twice, with every method."""
    draw = random.Random(seed)
    heads = draw.choice((4, 8))
    sizes = {
        "hidden_size": 64 * heads,
        "intermediate_size": 64 * heads * draw.randint(2, 7) // 2,
        "num_hidden_layers": draw.choice((2, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice((2, heads)),
        "vocab_size": draw.choice((300, 2000)),
    }
    config = AutoConfig.for_model(shapes.FAMILIES[seed % len(shapes.FAMILIES)], head_dim=64, **sizes)
    options = {"batch_size": draw.choice((2, 4)), "sequence_length": draw.choice((200, 400))}
    options |= {"dtype": draw.choice(("bfloat16", "mixed", "float32")), "checkpointing": seed < len(shapes.FAMILIES)}
    method = list(METHODS)[(3 * seed) % len(METHODS)]
    assert_agree(config, METHODS[method], options)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_dequantized_weights_and_gradients_of_a_block_are_not_added_up(dtype, prepared, targets):
    """Of a shallow model, with more weights in a layer than tokens: the two made the sum 6 % too high."""
    wide = LlamaConfig(**SHALLOW_SIZES | {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 2})
    options = {"dtype": dtype, "prepared": prepared, "checkpointing": True, "sequence_length": 128}
    assert_agree(wide, qlora(16, targets=targets), options, within=0.03)


@pytest.mark.parametrize(("name", "whole"), [("closed_form.csv", True), ("closed_form_shallow.csv", False)])
def test_the_stored_comparisons_of_the_catalogue_agree(name, whole):
    """`benchmarks/memory.py catalogue` and `shallow` simulated, too slowly for a test; estimates take milliseconds."""
    benchmark = SimpleNamespace(**runpy.run_path(str(CHECKOUT / "benchmarks" / "memory.py")))
    methods = {method.label: method for method in benchmark.catalogue_methods()}
    with (CHECKOUT / "benchmarks" / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and {row["model"] for row in rows} <= set(shipped())
    for row in rows:
        config = benchmark.with_blocks(model_config(row["model"]), None if whole else benchmark.BLOCKS)
        method = methods[row["method"]]
        estimated = estimate(config, method, checkpointing=row["checkpointing"] == "yes").peak_allocated_bytes
        assert estimated == int(row["estimated_bytes"]), row
        assert estimated == pytest.approx(int(row["simulated_bytes"]), rel=0.015), row


def assert_agree(config, method, options, within=0.05):
    closed, simulated = estimate(config, method, **options), simulate(config, method, **options)
    assert closed.trainable_parameters == simulated.trainable_parameters
    assert closed.peak_allocated_bytes == pytest.approx(simulated.peak_allocated_bytes, rel=within)
    assert closed.peak_reserved_bytes == pytest.approx(simulated.peak_reserved_bytes, rel=0.05, abs=22 * MIB)
    for report in (closed, simulated):
        assert tuple(report.components) == COMPONENTS == tuple(COMPONENT_STYLE)
        assert sum(report.components.values()) == report.peak_allocated_bytes == max(report.peaks.values())
        assert report.peak_allocated_bytes <= report.peak_reserved_bytes < report.total_bytes
    for component in ("weights", "adapters", "optimizer state"):
        expected = pytest.approx(simulated.components[component], rel=0.01, abs=2e5)
        assert closed.components[component] == expected, component
    assert sum(size for _, size in closed.terms) == closed.peak_allocated_bytes and not simulated.terms
    assert max(size for _, size in simulated.timeline) == simulated.peak_allocated_bytes and not closed.timeline
    assert {phase for phase, _ in simulated.timeline} == {"forward", "backward", "optimizer"}
