"""The manners that all panels share: controls above, a picture, and below it a sentence that says the same in words."""

from __future__ import annotations

import html
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure

from workbench.errors import WorkbenchError
from workbench.plots import style

LABEL = {"description_width": "130px"}
KEPT = 64  # views that come back at once when their settings do
SENTENCES = (ValueError, WorkbenchError)
BUSY = '<p role="status">Working ...</p><style>.workbench-busy { opacity: 0.4 }</style>'
WIDE = widgets.Layout(width="400px", max_width="calc(100% - 4px)")


@dataclass(frozen=True)
class View:
    """What a panel shows for one setting of its controls."""

    figure: Figure
    text: str  # the figure's numbers in words, for everyone and for readers who do not see it
    numbers: dict[str, float]
    answers: Mapping[str, str] = field(default_factory=dict)  # heading -> text, to be read side by side

    @cached_property
    def png(self) -> bytes:
        return style.to_png(self.figure)


class Panel:
    """Controls joined to a pure function; a change of any control draws the picture anew.

    controls: name -> widget with a `value`; the names are the function's arguments. view: the pure function.
    An error that is a sentence about the settings (ValueError, WorkbenchError) is shown in the panel; any other error
    is shown there too and raised, because it is a fault of ours.
    """

    def __init__(self, title: str, controls: Mapping[str, widgets.ValueWidget], view: Callable[..., View]):
        self.controls = dict(controls)
        self.current: View | None = None
        self.view = lru_cache(maxsize=KEPT)(view)
        self._drawn: dict | None = None
        self._lock = threading.Lock()  # callbacks may come from another thread than the cell
        self.image = picture_widget()
        self.message = widgets.HTML().add_class("workbench-message")
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
                view = self._look(self._drawn)
                self.image.value = view.png
            except StaleError:
                self._drawn = None
                return
            except Exception as error:  # shown, and raised unless it is a sentence about the settings
                self._show_error(error)
                if not isinstance(error, SENTENCES):
                    raise
                return
            self.current = view
            self.image.width = str(int(view.figure.get_figwidth() * 100))
            self.image.layout.display = None
            self.message.value = in_words(view)

    def _look(self, settings: dict) -> View:
        return self.view(**settings)

    def _changed(self, _change: dict) -> None:
        self.refresh()

    def _show_error(self, error: Exception) -> None:
        self.current = None
        self.image.layout.display = "none"  # an old picture would not belong to the settings shown
        self.message.value = alert(error)

    def _ipython_display_(self) -> None:
        if self.current is None:
            show_live(self.widget, {"text/plain": self.message.value}, {})
            return
        name, width = static_class(), int(self.current.figure.get_figwidth() * 100)
        data, metadata = style.picture(self.image.value, self.current.text, width, css_class=name)
        show_live(self.widget, data, metadata, name)


class StaleError(Exception):
    """The settings have changed while a view was computed, so nobody wants it any more."""


class SlowPanel(Panel):
    """A panel whose function takes seconds: it works in a thread of its own, says so, and drops what is stale.

    The function also gets `still_wanted`, to be called between its parts: it raises StaleError when settings changed.
    The first view is computed at once, so that a saved notebook has it.
    """

    def __init__(self, title: str, controls: Mapping[str, widgets.ValueWidget], view: Callable[..., View]):
        self._gate = threading.Lock()
        self._worker: threading.Thread | None = None
        self._changes = self._begun = 0
        super().__init__(title, controls, view)

    def wait(self, seconds: float = 120) -> None:
        """Return once the picture belongs to the settings. For tests, and for code that goes on with `current`."""
        if worker := self._worker:
            worker.join(seconds)

    def _changed(self, _change: dict) -> None:
        with self._gate:
            self._changes += 1
            self.image.add_class("workbench-busy")
            self.message.value = BUSY
            if self._worker is None:
                self._worker = threading.Thread(target=self._catch_up, daemon=True)
                self._worker.start()

    def _catch_up(self) -> None:
        """Draw until nothing has changed since the drawing began."""
        while True:
            self._begun, self._drawn, fault = self._changes, None, None
            try:
                self.refresh()
            except Exception as error:
                fault = error
            with self._gate:
                if self._changes == self._begun:
                    self._worker = None
                    self.image.remove_class("workbench-busy")
                    break
                self.message.value = BUSY  # the words just written are about settings of before
        if fault:
            raise fault

    def _look(self, settings: dict) -> View:
        view = self.view(**settings, still_wanted=self._still_wanted)
        self._still_wanted()
        return view

    def _still_wanted(self) -> None:
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
    """An error as HTML: its sentence if it is about the settings, with its type if it is a fault of ours."""
    words = str(error) if isinstance(error, SENTENCES) else f"{type(error).__name__}: {error}"
    look = f"line-height: 1.5; border-left: 6px solid {style.PALETTE['orange']}; padding-left: 12px"
    return f'<p role="alert" style="{look}">{html.escape(words)}</p>'


def picture_widget() -> widgets.Image:
    """A PNG that shrinks to the room there is: with the usual margin it would stand out of it."""
    return widgets.Image(format="png", layout=widgets.Layout(max_width="100%", margin="0", object_fit="contain"))


def static_class() -> str:
    """A class name of its own for one still picture."""
    return f"workbench-still-{uuid.uuid4().hex[:12]}"


class LiveBox(widgets.VBox):
    """A live panel, with nothing in the place of its repr: saved copies would print that above the stand-in."""

    def __repr__(self) -> str:
        return ""


def show_live(widget: widgets.Widget, data: dict, metadata: dict, css_class: str = "workbench-still") -> None:
    """Display a live widget and, for saved notebooks where no kernel answers, a still stand-in after it.

    The rule that hides the stand-in is part of the live widget: where the widget is dead, the stand-in shows.
    """
    rule = widgets.HTML(f"<style>.{css_class} {{ display: none !important }}</style>")
    display(LiveBox([rule, widget]))
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
