"""Figures of lesson 01. What holds for every figure is in test_figures.py, which draws these."""

import pytest

from workbench.adapters import lowrank
from workbench.plots import lowrank as figures

TARGETS = {name: target.numpy() for name, target in lowrank.toy_targets().items()}
BEST = {name: lowrank.error_by_rank(target).tolist() for name, target in lowrank.toy_targets().items()}
SPECTRA = {name: lowrank.spectrum(target).tolist() for name, target in lowrank.toy_targets().items()}
FOUND = {name: {4: row[4]} for name, row in BEST.items()}
HISTORY = [1 / (1 + step) for step in range(300)]
NOISE = TARGETS["noise"]

FIGURES = {
    "equation": lambda: figures.equation(NOISE, NOISE[:, :3], NOISE[:3]),
    "gallery": lambda: figures.gallery(TARGETS, "Four"),
    "gallery, two rows": lambda: figures.gallery({f"step {k}": NOISE * k for k in range(6)}, "Six", shared=True),
    "spectra": lambda: figures.spectra(SPECTRA, "Two fall fast"),
    "descents": lambda: figures.descents({1: HISTORY, 4: HISTORY}, {1: 0.004, 4: 0.003}, "Near the best"),
    "errors_by_rank": lambda: figures.errors_by_rank(BEST, FOUND, "What is missed at each rank"),
}


def test_pictures_share_a_colour_scale_only_if_asked():
    for shared, limits in ((False, [1.0, 2.0]), (True, [2.0, 2.0])):
        pictures = {"small": NOISE / abs(NOISE).max(), "large": 2 * NOISE / abs(NOISE).max()}
        figure = figures.gallery(pictures, "Two", shared)
        assert [axes.images[0].norm.vmax for axes in figure.axes if axes.images] == pytest.approx(limits)
        assert len([axes for axes in figure.axes if axes.images]) == 2


def test_small_matrices_are_drawn_small():
    _, b, a, total = (image.get_extent() for image in FIGURES["equation"]().axes[0].images)
    assert b[1] - b[0] == 3 and a[1] - a[0] == 48 and total[2] - total[3] == 32


def test_the_best_error_is_a_line_and_descents_a_ring():
    drawn = {line.get_label(): line.get_data() for line in FIGURES["errors_by_rank"]().axes[0].lines}
    for name, errors in BEST.items():
        assert list(drawn[f"{name}, best"][1]) == errors
        assert [list(values) for values in drawn[f"{name}, descent"]] == [[4], [errors[4]]]


def test_the_equation_adds_up():
    images = figures.equation(NOISE, NOISE[:, :3], NOISE[:3]).axes[0].images
    frozen, tall, wide, total = (image.get_array().data for image in images)
    assert total == pytest.approx(frozen + tall @ wide)
    assert images[0].norm.vmax == images[3].norm.vmax == pytest.approx(abs(total).max())


def test_descents_are_drawn_on_logarithmic_axes_to_their_end():
    axes = FIGURES["descents"]().axes[0]
    assert axes.get_yscale() == axes.get_xscale() == "log"
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(HISTORY[-1])
