// Parallel coordinates: a line for each configuration, over its values and its score. A range of an axis is a filter.

const TOP = 44, BOTTOM = 16, HEIGHT = 330;

// Returns the different words in their order, numbers by their size.
function listWords(values) {
  const different = [...new Map(values.map((value) => [String(value), value])).values()];
  return (different.every((value) => typeof value === "number") ? different.sort((a, b) => a - b) : different).map(String);
}

// Returns the dimensions that an arm varies; without an arm those of the search, which the others may lack.
function dimensionsOf(arm) {
  const ours = rows.filter((row) => row.arm === (arm || arms[0]));
  const varied = dimensions.map((_, i) => i).filter((i) => ours.some((row) => row.values[i] !== null));
  return varied.length || arm ? varied : dimensions.map((_, i) => i);
}

// Returns an axis of the plot: a name, ticks, and each row's share of the length, NaN where the value was not drawn.
function makeAxis(name, values, declared) {
  const axis = { name, title: name.replace(/^(include|weight)\./, ""), values, update() {} };
  const words = declared.kind === "choice" ? listWords([...declared.values, ...values.filter((value) => value !== null)]) : null;
  if (words) {
    const places = new Map(words.map((word, i) => [word, i]));
    const share = (place) => (words.length === 1 ? 0.5 : 0.06 + (0.88 * place) / (words.length - 1));
    axis.shares = Float32Array.from(values, (value) => (value === null ? NaN : share(places.get(String(value)))));
    axis.ticks = words.map((word, i) => [share(i), word]);
    axis.step = words.length === 1 ? 1 : 0.88 / (words.length - 1);
    axis.says = (low, high) => words.filter((_, i) => share(i) >= low - 1e-6 && share(i) <= high + 1e-6).join(", ") || "nothing";
    return axis;
  }
  const numbers = values.filter((value) => value !== null);
  const [low, high] = declared.low === undefined ? extent(numbers) : extent(numbers.concat([declared.low, declared.high]));
  const log = declared.log && low > 0;
  const forward = log ? Math.log : (value) => value;
  const back = log ? Math.exp : (value) => value;
  const share = (value) => (forward(value) - forward(low)) / (forward(high) - forward(low));
  const valueAt = (place) => back(forward(low) + place * (forward(high) - forward(low)));
  axis.shares = Float32Array.from(values, (value) => (value === null ? NaN : share(value)));
  axis.ticks = (log ? logTicks(low, high) : roundTicks(low, high, 6, declared.kind === "int")).map((tick) => [share(tick), tickText(tick)]);
  axis.step = declared.kind === "int" && !log && high - low <= 50 ? 1 / (high - low) : 0.02;
  axis.says = (from, to) => `${show(valueAt(from), 3)} to ${show(valueAt(to), 3)}`;
  return axis;
}

// Returns the share of the configurations with a score that each one is not worse than; a line is the stronger for it.
function standings() {
  const scored = rows.filter((row) => row.score !== null).sort((a, b) => a.score - b.score);
  const shares = new Float32Array(rows.length);
  scored.forEach((row, i) => { shares[row.place] = (i + 1) / scored.length; });
  return shares;
}

function makeParallel(holder) {
  const scores = makeAxis(data.metric, rows.map((row) => row.score), { kind: "float" });
  const known = dimensions.map((dimension, i) => makeAxis(dimension.name, rows.map((row) => row.values[i]), dimension));
  const axesOf = (arm) => [...dimensionsOf(arm).map((i) => known[i]), scores];
  let arm = store.arm, axes = axesOf(arm);
  const canvas = make("canvas", { "aria-hidden": "true" });
  const svg = makeShape("svg", { class: "chart overlay", role: "group", "aria-label": `Parallel coordinates: ${axes.length} axes, a line for each of ${rows.length} configurations` });
  const stage = make("div", { class: "stage" }, canvas, svg);
  holder.append(make("div", { class: "scroll" }, stage));
  const standing = standings();
  let width = 0, left = 0, gap = 0;
  const xOf = (i) => left + i * gap;
  const yOf = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const shareAt = (y) => Math.min(1, Math.max(0, 1 - (y - TOP) / (HEIGHT - TOP - BOTTOM)));

  function layOut() {
    const room = holder.clientWidth;
    width = Math.max(room, 86 * axes.length);
    left = 62;
    gap = axes.length > 1 ? (width - left - 40) / (axes.length - 1) : 0;
    stage.style.width = `${width}px`;
    canvas.width = width * devicePixelRatio;
    canvas.height = HEIGHT * devicePixelRatio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${HEIGHT}px`;
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", HEIGHT);
    drawAxes();
    drawLines();
  }

  function drawAxes() {
    const isTight = axes.some((axis) => axis.title.length * 6.4 > gap - 8);
    replaceChildren(svg, axes.map((axis, i) => makeAxisGroup(axis, i, isTight)));
  }

  function makeAxisGroup(axis, i, isTight) {
    const x = xOf(i), most = Math.max(6, Math.floor(((isTight ? 2 : 1) * gap - 8) / 6.6));
    const isEdge = i === 0 || i === axes.length - 1;
    const title = shorten(axis.title, isEdge ? Math.max(6, Math.floor(((isTight ? 1.3 : 1) * gap) / 6.6)) : most);
    const anchor = i === 0 ? "start" : i === axes.length - 1 ? "end" : "middle";
    const titleX = i === 0 ? 4 : i === axes.length - 1 ? width - 4 : x;
    const group = makeShape("g", { role: "group", "aria-label": axis.name });
    group.append(makeShape("text", { class: "axis-title", x: titleX, y: isTight && i % 2 ? 13 : 28, "text-anchor": anchor }, title, makeShape("title", {}, axis.name)));
    group.append(makeShape("path", { class: "axis-line", d: `M${x} ${yOf(1)}V${yOf(0)}` }));
    const room = Math.max(4, Math.floor((gap - 14) / 6.2));
    for (const [share, text] of axis.ticks) {
      group.append(makeShape("path", { class: "axis-line", d: `M${x - 4} ${yOf(share).toFixed(1)}h4` }));
      group.append(makeShape("text", { class: "halo", x: x - 13, y: yOf(share) + 4, "text-anchor": "end" }, shorten(text, i ? room : 8)));
    }
    const range = makeShape("rect", { class: "range", x: x - 9, width: 18, rx: 3 });
    const strip = makeShape("rect", { class: "strip", x: x - 18, y: TOP - 8, width: 36, height: HEIGHT - TOP - BOTTOM + 16 });
    const handles = [0, 1].map((end) => makeHandle(axis, end, x));
    axis.update = () => {
      const [low, high] = store.brushes.get(axis) || [0, 1];
      range.setAttribute("y", yOf(high));
      range.setAttribute("height", Math.max(1, yOf(low) - yOf(high)));
      range.classList.toggle("is-set", store.brushes.has(axis));
      handles.forEach((handle, end) => handle.place(end ? high : low, axis.says(low, high)));
    };
    strip.addEventListener("pointerdown", (event) => startBrush(event, axis, strip));
    group.append(strip, range, ...handles.map((handle) => handle.node));
    axis.update();
    return group;
  }

  function makeHandle(axis, end, x) {
    const node = makeShape("g", { class: "handle", role: "slider", tabindex: 0, "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `${axis.name}: ${end ? "upper" : "lower"} end` },
      makeShape("rect", { x: x - 10, y: -4, width: 20, height: 8, rx: 2.5 }));
    node.addEventListener("keydown", (event) => {
      const [low, high] = store.brushes.get(axis) || [0, 1];
      const moves = { ArrowUp: axis.step, ArrowRight: axis.step, ArrowDown: -axis.step, ArrowLeft: -axis.step, PageUp: 0.1, PageDown: -0.1, Home: -1, End: 1 };
      if (event.key === "Escape" || event.key === "Delete") setBrush(axis, null);
      else if (event.key in moves) {
        const moved = Math.min(1, Math.max(0, (end ? high : low) + moves[event.key]));
        setBrush(axis, end ? [low, Math.max(low, moved)] : [Math.min(high, moved), high]);
      } else return;
      event.preventDefault();
    });
    return {
      node,
      place(share, words) {
        node.setAttribute("transform", `translate(0 ${yOf(share).toFixed(1)})`);
        node.setAttribute("aria-valuenow", Math.round(100 * share));
        node.setAttribute("aria-valuetext", words);
      },
    };
  }

  function setBrush(axis, range) {
    if (!range || (range[0] <= 0 && range[1] >= 1)) store.brushes.delete(axis);
    else store.brushes.set(axis, range);
    axis.update();
    store.change();
  }

  function startBrush(event, axis, strip) {
    const heightAt = (moved) => shareAt(moved.clientY - svg.getBoundingClientRect().top);
    const [low, high] = store.brushes.get(axis) || [0, 1];
    const began = heightAt(event);
    const isNear = (end) => Math.abs(yOf(end) - yOf(began)) < 9 && (store.brushes.has(axis) || end === 0 || end === 1);
    const fixed = isNear(high) ? low : isNear(low) ? high : began;
    strip.setPointerCapture(event.pointerId);
    let hasMoved = false;
    const move = (moved) => {
      const at = heightAt(moved);
      if (!hasMoved && Math.abs(yOf(at) - yOf(began)) < 4) return;
      hasMoved = true;
      setBrush(axis, [Math.min(fixed, at), Math.max(fixed, at)]);
    };
    strip.addEventListener("pointermove", move);
    strip.addEventListener("pointerup", () => {
      strip.removeEventListener("pointermove", move);
      if (!hasMoved) setBrush(axis, null);
    }, { once: true });
    event.preventDefault();
  }

  // A value that was not drawn is a gap in the line.
  function trace(context, row) {
    let isOpen = false;
    axes.forEach((axis, i) => {
      const share = axis.shares[row.place];
      if (Number.isNaN(share)) isOpen = false;
      else {
        if (isOpen) context.lineTo(xOf(i), yOf(share));
        else context.moveTo(xOf(i), yOf(share));
        isOpen = true;
      }
    });
  }

  function drawLines() {
    const context = canvas.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    context.lineJoin = "round";
    const [muted, strong, line, ink, accent] = ["muted", "s1", "line", "ink", "s2"].map(readColour);
    const isMatching = new Set(store.matching);
    const groups = Array.from({ length: 10 }, () => []);
    for (const row of rows) groups[isMatching.has(row) ? 1 + Math.min(8, Math.floor(9 * standing[row.place])) : 0].push(row);
    const many = Math.max(0.1, Math.min(0.9, 7 / Math.sqrt(store.matching.length + 1)));
    groups.forEach((group, shade) => {
      const part = Math.max(0, shade - 1) / 8;
      const colour = shade ? muted.map((from, i) => Math.round(from + (strong[i] - from) * part)) : line;
      context.strokeStyle = `rgba(${colour.join(",")},${shade ? many * (0.2 + 0.8 * part * part) : 0.35})`;
      context.lineWidth = shade ? 1 + 0.5 * part : 0.6;
      context.beginPath();
      for (const row of group) trace(context, row);
      context.stroke();
    });
    const hovered = rowOfTrial.get(store.hovered);
    for (const [row, colour, thick] of [[bestRow && isMatching.has(bestRow) ? bestRow : null, accent, 2.5], [hovered, ink, 2.5]]) {
      if (!row) continue;
      context.strokeStyle = `rgb(${colour.join(",")})`;
      context.lineWidth = thick;
      context.beginPath();
      trace(context, row);
      context.stroke();
    }
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const i = Math.min(axes.length - 2, Math.max(0, Math.floor((x - left) / gap))), part = Math.min(1, Math.max(0, (x - xOf(i)) / gap));
    let best = null, far = 10;
    for (const row of axes.length > 1 ? store.matching : []) {
      const from = yOf(axes[i].shares[row.place]), to = yOf(axes[i + 1].shares[row.place]);
      const away = Math.abs(from + (to - from) * part - y); // NaN, which is not less, in a gap
      if (away < far) [best, far] = [row, away];
    }
    store.hover(best ? best.trial : null);
    showTip(event, store.hovered);
  });
  svg.addEventListener("pointerleave", () => { store.hover(null); showTip(null, null); });
  svg.addEventListener("dblclick", () => { if (store.hovered !== null) location.hash = `trial=${encodeURIComponent(trials.id[store.hovered])}`; });

  let isWaiting = false;
  const redraw = () => {
    if (isWaiting) return;
    isWaiting = true;
    requestAnimationFrame(() => { isWaiting = false; drawLines(); });
  };
  store.listeners.push(() => {
    if (arm !== store.arm) {
      axes = axesOf((arm = store.arm));
      layOut();
    }
    for (const axis of axes) axis.update();
    redraw();
  });
  store.hoverListeners.push(redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => { if (holder.clientWidth) layOut(); }).observe(holder);
}
