"""A live panel's canvas in a bare browser page: the script runs as in a notebook, over models that only hold values."""

from __future__ import annotations

import base64
import json

from workbench.panels.live.panel import LivePanel

# What the script uses of an anywidget model, and of the models of the controls.
MODELS = """
window.bytes = text => new DataView(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer)
const makeModel = state => {
    const watching = []
    return {
        get: name => state[name],
        set: (name, value) => { state[name] = value; watching.forEach(callback => callback()) },
        on: (_, callback) => watching.push(callback),
        assign: parts => { Object.assign(state, parts); watching.forEach(callback => callback()) },
        off: (_, callback) => watching.splice(watching.indexOf(callback), 1),
        save_changes: () => {},
    }
}
window.start = async (source, state, buffer, controls) => {
    window.script = await import('data:text/javascript;base64,' + source)
    window.controls = Object.fromEntries(Object.entries(controls).map(([name, one]) => [name, makeModel(one)]))
    const ids = Object.fromEntries(Object.entries(state.controls).map(([name, [id]]) => [id, window.controls[name]]))
    window.model = makeModel({...state, buffer: bytes(buffer)})
    window.model.widget_manager = {get_model: async id => ids[id]}
    window.frames = []
    const painted = event => window.frames.push({at: performance.now(), ...event.detail})
    document.addEventListener('workbench-painted', painted)
    await window.script.default.render({model: window.model, el: document.querySelector('#panel')})
}
"""
THEMES = {
    "light": "--jp-ui-font-color0: #212121; --jp-layout-color0: #ffffff; background: #ffffff; color: #212121",
    "dark": "--jp-ui-font-color0: #ffffff; --jp-layout-color0: #111111; background: #111111; color: #ffffff",
}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def control_state(widget) -> dict:
    """What the script reads of a control's model."""
    names = ("value", "index", "min", "max") if not hasattr(widget, "options") else ("index",)
    return {name: getattr(widget, name) for name in names if hasattr(widget, name)}


class LivePage:
    """The panel's canvas on `page`, as wide as asked for."""

    def __init__(self, page, panel: LivePanel, theme: str = "light", width: int = 1000):
        self.page, self.panel = page, panel
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.set_content(
            f"<!DOCTYPE html><body style='margin: 0; font: 13px sans-serif; {THEMES[theme]}'>"
            f"<div id=panel style='width: {width}px'></div><script>{{{MODELS}}}</script></body>"
        )
        canvas = panel.canvas
        state = {name: getattr(canvas, name) for name in ("look", "controls", "facts", "arrays")}
        controls = {name: control_state(control) for name, control in panel.controls.items()}
        arguments = [encoded(canvas._esm.encode()), state, encoded(canvas.buffer), controls]
        page.evaluate(f"start(...{json.dumps(arguments)})")
        self.settle()

    def set(self, **values) -> None:
        """Move controls, as a person would."""
        for name, value in values.items():
            options = self.panel.canvas.controls[name][1]
            key = "value" if options is None else "index"
            place = value if options is None else options.index(value)
            self.page.evaluate(f"controls[{json.dumps(name)}].set('{key}', {json.dumps(place)})")
        self.settle()

    def receive(self) -> None:
        """What the kernel does after its panel has moved: send the canvas's new state."""
        canvas = self.panel.canvas
        state = {"facts": canvas.facts, "arrays": canvas.arrays}
        send = "([state, buffer]) => model.assign({...state, buffer: bytes(buffer)})"
        self.page.evaluate(send, [state, encoded(canvas.buffer)])
        self.settle()

    def settle(self) -> None:
        """Wait until the picture is final. What was just asked for is drawn in the next frame, so two are awaited."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.page.wait_for_function("frames.length && frames.at(-1).final && performance.now() - frames.at(-1).at > 60")

    def compute(self, states: list[dict]) -> list[dict]:
        """The script's own numbers for these settings."""
        return self.page.evaluate(
            """states => {
                const arrays = {}
                const view = model.get('buffer')
                for (const [name, {start, shape}] of Object.entries(model.get('arrays')))
                    arrays[name] = new Float64Array(view.buffer, 8 * start, shape.reduce((a, b) => a * b, 1))
                return states.map(one => script.compute({facts: model.get('facts'), arrays}, one))
            }""",
            states,
        )

    def read_out(self) -> str:
        return self.page.locator(".read-out").inner_text()
