"""Predicted memory: against published parameter counts and peaks, against real layers and steps, and against itself."""

import csv
import json
import pickle
from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    CLIPVisionConfig,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OlmoeConfig,
    Qwen2Config,
    Qwen3Config,
)

from workbench import full, hybrid, load_base, lora, qlora
from workbench.cli import main
from workbench.errors import MemoryModelError, MethodError
from workbench.memory import Setup, estimate, fake_steps, measure, shapes, shipped, simulate
from workbench.memory.allocator import MIB, reserved_bytes, segments_bytes
from workbench.memory.fake_kernels import Linear4bit, dequantized
from workbench.memory.real_steps import most_allocated, profiled, quantization_tensors
from workbench.memory.recorder import Recorder
from workbench.memory.report import COMPONENTS, CUBLAS_BYTES
from workbench.memory.setup import SetupFields, as_setup
from workbench.models import Base
from workbench.paths import DATA
from workbench.plots.memory import COMPONENT_STYLE

# As the models' own pages, or the metadata of their files, give them.
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
SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=64),
    "olmo2": Olmo2Config(**SIZES),
    "gemma2": Gemma2Config(**SIZES, head_dim=64),
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


def published() -> list[dict[str, str]]:
    with (DATA / "published_runs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def method_of(row):
    if row["method"] == "full":
        return full()
    adapters = lora(int(row["rank"]), float(row["alpha"]), targets=row["targets"].split(","))
    return replace(adapters, dora="dora" in row["method"])


def test_a_setup_can_be_given_whole_or_as_a_method_and_its_other_fields():
    setup = Setup(qlora(), 2, 64, "mixed", checkpointing=True, attention="flash")
    assert as_setup(setup) == setup == as_setup(qlora(), 2, 64, "mixed", checkpointing=True, attention="flash")
    assert as_setup(setup, batch_size=8) == replace(setup, batch_size=8)
    assert list(SetupFields.__annotations__) == [field.name for field in fields(Setup)][1:]
    for predict in (estimate, simulate):
        one = predict(LlamaConfig(**TINY), setup)
        other = predict(LlamaConfig(**TINY), qlora(), 2, 64, "mixed", checkpointing=True, attention="flash")
        assert one.setup == other.setup == setup and one.components == other.components
    with pytest.raises(TypeError, match="pass the fields to change by name"):
        as_setup(setup, 8)
    with pytest.raises(TypeError, match="batchsize"):
        estimate("llama-3.2-1b", lora(), batchsize=8)


def test_a_report_says_what_it_is_about():
    report = estimate("llama-3.2-1b", lora(4, targets=["q_proj"]), 2, 64)
    told = json.loads(json.dumps(report.to_dict()))
    assert told["model"] == "llama-3.2-1b" and "config" not in told and "LlamaConfig" not in repr(report)
    assert told["setup"] == report.setup.to_dict() and told["setup"]["method"]["targets"] == ["q_proj"]
    copied = pickle.loads(pickle.dumps(report))
    assert copied == report and copied.config.hidden_size == 2048
    assert estimate(CONFIGS["qwen2"], full()).model == "qwen2"


def test_only_what_was_published_is_validated():
    for name, validated in {"llama-3.2-1b": True, "qwen3-1.7b": False}.items():
        report = estimate(name, lora())
        assert report.validated == validated and ("the qwen3 architecture" in report.note) != validated


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads=0 in the model's configuration must be at least 1"),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_attention_heads=4 must be a multiple of num_key_value_heads=3",
        ),
    ],
)
def test_a_configuration_that_is_no_model_is_a_sentence(change, words):
    config = LlamaConfig(**SIZES)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(MemoryModelError, match=words):
        estimate(config, lora())


def test_every_shipped_configuration_has_its_published_number_of_parameters():
    assert shipped() == sorted(PUBLISHED_PARAMETERS)
    found = {name: estimate(name, full(), batch_size=1, sequence_length=8).trainable_parameters for name in shipped()}
    assert found == PUBLISHED_PARAMETERS


@pytest.mark.parametrize("place", range(len(published())))
def test_the_closed_form_meets_every_published_peak(place):
    row = published()[place]
    report = estimate("llama-3.2-3b", method_of(row), int(row["batch_size"]), int(row["max_seq_len"]), row["dtype"])
    assert report.trainable_parameters == int(row["trainable_params"]) and report.validated
    allowed = 0.05 if row["method"] == "lora" and row["rank"] == "32" else 0.08
    assert report.peak_reserved_bytes / 2**30 == pytest.approx(float(row["peak_reserved_gib"]), rel=allowed)


def test_the_simulation_meets_the_published_peak_of_lora():
    row = next(row for row in published() if row["method"] == "lora")
    report = simulate("llama-3.2-3b", method_of(row), 4, 768)
    assert report.trainable_parameters == int(row["trainable_params"])
    assert report.peak_reserved_bytes / 2**30 == pytest.approx(float(row["peak_reserved_gib"]), rel=0.05)


@pytest.mark.parametrize("turn", range(15))
def test_the_closed_form_agrees_with_the_simulation(turn):
    """Families, methods and options in turn: the numbers of families and methods have no common divisor."""
    family, method = list(CONFIGS)[turn % len(CONFIGS)], list(METHODS)[turn % len(METHODS)]
    options = {"dtype": ("bfloat16", "mixed", "float32")[turn % 3], "checkpointing": turn % 2 == 1}
    options |= {"batch_size": (1, 4)[turn % 2], "sequence_length": (64, 256)[turn // 2 % 2]}
    assert_agree(CONFIGS[family], METHODS[method], options)


TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 200,
}


@pytest.mark.parametrize(
    ("config", "biased"),
    [
        (LlamaConfig(**TINY, attention_bias=True, mlp_bias=True), 7),
        (Qwen3Config(**TINY, head_dim=16, attention_bias=True), 4),
        (Qwen2Config(**TINY, attention_bias=True), 3),  # of its own accord: it does not read the flag
        (MistralConfig(**TINY, attention_bias=True), 0),  # nor does this one
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


def test_a_bias_that_no_formula_knows_is_a_sentence(monkeypatch):
    monkeypatch.setattr(shapes, "SHARED_INPUTS", (("self_attn.q_proj",),))
    with pytest.raises(MemoryModelError, match=r"a bias in .*mlp.up_proj.*use simulate\(\)"):
        estimate(LlamaConfig(**TINY, attention_bias=True, mlp_bias=True), full())


DEEP = LlamaConfig(**SIZES | {"num_hidden_layers": 8, "vocab_size": 2000})


@pytest.mark.parametrize(
    ("method", "checkpointing"),
    [
        (lora(8, layers=[7]), False),
        (lora(8, layers=[7]), True),  # gradients go down to the embeddings all the same
        (hybrid(["input_layernorm"], rank=8, layers=[7]), False),  # and here down to the first norm
        (hybrid(["layers.2.post_attention_layernorm"], rank=8, layers=[7]), False),
    ],
)
def test_the_closed_form_knows_how_far_down_gradients_go(method, checkpointing):
    assert_agree(DEEP, method, {"checkpointing": checkpointing, "sequence_length": 256})


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


SHALLOW_SIZES = SIZES | {"num_hidden_layers": 6, "vocab_size": 2000}
SHALLOW = LlamaConfig(**SHALLOW_SIZES)

LONG_ROW = {"batch_size": 1, "sequence_length": 1024}


@pytest.mark.parametrize(
    ("method", "options", "within"),
    [
        (full(), {"optimizer": "adamw8bit"}, 0.03),
        (full(), {"optimizer": "adamw_fused", "dtype": "mixed"}, 0.01),  # the block's weights are lowered again
        (hybrid(["mlp"], rank=8), {"optimizer": "adamw8bit"}, 0.03),
        (lora(128), {"optimizer": "adamw_fused"}, 0.03),
    ],
)
def test_the_closed_form_knows_the_end_of_the_backward_pass(method, options, within):
    """Nearly all gradients are there while the lowest block, computed again, goes through the backward pass."""
    assert_agree(SHALLOW, method, {"checkpointing": True, "sequence_length": 256, **options}, within)


@pytest.mark.parametrize(
    ("config", "method", "options"),
    [
        (SHALLOW, lora(8), {}),
        (SHALLOW, lora(8), {"dtype": "float32", "sequence_length": 2048}),
        (SHALLOW, full(), {"dtype": "mixed"}),  # in the lowest block, when nearly all gradients are there
        (SHALLOW, lora(8, layers=[4, 5]), {"dtype": "float32", "checkpointing": False}),
        (Gemma2Config(**SHALLOW_SIZES, head_dim=64), lora(8), {}),  # keeps the scores that it caps, too
    ],
)
def test_the_closed_form_knows_the_scores_of_eager_attention(config, method, options):
    """In a long row, their gradients in float32 are more than all the rest of a block."""
    assert_agree(config, method, {"attention": "eager", "checkpointing": True, **LONG_ROW, **options}, within=0.03)


def test_small_tensors_keep_their_8_bit_optimizers_state_in_float32():
    quick, real = (predict(SHALLOW, lora(2), 1, 32, optimizer="adamw8bit") for predict in (estimate, simulate))
    two_of_four_bytes = 2 * 4 * quick.trainable_parameters
    assert quick.components["optimizer state"] == real.components["optimizer state"] == two_of_four_bytes


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed", "float32"])
def test_unpacked_weights_are_as_large_as_what_they_are_computed_in(dtype):
    wide = LlamaConfig(**SIZES | {"hidden_size": 1024, "intermediate_size": 8192, "vocab_size": 200})
    assert_agree(wide, qlora(4), {"dtype": dtype, "batch_size": 1, "sequence_length": 32})


def assert_agree(config, method, options, within=0.05):
    quick, real = estimate(config, method, **options), simulate(config, method, **options)
    assert quick.trainable_parameters == real.trainable_parameters
    assert quick.peak_allocated_bytes == pytest.approx(real.peak_allocated_bytes, rel=within)
    assert quick.peak_reserved_bytes == pytest.approx(real.peak_reserved_bytes, rel=0.05, abs=22 * MIB)
    for report in (quick, real):
        assert tuple(report.components) == COMPONENTS == tuple(COMPONENT_STYLE)
        assert sum(report.components.values()) == report.peak_allocated_bytes == max(report.peaks.values())
        assert report.peak_allocated_bytes <= report.peak_reserved_bytes < report.total_bytes
    for component in ("weights", "adapters", "optimizer state"):
        assert quick.components[component] == pytest.approx(real.components[component], rel=0.01, abs=2e5), component
    assert sum(size for _, size in quick.terms) == quick.peak_allocated_bytes and not real.terms
    assert max(size for _, size in real.timeline) == real.peak_allocated_bytes and not quick.timeline
    assert {phase for phase, _ in real.timeline} == {"forward", "backward", "optimizer"}


def test_full_in_bfloat16_is_four_copies_and_in_float32_masters_twice_that():
    """Weights, gradients and two averages, at the end of a step without activations to speak of."""
    config = LlamaConfig(**SIZES | {"vocab_size": 64, "hidden_size": 1024, "intermediate_size": 4096})
    numbers = estimate(config, full()).trainable_parameters

    def copies(dtype, optimizer):
        report = simulate(config, full(), 1, 8, dtype, optimizer)
        return (report.peaks["optimizer"] - CUBLAS_BYTES) / numbers, report

    assert copies("bfloat16", "adamw_fused")[0] == pytest.approx(4 * 2, rel=0.01)
    assert copies("mixed", "adamw_fused")[0] == pytest.approx(4 * 4, rel=0.01)
    assert copies("bfloat16", "adamw")[0] == pytest.approx(5 * 2, rel=0.01)  # foreach makes all roots at once
    size, report = copies("bfloat16", "adamw8bit")
    assert size == pytest.approx(2 * 2 + 2 * (1 + 4 / 256), rel=0.01)
    assert not report.validated and "not validated against a published run" in report.note


def test_checkpointing_and_kernels_change_what_they_should():
    config = LlamaConfig(**SIZES | {"num_hidden_layers": 6, "vocab_size": 128})
    plain = simulate(config, lora(8), 8, 256)
    saved = simulate(config, lora(8), 8, 256, checkpointing=True)
    assert saved.peak_allocated_bytes < plain.peak_allocated_bytes / 2
    assert estimate(config, lora(8), 8, 256, attention="flash").peak_allocated_bytes < plain.peak_allocated_bytes
    assert estimate(config, lora(8), 8, 256, attention="eager").peak_allocated_bytes > plain.peak_allocated_bytes


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
def test_a_real_step_needs_what_was_predicted(small_directory, method, checkpointing):
    base = load_base(str(small_directory), dtype="float32", quantization="nf4" if method.name == "qlora" else None)
    before = {name: type(module) for name, module in base.model.named_modules()}
    found = measure(base, method, 4, 64, checkpointing)
    said = simulate(small_directory, method, 4, 64, "float32", checkpointing=checkpointing, device="cpu")
    assert said.peak_allocated_bytes == pytest.approx(found, rel=0.03)
    assert {name: type(module) for name, module in base.model.named_modules()} == before
    assert base.model.config._attn_implementation == "workbench_short"


def test_stand_ins_store_what_bitsandbytes_stores():
    import bitsandbytes as bnb

    real = bnb.nn.Linear4bit(256, 512, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    real.load_state_dict({"weight": torch.randn(512, 256)})
    real = nn.Sequential(real.to("cpu"))
    real[0](torch.ones(1, 256))  # quantizes, if nothing has done so before
    stored = sum(t.untyped_storage().nbytes() for t in [*real.parameters(), *quantization_tensors(real)])
    fake = Linear4bit(nn.Linear(256, 512, bias=False))
    said = sum(t.untyped_storage().nbytes() for t in [*fake.parameters(), *fake.buffers()])
    assert said == pytest.approx(stored, abs=64)


def test_stand_ins_unpack_with_what_bitsandbytes_takes_for_it():
    import bitsandbytes as bnb

    packed, state = bnb.functional.quantize_4bit(torch.randn(512, 1024), quant_type="nf4", compress_statistics=True)
    with profiled() as profile:
        bnb.functional.dequantize_4bit(packed, state)
    with Recorder(set()) as recorder:
        dequantized(packed, (512, 1024), torch.float32)
    live, most = 0, 0
    for storage, comes in recorder.events:
        live += storage.bytes if comes else -storage.bytes
        most = max(most, live)
    assert most == pytest.approx(most_allocated(profile), abs=64) and most == 512 * 1024 * 4 * (1 + 1 / 64)


def test_a_recorder_sees_births_deaths_and_views_once():
    with Recorder(set()) as recorder:
        recorder.begin("forward")
        first = torch.ones(1000)
        second = first.view(10, 100) * 2
        del first
        third = second + 1
        del second, third
    lives = [(storage.bytes, storage.allocated_at, storage.released_at) for storage, comes in recorder.events if comes]
    assert lives == [(4000, 0, 2), (4000, 1, 4), (4000, 3, 5)]


def test_adding_two_gradients_of_a_tied_weight_counts_as_in_place():
    with Recorder({(100, 10)}) as recorder:
        recorder.begin("backward")
        old, new = torch.ones(100, 10), torch.ones(100, 10)
        total = old + new
    live = [0]
    for storage, comes in recorder.events:
        live.append(live[-1] + (storage.bytes if comes else -storage.bytes))
    assert max(live) == 8000 and total.shape == (100, 10)


@pytest.mark.parametrize(
    ("events", "segments"),
    [
        ([("a", 1, True)], 2 * MIB),
        ([("a", MIB, True), ("b", MIB, True)], 2 * MIB),
        ([("a", MIB + 1, True)], 20 * MIB),
        ([("a", 9 * MIB, True), ("b", 9 * MIB, True), ("c", 9 * MIB, True)], 40 * MIB),
        ([("a", 10 * MIB + 1, True)], 12 * MIB),
        ([("a", 64 * MIB, True), ("a", 64 * MIB, False), ("b", 32 * MIB, True), ("c", 32 * MIB, True)], 64 * MIB),
        ([("a", 32 * MIB, True), ("a", 32 * MIB, False), ("b", 64 * MIB, True)], 96 * MIB),
        # A fresh process would take a segment of 20 MiB for the second.
        ([("a", 10 * MIB, True), ("a", 10 * MIB, False), ("b", MIB + 1, True)], 10 * MIB),
        ([("a", 32 * MIB, True), ("a", 32 * MIB, False), ("b", 31.5 * MIB, True), ("c", 600, True)], 34 * MIB),
    ],
)
def test_the_allocator_rounds_splits_and_joins(events, segments):
    """By the rules of torch's CUDACachingAllocator: what a fresh process would show as reserved."""
    assert reserved_bytes((key, int(size), comes) for key, size, comes in events) == segments


@given(st.lists(st.tuples(st.integers(1, 40 * MIB), st.booleans()), max_size=40))
def test_the_allocator_never_reserves_less_than_is_alive_and_reuses_what_was_freed(steps):
    events, alive, most = [], [], 0
    for place, (size, comes) in enumerate(steps):
        if comes or not alive:
            alive.append((place, size))
            events.append((place, size, True))
        else:
            events.append((*alive.pop(), False))
        most = max(most, sum(size for _, size in alive))
    reserved = reserved_bytes(events)
    assert most <= reserved and reserved % (2 * MIB) == 0
    emptied = events + [(key, size, False) for key, size in alive]
    assert reserved_bytes(emptied) == reserved
    assert segments_bytes(Counter(size for _, size in alive)) >= sum(size for _, size in alive)
    for size, _ in steps:
        once = [("first", size, True)]
        assert reserved_bytes([*once, ("first", size, False), ("second", size, True)]) == reserved_bytes(once)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: estimate("llama-9", lora()), "names known here: gemma-2-2b"),
        (lambda: estimate("nobody/nothing", lora()), "neither in the local cache"),
        (lambda: estimate(BertConfig(), full()), "use simulate()"),
        (lambda: simulate(CLIPVisionConfig(), full()), "'clip_vision_model' as a language model"),
        (lambda: simulate(OlmoeConfig(**TINY, num_experts=4), full(), 1, 8), "'olmoe' does not run as configured"),
        (lambda: simulate(BartConfig(d_model=64, vocab_size=200), full(), 1, 8), "of 'bart', model.decoder.layers.0"),
        (lambda: estimate(None, full()), "cannot be given as NoneType; give a name like 'llama-3.2-1b'"),
        (lambda: simulate(7, full()), "cannot be given as int"),
        (lambda: estimate("llama-3.2-1b", full(), dtype="int3"), "dtype='int3' is not known; use one of bfloat16"),
        (lambda: estimate("llama-3.2-1b", full(), optimizer="lion"), "use one of adamw, adamw_fused, adamw8bit"),
        (lambda: estimate("llama-3.2-1b", full(), attention="ring"), "use one of sdpa, flash, eager"),
        (lambda: estimate("llama-3.2-1b", full(), batch_size=0), "batch_size=0 must be a whole number"),
        (lambda: estimate("llama-3.2-1b", full(), sequence_length=1.5), "sequence_length=1.5 must be"),
        (lambda: simulate("llama-3.2-1b", full(), attention="flash", device="cpu"), "names a GPU kernel"),
        (lambda: estimate("llama-3.2-1b", full(), device="cpu"), "estimate() describes a GPU"),
        (lambda: estimate("llama-3.2-1b", "lora"), "method='lora' must be a method, e.g. lora()"),
        (lambda: estimate("llama-3.2-1b", qlora(dora=True)), "DoRA on 4-bit weights is not modelled"),
    ],
)
def test_what_cannot_be_predicted_is_a_sentence(ask, words):
    with pytest.raises(MemoryModelError) as caught:
        ask()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistake_of_ours_is_not_blamed_on_transformers(monkeypatch):
    def mistaken(*_):
        raise TypeError("ours")

    monkeypatch.setattr(fake_steps, "make_optimizer", mistaken)
    with pytest.raises(TypeError, match="ours"):
        simulate(LlamaConfig(**TINY), full(), 1, 8)


@pytest.mark.parametrize("predict", [estimate, simulate])
def test_a_target_that_the_model_lacks_is_a_sentence(predict):
    with pytest.raises(MethodError, match="q_proj"):
        predict(CONFIGS["llama"], lora(8, targets=["c_attn"]))
    with pytest.raises(MethodError, match="blocks 0 to 1"):
        predict(CONFIGS["llama"], lora(8, layers=[7]))
    with pytest.raises(MethodError, match="which llama does not have"):
        predict(CONFIGS["llama"], hybrid(["layers.9.mlp"]))


def test_models_come_from_names_folders_files_and_configurations(tmp_path):
    config = CONFIGS["llama"]
    config.save_pretrained(tmp_path)
    reports = [estimate(source, lora(8)) for source in (config, tmp_path, str(tmp_path / "config.json"))]
    assert len({report.peak_allocated_bytes for report in reports}) == 1
    model = AutoModelForCausalLM.from_config(LlamaConfig(**TINY))
    small = Base(model, None, "small", "", "config", None, torch.float32)
    for predict in (estimate, simulate):
        by_base, by_config = (predict(source, lora(2), 1, 8) for source in (small, model.config))
        assert by_base.components == by_config.components
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"model_type": "no-such-family"}')
    (tmp_path / "nothing.json").write_text("{}")
    for name, words in (("broken", "not a JSON file"), ("other", "no-such-family"), ("nothing", "has no model_type")):
        with pytest.raises(MemoryModelError, match=words):
            estimate(tmp_path / f"{name}.json", lora(8))


def test_the_command_prints_the_report(tmp_path, capsys):
    CONFIGS["llama"].save_pretrained(tmp_path)
    arguments = ["memory", str(tmp_path), "--method", "lora", "--rank", "4", "--targets", "q_proj,v_proj", "--dora"]
    arguments += ["--batch-size", "2", "--sequence-length", "64", "--dtype", "bfloat16", "--optimizer", "adamw"]
    for extra in ([], ["--checkpointing", "--simulate"]):
        assert main([*arguments, *extra, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["peak_allocated_bytes"] == sum(report["components"].values()) and report["seconds"] > 0
        assert report["peak_reserved_bytes"] + report["context_bytes"] == report["total_bytes"]
    for options in (["--method", "full"], ["--method", "hybrid", "--full-modules", "layers.1.mlp"]):
        assert main(["memory", str(tmp_path), *options]) == 0
        assert "what the GPU must have free" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-model"], "names known here"),
        (["llama-3.2-1b", "--dtype", "int3"], "dtype='int3' is not known"),
        (["llama-3.2-1b", "--targets", "c_attn"], "q_proj"),
        (["llama-3.2-1b", "--method", "hybrid"], "needs full_modules"),
        (["llama-3.2-1b", "--method", "full", "--dora"], "--dora: full fine-tuning has no adapters"),
        (["llama-3.2-1b", "--method", "full", "--rank", "64", "--targets", "nonsense"], "--rank, --targets: full"),
        (["llama-3.2-1b", "--method", "full", "--full-modules", "lm_head"], "--full-modules: full fine-tuning"),
        (["llama-3.2-1b", "--rank", "0"], "rank=0 must be a whole number"),
    ],
)
def test_the_command_refuses_with_a_sentence_and_exit_2(arguments, words, capsys):
    assert main(["memory", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("workbench: ") and words in told and told.count("\n") == 1
