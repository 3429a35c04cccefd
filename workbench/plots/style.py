"""What all figures share: colours, the look of axes, and how a figure becomes a PNG with a description.

The other modules of `plots` hold the figures: one function each, from data to a `Figure`. None uses pyplot, which keeps
global state.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart. A grey print loses them, so lines
also differ in marker and dash. Every figure has a description for screen readers, in `figure.alt`.
"""

from __future__ import annotations

import base64
import html
import io
import threading
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import matplotlib.figure
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator

Look: TypeAlias = dict[str, Any]  # keyword arguments of a line, bar or patch; matplotlib types each of them differently
Layout: TypeAlias = Literal["constrained"] | ConstrainedLayoutEngine | None

PALETTE = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "yellow": "#E69F00",
    "sky": "#56B4E9",
    "grey": "#6E6E6E",
    "ink": "#222222",
    "silver": "#B0B0B0",
    "light": "#D9D9D9",
}
# The n-th series of any figure.
SERIES: tuple[Look, ...] = (
    {"color": PALETTE["blue"], "marker": "o", "linestyle": "-", "linewidth": 1.8},
    {"color": PALETTE["orange"], "marker": "s", "linestyle": "--", "linewidth": 1.8},
    {"color": PALETTE["green"], "marker": "^", "linestyle": "-.", "linewidth": 1.8},
    {"color": PALETTE["pink"], "marker": "D", "linestyle": ":", "linewidth": 1.8},
    {"color": PALETTE["ink"], "marker": "v", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "linewidth": 1.8},
)
# The second five are hollow.
TEN_SERIES: tuple[Look, ...] = (*SERIES, *(look | {"fillstyle": "none"} for look in SERIES))
# Marks the learner's own setting.
RING: Look = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "markeredgewidth": 2, "color": PALETTE["ink"]}
TIMES = "\N{MULTIPLICATION SIGN}"
MATRIX_COLOURS = "cividis"  # its brightness rises evenly, so a grey print keeps the order
# Light to dark in one hue, for the same reason.
LIGHT_TO_DARK = LinearSegmentedColormap.from_list("light to dark", ["#EDF4FA", PALETTE["blue"], "#00263C"])

_drawing = threading.Lock()  # widget callbacks may run in other threads, and matplotlib's font cache is shared


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure with `alt`, its description for readers who do not see it."""

    alt = ""


def new_figure(width: float = 9.0, height: float = 3.6, layout: Layout = "constrained") -> Figure:
    """An empty figure, sizes in inches. The constrained layout keeps labels and legends clear of the data.

    Live panels place their axes by hand (layout=None), because the constrained layout doubles the drawing time.
    """
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def style(axes: Axes, title: str, x: str, y: str) -> Axes:
    """Give axes their title, labels and grid, and return them. title: what to see; x, y: labels with units."""
    # Without y, every draw computes where the title must go: a fifth of the time of a live picture.
    axes.set_title(title, y=1.0, loc="left", fontsize=12, fontweight="bold", color=PALETTE["ink"])
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALETTE["light"], linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def log_x(axes: Axes, ticks: Sequence[float], base: int = 10, form: str = "{x:g}") -> None:
    """Make the x axis logarithmic, with ticks at these values only. form: the format of their labels."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(form)


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Put the legend of `axes` under them, clear of the data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10.5)


def described(figure: Figure, alt: str) -> Figure:
    """Set the figure's description and return the figure."""
    figure.alt = alt
    return figure


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG file, which also holds the description."""
    buffer = io.BytesIO()
    with _drawing:
        # The fastest compression makes files a tenth larger, and a live panel answers 10 ms sooner.
        figure.savefig(
            buffer, format="png", dpi=dpi, metadata={"Description": figure.alt}, pil_kwargs={"compress_level": 1}
        )
    return buffer.getvalue()


def picture(png: bytes, alt: str, width: int, css_class: str = "") -> tuple[dict[str, str], dict[str, Any]]:
    """A PNG as notebook output: data and metadata. JupyterLab reads the alt text from the HTML, nbconvert from both."""
    encoded = base64.b64encode(png).decode()
    tag = (
        f'<img class="{css_class}" alt="{html.escape(alt)}" style="max-width: 100%; width: {width}px" '
        f'src="data:image/png;base64,{encoded}">'
    )
    data = {"image/png": encoded, "text/html": tag, "text/plain": alt}
    return data, {"image/png": {"alt": alt, "width": width}}


def pixel_width(figure: Figure) -> int:
    """The width at which a notebook shows the figure, in CSS pixels."""
    return int(figure.get_figwidth() * 100)


def show(figure: Figure) -> None:
    """Display a figure in the notebook as a PNG with its alt text, sharp on a high-resolution screen."""
    data, metadata = picture(to_png(figure, dpi=160), figure.alt, pixel_width(figure))
    display(data, metadata=metadata, raw=True)
