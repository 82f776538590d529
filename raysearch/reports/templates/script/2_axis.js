// Scales and ticks of plots that are drawn here, and plots of lines as SVG.

// Returns round numbers between two ends, at most so many.
function roundTicks(low, high, most, whole = false) {
  if (!(high > low)) return [low];
  let step = 10 ** Math.floor(Math.log10((high - low) / most));
  if (whole) step = Math.max(1, step);
  for (const factor of [1, 2, 5, 10, 20]) {
    const size = step * factor;
    const first = Math.ceil(low / size - 1e-9), last = Math.floor(high / size + 1e-9);
    if (last - first + 1 <= most) return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * size).toPrecision(12)));
  }
  return [low, high];
}

function logTicks(low, high) {
  for (const mantissas of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    const ticks = [];
    for (let decade = Math.floor(Math.log10(low)) - 1; decade <= Math.ceil(Math.log10(high)); decade++) {
      for (const mantissa of mantissas) ticks.push(Number(`${mantissa}e${decade}`));
    }
    const inside = ticks.filter((tick) => tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9));
    if (inside.length >= 3) return inside.filter((_, i) => i % Math.ceil(inside.length / 6) === 0);
  }
  return [low, high];
}

function tickText(value) {
  if (value !== 0 && (Math.abs(value) < 0.01 || Math.abs(value) >= 1e5)) return value.toExponential().replace("e+", "e").replaceAll("-", MINUS).replace("e\u2212", "e-");
  return String(Number(value.toPrecision(10))).replace("-", MINUS);
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null || !Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? [0, 1] : low === high ? [low - (Math.abs(low) * 0.1 || 0.5), high + (Math.abs(high) * 0.1 || 0.5)] : [low, high];
}

// Returns an SVG with the axes of a plot, and the functions that turn values to pixels.
function makeFrame(width, height, [xLow, xHigh], [yLow, yHigh], labels) {
  const room = 0.04 * (yHigh - yLow);
  const bottomValue = yLow - room, topValue = yHigh + room;
  const yTicks = roundTicks(bottomValue, topValue, Math.max(2, Math.floor(height / 45)));
  const left = 14 + 6.4 * Math.max(...yTicks.map((tick) => tickText(tick).length)), right = width - 14, top = labels.y ? 22 : 8, bottom = height - 36;
  const x = (value) => left + ((right - left) * (value - xLow)) / (xHigh - xLow || 1);
  const y = (value) => bottom - ((bottom - top) * (value - bottomValue)) / (topValue - bottomValue);
  const svg = makeShape("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": labels.label });
  const grid = yTicks.map((tick) => `M${left} ${y(tick).toFixed(1)}H${right}`).join("");
  svg.append(makeShape("path", { class: "grid", d: grid }), makeShape("path", { class: "axis-line", d: `M${left} ${bottom}H${right}` }));
  for (const tick of yTicks) svg.append(makeShape("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
  const widest = Math.max(...[xLow, xHigh].map((value) => tickText(Math.round(value)).length)) * 6.4 + 14;
  for (const tick of roundTicks(xLow, xHigh, Math.max(2, Math.min(7, Math.floor((right - left) / widest))), true)) {
    const half = tickText(tick).length * 3.2;
    svg.append(makeShape("text", { x: Math.min(x(tick), width - half - 1), y: bottom + 15, "text-anchor": "middle" }, tickText(tick)));
  }
  if (labels.x) svg.append(makeShape("text", { class: "axis", x: (left + right) / 2, y: height - 5, "text-anchor": "middle" }, labels.x));
  if (labels.y) svg.append(makeShape("text", { class: "axis", x: 6, y: 12 }, labels.y));
  return { svg, x, y, left, right, top, bottom };
}

// Draws lines {name, x, y, colour, dashes, width}; the pointer shows the values at the nearest step.
function lineChart(title, series, yLabel, marks = []) {
  const drawn = series.filter((line) => line.x.length);
  const figure = make("figure", { class: "line-chart" }, make("figcaption", {}, title));
  if (!drawn.length) return figure;
  const width = 440, height = 250;
  const frame = makeFrame(width, height, extent(drawn.flatMap((line) => line.x)), extent(drawn.flatMap((line) => line.y)), {
    x: "optimizer steps", y: yLabel, label: `${title}: ${drawn.map((line) => line.name).join(", ")}`,
  });
  for (const mark of marks) frame.svg.append(makeShape("path", { d: `M${frame.x(mark.step)} ${frame.top}V${frame.bottom}`, stroke: "var(--muted)", "stroke-dasharray": "3 3" }));
  for (const line of drawn) {
    const points = line.x.flatMap((step, i) => (line.y[i] === null ? [] : [`${frame.x(step).toFixed(1)} ${frame.y(line.y[i]).toFixed(1)}`]));
    if (points.length === 1) frame.svg.append(makeShape("path", { class: "dots", d: `M${points[0]}h0`, stroke: `var(--${line.colour})`, "stroke-width": 6 }));
    else if (points.length) frame.svg.append(makeShape("path", { d: `M${points.join("L")}`, stroke: `var(--${line.colour})`, "stroke-width": line.width || 1.8, "stroke-dasharray": line.dashes || null }));
  }
  const cursor = makeShape("path", { class: "cursor", stroke: "var(--ink)", "stroke-width": 1, opacity: 0.5 });
  frame.svg.append(cursor);
  frame.svg.addEventListener("pointermove", (event) => {
    const box = frame.svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) * width) / box.width;
    const steps = [...new Set(drawn.flatMap((line) => line.x))];
    const step = steps.reduce((near, each) => (Math.abs(frame.x(each) - at) < Math.abs(frame.x(near) - at) ? each : near));
    cursor.setAttribute("d", `M${frame.x(step)} ${frame.top}V${frame.bottom}`);
    const lines = drawn.filter((line) => line.x.includes(step)).map((line) => make("span", {}, make("em", {}, line.name), ` ${show(line.y[line.x.indexOf(step)])}`));
    replaceChildren(tip, make("b", {}, `step ${step}`), lines.slice(0, 14));
    tip.hidden = false;
    placeTip(event);
  });
  frame.svg.addEventListener("pointerleave", () => { tip.hidden = true; cursor.removeAttribute("d"); });
  figure.append(frame.svg);
  if (drawn.length > 1) figure.append(makeLegend(drawn));
  return figure;
}

function makeLegend(series) {
  return make("div", { class: "legend" }, series.map((line) => make("span", {},
    makeShape("svg", { class: "key", viewBox: "0 0 22 8", width: 22, height: 8, "aria-hidden": "true" }, makeShape("path", { d: "M1 4h20", stroke: `var(--${line.colour})`, "stroke-width": 2, "stroke-dasharray": line.dashes || null })),
    line.name)));
}
