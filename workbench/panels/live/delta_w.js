// Lesson 01: gradient descent on |B A - goal|^2 / 2, as `fit_low_rank` does it, one step at a time.

const FRAME_MS = 9; // of work a frame, so that a frame is drawn in time
const EDGE = 12;

// dW (rows x columns) = factor * B (rows x rank) times A (rank x columns).
function product(B, A, rows, columns, rank, factor = 1) {
  const out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < rank; k++) {
      const b = factor * B[i * rank + k];
      if (b === 0) continue;
      for (let j = 0; j < columns; j++) out[i * columns + j] += b * A[k * columns + j];
    }
  }
  return out;
}

const norm = (values) => Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

// LoRA's start: A as given, B zero. goal: the wanted update divided by its largest singular value.
function startDescent(goal, A, rank, rows, columns) {
  const E = goal.map((value) => -value);
  const size = norm(goal);
  return { goal, size, rank, rows, columns, A: A.slice(0, rank * columns), B: new Float64Array(rows * rank), E, errors: [1] };
}

// One step: A loses rate * B^T E, and B loses rate * E A^T, both of the old A and B.
function descend(run, rate) {
  const { A, B, E, rank, rows, columns } = run;
  const [nextA, nextB] = [A.slice(), B.slice()];
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < rank; k++) {
      const b = rate * B[i * rank + k];
      let sum = 0;
      for (let j = 0; j < columns; j++) {
        const e = E[i * columns + j];
        sum += e * A[k * columns + j];
        nextA[k * columns + j] -= b * e;
      }
      nextB[i * rank + k] -= rate * sum;
    }
  }
  [run.A, run.B] = [nextA, nextB];
  run.E = product(nextB, nextA, rows, columns, rank);
  for (let i = 0; i < run.E.length; i++) run.E[i] -= run.goal[i];
  run.errors.push(norm(run.E) / run.size);
}

// How much of each singular piece of the wanted update B A holds: u^T (B A) v, in the units of the goal.
function learnedPieces(run, U, V) {
  const { A, B, rank, rows, columns } = run;
  return Float64Array.from({ length: rows }, (_, piece) => {
    let sum = 0;
    for (let k = 0; k < rank; k++) {
      let [left, right] = [0, 0];
      for (let i = 0; i < rows; i++) left += U[i * rows + piece] * B[i * rank + k];
      for (let j = 0; j < columns; j++) right += A[k * columns + j] * V[piece * columns + j];
      sum += left * right;
    }
    return sum;
  });
}

// The numbers of a setting, by the same names as in Python: for the test that compares the two.
function compute(data, { target, rank, alpha, steps }) {
  const scene = makeScene(data);
  scene.update({ target, rank, alpha, steps });
  while (scene.advance());
  return { descent: scene.run.errors.at(-1), missed: scene.missed(), scaling: scene.factor, pieces: [...scene.pieces()] };
}

function makeScene({ facts, arrays }) {
  const { rows, columns, rate, names } = facts;
  const cells = rows * columns;
  const done = new Map(); // finished runs, by target, rank and steps
  const of = (name, target, size) => arrays[name].subarray(names.indexOf(target) * size, (names.indexOf(target) + 1) * size);
  const scene = { run: null, values: null, factor: 1, piece: 0, playing: false };

  const fresh = () => {
    const { target, rank } = scene.values;
    const largest = of("spectrum", target, rows)[0];
    return startDescent(of("wanted", target, cells).map((value) => value / largest), arrays.A, rank, rows, columns);
  };
  const key = () => [scene.values.target, scene.values.rank, scene.values.steps].join();
  const atStep = () => scene.run.errors.length - 1;

  scene.update = (values) => {
    const same = scene.values && scene.values.target === values.target && scene.values.rank === values.rank;
    const kept = same && scene.values.steps === values.steps;
    scene.values = values;
    scene.factor = values.alpha === facts.tied ? 1 : values.alpha / values.rank;
    if (kept) return; // only alpha has changed, and the descent does not depend on it
    scene.playing = scene.paused = false;
    scene.run = done.get(key()) || fresh();
  };

  scene.advance = () => {
    const { steps } = scene.values;
    if (scene.paused) return false;
    const end = performance.now() + FRAME_MS;
    do {
      if (atStep() < steps) descend(scene.run, rate);
    } while (!scene.playing && atStep() < steps && performance.now() < end);
    if (atStep() < steps) return true;
    scene.playing = false;
    if (done.size > 200) done.clear();
    done.set(key(), scene.run);
    return false;
  };

  const begin = () => {
    if (atStep() >= scene.values.steps) scene.run = fresh();
  };
  scene.buttons = [
    ["Play", () => (begin(), (scene.playing = true), (scene.paused = false))],
    ["Pause", () => (scene.paused = scene.playing)],
    ["One step", () => (begin(), (scene.paused = true), descend(scene.run, rate))],
    ["To the start", () => ((scene.run = fresh()), (scene.paused = true))],
    ["To the end", () => ((scene.playing = scene.paused = false))],
  ];

  const update = () => {
    const largest = of("spectrum", scene.values.target, rows)[0];
    return product(scene.run.B, scene.run.A, rows, columns, scene.values.rank, scene.factor * largest);
  };
  scene.missed = (dW = update()) => {
    const wanted = of("wanted", scene.values.target, cells);
    return norm(wanted.map((value, i) => value - dW[i])) / norm(wanted);
  };
  scene.pieces = () => learnedPieces(scene.run, of("U", scene.values.target, rows * rows), of("V", scene.values.target, cells));
  scene.best = () => of("best", scene.values.target, rows + 1);
  const singular = () => of("spectrum", scene.values.target, rows);

  scene.numbers = () => [
    ["wanted update", scene.values.target],
    ["rank", String(scene.values.rank)],
    ["numbers in B and A", String(scene.values.rank * (rows + columns))],
    ["factor in front of B A", shortNumber(scene.factor)],
    ["step of descent", `${atStep()} of ${scene.values.steps}`],
    ["missing after the descent", percent(scene.run.errors.at(-1))],
    ["missing with the factor", percent(scene.missed())],
    ["missing with the best matrix of this rank", percent(scene.best()[scene.values.rank])],
  ];
  scene.result = () => (atStep() < scene.values.steps ? null : `${percent(scene.missed())} missing`);

  const layout = (width) => {
    const wide = width >= 700;
    const cell = Math.max(1.5, Math.min(4.5, (width - 2 * EDGE - 4 * 34) / (3 * columns + rows)));
    const across = wide ? 3 : 1;
    const chart = { width: Math.min(420, (width - 2 * EDGE) / across), height: 196 };
    const tops = [44, 44 + rows * cell + 38];
    const second = wide ? 4 : 2;
    const larger = Math.min(4.5, (width - 2 * EDGE - (second - 1) * 34) / (second * columns));
    tops.push(tops[1] + (4 / second) * (rows * larger + 44) - 20);
    return { cell, larger, across, chart, tops, second, height: tops[2] + Math.ceil(3 / across) * chart.height + 4 };
  };
  scene.height = (width) => Math.ceil(layout(width).height);

  scene.draw = (pen, found) => {
    const { cell, larger, across, chart, tops, second } = layout(pen.width);
    const { rank, target } = scene.values;
    const dW = update();
    const wanted = of("wanted", target, cells);
    const missing = wanted.map((value, i) => value - dW[i]);
    if (found && found.name === "pieces") scene.piece = Math.min(rows - 1, Math.max(0, Math.round(found.place) - 1));
    const here = found && found.column !== undefined ? found : null;
    const matrix = (values, r = rows, c = columns) => ({ rows: r, columns: c, values });
    const peak = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
    const shared = Math.max(peak(wanted), peak(dW));
    const isWhole = here && here.name !== "A" && here.name !== "B";
    const marks = isWhole ? [{ row: here.row, column: here.column }] : [];

    // W + factor * B A = W + dW
    let x = EDGE;
    const middle = tops[0] + (rows * cell) / 2;
    const sign = (text, room = 34) => {
      write(pen, text, x + room / 2, middle + 5, { align: "center", size: 16 });
      x += room;
    };
    const changed = arrays.W.map((value, i) => value + dW[i]);
    const both = Math.max(peak(arrays.W), peak(changed));
    x = heatMap(pen, "W", `W, frozen\n${rows} \u00D7 ${columns}`, matrix(arrays.W), { x, y: tops[0], cell, limit: both, marks });
    sign(scene.factor === 1 ? "+" : `+ ${shortNumber(scene.factor)}`, 44);
    const rowMark = isWhole ? [{ row: here.row }] : [];
    const columnMark = isWhole ? [{ column: here.column }] : [];
    x = heatMap(pen, "B", `B\n${rows} \u00D7 ${rank}`, matrix(scene.run.B, rows, rank), { x, y: tops[0], cell, limit: peak(scene.run.B), marks: rowMark });
    sign("\u00D7", 26);
    const aTop = middle - (rank * cell) / 2;
    x = heatMap(pen, "A", `A\n${rank} \u00D7 ${columns}`, matrix(scene.run.A, rank), { x, y: aTop, cell, limit: peak(scene.run.A), marks: columnMark });
    sign("=");
    heatMap(pen, "sum", "W + dW\nwhat the layer uses", matrix(changed), { x, y: tops[0], cell, limit: both, marks });

    // dW, wanted, missing, and one singular piece
    const [U, V] = [of("U", target, rows * rows), of("V", target, cells)];
    const piece = Float64Array.from({ length: cells }, (_, i) => {
      const [row, column] = [Math.floor(i / columns), i % columns];
      return singular()[scene.piece] * U[row * rows + scene.piece] * V[scene.piece * columns + column];
    });
    const pieceTitle = `piece ${scene.piece + 1} of wanted`;
    [["dW", "dW", dW], ["wanted", "wanted", wanted], ["missing", "missing", missing], ["piece", pieceTitle, piece]].forEach(
      ([name, title, values], at) => {
        const [right, down] = [at % second, Math.floor(at / second)];
        const place = { x: EDGE + right * (columns * larger + 34), y: tops[1] + down * (rows * larger + 44) };
        heatMap(pen, name, title, matrix(values), { ...place, cell: larger, limit: shared, marks });
      }
    );

    const boxes = [0, 1, 2].map((at) => ({ x: EDGE + (at % across) * chart.width, y: tops[2] + Math.floor(at / across) * chart.height, ...chart }));
    drawErrors(pen, scene, boxes[0], scene.best()[rank]);
    drawRanks(pen, scene, boxes[1], scene.missed(dW));
    drawPieces(pen, boxes[2], singular(), scene.pieces(), scene);
    return tell(found, { dW, wanted, missing, piece });
  };

  const tell = (found, whole) => {
    const { rank } = scene.values;
    if (!found) {
      const state = atStep() < scene.values.steps ? `Step ${atStep()} of ${scene.values.steps}` : `After ${atStep()} steps`;
      return `${state}: ${percent(scene.missed())} of the wanted update is missing; the best matrix of rank ${rank} misses ` +
        `${percent(scene.best()[rank])}. Point at a cell, a bar or a line to read it.`;
    }
    if (found.name === "errors") return `After step ${found.step}: ${percent(scene.run.errors[found.step])} missing.`;
    if (found.name === "ranks") return `Rank ${found.rank}: the best matrix misses ${percent(scene.best()[found.rank])}.`;
    if (found.name === "pieces") {
      const [size, learned] = [singular()[scene.piece], singular()[0] * scene.pieces()[scene.piece] * scene.factor];
      return `Singular value ${scene.piece + 1} of the wanted update: ${shortNumber(size)}. The update holds ${shortNumber(learned)} of it.`;
    }
    const { row, column, name } = found;
    const places = `row ${row + 1}, column ${column + 1}`;
    if (name === "B") return `B at ${places}: ${shortNumber(singular()[0] * scene.run.B[row * rank + column])}`;
    if (name === "A") return `A at ${places}: ${shortNumber(scene.run.A[row * columns + column])}`;
    const largest = singular()[0];
    const terms = Array.from({ length: rank }, (_, k) =>
      `${shortNumber(largest * scene.run.B[row * rank + k])}\u00B7${shortNumber(scene.run.A[k * columns + column])}`);
    const shown = terms.slice(0, 6).join(" + ") + (rank > 6 ? ` + ${rank - 6} more products` : "");
    const i = row * columns + column;
    return `dW at ${places} = ${shortNumber(scene.factor)} \u00D7 (${shown}) = ${shortNumber(whole.dW[i])}. ` +
      `Wanted ${shortNumber(whole.wanted[i])}, missing ${shortNumber(whole.missing[i])}; W is ${shortNumber(arrays.W[i])}.`;
  };
  return scene;
}

// Error against step on a logarithmic axis; dotted, the best that this rank can do.
function drawErrors(pen, scene, box, best) {
  const { errors } = scene.run;
  const low = Math.max(1e-4, Math.min(...errors, best || 1) / 1.6);
  const steps = scene.values.steps;
  const plot = axes(pen, "Missing after each step (log)", box, {
    xs: [0, steps], ys: [low, 1.2], logarithmic: true, xlabel: "step of descent",
    xticks: [0, steps / 2, steps].map((step) => [step, String(step)]), yticks: logTicks(low, 1, (share) => `${shortNumber(100 * share)} %`),
  });
  if (best >= low) {
    line(pen, plot, [[0, best], [steps, best]], { stroke: colour(pen, "grey"), width: 1.5, dash: [2, 4] });
    write(pen, "best of this rank", plot.x + plot.width, plot.toY(best) + 13, { align: "right", size: 11 });
  }
  line(pen, plot, errors.map((error, step) => [step, error]), { stroke: colour(pen, "orange") });
  mark(pen, plot, errors.length - 1, errors.at(-1), { stroke: colour(pen, "orange"), filled: true });
  const step = (x) => Math.min(errors.length - 1, Math.max(0, Math.round(plot.fromX(x))));
  pen.parts.push({ name: "errors", ...plot, at: (x) => ({ step: step(x) }) });
}

// The best error of every rank as a line, and the update in use as a square.
function drawRanks(pen, scene, box, missed) {
  const best = scene.best();
  const last = best.length - 1;
  const plot = axes(pen, "Line: best of each rank. Square: yours", box, {
    xs: [0, last], ys: [0, 1.15], xlabel: "rank r",
    xticks: [0, 8, 16, 24, 32].map((rank) => [rank, String(rank)]),
    yticks: [0, 0.25, 0.5, 0.75, 1].map((share) => [share, `${100 * share} %`]),
  });
  line(pen, plot, Array.from(best, (error, rank) => [rank, error]), { stroke: colour(pen, "blue") });
  const { rank } = scene.values;
  mark(pen, plot, rank, Math.min(missed, 1.15), { stroke: colour(pen, "orange") });
  const left = rank > 22;
  write(pen, percent(missed), plot.toX(rank) + (left ? -10 : 10), plot.toY(Math.min(missed, 1.1)) - 4, { align: left ? "right" : "left", bold: true });
  pen.parts.push({ name: "ranks", ...plot, at: (x) => ({ rank: Math.min(last, Math.max(0, Math.round(plot.fromX(x)))) }) });
}

// Singular values of the wanted update, and inside each bar what the update holds of it.
function drawPieces(pen, box, values, learned, scene) {
  const count = values.length;
  const plot = axes(pen, "Singular values: wanted, in dW", box, {
    xs: [0.3, count + 0.7], ys: [0, values[0] * 1.08], xlabel: "which singular value",
    xticks: [1, 8, 16, 24, 32].map((which) => [which, String(which)]),
    yticks: [0, 0.5, 1].map((share) => [share * values[0], shortNumber(share * values[0])]),
  });
  const width = (plot.width / count) * 0.75;
  values.forEach((value, at) => {
    bar(pen, plot, at + 1, value, { fill: colour(pen, at === scene.piece ? "grey" : "silver"), width });
    const held = Math.max(0, learned[at] * values[0] * scene.factor);
    bar(pen, plot, at + 1, held, { fill: colour(pen, "blue"), width: width * 0.6 });
  });
  pen.parts.push({ name: "pieces", ...plot, at: (x) => ({ place: plot.fromX(x) }) });
}

export { compute };
export default { render };
