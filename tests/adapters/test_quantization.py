"""Quantization: parity with bitsandbytes, code for code, and properties that must hold for every weight."""

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, strategies as st

from support.fingerprints import fingerprint
from workbench import load_base, lora, qlora
from workbench.adapters import quantization
from workbench.adapters.inject import apply
from workbench.adapters.quantization import (
    BLOCK_SIZES,
    KINDS,
    Quantized,
    code_book,
    dequantize,
    quantize,
    relative_error,
    stored_bytes,
    stored_parts,
)
from workbench.adapters.quantized_models import dequantize_base, fake_quantize, model_bytes, read_bitsandbytes
from workbench.errors import QuantizationError, TrainingError
from workbench.models import completion_logits, linear_modules
from workbench.tasks import Encoded, collate
from workbench.training.step import check_gradients

FOUR_BITS = ("nf4", "fp4")


def normal(*shape, seed=0, scale=0.02):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_restores_the_same(q, packed, state):
    """To a rounding step: bitsandbytes has several kernels, and which one runs depends on the processor."""
    theirs = bnb.dequantize_4bit(packed, state).view(-1)
    assert torch.allclose(dequantize(q).view(-1), theirs, rtol=torch.finfo(q.dtype).eps, atol=0)


# --- parity with bitsandbytes -----------------------------------------------------------------------------------


def test_the_code_books_are_the_published_ones():
    for kind in FOUR_BITS:
        assert torch.equal(code_book(kind), bnb.get_4bit_type(kind, device="cpu"))
    assert torch.equal(code_book("dynamic"), bnb.create_dynamic_map())


def test_nf4_follows_from_normal_quantiles():
    derived = quantization.nf4_from_quantiles()
    assert (derived - code_book("nf4")).abs().max() < 2e-7
    assert (quantization.nf4_from_quantiles(0.99) - code_book("nf4")).abs().max() > 0.01


@pytest.mark.parametrize("kind", FOUR_BITS)
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_codes_scales_and_values_are_those_of_bitsandbytes(kind, block_size):
    for shape in ((576, 576), (192, 576)):
        weight = normal(*shape, seed=block_size)
        q = quantize(weight, kind, block_size)
        with torch.compiler.set_stance("force_eager"):  # for large blocks it would compile, which takes seconds
            packed, state = bnb.quantize_4bit(weight.reshape(-1), blocksize=block_size, quant_type=kind)
            assert torch.equal(q.codes, packed.view(-1))
            assert torch.equal(q.absmax, state.absmax)
            assert_restores_the_same(q, packed, state)


@pytest.mark.parametrize("kind", FOUR_BITS)
def test_the_same_on_the_real_weights(kind, base):
    for name in ("layers.0.self_attn.q_proj", "layers.15.mlp.gate_proj", "layers.29.mlp.down_proj"):
        weight = base.model.get_submodule(f"model.{name}").weight
        packed, state = bnb.quantize_4bit(weight.reshape(-1), quant_type=kind)
        q = quantize(weight, kind)
        assert torch.equal(q.codes, packed.view(-1)), name
        assert torch.equal(q.absmax, state.absmax), name
        assert_restores_the_same(q, packed, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_in_half_precision(dtype):
    weight = normal(64, 96).to(dtype)
    packed, state = bnb.quantize_4bit(weight.reshape(-1), quant_type="nf4")
    q = quantize(weight, "nf4")
    assert torch.equal(q.codes, packed.view(-1)) and torch.equal(q.absmax, state.absmax)
    assert dequantize(q).dtype == dtype
    assert_restores_the_same(q, packed, state)


@pytest.mark.parametrize("kind", FOUR_BITS)
@pytest.mark.parametrize("entries", [1, 63, 65, 1001, 4290])
def test_a_last_short_block_is_packed_as_bitsandbytes_does(kind, entries):
    weight = normal(entries)
    packed, state = bnb.quantize_4bit(weight, quant_type=kind)
    q = quantize(weight, kind)
    assert torch.equal(q.codes, packed.view(-1)) and torch.equal(q.absmax, state.absmax)


@pytest.mark.parametrize("kind", FOUR_BITS)
def test_double_quantization_reads_bitsandbytes_and_chooses_the_nearest_code(kind):
    """bitsandbytes' CPU code looks scale codes up in a table and takes the second nearest for a few of them."""
    weight = normal(1536, 576)
    packed, state = bnb.quantize_4bit(weight.reshape(-1), quant_type=kind, compress_statistics=True)
    weight_like = packed.clone()
    weight_like.quant_state = state
    read = read_bitsandbytes(weight_like)
    assert_restores_the_same(read, packed, state)

    q = quantize(weight, kind, double_quantization=True)
    assert torch.equal(q.codes, packed.view(-1)) and torch.equal(q.offset, state.offset)
    assert torch.equal(q.absmax.absmax, state.state2.absmax)
    differ = q.absmax.codes != state.absmax
    assert differ.float().mean() < 0.01
    exact = quantize(weight, kind).absmax
    ours, theirs = ((dequantize(scales) + q.offset - exact).abs() for scales in (q.absmax, read.absmax))
    assert (ours <= theirs + 1e-8).all() and (theirs - ours).max() < 1e-5


def test_int8_is_bitsandbytes_int8_where_a_block_is_a_row():
    weight = normal(40, 512)
    theirs, row_absmax, _ = bnb.int8_vectorwise_quant(weight.half())
    q = quantize(weight.half(), "int8", block_size=512)
    assert torch.equal(q.absmax, row_absmax)
    codes = q.unpacked.view(40, 512).int() - 127
    at_tie = ((weight.half().float() * (127 / row_absmax[:, None])).abs() % 1 - 0.5).abs() < 0.05
    assert torch.equal(codes[~at_tie], theirs.int()[~at_tie]) and (codes - theirs).abs().max() <= 1


def test_rows_that_are_no_multiple_of_the_block_come_out_right():
    """On some CPUs bitsandbytes restores them wrongly (relative error 0.2 to 0.6) unless the weight is flattened."""
    weight = normal(576, 576)
    ours = dequantize(quantize(weight, "nf4", 128))
    flat = bnb.dequantize_4bit(*bnb.quantize_4bit(weight.flatten(), blocksize=128, quant_type="nf4"))
    assert relative_error(weight, ours) == pytest.approx(0.096, abs=0.002)
    assert torch.allclose(flat.view_as(ours), ours, atol=1e-6)


# --- properties -------------------------------------------------------------------------------------------------


@st.composite
def weights(draw):
    shape = draw(st.sampled_from([(1,), (7,), (3, 5), (64,), (33, 2), (4, 4, 9), (200,), (130, 3)]))
    weight = normal(*shape, seed=draw(st.integers(0, 10_000)), scale=draw(st.sampled_from([1e-6, 0.02, 1e4])))
    if draw(st.booleans()):
        weight.view(-1)[draw(st.integers(0, weight.numel() - 1))] *= 50
    return weight


kinds, blocks = st.sampled_from(KINDS), st.sampled_from(BLOCK_SIZES)


@given(weights(), kinds, blocks)
def test_no_entry_is_off_by_more_than_half_the_widest_gap(weight, kind, block_size):
    q = quantize(weight, kind, block_size)
    restored = dequantize(q)
    assert restored.shape == weight.shape and restored.dtype == weight.dtype
    half_gap = code_book(kind).sort().values.diff().max() / 2
    absmax = q.absmax.repeat_interleave(block_size)[: weight.numel()].view(weight.shape)
    assert ((weight - restored).abs() <= absmax * half_gap * (1 + 1e-5)).all()


@given(weights(), kinds, blocks)
def test_no_other_value_of_the_code_book_is_nearer(weight, kind, block_size):
    q = quantize(weight, kind, block_size)
    absmax = q.absmax.repeat_interleave(block_size)[: weight.numel()].view(-1, 1)
    nearest = (weight.view(-1, 1) - absmax * code_book(kind)).abs().amin(1)
    error = (weight - dequantize(q)).abs().view(-1)
    assert (error <= nearest + 1e-6 * absmax.view(-1)).all()


@given(weights(), kinds, blocks)
def test_quantizing_again_changes_nothing(weight, kind, block_size):
    once = dequantize(quantize(weight, kind, block_size))
    twice = quantize(once, kind, block_size)
    assert torch.equal(dequantize(twice), once)


@given(weights(), kinds, blocks)
def test_the_unit_of_a_weight_does_not_matter(weight, kind, block_size):
    q, doubled = quantize(weight, kind, block_size), quantize(2 * weight, kind, block_size)
    assert torch.equal(q.codes, doubled.codes) and torch.equal(2 * q.absmax, doubled.absmax)


@given(kinds, blocks, st.booleans(), st.sampled_from([0.0, 0.25, -3e-5]), st.integers(1, 300))
def test_a_block_of_equal_values_is_kept(kind, block_size, double_quantization, value, entries):
    weight = torch.full((entries,), value)
    restored = dequantize(quantize(weight, kind, block_size, double_quantization))
    assert torch.allclose(restored, weight, rtol=1e-6, atol=0)


@given(weights(), kinds, blocks, st.booleans())
def test_zeros_stay_zeros(weight, kind, block_size, double_quantization):
    weight.view(-1)[::2] = 0
    assert (dequantize(quantize(weight, kind, block_size, double_quantization)).view(-1)[::2] == 0).all()


@given(weights(), kinds, blocks, st.booleans())
def test_what_is_stored_is_what_the_formula_says(weight, kind, block_size, double_quantization):
    q = quantize(weight, kind, block_size, double_quantization)
    assert q.nbytes == stored_bytes(weight.numel(), kind, block_size, double_quantization)
    assert q.codes.nbytes == stored_parts(weight.numel(), kind, block_size, double_quantization)["codes"]
    assert q.bits_per_parameter == 8 * q.nbytes / weight.numel()


@pytest.mark.parametrize("kind", KINDS)
def test_a_code_book_spans_minus_one_to_one_has_a_zero_and_fits_its_bits(kind):
    book = code_book(kind)
    rising = book.sort().values
    assert (rising[0], rising[-1]) == (-1, 1) and (book == 0).any()
    assert len(book) <= (256 if kind == "int8" else 16)
    assert (rising.diff() > 0).sum() == len(book.unique()) - 1
    assert kind == "fp4" or torch.equal(rising, book)


def test_bits_of_the_qlora_paper():
    """64 entries a block and 256 scales a block of scales: 4.5 bits, and 0.373 fewer (arXiv 2305.14314, section 3)."""
    weight = normal(1024, 1024)
    plain, double = (quantize(weight, "nf4", 64, on).bits_per_parameter for on in (False, True))
    assert plain == 4.5
    assert plain - double == pytest.approx(32 / 64 - (8 / 64 + 32 / (64 * 256)), abs=1e-4)


def test_nf4_fits_normal_weights_best_and_int8_is_far_ahead():
    weight = normal(256, 576)
    error = {kind: relative_error(weight, dequantize(quantize(weight, kind))) for kind in KINDS}
    assert error["int8"] < 0.01 < error["nf4"] < error["int4"] < error["fp4"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_outlier_costs_its_own_block_only(kind):
    weight = normal(4, 64)
    spoilt = weight.clone()
    spoilt[1, 0] = 1.0
    calm, after = (dequantize(quantize(each, kind)) for each in (weight, spoilt))
    assert torch.equal(calm[[0, 2, 3]], after[[0, 2, 3]])
    assert relative_error(weight[1, 1:], after[1, 1:]) > 3 * relative_error(weight[1, 1:], calm[1, 1:])
    assert after[1, 0] == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quantize(torch.ones(64), "nf3"), "use one of int8, int4, nf4, fp4"),
        (lambda: quantize(torch.ones(64), "dynamic"), "is not known"),
        (lambda: quantize(torch.ones(64), "nf4", 96), "block_size=96 must be a power of two from 32 to 4096"),
        (lambda: quantize(torch.ones(0), "nf4"), "0 entries"),
        (lambda: quantize(torch.ones(64, dtype=torch.int8), "nf4"), "torch.int8 cannot be quantized"),
        (lambda: quantize(torch.tensor([1.0, float("nan")]), "nf4"), "not finite"),
        (lambda: quantize(torch.tensor([1.0, -float("inf")]), "int8"), "not finite"),
        (lambda: quantize(torch.tensor([1e300], dtype=torch.float64), "int8"), "not finite"),
        (lambda: stored_bytes(64, "nf4", 1), "power of two"),
    ],
)
def test_what_cannot_be_quantized_is_said_in_a_sentence(call, words):
    with pytest.raises(QuantizationError) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


# --- whole models -----------------------------------------------------------------------------------------------


def test_the_size_of_a_model_is_that_of_its_parts(small):
    layers = [small.model.get_submodule(name).weight for name in linear_modules(small.model)]
    rest = sum(p.numel() for p in small.model.parameters()) - sum(w.numel() for w in layers)
    found = model_bytes(small.model, "nf4", 128, True, other=4)
    assert found == 4 * rest + sum(quantize(w, "nf4", 128, True).nbytes for w in layers)
    assert model_bytes(small.model, None) == 2 * sum(p.numel() for p in small.model.parameters())


def test_fake_quantization_changes_linear_layers_of_a_copy_only(small):
    before = fingerprint(small)
    coarse = fake_quantize(small, "int4", 128)
    assert fingerprint(small) == before
    assert coarse.revision != small.revision and coarse.quantization is None
    for name, weight in small.model.named_parameters():
        copied = coarse.model.get_parameter(name)
        if name.removesuffix(".weight") in linear_modules(small.model):
            assert torch.equal(copied, dequantize(quantize(weight, "int4", 128))) and not copied.requires_grad
        else:
            assert copied is weight
    with pytest.raises(QuantizationError, match="load it without"):
        fake_quantize(load_like(small, "nf4"), "nf4")


def load_like(base, kind):
    return load_base(base.name, quantization=kind, dtype="float32")


@pytest.mark.parametrize("kind", FOUR_BITS)
def test_a_dequantized_base_computes_what_the_4_bit_base_does(kind, small):
    packed = load_like(small, kind)
    plain = dequantize_base(packed)
    assert plain.quantization is None and packed.model.get_submodule(next(iter(linear_modules(small.model))))
    batch = collate([Encoded((5, 8, 13, 21, 34), 2)], pad_id=0)
    with torch.no_grad():
        theirs, ours = (completion_logits(each.model, batch) for each in (packed, plain))
    assert torch.allclose(theirs, ours, atol=1e-5)

    gradients = []
    for base, method in ((packed, qlora(rank=4)), (plain, lora(rank=4))):
        model = apply(base, method, seed=1)
        loss = torch.nn.functional.cross_entropy(completion_logits(model, batch), batch["targets"])
        loss.backward()
        gradients.append([p.grad for n, p in model.named_parameters() if "lora_B" in n])
    assert all(g is not None and g.any() for g in gradients[0])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_a_cut_behind_every_4_bit_layer_is_found_by_the_check(small):
    """What section 6 of lesson 03 builds: adapters learn only where a residual connection leads back to them."""
    packed = load_like(small, "nf4")
    for layer in map(packed.model.get_submodule, linear_modules(packed.model)):
        layer.register_forward_hook(lambda module, inputs, output: output.detach())
    model = apply(packed, qlora(rank=4))
    batch = collate([Encoded((5, 8, 13, 21, 34), 2)], pad_id=0)
    torch.nn.functional.cross_entropy(completion_logits(model, batch), batch["targets"]).backward()
    learning = {name.split(".")[-4] for name, p in model.named_parameters() if "lora_B" in name and p.grad.any()}
    assert learning == {"o_proj", "down_proj"}
    with pytest.raises(TrainingError, match=f"{5 * 2} trainable parameters get no usable gradient"):
        check_gradients(model)


def test_only_a_4_bit_base_can_be_dequantized(small):
    with pytest.raises(QuantizationError, match="load the base with 'nf4' or 'fp4'"):
        dequantize_base(small)


def test_nothing_depends_on_the_device():
    """Codes, borders and scales follow the weight: on `meta` a stray CPU tensor would be refused."""
    weight = torch.empty(64, 64, device="meta")
    values, absmax = quantization._nearest_codes(weight.view(-1), "nf4", 64)
    q = Quantized("nf4", 64, weight.shape, weight.dtype, values, absmax)
    assert dequantize(q).device.type == "meta" and q.nbytes == stored_bytes(64 * 64, "nf4")
