// Charts of numbers that the kernel has sent (panels/live/charts.py): lines, bars, areas and texts, with a legend below.

const NARROW = 640;

function makeScene({ facts, arrays }) {
  const scene = { facts, arrays };
  scene.receive = (data) => Object.assign(scene, data);
  scene.update = (values) => (scene.values = values);
  scene.advance = () => false;
  const number = ([name, value]) => [name, shortNumber(value)];
  scene.numbers = () => [["picture", scene.facts.alt], ...(scene.facts.numbers || []).map(number)];
  scene.result = () => {
    const drawn = JSON.stringify(scene.values) === JSON.stringify(scene.facts.settings);
    if (drawn && scene.facts.result) return scene.facts.result;
    return drawn ? scene.facts.numbers.slice(0, 3).map((one) => number(one).join(" ")).join(", ") : null;
  };
  scene.digest = () => scene.facts.digest;

  const rows = (width) => {
    const charts = scene.facts.charts;
    const across = width >= NARROW ? charts.length : charts.length > 2 && width >= 400 ? 2 : 1;
    return Array.from({ length: Math.ceil(charts.length / across) }, (_, row) => charts.slice(row * across, (row + 1) * across));
  };
  const chartHeight = () => Math.max(170, 0.72 * scene.facts.height);
  const legendRows = (width) => Math.ceil(scene.facts.legend.reduce((sum, one) => sum + 46 + 7 * one.label.length, 0) / (0.9 * width));
  scene.height = (width) => rows(width).length * chartHeight() + 20 * legendRows(width) + 12;

  scene.draw = (pen, found) => {
    rows(pen.width).forEach((charts, row) => {
      const whole = charts.reduce((sum, chart) => sum + chart.width, 0);
      let x = 6;
      for (const chart of charts) {
        const width = (chart.width / whole) * (pen.width - 12);
        drawChart(pen, scene, chart, { x, y: row * chartHeight() + 6, width, height: chartHeight() - 6 });
        x += width;
      }
    });
    drawLegend(pen, scene.facts.legend, rows(pen.width).length * chartHeight() + 14);
    return found && found.words ? found.words : "Point at a line or a bar to read it.";
  };
  return scene;
}

function drawChart(pen, scene, chart, box) {
  const labels = chart.y.ticks.map(([, text]) => textWidth(pen, text, { size: 11 }));
  const room = Math.min(0.4 * box.width, Math.max(16, ...labels) + 12);
  const plot = axes(pen, fitText(pen, chart.title, box.width - 8), { ...box, room }, {
    xs: chart.x.limits, ys: chart.y.limits, logarithmic: chart.y.log, logX: chart.x.log,
    xticks: thinned(pen, chart.x.ticks, box.width - room), yticks: chart.y.ticks, xlabel: chart.x.label, ylabel: chart.y.label,
  });
  const { ctx } = pen;
  const points = (one) => Array.from(scene.arrays[one.xs], (x, at) => [x, scene.arrays[one.ys][at]]);
  const targets = []; // [x, y, words] in pixels, for the pointer
  ctx.save();
  ctx.beginPath();
  ctx.rect(plot.x - 8, plot.y - 8, plot.width + 16, plot.height + 16);
  ctx.clip();
  for (const area of chart.areas) {
    ctx.fillStyle = colour(pen, area.colour);
    ctx.globalAlpha = area.alpha;
    ctx.beginPath();
    points(area).forEach(([x, y], at) => (at ? ctx.lineTo(plot.toX(x), plot.toY(y)) : ctx.moveTo(plot.toX(x), plot.toY(y))));
    ctx.fill();
    ctx.globalAlpha = 1;
  }
  for (const own of chart.segments) {
    const ends = points(own);
    for (let at = 0; at < ends.length; at += 2) {
      line(pen, plot, [ends[at], ends[at + 1]], { stroke: colour(pen, own.colours[(at / 2) % own.colours.length]), width: own.width });
    }
  }
  for (const one of chart.bars) drawBar(pen, plot, one, chart, scene.facts.legend);
  for (const one of chart.lines) {
    const stroke = colour(pen, one.colour);
    if (one.width) line(pen, plot, points(one), { stroke, width: one.width, dash: one.dash });
    points(one).forEach(([x, y], at) => {
      if (one.marker && at % one.every === 0) marker(pen, plot.toX(x), plot.toY(y), one, stroke);
      const words = [one.label, `${chart.x.label || "x"} ${shortNumber(x)}`, `${chart.y.label || "y"} ${shortNumber(y)}`];
      if (Number.isFinite(x + y)) targets.push([plot.toX(x), plot.toY(y), words.filter(Boolean).join("; ")]);
    });
  }
  ctx.restore();
  for (const { text, place, moved, align } of chart.texts) {
    const down = { top: 10, center: 4, bottom: 0 }[align[1]] || 0;
    const [x, y] = [plot.toX(place[0]) + moved[0], plot.toY(place[1]) - moved[1] + down];
    text.split("\n").forEach((part, at) => write(pen, part, x, y + 14 * at, { align: align[0], size: 11 }));
  }
  const nearest = (x, y) => {
    const distance = ([px, py]) => Math.hypot(px - plot.x - x, py - plot.y - y);
    const best = targets.reduce((one, other) => (distance(other) < distance(one) ? other : one), [1e6, 1e6, ""]);
    return { words: distance(best) < 30 ? best[2] : "" };
  };
  pen.parts.push({ name: "chart", ...plot, at: nearest });
}

function drawBar(pen, plot, one, chart, legend) {
  const [x0, x1] = one.x.map(plot.toX).toSorted((a, b) => a - b);
  const [y0, y1] = one.y.map(plot.toY).toSorted((a, b) => a - b);
  if (one.colour) {
    pen.ctx.fillStyle = colour(pen, one.colour);
    pen.ctx.fillRect(x0, y0, x1 - x0, y1 - y0);
  } else {
    Object.assign(pen.ctx, { strokeStyle: colour(pen, one.edge), lineWidth: 1 });
    pen.ctx.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  const entry = legend.find((other) => other.box && other.colour === (one.colour || one.edge) && Boolean(other.hollow) === !one.colour);
  const middle = (values) => (values[0] + values[1]) / 2;
  const tick = (axis, value) => (axis.ticks.find(([place]) => Math.abs(place - value) < 1e-6) || [])[1];
  const name = tick(chart.y, middle(one.y)) || tick(chart.x, middle(one.x));
  const lying = tick(chart.y, middle(one.y)) !== undefined;
  const size = lying ? one.x[1] - one.x[0] : one.y[1] - one.y[0];
  const words = [name, entry && entry.label, `${shortNumber(size)} ${lying ? chart.x.label : chart.y.label}`];
  pen.parts.push({ name: "bar", x: x0, y: y0, width: x1 - x0, height: y1 - y0, at: () => ({ words: words.filter(Boolean).join("; ") }) });
}

// The shapes that the figures use: circle, square, triangles, diamond, cross, star.
function marker(pen, x, y, { marker: shape, size, hollow }, stroke) {
  const { ctx } = pen;
  const r = size / 2;
  const corners = { s: [[-r, -r], [r, -r], [r, r], [-r, r]], "^": [[0, -r], [r, r], [-r, r]], v: [[0, r], [r, -r], [-r, -r]], D: [[0, -r], [r, 0], [0, r], [-r, 0]] };
  if (shape === "*") corners["*"] = Array.from({ length: 10 }, (_, k) => [0, 1].map((axis) => (k % 2 ? 0.45 : 1) * r * [Math.sin, (a) => -Math.cos(a)][axis]((k * Math.PI) / 5)));
  Object.assign(ctx, { strokeStyle: stroke, fillStyle: stroke, lineWidth: 1.6 });
  ctx.beginPath();
  if (shape === "x" || shape === "|") {
    const lean = shape === "x" ? r : 0;
    path(pen, [[x - lean, y - r], [x + lean, y + r]]);
    if (lean) path(pen, [[x - r, y + r], [x + r, y - r]]);
    return;
  }
  if (corners[shape]) {
    corners[shape].forEach(([dx, dy], at) => (at ? ctx.lineTo(x + dx, y + dy) : ctx.moveTo(x + dx, y + dy)));
    ctx.closePath();
  } else ctx.arc(x, y, r, 0, 2 * Math.PI);
  if (hollow) ctx.stroke();
  else ctx.fill();
}

function drawLegend(pen, legend, top) {
  let [x, y] = [12, top];
  for (const one of legend) {
    const width = 30 + textWidth(pen, one.label, { size: 11 }) + 14;
    if (x + width > pen.width && x > 12) [x, y] = [12, y + 20];
    Object.assign(pen.ctx, { fillStyle: colour(pen, one.colour), strokeStyle: colour(pen, one.colour), lineWidth: 2 });
    if (one.box && one.hollow) pen.ctx.strokeRect(x + 1, y - 8, 20, 9);
    else if (one.box) pen.ctx.fillRect(x, y - 9, 22, 11);
    else {
      path(pen, [[x, y - 4], [x + 22, y - 4]]);
      if (one.marker) marker(pen, x + 11, y - 4, { marker: one.marker, size: 7 }, colour(pen, one.colour));
    }
    write(pen, one.label, x + 28, y, { size: 11 });
    x += width;
  }
}

// Ticks whose labels have room; the text cut to its room.
function thinned(pen, ticks, width) {
  const widest = Math.max(1, ...ticks.map(([, text]) => textWidth(pen, text, { size: 11 }))) + 10;
  const every = Math.max(1, Math.ceil((ticks.length * widest) / width));
  return ticks.filter((_, at) => at % every === 0);
}

function fitText(pen, text, width) {
  let kept = text;
  while (kept.length > 4 && textWidth(pen, kept === text ? kept : `${kept}\u2026`, { bold: true }) > width) kept = kept.slice(0, -1);
  return kept === text ? text : `${kept}\u2026`;
}

export default { render };
