"""Every panel without a browser: each has an entry in the gallery, and each of its controls does something."""

import ipywidgets as widgets
import pytest

from support import gallery
from workbench.panels.base import Panel, SlowPanel
from workbench.plots.style import pixel_width

ALIKE = sorted(set(gallery.CODE) - gallery.OF_THEIR_OWN)


def test_every_panel_is_in_the_gallery():
    assert set(gallery.CODE) >= gallery.panel_files()


def another(control: widgets.ValueWidget):
    """Another value of a control, near the one it has."""
    if isinstance(control, widgets.Checkbox):
        return not control.value
    if isinstance(control, widgets.Text | widgets.Textarea):
        return control.value + " Thanks!"
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return values[(values.index(control.value) + 1) % len(values)]
    step = control.step or 1
    return control.value + step if control.value < control.max else control.value - step


@pytest.mark.parametrize("name", ALIKE)
def test_each_control_changes_numbers_picture_and_words(name, gallery_runs):
    panel = gallery.make(name)
    assert isinstance(panel, Panel) and panel.current and set(panel.controls) == set(panel.values)
    assert all(control.description for control in panel.controls.values()), "every control has a label"
    assert pixel_width(panel.current.figure) <= 1100 and panel.current.figure.alt and panel.current.text
    for key, control in panel.controls.items():
        before, start = (panel.current.png, panel.message.value), control.value
        control.value = another(control)
        if isinstance(panel, SlowPanel):
            panel.wait()
        assert panel.message.value != before[1], key
        if panel.current:  # else a sentence says why nothing can be drawn
            assert panel.current.answers or panel.current.png != before[0], key
            assert panel.current.text == panel.view(**panel.values).text
        control.value = start
        if isinstance(panel, SlowPanel):
            panel.wait()
        assert (panel.current.png, panel.message.value) == before, key
