"""Every figure of every module: draws, describes itself, overlaps nothing, leaves no page and can be read."""

from functools import cache
from itertools import pairwise

import matplotlib
import pytest
import test_plots
import test_plots_comparisons
import test_plots_decision
import test_plots_knobs
import test_plots_memory
import test_plots_quantization
import test_plots_retrieval
import test_plots_serving
import test_plots_sweeps
import test_plots_updates
import test_plots_what_changed
from matplotlib.backends.backend_agg import FigureCanvasAgg

from workbench import plots

MODULES = (
    test_plots,
    test_plots_comparisons,
    test_plots_decision,
    test_plots_knobs,
    test_plots_memory,
    test_plots_quantization,
    test_plots_retrieval,
    test_plots_serving,
    test_plots_sweeps,
    test_plots_updates,
    test_plots_what_changed,
)
FIGURES = {f"{module.__name__}: {name}": draw for module in MODULES for name, draw in module.FIGURES.items()}


@cache
def drawn(name: str):
    """The figure of that name and its picture, made once for all tests of this file."""
    figure = FIGURES[name]()
    return figure, plots.to_png(figure, dpi=80)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_and_describes_itself(name):
    figure, png = drawn(name)
    assert png.startswith(b"\x89PNG") and len(png) > 3000
    assert 40 < len(figure.alt) < 1200 and "\n" not in figure.alt and "nan" not in figure.alt
    assert figure.alt.encode() in png


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_overlaps_and_nothing_leaves_the_page(name):
    figure, _ = drawn(name)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    page = figure.bbox.padded(1)
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(axes.get_legend() is None for axes in figure.axes), "legends belong outside the axes"
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            seen = [label.get_window_extent(renderer) for label in labels if label.get_text()]
            inside = [box for box in seen if page.x0 <= box.x0 and box.x1 <= page.x1]
            assert not any(a.overlaps(b) for a, b in pairwise(inside))


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_large_enough_for_a_projector(name):
    figure, _ = drawn(name)
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 10
