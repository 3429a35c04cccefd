// Drawing on a canvas: theme, heat maps, bars, lines, text, and which part the pointer is on.
// Plain functions over a "pen": {ctx, width, theme, look, parts}. Lengths are CSS pixels. `parts` is refilled by each
// drawing and lists what can be pointed at: {name, x, y, width, height, at(x, y) -> what is there}.

const TEXT = 12;
const SMALL = {}; // a canvas of one pixel a cell for each heat map, kept from frame to frame

// Colours of the page around the panel: JupyterLab's variables, then VS Code's, then the site's, then ink on white.
function readTheme(element) {
  const style = getComputedStyle(element);
  const read = (names, otherwise) => names.map((name) => style.getPropertyValue(name).trim()).find(Boolean) || otherwise;
  const ink = read(["--jp-ui-font-color0", "--vscode-editor-foreground", "--pst-color-text-base"], "#222222");
  const ground = read(["--jp-layout-color0", "--vscode-editor-background", "--pst-color-background"], "#ffffff");
  return { ink, ground, font: style.fontFamily || "sans-serif", dark: lightness(element, ground) < 0.5 };
}

// 0 for black, 1 for white, of any CSS colour.
function lightness(element, colour) {
  const probe = element.ownerDocument.createElement("canvas").getContext("2d");
  probe.fillStyle = colour;
  probe.fillRect(0, 0, 1, 1);
  const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
  return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
}

// A series' colour. The palette is made for white; on a dark page its two darkest colours get lighter ones.
function colour(pen, name) {
  const onDark = { blue: "#2E8BD0", sky: "#A5D8F7", grey: "#A8A8A8", light: "#4A4A4A", silver: "#6A6A6A", orange: "#F08A3C" };
  if (name === "ink" || name === "ground") return pen.theme[name];
  return (pen.theme.dark && onDark[name]) || pen.look.palette[name] || name;
}

// Make the canvas this large, sharp on every screen, and return an empty pen.
function newPen(canvas, width, height, look, theme) {
  const ratio = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== across || canvas.height !== down) {
    Object.assign(canvas, { width: across, height: down });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return { ctx, width, height, look, theme, parts: [] };
}

function write(pen, text, x, y, { align = "left", bold = false, size = TEXT, fill = pen.theme.ink } = {}) {
  pen.ctx.font = `${bold ? "bold " : ""}${size}px ${pen.theme.font}`;
  pen.ctx.textAlign = align;
  pen.ctx.textBaseline = "alphabetic";
  pen.ctx.fillStyle = fill;
  pen.ctx.fillText(text, x, y);
}

function textWidth(pen, text, { bold = false, size = TEXT } = {}) {
  pen.ctx.font = `${bold ? "bold " : ""}${size}px ${pen.theme.font}`;
  return pen.ctx.measureText(text).width;
}

// What of the last drawing is below the pointer: {name, ...} as the part's `at` says, or null.
function partAt(pen, pointer) {
  for (const part of pointer ? pen.parts.toSorted((one, other) => one.width * one.height - other.width * other.height) : []) {
    const [x, y] = [pointer.x - part.x, pointer.y - part.y];
    if (x >= 0 && y >= 0 && x < part.width && y < part.height) return { name: part.name, ...part.at(x, y) };
  }
  return null;
}

// A matrix {rows, columns, values} as coloured cells, from -limit to limit, with its title above.
// The pointer finds {row, column}. marks: cells, rows or columns to frame, {row, column} with either left out.
function heatMap(pen, name, title, matrix, { x, y, cell, limit, marks = [] }) {
  const { ctx, look } = pen;
  const { rows, columns, values } = matrix;
  const [width, height] = [columns * cell, rows * cell];
  const stops = look.matrix;
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const place = Math.min(1, Math.max(0, 0.5 + values[i] / (2 * limit))) * (stops.length - 1);
    const stop = stops[Math.round(place)];
    pixels.data.set([stop[0], stop[1], stop[2], 255], 4 * i);
  }
  const small = (SMALL[name] ||= new OffscreenCanvas(1, 1));
  Object.assign(small, { width: columns, height: rows });
  small.getContext("2d").putImageData(pixels, 0, 0);
  ctx.imageSmoothingEnabled = false;
  ctx.drawImage(small, x, y, width, height);
  for (const { row, column } of marks) {
    const box = [column === undefined ? 0 : column, row === undefined ? 0 : row];
    const size = [column === undefined ? columns : 1, row === undefined ? rows : 1];
    ctx.lineWidth = 2;
    ctx.strokeStyle = colour(pen, "orange");
    ctx.strokeRect(x + box[0] * cell - 1, y + box[1] * cell - 1, size[0] * cell + 2, size[1] * cell + 2);
  }
  title.split("\n").forEach((line, at, lines) => {
    write(pen, line, x + width / 2, y - 6 - 15 * (lines.length - 1 - at), { align: "center", bold: at === 0 });
  });
  const at = (px, py) => ({ row: Math.floor(py / cell), column: Math.floor(px / cell) });
  pen.parts.push({ name, x, y, width, height, at });
  return x + width;
}

// Axes in a box, and the functions from data to pixels. xs, ys: [low, high]; logarithmic: the y axis.
// logX: the x axis. xticks, yticks: [value, label] pairs. box.room: pixels left of the axis.
function axes(pen, title, box, { xs, ys, logarithmic = false, logX = false, xticks = [], yticks = [], xlabel = "", ylabel = "" }) {
  const { ctx } = pen;
  const [room, head] = [box.room || 46, ylabel ? 36 : 22];
  const inner = { x: box.x + room, y: box.y + head, width: box.width - room - 12, height: box.height - head - 36 };
  const bend = logarithmic ? Math.log10 : (value) => value;
  const bendX = logX ? Math.log10 : (value) => value;
  const toX = (value) => inner.x + ((bendX(value) - bendX(xs[0])) / (bendX(xs[1]) - bendX(xs[0]) || 1)) * inner.width;
  const toY = (value) => {
    const kept = Math.min(Math.max(value, Math.min(...ys)), Math.max(...ys));
    return inner.y + inner.height * (1 - (bend(kept) - bend(ys[0])) / (bend(ys[1]) - bend(ys[0]) || 1));
  };
  write(pen, title, box.x, box.y + 10, { bold: true });
  write(pen, ylabel, box.x, box.y + 25, { size: 11 });
  ctx.lineWidth = 1;
  ctx.strokeStyle = colour(pen, "light");
  for (const [value, label] of yticks) {
    const y = Math.round(toY(value)) + 0.5;
    path(pen, [[inner.x, y], [inner.x + inner.width, y]]);
    write(pen, label, inner.x - 6, y + 4, { align: "right", size: 11 });
  }
  for (const [value, label] of xticks) write(pen, label, toX(value), inner.y + inner.height + 16, { align: "center", size: 11 });
  write(pen, xlabel, inner.x + inner.width / 2, inner.y + inner.height + 32, { align: "center", size: 11 });
  ctx.strokeStyle = pen.theme.ink;
  path(pen, [[inner.x, inner.y], [inner.x, inner.y + inner.height], [inner.x + inner.width, inner.y + inner.height]]);
  return { ...inner, toX, toY, fromX: (x) => xs[0] + (x / inner.width) * (xs[1] - xs[0]) };
}

function path(pen, points) {
  pen.ctx.beginPath();
  points.forEach(([x, y], at) => (at ? pen.ctx.lineTo(x, y) : pen.ctx.moveTo(x, y)));
  pen.ctx.stroke();
}

function line(pen, plot, points, { stroke, width = 2, dash = [] }) {
  Object.assign(pen.ctx, { strokeStyle: stroke, lineWidth: width });
  pen.ctx.setLineDash(dash);
  path(pen, points.map(([x, y]) => [plot.toX(x), plot.toY(y)]));
  pen.ctx.setLineDash([]);
}

// An open square or a filled dot that marks one value.
function mark(pen, plot, x, y, { stroke, filled = false }) {
  const [px, py] = [plot.toX(x), plot.toY(y)];
  if (filled) {
    pen.ctx.fillStyle = stroke;
    pen.ctx.beginPath();
    pen.ctx.arc(px, py, 4, 0, 2 * Math.PI);
    pen.ctx.fill();
  } else {
    Object.assign(pen.ctx, { strokeStyle: stroke, lineWidth: 2 });
    pen.ctx.strokeRect(px - 5, py - 5, 10, 10);
  }
}

// One upright bar from zero.
function bar(pen, plot, x, value, { fill, width }) {
  const zero = plot.toY(0);
  const top = plot.toY(value);
  pen.ctx.fillStyle = fill;
  pen.ctx.fillRect(plot.toX(x) - width / 2, Math.min(top, zero), width, Math.abs(zero - top));
}

// Ticks of a logarithmic axis within [low, high]: powers of ten, and 2 and 5 times these if there are few of them.
function logTicks(low, high, label) {
  const ticks = [];
  const between = high / low < 100 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const times of between) {
      const value = times * 10 ** power;
      if (value >= low && value <= high * (1 + 1e-9)) ticks.push([value, label(value)]);
    }
  }
  return ticks;
}

// Three significant digits, without trailing zeros and with a real minus sign.
function shortNumber(value) {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replace("-", "\u2212");
}

function percent(share) {
  const digits = share >= 0.1 ? 0 : share >= 0.01 ? 1 : 2;
  return `${(100 * share).toFixed(digits)} %`;
}
