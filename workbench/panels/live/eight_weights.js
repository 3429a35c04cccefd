// Lesson 03: a block of weights, each divided by the block's absmax and stored as the number of the nearest value of a
// code book; restored as that value times absmax. In float32 (Math.fround), as `quantize` computes it.

const LABELS = 96; // pixels, left of the columns

function quantizeBlock(weights, book, borders) {
  const absmax = Math.fround(weights.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0));
  const inverse = Math.fround(1 / absmax);
  return weights.map((weight) => {
    const scaled = Math.fround(weight * inverse);
    const code = borders.filter((border) => scaled > border).length;
    return { weight, scaled, code, value: book[code], restored: Math.fround(book[code] * absmax), absmax };
  });
}

function compute(data, values) {
  const scene = makeScene(data);
  scene.update(values);
  const { entries } = scene;
  return { absmax: entries[0].absmax, error: scene.error(), codes: entries.map((one) => one.code), restored: entries.map((one) => one.restored) };
}

function makeScene({ arrays }) {
  const scene = { entries: [], kind: "" };
  let book = [];
  const largest = () => scene.entries.reduce((most, one, at, all) => (Math.abs(one.weight) > Math.abs(all[most].weight) ? at : most), 0);

  scene.update = ({ kind, outlier }) => {
    const weights = Array.from(arrays.weights);
    const top = weights.reduce((most, weight, at) => (Math.abs(weight) > Math.abs(weights[most]) ? at : most), 0);
    weights[top] = Math.fround(weights[top] * outlier);
    scene.kind = kind;
    book = arrays[kind];
    scene.entries = quantizeBlock(weights, book, arrays[`${kind} borders`]);
  };
  scene.advance = () => false;

  // Relative error of all weights but the largest.
  scene.error = () => {
    const others = scene.entries.filter((_, at) => at !== largest());
    const size = (values) => Math.hypot(...values);
    return size(others.map((one) => one.weight - one.restored)) / size(others.map((one) => one.weight));
  };
  const shared = () => new Set(scene.entries.filter((_, at) => at !== largest()).map((one) => one.code)).size;

  scene.numbers = () => [
    ["format", scene.kind],
    ["absmax", shortNumber(scene.entries[0].absmax)],
    ["error of all but the largest", percent(scene.error())],
    ["different codes of these", String(shared())],
    ...scene.entries.map((one, at) => [`weight ${at + 1}`, `${shortNumber(one.weight)}, code ${one.code}, restored ${shortNumber(one.restored)}`]),
  ];
  scene.result = () => `the others: error ${percent(scene.error())}, ${shared()} different codes`;
  scene.height = () => 368;

  scene.draw = (pen, found) => {
    const { entries } = scene;
    const { absmax } = entries[0];
    const count = entries.length;
    const box = { x: LABELS - 46, y: 6, width: pen.width - LABELS + 46, height: 268 };
    const plot = axes(pen, `Grey: the weights. Dots: what ${scene.kind} restores`, box, {
      xs: [0.5, count + 0.5], ys: [-1.08 * absmax, 1.08 * absmax],
      yticks: [-absmax, 0, absmax].map((value) => [value, shortNumber(value)]),
    });
    pen.ctx.strokeStyle = colour(pen, "light");
    pen.ctx.lineWidth = book.length > 40 ? 0.5 : 1;
    for (const value of book) path(pen, [[plot.x, plot.toY(value * absmax)], [plot.x + plot.width, plot.toY(value * absmax)]]);
    const width = Math.min(44, (plot.width / count) * 0.55);
    entries.forEach((one, at) => {
      const chosen = found && found.which === at;
      bar(pen, plot, at + 1, one.weight, { fill: colour(pen, chosen ? "grey" : "silver"), width });
      mark(pen, plot, at + 1, one.restored, { stroke: colour(pen, "orange"), filled: true });
    });
    const rows = [
      ["weight", (one) => shortNumber(one.weight)],
      ["\u00F7 absmax", (one) => shortNumber(one.scaled)],
      ["stored code", (one) => String(one.code)],
      ["restored", (one) => shortNumber(one.restored)],
      ["error", (one) => shortNumber(Number((one.weight - one.restored).toPrecision(2)))],
    ];
    rows.forEach(([name, words], row) => {
      const y = 262 + 24 * row;
      const bold = name === "stored code" || name === "restored";
      write(pen, name, 8, y, { bold });
      entries.forEach((one, at) => write(pen, words(one), plot.toX(at + 1), y, { align: "center", size: plot.width / count < 44 ? 9 : 12, bold }));
    });
    const at = (x) => ({ which: Math.min(count - 1, Math.max(0, Math.floor((x / plot.width) * count))) });
    pen.parts.push({ name: "block", x: plot.x, y: 0, width: plot.width, height: 368, at });
    if (!found) {
      return `absmax ${shortNumber(absmax)}; ${book.length} values to choose from. All weights but the largest: error ${percent(scene.error())}, ` +
        `${shared()} different codes. Point at a weight to follow it.`;
    }
    const one = entries[found.which];
    return `Weight ${found.which + 1}: ${shortNumber(one.weight)} \u00F7 ${shortNumber(absmax)} = ${shortNumber(one.scaled)}. The nearest value is ` +
      `${shortNumber(one.value)}, number ${one.code}: this number is stored. Back: ${shortNumber(one.value)} \u00D7 ${shortNumber(absmax)} = ${shortNumber(one.restored)}.`;
  };
  return scene;
}

export { compute };
export default { render };
