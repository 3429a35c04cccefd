// A live panel on a page without a kernel: its controls are plain HTML elements, and stand in for the kernel's models.

// One control, drawn into `parent`. Returns what `followControls` needs of a model.
function standIn(parent, { kind, label, options, value, min, max, step }) {
  const row = make("label", parent, { className: "control" });
  make("span", row, { textContent: label });
  const listeners = new Set();
  const tell = () => listeners.forEach((listener) => listener());
  const shown = (at) => (options ? options[at] : String(at));
  let input;
  let text = null;
  if (kind === "list") {
    input = make("select", row);
    options.forEach((option, at) => make("option", input, { value: at, textContent: option }));
  } else if (kind === "check") {
    input = make("input", row, { type: "checkbox" });
  } else {
    input = make("input", row, { type: "range", min, max, step });
    text = make("output", row);
  }
  const state = { min, max };
  const read = () => (kind === "check" ? input.checked : Number(input.value));
  const write = (now) => {
    if (kind === "check") input.checked = now;
    else input.value = now;
    keep();
  };
  const keep = () => {
    state[options ? "index" : "value"] = read();
    if (text) {
      text.textContent = shown(read());
      input.setAttribute("aria-valuetext", shown(read()));
    }
  };
  write(value);
  input.addEventListener("input", () => {
    keep();
    tell();
  });
  return {
    get: (name) => state[name],
    set: (_, now) => write(now),
    save_changes: tell,
    on: (_, listener) => listeners.add(listener),
    off: (_, listener) => listeners.delete(listener),
  };
}

// Draw a panel into `place` from what `panel_state` of standalone.py has written down.
function mount(place, state) {
  make("style", place, {
    textContent: `.workbench-toy .control { display: flex; gap: 12px; align-items: center; margin: 4px 0; flex-wrap: wrap; }
      .workbench-toy .control span { width: 150px; text-align: right; }
      .workbench-toy .control input[type=range] { width: min(320px, 100%); }`,
  });
  const bar = make("div", place, { role: "group" }, { "aria-label": "Controls" });
  const models = Object.fromEntries(state.controls.map((control) => [control.id, standIn(bar, control)]));
  const bytes = Uint8Array.from(atob(state.buffer), (letter) => letter.charCodeAt(0));
  const entries = { ...state, buffer: new DataView(bytes.buffer), controls: state.followed };
  const model = {
    get: (name) => entries[name],
    on: () => undefined,
    widget_manager: { get_model: async (id) => models[id] },
  };
  return render({ model, el: make("div", place) });
}
