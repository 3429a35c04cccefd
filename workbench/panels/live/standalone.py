"""A live panel that computes in the browser, written into a page that has no kernel: a site, or a saved copy."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from workbench.panels.live.canvas import Canvas, source

MIME = "application/vnd.workbench.panel+json"  # beside the still picture in a notebook's output; Jupyter ignores it


def panel_state(script: str, canvas: Canvas, controls: Mapping[str, widgets.ValueWidget]) -> dict[str, Any]:
    """What `page_of` needs to show a panel as it is now, as JSON. script: as for Canvas."""
    return {
        "script": script,
        "controls": [_described(control) for control in controls.values()],
        "followed": canvas.controls,
        "look": canvas.look,
        "facts": canvas.facts,
        "arrays": canvas.arrays,
        "buffer": base64.b64encode(canvas.buffer).decode(),
    }


def page_of(state: Mapping[str, Any], name: str) -> str:
    """HTML with its own script that shows the panel of a `panel_state`. name: an id that is unique on the page."""
    data = json.dumps(state).replace("</", "<\\/")
    script = source("standalone", state["script"])
    start = f'mount(document.getElementById("{name}"), {data});'
    return f'<div id="{name}" class="workbench-toy"></div>\n<script type="module">\n{script}\n{start}\n</script>'


def _described(control: widgets.ValueWidget) -> dict[str, Any]:
    """What kind of HTML element stands in for a control, and its state."""
    described = {"id": control.model_id, "label": control.description}
    if isinstance(control, widgets.Checkbox):
        return described | {"kind": "check", "value": control.value}
    if isinstance(control, widgets.IntSlider):
        return described | {
            "kind": "slider",
            "value": control.value,
            "min": control.min,
            "max": control.max,
            "step": control.step,
        }
    labels = [option[0] if isinstance(option, tuple) else str(option) for option in control.options]
    kind = "list" if isinstance(control, widgets.Dropdown) else "slider"
    return described | {
        "kind": kind,
        "options": labels,
        "value": control.index,
        "min": 0,
        "max": len(labels) - 1,
        "step": 1,
    }
