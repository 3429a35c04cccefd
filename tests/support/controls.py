"""A panel's controls as a person meets them on the page: read, moved with the mouse, moved with the keyboard."""

import ipywidgets as widgets

FIELDS = (widgets.Textarea, widgets.BoundedFloatText)


class Control:
    """One control. area: the locator of the panel; widget: the same control in the test's own process."""

    def __init__(self, area, widget: widgets.ValueWidget):
        self.page, self.widget = area.page, widget
        name = area.page.get_by_text(widget.description, exact=True)
        self.box = area.locator(".widget-inline-hbox").filter(has=name)
        self.is_slider = isinstance(widget, (widgets.IntSlider, widgets.FloatSlider, widgets.SelectionSlider))
        inner = {widgets.Dropdown: "select", widgets.Textarea: "textarea"}.get(type(widget), "input")
        self.handle = self.box.locator(".noUi-handle" if self.is_slider else inner)

    def value(self):
        """What the page shows, in the widget's own terms."""
        if isinstance(self.widget, widgets.Checkbox):
            return self.handle.is_checked()
        if isinstance(self.widget, FIELDS):
            return type(self.widget.value)(self.handle.input_value())
        place = self.place()
        if not isinstance(self.widget, widgets.Dropdown | widgets.SelectionSlider):
            return place
        option = self.widget.options[place]
        return option[1] if isinstance(option, tuple) and isinstance(option[0], str) else option

    def place(self) -> int:
        if self.is_slider:
            return round(float(self.handle.get_attribute("aria-valuenow")))
        return self.handle.evaluate("select => select.selectedIndex")

    def last(self) -> int:
        return getattr(self.widget, "max", None) or len(self.widget.options) - 1

    def by_mouse(self) -> None:
        """Drag a slider into its other half, click a box, pick the next of a list, write into a field."""
        self.handle.scroll_into_view_if_needed()
        if self.is_slider:
            track, knob = self.box.locator(".noUi-base").bounding_box(), self.handle.bounding_box()
            x, y = knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2
            share = 0.75 if x < track["x"] + track["width"] / 2 else 0.25
            self.page.mouse.move(x, y)
            self.page.mouse.down()
            self.page.mouse.move(track["x"] + share * track["width"], y, steps=4)
            self.page.mouse.up()
        elif isinstance(self.widget, widgets.Dropdown):
            key = self._key()
            self.handle.click()
            self.page.mouse.move(1, 1)  # an entry below the pointer would be taken
            self._choose(key)
        elif isinstance(self.widget, FIELDS):
            self.handle.click()
            self._write("The parcel is late. Intent:", "2.5")
            self.page.locator("#jp-MainLogo").click()  # away from it
        else:
            self.handle.click()

    def by_keyboard(self) -> None:
        """One step, by the keys alone, once it has the focus (JupyterLab takes the arrows of a closed list)."""
        self.handle.focus()
        if isinstance(self.widget, FIELDS):
            self._write("Send another. Intent:", "3.5")
            self.page.keyboard.press("Tab")
        elif isinstance(self.widget, widgets.Dropdown):
            key = self._key()
            self.page.keyboard.press("Space")
            self._choose(key)
        else:
            self.page.keyboard.press("Space" if isinstance(self.widget, widgets.Checkbox) else self._key())

    def _write(self, text: str, number: str) -> None:
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text if isinstance(self.widget, widgets.Textarea) else number)

    def _choose(self, key: str) -> None:
        """The neighbour in an open list. The list is a window of its own, which opens and closes in its own time."""
        for press in (key, "Enter"):
            self.page.wait_for_timeout(300)
            self.page.keyboard.press(press)
        self.page.wait_for_timeout(300)

    def _key(self) -> str:
        up, down = ("ArrowLeft", "ArrowRight") if self.is_slider else ("ArrowUp", "ArrowDown")
        return up if self.place() == self.last() else down
