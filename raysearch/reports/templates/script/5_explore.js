// The section that replaces the static curves and leaderboard: filters, parallel coordinates, curves, leaderboard.

const PAGE_ROWS = 25;

function makeToolbar() {
  const count = make("output", { class: "count" });
  const search = make("input", { type: "search", id: "filter", placeholder: "lr=0.001 complete \u2026", "aria-label": "Filter trials by words" });
  search.addEventListener("input", () => { store.text = search.value; store.change(); });
  const present = [...new Set(rows.map((row) => row.arm))];
  const arm = make("select", { "aria-label": "Arm" }, make("option", { value: "" }, "all arms"), present.map((name) => make("option", { value: name }, name)));
  arm.addEventListener("change", () => { store.arm = arm.value; store.brushes.clear(); store.change(); });
  const boxes = [...new Set(rows.map((row) => row.state))].map((state) => {
    const box = make("input", { type: "checkbox", checked: true, value: state });
    box.addEventListener("change", () => { store.hiddenStates[box.checked ? "delete" : "add"](state); store.change(); });
    return make("label", {}, box, makeState(state));
  });
  const clear = make("button", { type: "button" }, "Clear filters");
  clear.addEventListener("click", () => {
    store.brushes.clear(); store.hiddenStates.clear(); store.text = search.value = store.arm = arm.value = "";
    for (const box of boxes) box.firstChild.checked = true;
    store.change();
  });
  store.listeners.push(() => {
    const all = store.matching.length === rows.length;
    count.textContent = all ? `${rows.length} configurations` : `${store.matching.length} of ${rows.length} configurations`;
    clear.disabled = all;
  });
  return make("div", { class: "toolbar", role: "search" }, search, present.length > 1 ? arm : null, boxes.length > 1 ? make("div", { class: "boxes", role: "group", "aria-label": "States" }, boxes) : null, clear, count);
}

// Learning curves on a canvas: those of the trials that match, the best on top.
function makeCurves(holder) {
  const kinds = [["score", data.metric], ["loss", "dev loss"], ["train_loss", "training loss"], ["aux_loss", "auxiliary loss"]];
  const curves = Object.entries(data.curves).map(([trial, curve]) => ({ trial: Number(trial), ...curve }));
  const present = kinds.filter(([kind]) => curves.some((curve) => curve[kind] && curve[kind].some((value) => value !== null)));
  if (!present.length) return;
  let kind = present[0][0], frame = null, drawn = [];
  const choose = make("select", { "aria-label": "What the curves show" }, present.map(([value, name]) => make("option", { value }, name)));
  choose.addEventListener("change", () => { kind = choose.value; layOut(); });
  const canvas = make("canvas", { "aria-hidden": "true", class: "above" });
  const stage = make("div", { class: "stage" }, canvas);
  const note = make("p", { class: "notes" });
  holder.append(make("div", { class: "tools" }, make("h3", {}, "Learning curves"), present.length > 1 ? choose : null), stage, note);
  const height = 300;

  function layOut() {
    const width = holder.clientWidth;
    const withKind = curves.filter((curve) => curve[kind]);
    frame = makeFrame(width, height, extent(withKind.flatMap((curve) => curve.step)), extent(withKind.flatMap((curve) => curve[kind])), { x: "optimizer steps", y: present.find(([value]) => value === kind)[1], label: "Learning curves of the trials that match the filters" });
    frame.svg.classList.add("overlay");
    frame.svg.addEventListener("pointermove", point);
    frame.svg.addEventListener("pointerleave", () => { store.hover(null); showTip(null, null); });
    frame.svg.addEventListener("click", () => { if (store.hovered !== null) location.hash = `trial=${encodeURIComponent(trials.id[store.hovered])}`; });
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    replaceChildren(stage, frame.svg, canvas);
    draw();
  }

  function draw() {
    const matching = new Set(store.matching.map((row) => row.trial));
    const configurations = new Set(store.matching.map((row) => `${row.arm} ${row.number}`));
    const isShown = (trial) => matching.has(trial) || (!rowOfTrial.has(trial) && configurations.has(`${arms[trials.arm[trial]]} ${trials.number[trial]}`));
    drawn = curves.filter((curve) => curve[kind] && isShown(curve.trial)).map((curve) => ({
      trial: curve.trial,
      points: curve.step.flatMap((step, i) => (curve[kind][i] === null ? [] : [[frame.x(step), frame.y(curve[kind][i])]])),
    })).reverse();
    const without = store.matching.filter((row) => !data.curves[row.trial]).length;
    note.textContent = without && data.curves_left_out ? `${drawn.length} curves; ${without} worse configurations that match have none on this page.` : "";
    paint();
  }

  function paint() {
    const context = canvas.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.lineJoin = "round";
    const colours = Object.fromEntries(["s1", "s2", "s6", "muted", "ink"].map((name) => [name, `rgb(${readColour(name).join(",")})`]));
    const ofState = { complete: "s1", stopped: "s2", failed: "s6" };
    const strong = (curve, colour, thick) => { context.globalAlpha = 1; stroke(context, curve.points, colours[colour], thick); };
    context.globalAlpha = Math.max(0.15, Math.min(0.8, 12 / Math.sqrt(drawn.length + 1) / 3));
    for (const curve of drawn) stroke(context, curve.points, colours[ofState[states[trials.state[curve.trial]]] || "muted"], 1.1);
    for (const curve of drawn) if (curve.trial === data.best) strong(curve, "s1", 3);
    for (const curve of drawn) if (curve.trial === store.hovered) strong(curve, "ink", 2.5);
  }

  function point(event) {
    const box = frame.svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, far = 12;
    for (const curve of drawn) {
      const away = distance(curve.points, x, y);
      if (away < far) [best, far] = [curve.trial, away];
    }
    store.hover(best);
    showTip(event, best);
  }

  store.listeners.push(() => { if (frame) draw(); });
  store.hoverListeners.push(() => { if (frame) paint(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (frame) paint(); });
  new ResizeObserver(() => { if (holder.clientWidth && (!frame || canvas.style.width !== `${holder.clientWidth}px`)) layOut(); }).observe(holder);
}

function stroke(context, points, colour, thick) {
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = thick;
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (points.length === 1) context.arc(points[0][0], points[0][1], 3, 0, 7);
  context.stroke();
}

// Returns how far a point is from a line of points, in pixels, measured vertically between two steps.
function distance(points, x, y) {
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1], [x1, y1] = points[i];
    if (x >= x0 && x <= x1) return Math.abs(y0 + ((y1 - y0) * (x - x0)) / (x1 - x0 || 1) - y);
  }
  const near = points.map(([px, py]) => Math.hypot(px - x, py - y));
  return near.length ? Math.min(...near) : Infinity;
}

function makeLeaderboard(holder) {
  const hasSeeds = rows.some((row) => row.seeds > 1);
  const columns = [
    { head: "#", of: (row) => row.rank, first: 1, numeric: true },
    { head: data.metric, of: (row) => row.score, say: (row) => showScore(row.score), numeric: true },
    ...(hasSeeds ? [{ head: "sd", of: (row) => row.sd, say: (row) => showScore(row.sd), numeric: true }, { head: "seeds", of: (row) => row.seeds, numeric: true }] : []),
    { head: "state", of: (row) => row.state, node: (row) => makeState(row.state) },
    ...(new Set(rows.map((row) => row.arm)).size > 1 ? [{ head: "arm", of: (row) => row.arm, say: (row) => shorten(row.arm, 24) }] : []),
    ...dimensions.map((dimension, i) => ({ dimension: i, head: dimension.name, of: (row) => row.values[i], say: (row) => shorten(show(row.values[i]), 28), numeric: dimension.kind !== "choice" })),
    { head: "best step", of: (row) => row.step, numeric: true },
    { head: "time", of: (row) => row.seconds, say: (row) => showSeconds(row.seconds), numeric: true },
  ];
  let sorted = { of: (row) => row.rank, sign: 1 }, page = 0, shown = [];
  const body = make("tbody"), pager = make("div", { class: "pager" });
  const heads = columns.map((column) => {
    const head = make("th", { scope: "col", class: column.numeric ? "num" : null }, column.head);
    makeSortable(head, (sign) => { sorted = { of: column.of, sign }; page = 0; draw(); }, column.first || (column.numeric ? -1 : 1));
    return head;
  });
  heads[0].setAttribute("aria-sort", "ascending");
  let visible = new Set();
  const table = make("table", { id: "leaderboard-table" }, make("caption", { class: "offscreen" }, "Configurations that match the filters"),
    make("thead", {}, make("tr", {}, heads.slice(0, 2), make("th", { scope: "col" }, "trial"), heads.slice(2), make("th", { scope: "col" }, make("span", { class: "offscreen" }, "copy")))), body);
  const save = make("button", { type: "button", id: "save-csv" }, "CSV");
  save.addEventListener("click", () => {
    const head = ["trial", ...columns.map((column) => column.head)];
    saveText(toCsv(head, shown.map((row) => [trials.id[row.trial], ...columns.map((column) => column.of(row))])), `${data.run}-trials.csv`, "text/csv");
    announce(`${shown.length} rows saved`);
  });
  holder.append(make("div", { class: "tools" }, make("h3", {}, "Leaderboard"), save), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Leaderboard" }, table), pager);

  function makeRow(row) {
    const copy = make("button", { type: "button", class: "small", title: "Copy the configuration as YAML for a search file", "aria-label": `Copy the YAML of ${trials.id[row.trial]}` }, "YAML");
    copy.addEventListener("click", () => copyText(toYaml(row), `configuration of ${trials.id[row.trial]}`));
    const cells = columns.map((column) => make("td", { hidden: column.dimension !== undefined && !visible.has(column.dimension), class: column.numeric ? "num" : "keep" }, column.node ? column.node(row) : column.say ? column.say(row) : show(column.of(row))));
    const line = make("tr", { class: row === bestRow ? "best" : null }, cells.slice(0, 2), make("td", { class: "keep" }, makeTrialLink(row.trial)), cells.slice(2), make("td", {}, copy));
    line.addEventListener("pointerenter", () => store.hover(row.trial));
    line.addEventListener("pointerleave", () => store.hover(null));
    line.dataset.trial = row.trial;
    return line;
  }

  function draw() {
    visible = new Set(dimensionsOf(store.arm));
    heads.forEach((head, i) => { head.hidden = columns[i].dimension !== undefined && !visible.has(columns[i].dimension); });
    shown = [...store.matching].sort((a, b) => compare(sorted.of(a), sorted.of(b), sorted.sign) || a.rank - b.rank);
    const pages = Math.max(1, Math.ceil(shown.length / PAGE_ROWS));
    page = Math.min(page, pages - 1);
    replaceChildren(body, shown.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS).map(makeRow));
    if (!shown.length) body.append(make("tr", {}, make("td", { colspan: columns.length + 2, class: "nothing" }, "No configuration matches the filters.")));
    const turn = (by, text) => make("button", { type: "button", disabled: page + by < 0 || page + by >= pages, click: () => { page += by; draw(); pager.querySelector(by < 0 ? "button" : "button:last-of-type").focus(); } }, text);
    replaceChildren(pager, pages > 1 ? [turn(-1, "Previous"), make("span", {}, `${page * PAGE_ROWS + 1} to ${Math.min(shown.length, (page + 1) * PAGE_ROWS)} of ${shown.length}`), turn(1, "Next")] : []);
  }

  // Arrow keys move between the rows' links.
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("tr")[step];
    if (!next) return;
    event.preventDefault();
    next.querySelector("a")?.focus();
  });
  body.addEventListener("focusin", (event) => store.hover(Number(event.target.closest("tr").dataset.trial)));
  body.addEventListener("focusout", () => store.hover(null));
  store.listeners.push(() => { page = 0; draw(); });
  store.hoverListeners.push(() => { for (const line of body.rows) line.classList.toggle("hovered", Number(line.dataset.trial) === store.hovered && store.hovered !== null); });
}

function makeExplorer() {
  const section = document.getElementById("explore");
  if (!rows.length) return;
  const parallel = make("div", { class: "parallel" }), curves = make("div", { class: "curves" }), board = make("div");
  section.querySelector(".live").append(makeToolbar(), parallel, curves, board);
  makeParallel(parallel);
  makeCurves(curves);
  makeLeaderboard(board);
  section.hidden = false;
  document.getElementById("to-explore").hidden = false;
  document.documentElement.classList.add("js");
  store.change();
}
