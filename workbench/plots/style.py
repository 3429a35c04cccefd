"""What all figures share: the palette, the look of axes, and how a figure becomes a picture with a description.

The figures themselves are in the other `plots_` modules: one function each, which takes data and returns a matplotlib
Figure. pyplot's global state is never used.

Colours come from PALETTE (Okabe and Ito, told apart by colour-blind readers). Because a grey print loses them, lines
also differ in marker and dash. Each figure carries a description for readers who do not see it, in `figure.alt`.
"""

from __future__ import annotations

import base64
import html
import io
import threading

from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
# The n-th series of any figure, whatever it shows.
SERIES = (
    {"color": PALETTE["blue"], "marker": "o", "linestyle": "-", "linewidth": 1.8},
    {"color": PALETTE["orange"], "marker": "s", "linestyle": "--", "linewidth": 1.8},
    {"color": PALETTE["green"], "marker": "^", "linestyle": "-.", "linewidth": 1.8},
    {"color": PALETTE["pink"], "marker": "D", "linestyle": ":", "linewidth": 1.8},
    {"color": PALETTE["ink"], "marker": "v", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "linewidth": 1.8},
)
# Marks the learner's own setting.
RING = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "markeredgewidth": 2, "color": PALETTE["ink"]}
TIMES = "\N{MULTIPLICATION SIGN}"
MATRIX_COLOURS = "cividis"  # rises evenly in brightness, so it survives a grey print

_drawing = threading.Lock()  # widget callbacks may run beside a cell, and matplotlib's font cache is shared


def new_figure(width: float = 9.0, height: float = 3.6, layout: str | None = "constrained") -> Figure:
    """An empty figure, sizes in inches. The constrained layout keeps labels and legends clear of the data.

    Live panels place their axes by hand (layout=None): the constrained layout doubles the drawing time.
    """
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def style(axes: Axes, title: str, x: str, y: str) -> Axes:
    """The look shared by all axes: a title that says what to see, labelled axes with units, a quiet grid."""
    # With y given, no draw has to find out where the title must go: a fifth of the time of a live picture.
    axes.set_title(title, y=1.0, loc="left", fontsize=12, fontweight="bold", color=PALETTE["ink"])
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=PALETTE["light"], linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """A legend under the axes, where no data are."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10.5)


def finished(figure: Figure, alt: str) -> Figure:
    """Attach the description and hand the figure on."""
    figure.alt = alt
    return figure


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as the bytes of a PNG file, its description inside the file."""
    buffer = io.BytesIO()
    with _drawing:
        # The fastest compression: a tenth larger, and a live panel answers 10 ms sooner.
        figure.savefig(
            buffer, format="png", dpi=dpi, metadata={"Description": figure.alt}, pil_kwargs={"compress_level": 1}
        )
    return buffer.getvalue()


def picture(png: bytes, alt: str, width: int, css_class: str = "") -> tuple[dict, dict]:
    """A PNG as notebook output: data and metadata. JupyterLab reads the alt text from the HTML, nbconvert from both."""
    encoded = base64.b64encode(png).decode()
    tag = (
        f'<img class="{css_class}" alt="{html.escape(alt)}" style="max-width: 100%; width: {width}px" '
        f'src="data:image/png;base64,{encoded}">'
    )
    data = {"image/png": encoded, "text/html": tag, "text/plain": alt}
    return data, {"image/png": {"alt": alt, "width": width}}


def show(figure: Figure) -> None:
    """Display a figure in the notebook as a PNG with its alt text, sharp on a high-resolution screen."""
    data, metadata = picture(to_png(figure, dpi=160), figure.alt, width=int(figure.get_figwidth() * 100))
    display(data, metadata=metadata, raw=True)
