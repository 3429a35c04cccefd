"""The manners that all panels share: controls above, a picture, and below it a sentence that says the same in words."""

from __future__ import annotations

import html
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure

from workbench import plots

LABEL = {"description_width": "130px"}
WIDE = widgets.Layout(width="400px", max_width="100%")


@dataclass(frozen=True)
class View:
    """What a panel shows for one setting of its controls."""

    figure: Figure
    text: str  # the figure's numbers in words, for everyone and for readers who do not see it
    numbers: dict[str, float]


class Panel:
    """Controls joined to a pure function; a change of any control draws the picture anew.

    controls: name -> widget with a `value`; the names are the function's arguments. view: the pure function.
    A ValueError of the function (settings that do not go together) is shown in the panel; any other error is shown
    there too and raised, because it is a fault of ours.
    """

    def __init__(self, title: str, controls: Mapping[str, widgets.ValueWidget], view: Callable[..., View]):
        self.controls = dict(controls)
        self.current: View | None = None
        self._compute = view
        self._drawn: dict | None = None
        self._lock = threading.Lock()  # callbacks may come from another thread than the cell
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", object_fit="contain"))
        self.message = widgets.HTML()
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        rows = widgets.HBox(list(self.controls.values()), layout=widgets.Layout(flex_flow="row wrap"))
        self.widget = widgets.VBox([widgets.HTML(f"<b>{html.escape(title)}</b>"), rows, self.image, self.message])
        self.refresh()

    @property
    def values(self) -> dict:
        """The controls' settings, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self) -> None:
        """Draw for the present settings. Changes that piled up while drawing cost one drawing, not one each."""
        with self._lock:
            if self.values == self._drawn:
                return
            self._drawn = self.values
            try:
                view = self._compute(**self._drawn)
                self.image.value = plots.to_png(view.figure)
            except Exception as error:  # shown, and raised unless it is a sentence about the settings
                self._show_error(error)
                if not isinstance(error, ValueError):
                    raise
                return
            self.current = view
            self.image.width = str(int(view.figure.get_figwidth() * 100))
            self.image.layout.display = None
            self.message.value = f"<p style='line-height: 1.5'>{html.escape(view.text)}</p>"

    def _changed(self, _change: dict) -> None:
        self.refresh()

    def _show_error(self, error: Exception) -> None:
        words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self.current = None
        self.image.layout.display = "none"  # an old picture would not belong to the settings shown
        look = f"line-height: 1.5; border-left: 6px solid {plots.PALETTE['orange']}; padding-left: 12px"
        self.message.value = f'<p role="alert" style="{look}">{html.escape(words)}</p>'

    def _ipython_display_(self) -> None:
        if self.current is None:
            show_live(self.widget, {"text/plain": self.message.value}, {})
            return
        name, width = static_class(), int(self.current.figure.get_figwidth() * 100)
        data, metadata = plots.picture(self.image.value, self.current.text, width, css_class=name)
        show_live(self.widget, data, metadata, name)


def static_class() -> str:
    """A class name of its own for one still picture."""
    return f"workbench-still-{uuid.uuid4().hex[:12]}"


def show_live(widget: widgets.Widget, data: dict, metadata: dict, css_class: str = "workbench-still") -> None:
    """Display a live widget and, for saved notebooks where no kernel answers, a still stand-in after it.

    The rule that hides the stand-in is part of the live widget: where the widget is dead, the stand-in shows.
    """
    rule = widgets.HTML(f"<style>.{css_class} {{ display: none !important }}</style>")
    display(widgets.VBox([rule, widget]))
    display(data, metadata=metadata, raw=True)


def slider(label: str, value: int, low: int, high: int, heavy: bool = False) -> widgets.IntSlider:
    """Whole numbers. heavy: draw when the handle is let go, not on the way."""
    return widgets.IntSlider(value, low, high, description=label, continuous_update=not heavy, style=LABEL, layout=WIDE)


def steps_slider(label: str, value: int, options: Sequence[int], heavy: bool = False) -> widgets.SelectionSlider:
    """A slider over a few given values."""
    return widgets.SelectionSlider(
        options=options, value=value, description=label, continuous_update=not heavy, style=LABEL, layout=WIDE
    )


def choice(label: str, value: object, options: Sequence) -> widgets.Dropdown:
    """One of a list; options are values or (text, value) pairs."""
    return widgets.Dropdown(options=options, value=value, description=label, style=LABEL, layout=WIDE)


def switch(label: str, value: bool) -> widgets.Checkbox:
    """On or off."""
    return widgets.Checkbox(value, description=label, style=LABEL, layout=WIDE)
