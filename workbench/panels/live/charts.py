"""What a matplotlib figure shows, as data that live/charts.js draws: so a figure is described once, for both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba, to_rgba_array
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from workbench.plots.style import PALETTE, Figure

NAMES = {colour.lower(): name for name, colour in PALETTE.items()} | {"#ffffff": "ground"}
EMPTY: dict[str, Any] = {"charts": [], "legend": [], "height": 0, "alt": "", "digest": ""}  # before the first figure
NOTHING = ("None", "none", "", " ")  # what matplotlib calls no line or no marker
DASHES = {"-": [], "--": [6, 3], "-.": [6, 3, 1, 3], ":": [2, 3]}


class _Numbers:
    """Arrays that go into the buffer, each under a number of its own."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, values: Any) -> str:
        name = str(len(self.arrays))
        self.arrays[name] = np.asarray(values, dtype=float)
        return name


def charts_of(figure: Figure) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The figure's axes with their lines, bars, areas and texts, and its legend; the numbers are in the arrays.

    Of what matplotlib can draw this holds what the figures of live panels use; hatches are left out.
    """
    numbers = _Numbers()
    charts = [_chart(axes, numbers) | {"width": _width(axes, figure)} for axes in figure.axes]
    facts = {"charts": charts, "legend": [*_legend(figure)], "height": 100 * figure.get_figheight(), "alt": figure.alt}
    told = facts | {name: array.tolist() for name, array in numbers.arrays.items()}
    words = json.dumps(_seen(told), sort_keys=True).encode()
    return facts | {"digest": hashlib.sha256(words).hexdigest()}, numbers.arrays


def _seen(value: Any) -> Any:
    """Numbers to four digits: two pictures that differ by rounding look the same, and have one digest."""
    if isinstance(value, dict):
        return {name: _seen(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_seen(part) for part in value]
    return f"{value:.4g}" if isinstance(value, float) else value


def _chart(axes: Axes, numbers: _Numbers) -> dict[str, Any]:
    return {
        "title": axes.get_title(loc="left"),
        "x": _axis(axes.xaxis, axes.get_xlim(), axes.get_xlabel()),
        "y": _axis(axes.yaxis, axes.get_ylim(), axes.get_ylabel()),
        "areas": [_area(area, numbers) for area in axes.collections if isinstance(area, PolyCollection)],
        "segments": [_segments(lines, numbers) for lines in axes.collections if isinstance(lines, LineCollection)],
        "bars": [_bar(bar) for bar in axes.patches if isinstance(bar, Rectangle)],
        "lines": [_line(line, axes, numbers) for line in axes.lines if np.size(line.get_xdata())],
        "texts": [_text(text, axes) for text in axes.texts],
    }


def _width(axes: Axes, figure: Figure) -> float:
    """The share of the figure's width. That of the axes themselves changes when the figure is first rendered."""
    place = axes.get_subplotspec()
    return float((place.get_position(figure) if place else axes.get_position()).width)


def _axis(axis: Axis, limits: tuple[float, float], label: str) -> dict[str, Any]:
    low, high = sorted(limits)
    places = [float(place) for place in axis.get_majorticklocs()]
    words = axis.get_major_formatter().format_ticks(places)
    ticks = [[place, text] for place, text in zip(places, words, strict=True) if low <= place <= high and text]
    return {"limits": [*map(float, limits)], "log": axis.get_scale() == "log", "ticks": ticks, "label": label}


def _line(line: Line2D, axes: Axes, numbers: _Numbers) -> dict[str, Any]:
    xs, ys = np.asarray(line.get_xdata(orig=False), float), np.asarray(line.get_ydata(orig=False), float)
    if line.get_transform() is axes.get_xaxis_transform(which="grid"):  # axvline: y counts from 0 to 1
        ys = np.asarray(axes.get_ylim())
    elif line.get_transform() is axes.get_yaxis_transform(which="grid"):  # axhline
        xs = np.asarray(axes.get_xlim())
    style = str(line.get_linestyle())
    marker = line.get_marker()
    return {
        "label": _label(line),
        "colour": _colour(line.get_color()),
        "width": float(line.get_linewidth()) if style not in NOTHING else 0,
        "dash": DASHES.get(style, [6, 2]),
        "marker": "" if str(marker) in NOTHING else str(marker),
        "size": float(line.get_markersize()),
        "hollow": line.get_fillstyle() == "none" or str(line.get_markerfacecolor()) == "none",
        "every": line.get_markevery() or 1,
        "xs": numbers.add(xs),
        "ys": numbers.add(ys),
    }


def _bar(bar: Rectangle) -> dict[str, Any]:
    face, solid = bar.get_facecolor(), _is_solid(bar)
    return {
        "x": [float(bar.get_x()), float(bar.get_x() + bar.get_width())],
        "y": [float(bar.get_y()), float(bar.get_y() + bar.get_height())],
        "colour": _colour(face) if solid else "",
        "edge": "" if solid else _colour(bar.get_edgecolor()),
    }


def _area(area: PolyCollection, numbers: _Numbers) -> dict[str, Any]:
    corners = np.concatenate([path.vertices for path in area.get_paths()])
    colour = to_rgba_array(area.get_facecolor())[0]
    return {
        "colour": _colour(colour),
        "alpha": float(colour[3]),
        "xs": numbers.add(corners[:, 0]),
        "ys": numbers.add(corners[:, 1]),
    }


def _segments(lines: LineCollection, numbers: _Numbers) -> dict[str, Any]:
    ends = np.asarray(lines.get_segments()).reshape(-1, 2, 2)
    return {
        "colours": [_colour(colour) for colour in lines.get_colors()],
        "width": float(np.ravel(lines.get_linewidth())[0]),
        "xs": numbers.add(ends[:, :, 0]),
        "ys": numbers.add(ends[:, :, 1]),
    }


def _text(text: Any, axes: Axes) -> dict[str, Any]:
    """A text or an annotation: where it points to, and by how many points it is moved."""
    x, y = getattr(text, "xy", None) or text.get_position()
    moved = text.get_position() if getattr(text, "anncoords", "") == "offset points" else (0, 0)
    return {
        "text": text.get_text(),
        "place": [float(axes.xaxis.convert_units(x)), float(axes.yaxis.convert_units(y))],
        "moved": [*map(float, moved)],
        "align": [text.get_ha(), text.get_va()],
    }


def _legend(figure: Figure) -> Iterator[dict[str, Any]]:
    """Label and look of each entry, of the figure's legends and of those of its axes."""
    own = (axes.get_legend() for axes in figure.axes)
    for legend in [*figure.legends, *(one for one in own if one)]:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            yield {"label": text.get_text(), **_swatch(handle)}


def _swatch(handle: Artist | None) -> dict[str, Any]:
    if isinstance(handle, Patch):
        solid = _is_solid(handle)
        colour = handle.get_facecolor() if solid else handle.get_edgecolor()
        return {"colour": _colour(colour), "hollow": not solid, "box": True}
    if isinstance(handle, Line2D):
        marker = handle.get_marker()
        return {"colour": _colour(handle.get_color()), "marker": "" if str(marker) in NOTHING else str(marker)}
    areas = to_rgba_array(handle.get_facecolor()) if isinstance(handle, PolyCollection) else to_rgba_array("black")
    return {"colour": _colour(areas[0]), "box": True}


def _is_solid(patch: Patch) -> bool:
    return to_rgba(patch.get_facecolor())[3] > 0


def _label(artist: Artist) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _colour(colour: Any) -> str:
    """The name in the palette, which the page may map to its theme, or else the colour's own code."""
    code = to_hex(colour)
    return NAMES.get(code, code)
