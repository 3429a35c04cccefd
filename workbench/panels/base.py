"""Base classes of the panels (controls, a picture, and its numbers in words), and the widgets that they are made of."""

from __future__ import annotations

import html
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from workbench.errors import WorkbenchError
from workbench.panels.live.canvas import Canvas
from workbench.panels.live.charts import EMPTY, charts_of
from workbench.plots.style import PALETTE, Figure, picture, pixel_width, to_png

LABEL = {"description_width": "130px"}
CACHED_VIEWS = 64  # a panel's
REST_SECONDS = 0.1  # without a change, before a view that takes seconds is begun
USER_ERRORS = (ValueError, WorkbenchError)  # about the settings; any other error is a bug
BUSY = '<p role="status">Working ...</p><style>.workbench-busy { opacity: 0.4 }</style>'
WIDE = widgets.Layout(width="400px", max_width="calc(100% - 4px)")


@dataclass(frozen=True)
class View:
    """What a panel shows for one setting of its controls. `draw` makes its figure, when one is asked for."""

    draw: Callable[[], Figure]
    text: str  # the figure's numbers in words, also for readers who do not see the figure
    numbers: dict[str, float]
    answers: Mapping[str, str] = field(default_factory=dict)  # heading -> text, shown side by side
    result: str = ""  # in a few words, for the table of what was tried; without it the first numbers

    @cached_property
    def figure(self) -> Figure:
        return self.draw()

    @cached_property
    def png(self) -> bytes:
        """The figure as a PNG file, drawn once."""
        return to_png(self.figure)


class Panel:
    """Controls and the view that a pure function computes from them, again after each change of a control.

    controls: name -> widget with a `value`; the names are the function's arguments. view: the pure function; `view` is
    its cached form and `current` the View shown, None after an error. The panel shows every error. It raises those that
    are bugs; ValueError and WorkbenchError are about the settings.
    """

    def __init__(self, title: str, controls: Mapping[str, widgets.ValueWidget], view: Callable[..., View]):
        self.controls = dict(controls)
        self.current: View | None = None
        self.view = lru_cache(maxsize=CACHED_VIEWS)(view)
        self._drawn: dict[str, Any] | None = None
        self._lock = threading.Lock()  # callbacks may come from another thread than the cell
        self.message = widgets.HTML().add_class("workbench-message")
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        self.canvas = self._make_canvas()
        rows = widgets.HBox(list(self.controls.values()), layout=widgets.Layout(flex_flow="row wrap"))
        self.widget = widgets.VBox([widgets.HTML(f"<b>{html.escape(title)}</b>"), rows, self.canvas, self.message])
        self.refresh()

    @property
    def values(self) -> dict[str, Any]:
        """The controls' values, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self) -> None:
        """Draw the current settings, unless they are drawn. All changes during a drawing cost one further drawing."""
        with self._lock:
            if self.values == self._drawn:
                return
            self._drawn = self.values
            try:
                view = self._compute(self._drawn)
                self._show(view)
            except StaleError:
                self._drawn = None
                return
            except Exception as error:
                self._show_error(error)
                if not isinstance(error, USER_ERRORS):
                    raise
                return
            self.current = view
            self.message.value = in_words(view)

    def _compute(self, settings: dict[str, Any]) -> View:
        return self.view(**settings)

    def _make_canvas(self) -> Canvas:
        return Canvas("charts", self.controls, EMPTY, {})

    def _show(self, view: View) -> None:
        """Send the view's figure to the canvas, which draws it and counts its settings as tried."""
        self._send(view, self._drawn)

    def _send(self, view: View, settings: dict[str, Any] | None) -> None:
        facts, arrays = charts_of(view.figure)
        numbers = [[name, float(value)] for name, value in view.numbers.items()]
        self.canvas.send_state_of(facts | {"numbers": numbers, "settings": settings, "result": view.result}, arrays)
        self.canvas.layout.display = None

    def _changed(self, _change: dict) -> None:
        self.refresh()

    def _show_error(self, error: Exception) -> None:
        self.current = None
        self.canvas.layout.display = "none"  # an old picture would not belong to the settings shown
        self.message.value = alert(error)

    def _ipython_display_(self) -> None:
        if self.current is None:
            show_live(self.widget, {"text/plain": self.message.value}, {})
            return
        name, width = static_class(), pixel_width(self.current.figure)
        data, metadata = picture(self.current.png, self.current.text, width, css_class=name)
        show_live(self.widget, data | self._for_copies(), metadata, name)

    def _for_copies(self) -> dict[str, Any]:
        """What a saved notebook keeps of the panel next to its picture."""
        return {}


class StaleError(Exception):
    """The settings changed while a view was computed, so it is no longer needed."""


class SlowPanel(Panel):
    """A panel for a function that takes seconds: it runs in a thread, the panel says so, and stale views are dropped.

    The function also gets `raise_if_stale`, to be called between its parts: it raises StaleError if settings changed.
    The first view is computed in the constructor, so that a saved notebook has it. `draft` may give a first view of new
    settings at once; the function then begins when the controls have rested.
    """

    def __init__(self, title: str, controls: Mapping[str, widgets.ValueWidget], view: Callable[..., View]):
        self._gate = threading.Lock()
        self._worker: threading.Thread | None = None
        self._changes = self._begun = 0
        self._drafted: View | None = None
        super().__init__(title, controls, view)

    def wait(self, seconds: float = 120) -> None:
        """Return once the picture belongs to the settings, for code that goes on with `current`."""
        if worker := self._worker:
            worker.join(seconds)

    def draft(self) -> View | None:
        """What can be shown of the settings at once; None if nothing can, or if the whole view is stored."""
        return None

    def _changed(self, _change: dict) -> None:
        with self._gate:
            self._changes += 1
            self._drafted = self.draft()
            self._mark_as_busy()
            if self._worker is None:
                self._worker = threading.Thread(target=self._catch_up, daemon=True)
                self._worker.start()

    def _mark_as_busy(self) -> None:
        """Show the draft, or the old picture in grey."""
        self.message.value = BUSY
        if self._drafted:
            self.canvas.remove_class("workbench-busy")  # of settings before these, which had no draft
            self._send(self._drafted, settings=None)
        else:
            self.canvas.add_class("workbench-busy")

    def _catch_up(self) -> None:
        """Draw until nothing has changed since the drawing began."""
        while True:
            if self._drafted:
                time.sleep(REST_SECONDS)
            self._begun, self._drawn, fault = self._changes, None, None
            try:
                self.refresh()
            except Exception as error:
                fault = error
            with self._gate:
                if self._changes == self._begun:
                    self._worker = None
                    self.canvas.remove_class("workbench-busy")
                    break
                self._mark_as_busy()  # what is shown now is of earlier settings
        if fault:
            raise fault

    def _compute(self, settings: dict[str, Any]) -> View:
        view = self.view(**settings, raise_if_stale=self._raise_if_stale)
        self._raise_if_stale()
        return view

    def _raise_if_stale(self) -> None:
        if self._changes != self._begun:
            raise StaleError


def in_words(view: View) -> str:
    """The text and the answers of a view, as HTML."""
    words = f"<p style='line-height: 1.5'>{html.escape(view.text)}</p>"
    if not view.answers:
        return words
    cell = "style='padding: 2px 24px 2px 0; text-align: left; vertical-align: top'"
    heads = "".join(f"<th scope='col' {cell}>{html.escape(head)}</th>" for head in view.answers)
    texts = "".join(f"<td {cell}>{html.escape(text)}</td>" for text in view.answers.values())
    return f"{words}<table><tr>{heads}</tr><tr>{texts}</tr></table>"


def alert(error: Exception) -> str:
    """An error as HTML: the message, and the type too if the error is a bug."""
    words = str(error) if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: {error}"
    look = f"line-height: 1.5; border-left: 6px solid {PALETTE['orange']}; padding-left: 12px"
    return f'<p role="alert" style="{look}">{html.escape(words)}</p>'


def static_class() -> str:
    """A unique CSS class for one still picture."""
    return f"workbench-still-{uuid.uuid4().hex[:12]}"


class LiveBox(widgets.VBox):
    """A live panel with an empty repr, which saved copies would print above the still picture."""

    def __repr__(self) -> str:
        return ""


def show_live(
    widget: widgets.Widget, data: dict[str, Any], metadata: dict[str, Any], css_class: str = "workbench-still"
) -> None:
    """Display a live widget, and after it a still output for saved notebooks, which have no kernel.

    The CSS rule that hides the still output is part of the live widget, so the output shows where the widget is dead.
    """
    rule = widgets.HTML(f"<style>.{css_class} {{ display: none !important }}</style>")
    display(LiveBox([rule, widget]))
    display(data, metadata=metadata, raw=True)


def slider(label: str, value: int, low: int, high: int) -> widgets.IntSlider:
    """A slider over whole numbers."""
    return widgets.IntSlider(value, low, high, description=label, style=LABEL, layout=WIDE)


def steps_slider(
    label: str, value: object, options: Sequence[float] | Sequence[tuple[str, Any]], heavy: bool = False
) -> widgets.SelectionSlider:
    """A slider over given values, or (text, value) pairs. heavy: draw when the handle is released, not before."""
    return widgets.SelectionSlider(
        options=options, value=value, description=label, continuous_update=not heavy, style=LABEL, layout=WIDE
    )


def choice(label: str, value: object, options: Sequence[object]) -> widgets.Dropdown:
    """A list to choose from; options are values or (text, value) pairs."""
    return widgets.Dropdown(options=options, value=value, description=label, style=LABEL, layout=WIDE)


def switch(label: str, value: bool) -> widgets.Checkbox:
    """A checkbox."""
    return widgets.Checkbox(value, description=label, style=LABEL, layout=WIDE)
