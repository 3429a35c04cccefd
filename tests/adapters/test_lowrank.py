"""The mathematics: properties that must hold for every matrix, and parity of the layer with PEFT's own."""

# ruff: noqa: N803, N806 - matrices keep the capital letters that the papers give them

import copy
import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import nn

from workbench import exercises
from workbench.adapters import lowrank
from workbench.adapters.lowrank import LoRALinear


@st.composite
def matrices(draw, largest=12):
    rows, columns = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    seed = draw(st.integers(0, 10_000))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)


@st.composite
def pairs(draw):
    rows, columns = draw(st.integers(2, 14)), draw(st.integers(2, 14))
    rank = draw(st.integers(1, min(rows, columns)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    A = torch.randn(rank, columns, generator=generator, dtype=torch.float64)
    B = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    return A, B, draw(st.integers(1, rank))


@given(matrices(), st.data())
def test_no_matrix_of_the_same_rank_is_nearer(W, data):
    rank = data.draw(st.integers(1, min(W.shape)))
    best = lowrank.best_rank_r(W, rank)
    distance = (W - best).norm()
    rounding = 1e-12 * W.norm()
    assert torch.linalg.matrix_rank(best) <= rank
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    left = torch.randn(W.shape[0], rank, generator=generator, dtype=W.dtype)
    # The strongest rival with this column space: the least-squares fit of W in it.
    rival = left @ torch.linalg.lstsq(left, W).solution
    assert distance <= (W - rival).norm() + rounding
    nudged = lowrank.best_rank_r(best + 1e-3 * rival, rank)
    assert distance <= (W - nudged).norm() + rounding


@given(matrices())
def test_error_by_rank_is_the_distance_to_the_best_matrix(W):
    errors = lowrank.error_by_rank(W)
    assert len(errors) == min(W.shape) + 1
    assert errors[0] == pytest.approx(1) and errors[-1] == 0
    assert (errors.diff() <= 1e-12).all()
    for rank in range(1, min(W.shape) + 1):
        measured = (W - lowrank.best_rank_r(W, rank)).norm() / W.norm()
        assert errors[rank] == pytest.approx(measured.item(), abs=1e-7)
        assert lowrank.best_rank_r_error(W, rank) == errors[rank].item()


@given(pairs())
def test_truncating_the_pair_is_the_svd_of_the_product(pair):
    A, B, rank = pair
    small_A, small_B = lowrank.truncate(A, B, rank)
    assert small_A.shape == (rank, A.shape[1]) and small_B.shape == (B.shape[0], rank)
    dense = lowrank.best_rank_r(B @ A, rank)
    assert torch.allclose(small_B @ small_A, dense, atol=1e-9 * float((B @ A).norm()))


@given(pairs(), st.floats(0.01, 100))
def test_the_update_has_rank_r_at_most(pair, factor):
    A, B, _ = pair
    update = lowrank.delta_weight(A, B, factor)
    assert update.shape == (B.shape[0], A.shape[1])
    assert torch.linalg.matrix_rank(update) <= A.shape[0]
    assert torch.allclose(update, factor * B @ A)


@given(matrices(), st.floats(1e-4, 1e4))
def test_effective_rank_is_bounded_and_ignores_scale(W, factor):
    value = lowrank.effective_rank(W)
    assert 1 - 1e-9 <= value <= min(W.shape) + 1e-9
    assert lowrank.effective_rank(factor * W) == pytest.approx(value)
    assert lowrank.effective_rank(W.T) == pytest.approx(value)


def test_effective_rank_of_known_matrices():
    assert lowrank.effective_rank(torch.eye(7)) == pytest.approx(7)
    assert lowrank.effective_rank(torch.ones(4, 9)) == pytest.approx(1, abs=1e-3)
    assert lowrank.effective_rank(torch.diag(torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(2)
    assert lowrank.effective_rank(torch.zeros(3, 3)) == 0


def test_the_toy_targets_go_from_low_rank_to_full_rank():
    targets = lowrank.toy_targets()
    errors = {name: lowrank.best_rank_r_error(target, 8) for name, target in targets.items()}
    assert list(errors) == sorted(errors, key=errors.get) == ["smooth", "triangle", "noise", "diagonal"]
    assert errors["smooth"] < 0.01 and errors["diagonal"] == pytest.approx(math.sqrt(1 - 8 / 32))
    assert len({round(target.norm().item(), 3) for target in targets.values()}) == 1


def matrix_with_spectrum(values, rows, columns):
    """Random orthonormal directions on both sides of these singular values."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator))[0]
    return (left * values) @ right.T


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_descent_from_b_zero_reaches_the_best_error(rank):
    target = 5 * matrix_with_spectrum(0.6 ** torch.arange(12.0), 12, 16)
    fit = lowrank.fit_low_rank(target, rank, steps=6000, learning_rate=0.5)
    best = lowrank.best_rank_r_error(target, rank)
    assert fit.history[0] == {"step": 0, "error": pytest.approx(1)}
    assert best - 1e-6 <= fit.error <= best + 2e-3
    measured = (target - lowrank.delta_weight(fit.A, fit.B)).norm() / target.norm()
    assert fit.error == pytest.approx(measured.item(), abs=1e-5)


def test_descent_depends_on_its_seed_alone_and_not_on_the_size_of_the_target():
    target = matrix_with_spectrum(0.5 ** torch.arange(4.0), 6, 5)
    torch.manual_seed(1)
    first = lowrank.fit_low_rank(target, 2, steps=50, seed=3)
    torch.manual_seed(2)
    second = lowrank.fit_low_rank(target, 2, steps=50, seed=3)
    assert first.history == second.history
    assert lowrank.fit_low_rank(target, 2, steps=50, seed=4).history != first.history
    scaled = lowrank.fit_low_rank(100 * target, 2, steps=50, seed=3)
    assert scaled.error == pytest.approx(first.error, rel=1e-4)


def test_the_hand_written_gradients_are_those_of_autograd():
    target = matrix_with_spectrum(torch.tensor([1.0, 0.5]), 5, 4)
    fit = lowrank.fit_low_rank(target, 2, steps=3, learning_rate=0.3)
    generator = torch.Generator().manual_seed(0)
    A = torch.empty(2, 4).uniform_(-0.5, 0.5, generator=generator).requires_grad_()
    B = torch.zeros(5, 2, requires_grad=True)
    optimizer = torch.optim.SGD([A, B], lr=0.3)
    for _ in range(3):
        optimizer.zero_grad()
        ((B @ A - target).square().sum() / 2).backward()
        optimizer.step()
    assert torch.allclose(fit.A, A, atol=1e-5) and torch.allclose(fit.B, B, atol=1e-5)


def twins(rank=4, alpha=16, rslora=False, bias=True, shape=(24, 40), dtype=torch.float32):
    """Our layer and PEFT's around the same frozen linear layer, with the same A and B."""
    torch.manual_seed(0)
    linear = nn.Linear(*shape, bias=bias, dtype=dtype)
    ours = LoRALinear(copy.deepcopy(linear), rank, alpha, rslora)
    config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=rslora)
    theirs = PeftLinear(linear.requires_grad_(False), "default", config, r=rank, lora_alpha=alpha)
    # Wrapping a whole model, PEFT keeps adapters in float32 (autocast_adapter_dtype); a lone layer must be told.
    theirs.lora_A.float(), theirs.lora_B.float()
    with torch.no_grad():
        ours.B.normal_()
        theirs.lora_A["default"].weight.copy_(ours.A)
        theirs.lora_B["default"].weight.copy_(ours.B)
    return ours, theirs


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parity_with_peft_forward_and_backward(rslora, bias, dtype):
    ours, theirs = twins(rslora=rslora, bias=bias, dtype=dtype)
    x = torch.randn(3, 5, 24, dtype=dtype)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = ours(mine), theirs(other)
    assert a.dtype == b.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2}[dtype]
    assert torch.allclose(a, b, atol=tolerance, rtol=tolerance)
    weights = torch.randn_like(a)
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    assert ours.A.grad.abs().max() > 0 and ours.B.grad.abs().max() > 0
    scale = ours.A.grad.abs().max().item()
    assert torch.allclose(ours.A.grad, theirs.lora_A["default"].weight.grad, atol=1e-5 * scale, rtol=1e-3)
    assert torch.allclose(ours.B.grad, theirs.lora_B["default"].weight.grad, atol=1e-5 * scale, rtol=1e-3)
    assert torch.allclose(mine.grad, other.grad, atol=tolerance * mine.grad.abs().max().item(), rtol=tolerance)
    assert ours.linear.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_layer_changes_nothing_at_all(dtype):
    linear = nn.Linear(24, 40, dtype=dtype)
    x = torch.randn(7, 24, dtype=dtype)
    before = linear(x)
    assert torch.equal(LoRALinear(linear, 8, 16)(x), before)


def test_only_a_and_b_train_and_their_start_is_pefts():
    layer = LoRALinear(nn.Linear(24, 40), 4, 8)
    trainable = {name: weight.numel() for name, weight in layer.named_parameters() if weight.requires_grad}
    assert trainable == {"A": 4 * 24, "B": 40 * 4}
    assert sum(trainable.values()) == lowrank.lora_parameters(40, 24, 4)
    assert layer.A.dtype == layer.B.dtype == torch.float32
    bound = 1 / math.sqrt(24)
    assert 0.8 * bound < layer.A.abs().max() <= bound and not layer.B.any()


def test_the_two_scaling_rules():
    assert lowrank.scaling(16, 8) == 2
    assert lowrank.scaling(16, 4, rslora=True) == 8
    assert LoRALinear(nn.Linear(8, 8), 4, 16).scaling == 4


def test_a_layer_follows_its_update():
    layer = LoRALinear(nn.Linear(6, 5), 2, 4)
    nn.init.normal_(layer.B)
    x = torch.randn(3, 6)
    merged = layer.linear.weight + lowrank.delta_weight(layer.A, layer.B, layer.scaling)
    assert torch.allclose(layer(x), nn.functional.linear(x, merged, layer.linear.bias), atol=1e-5)


BAD_RANKS = [(0, "1 or more"), (-3, "1 or more"), (2.0, "whole number"), (True, "whole number"), (9, "8 or less")]


@pytest.mark.parametrize(("rank", "message"), BAD_RANKS)
@pytest.mark.parametrize(
    "use",
    [
        lambda rank: LoRALinear(nn.Linear(8, 12), rank, 16),
        lambda rank: lowrank.best_rank_r(torch.randn(8, 12), rank),
        lambda rank: lowrank.best_rank_r_error(torch.randn(8, 12), rank),
        lambda rank: lowrank.lora_parameters(8, 12, rank),
        lambda rank: lowrank.truncate(torch.randn(8, 12), torch.randn(20, 8), rank),
        lambda rank: lowrank.fit_low_rank(torch.randn(8, 12), rank),
    ],
)
def test_a_rank_that_cannot_be_used_is_refused_in_one_sentence(rank, message, use):
    with pytest.raises(ValueError, match=message) as caught:
        use(rank)
    assert str(caught.value).count("\n") == 0


def test_numpy_integers_are_ranks_too():
    assert lowrank.lora_parameters(8, 12, np.int64(2)) == 40


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: lowrank.spectrum(torch.randn(3)), "expected a matrix"),
        (lambda: lowrank.spectrum(torch.full((2, 2), torch.nan)), "NaN or infinite"),
        (lambda: lowrank.error_by_rank(torch.zeros(2, 2)), "all zeros"),
        (lambda: lowrank.fit_low_rank(torch.zeros(2, 2), 1), "all zeros"),
        (lambda: lowrank.fit_low_rank(torch.randn(4, 4), 1, steps=0), "steps must be 1 or more"),
        (lambda: lowrank.fit_low_rank(torch.randn(4, 4), 2, steps=300, learning_rate=9), "diverged"),
        (lambda: lowrank.delta_weight(torch.randn(2, 4), torch.randn(4, 3)), "do not belong together"),
        (lambda: lowrank.truncate(torch.randn(3, 2), torch.randn(2, 4), 1), "do not belong together"),
    ],
)
def test_bad_input_is_named(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_half_precision_weights_can_be_measured():
    W = torch.randn(6, 6).bfloat16()
    assert lowrank.spectrum(W).dtype == torch.float32
    assert lowrank.best_rank_r(W, 6).dtype == torch.float32


def test_the_layer_that_notebook_02_writes_is_this_one():
    path = Path(__file__).parents[2] / "notebooks" / "02_lora_from_scratch.ipynb"
    (source,) = (cell.source for cell in nbformat.read(path, 4).cells if "class LoRALinear" in cell.source)
    namespace = {"nn": nn, "torch": torch, "math": math, "lora_forward": exercises.find("02.forward").solution}
    exec(source[source.index("class LoRALinear") :], namespace)
    linear = nn.Linear(12, 9)
    ours, written = LoRALinear(linear, 3, 6), namespace["LoRALinear"](linear, 3, 6)
    nn.init.normal_(ours.B)
    written.load_state_dict(ours.state_dict())
    x = torch.randn(4, 12)
    assert torch.allclose(ours(x), written(x), atol=1e-6)


def test_a_target_in_float64_is_fitted_in_float64():
    """numpy's own precision, which torch.from_numpy keeps."""
    target = lowrank.toy_targets(8, 12)["smooth"]
    fit, expected = lowrank.fit_low_rank(target.double(), 2, steps=50), lowrank.fit_low_rank(target, 2, steps=50)
    assert fit.B.dtype == torch.float64 and fit.error == pytest.approx(expected.error, rel=1e-4)
