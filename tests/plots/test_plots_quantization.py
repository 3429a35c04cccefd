"""Figures of quantization: they draw, describe themselves, overlap nothing, and show the numbers they were given."""

import pytest
import torch

from workbench.adapters.quantization import KINDS, code_book, quantize
from workbench.panels.quantization import BINS, code_use, histogram
from workbench.plots import quantization as figures

WEIGHT = 0.02 * torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
USES = {kind: code_use(WEIGHT, quantize(WEIGHT, kind)) for kind in KINDS}
SIZES = (2, 8, 32)
MANY = {"restored": (-0.01, -0.03, 0.014), "NF4 again": (280.0, 43.0, 1785.0)}
CHANGES = {"int8, blocks of 64": (-0.002, -0.004, 0.001), "nf4, blocks of 1024": (0.574, 0.42, 0.7)}

FIGURES = {
    "code_uses": lambda: figures.code_uses({kind: USES[kind] for kind in ("int4", "nf4")}, "Weights by code"),
    "code_uses of one": lambda: figures.code_uses({"int4": USES["int4"]}, "Weights by code"),
    "outlier_errors": lambda: figures.outlier_errors(SIZES, {kind: (0.1, 0.3, 0.9) for kind in KINDS}, "An outlier"),
    "changes": lambda: figures.changes(CHANGES, "Most is lost by int4", "perplexity, change"),
    "changes of many times": lambda: figures.changes(MANY, "Worst is NF4 again", "perplexity, change"),
    "changes of nothing": lambda: figures.changes({"nf4": (0.0, 0.0, 0.0)}, "Nothing changed", "perplexity, change"),
    "block_of_weights": lambda: figures.block_of_weights([0.1, -0.4, 0.2], [0.0, -0.4, 0.3], [-0.4, 0, 0.3], "int4"),
    "code_and_error": lambda: figures.code_and_error(USES["int8"], "int8", histogram(WEIGHT, 0.06)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_codes_and_bins_are_of_all_weights(kind):
    use = USES[kind]
    assert sum(use.used) == pytest.approx(1, abs=1e-5) and sum(use.shares) == pytest.approx(1, abs=1e-5)
    assert list(use.values) == sorted(set(code_book(kind).tolist())) and len(use.used) == len(use.values)
    scaled = WEIGHT.view(-1, 64) / WEIGHT.view(-1, 64).abs().amax(1, keepdim=True)
    nearest = (scaled.view(-1, 1) - torch.tensor(use.values)).abs().argmin(1)
    expected = torch.bincount(nearest, minlength=len(use.values)) / WEIGHT.numel()
    assert use.used == pytest.approx(expected.tolist(), abs=1e-3)


def test_what_lies_outside_is_counted_in_the_outermost_bins():
    centres, shares = histogram(torch.tensor([-9.0, 0.0, 0.0, 9.0]), 1.0)
    assert len(centres) == len(shares) == BINS
    assert (shares[0], shares[BINS // 2], shares[-1]) == (0.25, 0.5, 0.25)
    assert (centres[0], centres[-1]) == (-1, 1)


def test_a_change_stands_between_the_ends_of_its_interval():
    (axes,) = FIGURES["changes"]().axes
    ends = [tuple(segment[:, 0]) for box in axes.containers for segment in box[2][0].get_segments()]
    assert ends == [pytest.approx(found[1:]) for found in CHANGES.values()]
    assert [text.get_text() for text in axes.texts] == ["-0.2%", "+57.4%"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first stands on top"
    (axes,) = FIGURES["changes of many times"]().axes
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["0.99 times", "281 times"]
