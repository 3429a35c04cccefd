// What all live panels share: they follow the controls in the browser, without waiting for the kernel, draw at most
// once a frame, tell what is below the pointer, and keep a table of the settings that were tried.
//
// A panel's own file defines `makeScene(data)`, which returns a scene:
//   update(values)    the controls have changed
//   advance()         a frame's share of the work; true while there is more
//   height(width)     of the picture
//   draw(pen, found)  draw; `found` is the part below the pointer, or null. Returns the words of the read-out
//   numbers()         [name, text] pairs of the picture, for the table that screen readers read
//   result()          optional, the outcome in a few words for the table of what was tried; null while it is not final
//   receive(data)     optional, the kernel has sent new facts and arrays
//   digest()          optional, what of the kernel's is drawn
//   buttons           optional, [label, action] pairs

const REST_MS = 700; // a setting that stands this long has been tried
const KEPT = 5; // rows in the table of what was tried

// The control models by name, and how to read and write their values. A list's value is the option at its index.
async function followControls(model, changed) {
  const controls = {};
  for (const [name, [id, options]] of Object.entries(model.get("controls"))) {
    const control = await model.widget_manager.get_model(id);
    const read = () => (options ? options[control.get("index")] : control.get("value"));
    const write = (value) => {
      const as = { boolean: (text) => text === "true", number: Number, string: (text) => text };
      if (options) control.set("index", options.findIndex((option) => String(option) === String(value)));
      else control.set("value", as[typeof control.get("value")](String(value)));
      control.save_changes();
    };
    const fits = (text) => {
      if (options) return options.some((option) => String(option) === text);
      if (typeof control.get("value") === "string") return true;
      if (typeof control.get("value") === "boolean") return text === "true" || text === "false";
      return text !== "" && Number(text) >= control.get("min") && Number(text) <= control.get("max");
    };
    control.on("change", changed);
    controls[name] = { read, write, fits, off: () => control.off("change", changed) };
  }
  return controls;
}

// The arrays that the kernel has sent: one buffer of float64, and where each array begins.
function readArrays(model) {
  const view = model.get("buffer");
  const arrays = {};
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  for (const [name, { start, shape }] of Object.entries(model.get("arrays"))) {
    const length = shape.reduce((product, size) => product * size, 1);
    arrays[name] = new Float64Array(bytes, 8 * start, length);
  }
  return arrays;
}

const encode = (value) => encodeURIComponent(String(value)).replaceAll("%2C", ",");
const stateText = (values) => Object.entries(values).map(([name, value]) => `${name}=${encode(value)}`).join(" ");

// Settings written as `stateText` writes them, as {name: text}; a sentence instead if they do not fit the controls.
function parseState(text, controls) {
  const found = {};
  for (const part of text.trim().split(/\s+/)) {
    const [name, rest = ""] = part.split("=");
    const value = decodeURIComponent(rest);
    if (!controls[name]) return `There is no control called "${name}"; there are ${Object.keys(controls).join(", ")}.`;
    if (!controls[name].fits(value)) return `"${value}" is not a value of ${name}.`;
    found[name] = value;
  }
  return found;
}

function make(tag, parent, properties = {}, attributes = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
}

const STYLE = `
.workbench-canvas { font-family: var(--jp-ui-font-family, sans-serif); font-size: 13px; max-width: 100%; min-width: 0;
  overflow-x: hidden; }
.workbench-canvas canvas { display: block; max-width: 100%; }
.workbench-canvas .read-out { min-height: 2.8em; line-height: 1.4; }
.workbench-canvas table { border-collapse: collapse; margin: 4px 0; max-width: 100%; }
.workbench-canvas th, .workbench-canvas td { overflow-wrap: anywhere; white-space: normal; }
.workbench-canvas th, .workbench-canvas td { text-align: left; padding: 1px 16px 1px 0; }
.workbench-canvas td button { border: 0; text-align: left; white-space: normal; overflow-wrap: anywhere; background: none; padding: 0; color: inherit; font: inherit;
  text-decoration: underline; cursor: pointer; }
.workbench-canvas .bar button { margin-right: 6px; padding: 2px 10px; }
.workbench-canvas input { width: min(460px, 100%); box-sizing: border-box; }
.workbench-canvas .dead { display: none; border-left: 6px solid #D55E00; padding-left: 12px; }
.jupyter-widgets-disconnected .workbench-canvas .dead, .jupyter-widgets-disconnected.workbench-canvas .dead
  { display: block; }
`;

// The elements below each other: buttons, picture, read-out, the numbers, what was tried.
function buildPage(el) {
  el.classList.add("workbench-canvas");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  make("style", el, { textContent: STYLE });
  const bar = make("div", el, { className: "bar" });
  const canvas = make("canvas", el, {}, { role: "img" });
  const readOut = make("div", el, { className: "read-out" });
  make("p", el, { className: "dead", textContent: "Not live: the kernel has stopped. Run the cell again." }, { role: "status" });
  const tried = make("table", el, {}, { "aria-label": "Settings that were tried" });
  const details = make("details", el);
  make("summary", details, { textContent: "The picture's numbers, and its settings as text" });
  const numbers = make("table", details, {}, { "aria-label": "Numbers of the picture" });
  const label = make("label", details, { textContent: "These settings, to copy; or paste others and press Enter: " });
  const state = make("input", label, { type: "text", spellcheck: false });
  const fault = make("span", details, {}, { role: "alert" });
  return { bar, canvas, readOut, numbers, tried, state, fault };
}

function fillTable(table, rows, header) {
  table.replaceChildren();
  if (header) {
    const row = make("tr", table);
    header.forEach((text) => make("th", row, { textContent: text }, { scope: "col" }));
  }
  for (const cells of rows) {
    const row = make("tr", table);
    cells.forEach((content, at) => {
      const cell = make(at || header ? "td" : "th", row, {}, at || header ? {} : { scope: "row" });
      if (content instanceof Element) cell.append(content);
      else cell.textContent = content;
    });
  }
}

// ipywidgets gives the handle of a slider no name, so a screen reader would say only its value.
function nameSliders() {
  for (const handle of document.querySelectorAll(".widget-inline-hbox .noUi-handle")) {
    const words = handle.closest(".widget-inline-hbox").querySelector(".widget-label");
    if (words) handle.setAttribute("aria-label", words.textContent);
  }
}

async function render({ model, el }) {
  const page = buildPage(el);
  const scene = makeScene({ facts: model.get("facts"), arrays: readArrays(model) });
  let [pending, dirty, pointer, pen, rest] = [0, true, null, null, 0];
  let theme = null; // read in a frame: before it is on the page, an element has no colours
  const tried = [];
  const request = () => (pending ||= requestAnimationFrame(frame));
  const changed = () => {
    dirty = true;
    request();
  };
  const controls = await followControls(model, changed);
  const values = () => Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.read()]));
  const apply = (settings) => Object.entries(settings).forEach(([name, value]) => controls[name].write(value));

  function frame() {
    pending = 0;
    const width = Math.floor(el.clientWidth);
    if (!width) return;
    theme ||= readTheme(el);
    if (dirty) scene.update(values());
    dirty = false;
    const more = scene.advance();
    const found = pen ? partAt(pen, pointer) : null;
    pen = newPen(page.canvas, width, scene.height(width), model.get("look"), theme);
    page.readOut.textContent = scene.draw(pen, found);
    if (!page.canvas.hasAttribute("aria-label")) page.canvas.setAttribute("aria-label", page.readOut.textContent || "A picture");
    clearTimeout(rest);
    if (more) request();
    else rest = setTimeout(settled, REST_MS);
    if (scene.digest) page.canvas.dataset.digest = scene.digest();
    el.dispatchEvent(new CustomEvent("workbench-painted", { bubbles: true, detail: { final: !more } }));
  }

  // Nothing has moved for a while: write down the numbers and what was tried.
  function settled() {
    nameSliders();
    page.canvas.setAttribute("aria-label", scene.numbers().map(([name, text]) => `${name}: ${text}`).join("; "));
    fillTable(page.numbers, scene.numbers());
    const [now, text, result] = [values(), stateText(values()), scene.result ? scene.result() : null];
    if (document.activeElement !== page.state) page.state.value = text;
    if (result === null || (tried.length && tried[0].text === text)) return;
    tried.unshift({ text, now, result });
    tried.splice(KEPT);
    const rows = tried.map((one) => {
      const back = document.createElement("button");
      Object.assign(back, { type: "button", textContent: one.text, title: "Go back to these settings" });
      back.addEventListener("click", () => apply(one.now));
      return [back, one.result];
    });
    fillTable(page.tried, rows, ["settings", "result"]);
  }

  page.state.parentElement.hidden = !Object.keys(controls).length;
  page.state.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const found = parseState(page.state.value, controls);
    page.fault.textContent = typeof found === "string" ? found : "";
    if (typeof found !== "string") apply(found);
  });
  for (const [label, action] of scene.buttons || []) {
    const button = make("button", page.bar, { type: "button", textContent: label });
    button.addEventListener("click", () => {
      action();
      request();
    });
  }
  page.canvas.addEventListener("pointermove", (event) => {
    pointer = { x: event.offsetX, y: event.offsetY };
    request();
  });
  page.canvas.addEventListener("pointerleave", () => {
    pointer = null;
    request();
  });
  if (scene.receive) {
    model.on("change:facts change:buffer", () => {
      scene.receive({ facts: model.get("facts"), arrays: readArrays(model) });
      request();
    });
  }
  const sized = new ResizeObserver(request);
  sized.observe(el);
  const themed = new MutationObserver(() => {
    theme = null;
    request();
  });
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "data-jp-theme-light", "class"] });
  themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  request();
  return () => {
    cancelAnimationFrame(pending);
    clearTimeout(rest);
    Object.values(controls).forEach((control) => control.off());
    sized.disconnect();
    themed.disconnect();
  };
}
