"""Figures of quantization: they draw, describe themselves, overlap nothing, and show the numbers they were given."""

import pytest
import torch

from workbench import plots
from workbench.adapters.quantization import BLOCK_SIZES, KINDS, code_book, quantize
from workbench.panels.quantization import BINS, code_use, histogram
from workbench.plots import quantization as figures

WEIGHT = 0.02 * torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
USES = {kind: code_use(WEIGHT, quantize(WEIGHT, kind)) for kind in KINDS}
SIZES = (2, 8, 32)
POINTS = {
    kind: [(size, (4 + 32 / size, 0.1 + place / 50), (4 + 8 / size, 0.1 + place / 50)) for size in BLOCK_SIZES]
    for place, kind in enumerate(("int4", "nf4", "fp4"))
}
SETTINGS = ["as loaded, float32", "int8, blocks of 64", "nf4, blocks of 1024"]
COLUMNS = {"Loss, general text": (2.61, 2.62, 2.9), "Facts": (0.6, 0.6, 0.0), "MB of weights": (538, 220, 163)}

FIGURES = {
    "number_lines": lambda: figures.number_lines({kind: code_book(kind).tolist() for kind in KINDS}),
    "code_uses": lambda: figures.code_uses({kind: USES[kind] for kind in ("int4", "nf4", "fp4")}),
    "outlier_errors": lambda: figures.outlier_errors(SIZES, {kind: (0.1, 0.3, 0.9) for kind in KINDS}, 64),
    "error_against_bits": lambda: figures.error_against_bits(POINTS),
    "bars": lambda: figures.bars(SETTINGS, COLUMNS, ("{:.2f}", "{:.0%}", "{:,.0f}"), "Settings"),
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


def test_hollow_markers_stand_at_the_bits_of_double_quantization():
    (axes,) = figures.error_against_bits(POINTS).axes
    lines = {line.get_label(): line for line in axes.lines}
    for kind, rows in POINTS.items():
        plain, double = lines[kind], lines[f"{kind}, double quantization"]
        assert list(plain.get_xdata()) == [row[1][0] for row in rows] and plain.get_linestyle() != "None"
        assert list(double.get_xdata()) == [row[2][0] for row in rows]
        assert double.get_markerfacecolor() == "none" and double.get_linestyle() == "None"


def test_each_bar_is_its_value_and_says_so():
    figure = FIGURES["bars"]()
    for axes, (title, values) in zip(figure.axes, COLUMNS.items(), strict=True):
        assert axes.get_title(loc="left") == title
        assert [bar.get_width() for bar in axes.patches] == list(values)
    assert "nf4, blocks of 1024: 2.90, 0%, 163" in figure.alt


def test_a_figure_of_zeros_draws():
    assert plots.to_png(figures.bars(["a"], {"Exact match": [0.0]}, ["{:.0%}"], "Nothing learnt yet, one step"))
