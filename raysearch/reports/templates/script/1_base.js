// What all parts use: the data of the page, elements made without markup, numbers as text, and the state of the filters.

const data = JSON.parse(document.getElementById("page-data").textContent);
const { trials, configurations: ranked, dimensions, arms, states } = data;
const MINUS = "\u2212";

// Returns a new element; children are nodes or texts, so that nothing in the data becomes markup.
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeShape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function replaceChildren(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

// Returns a value of the data as text: four digits of a number, a true minus sign.
function show(value, digits = 4) {
  if (value === null || value === undefined || value === "") return "-";
  if (typeof value !== "number") return typeof value === "object" ? JSON.stringify(value) : String(value);
  if (Number.isInteger(value)) return String(value).replace("-", MINUS);
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(digits - 1).replace(/\.?0*e\+?/, "e") : String(Number(value.toPrecision(digits)));
  return text.replaceAll("-", MINUS);
}

function showScore(value) {
  return value === null || value === undefined ? "-" : value.toFixed(4).replace("-", MINUS);
}

function shorten(text, most) {
  return text.length <= most ? text : `${text.slice(0, most - 1)}\u2026`;
}

function showSeconds(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 100) return `${Number(seconds.toPrecision(3))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const SYMBOLS = { complete: "\u25cf", stopped: "\u25bc", failed: "\u2715", running: "\u25cb" };

function makeState(state) {
  return make("span", { class: `state ${state}` }, make("i", { "aria-hidden": "true" }, SYMBOLS[state] || "\u25cb"), state);
}

function makeTrialLink(trial) {
  return make("a", { href: `#trial=${encodeURIComponent(trials.id[trial])}`, class: "mono" }, trials.id[trial]);
}

// Returns a colour variable of the page as [red, green, blue].
function readColour(name) {
  const probe = make("span", { style: `color:var(--${name})` });
  document.body.append(probe);
  const parts = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return parts;
}

const rows = ranked.trial.map((trial, place) => ({
  place,
  trial,
  rank: place + 1,
  arm: arms[trials.arm[trial]],
  number: trials.number[trial],
  state: states[ranked.state[place]],
  score: ranked.score[place],
  sd: ranked.sd[place],
  seeds: ranked.seeds[place],
  step: trials.best_step[trial],
  seconds: ranked.seconds[place],
  values: dimensions.map((dimension, i) => ranked.values[i][place]),
}));
const bestRow = rows.find((row) => row.trial === data.best) || null;
const rowOfTrial = new Map(rows.map((row) => [row.trial, row]));
const trialOf = new Map(trials.id.map((id, trial) => [id, trial]));

// The filters; `change` tells every part that listens.
const store = {
  brushes: new Map(), // by axis: [low, high] in shares of its length
  text: "",
  arm: "",
  hiddenStates: new Set(),
  hovered: null, // a trial
  matching: rows,
  listeners: [],
  hoverListeners: [],
  change() {
    const words = store.text.toLowerCase().split(/\s+/).filter(Boolean);
    store.matching = rows.filter((row) => matches(row, words));
    for (const listener of store.listeners) listener();
  },
  hover(trial) {
    if (trial === store.hovered) return;
    store.hovered = trial;
    for (const listener of store.hoverListeners) listener();
  },
};

function matches(row, words) {
  if (store.arm && row.arm !== store.arm) return false;
  if (store.hiddenStates.has(row.state)) return false;
  for (const [axis, [low, high]] of store.brushes) {
    const share = axis.shares[row.place];
    if (!(share >= low - 1e-6 && share <= high + 1e-6)) return false;
  }
  if (!words.length) return true;
  const text = describe(row);
  return words.every((word) => text.includes(word));
}

// Returns the text in which a filter looks: `lr=0.001` finds a value.
function describe(row) {
  if (row.text === undefined) {
    const values = dimensions.map((dimension, i) => (row.values[i] === null ? "" : `${dimension.name}=${row.values[i]}`));
    row.text = [trials.id[row.trial], row.arm, row.state, ...values].join(" ").toLowerCase();
  }
  return row.text;
}

// The small box beside the pointer.
const tip = make("div", { id: "tip", hidden: true, "aria-hidden": "true" });

function showTip(event, trial, more = "") {
  if (trial === null) {
    tip.hidden = true;
    return;
  }
  const row = rowOfTrial.get(trial);
  const lines = [make("b", {}, trials.id[trial]), make("span", {}, `${data.metric} ${showScore(trials.score[trial])} \u00b7 ${states[trials.state[trial]]}`)];
  if (more) lines.push(make("span", {}, more));
  for (const [i, dimension] of row ? dimensions.entries() : []) {
    if (row.values[i] !== null && i < 9) lines.push(make("span", {}, make("em", {}, dimension.name), ` ${shorten(show(row.values[i]), 40)}`));
  }
  replaceChildren(tip, lines);
  tip.hidden = false;
  placeTip(event);
}

function placeTip(event) {
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 12 : event.clientX + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - box.height - 4))}px`;
}

function announce(text) {
  document.getElementById("announcement").textContent = text;
}

async function copyText(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce(`${what} copied`);
}

function saveText(text, name, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// A text that a spreadsheet would take for a formula begins with an apostrophe.
function toCsv(head, lines) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text) && !/^[-+]?[\d.]+(e[-+]?\d+)?$/i.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...lines].map((line) => line.map(cell).join(",")).join("\n") + "\n";
}

// Returns the part of a search file that fixes a trial's configuration.
function toYaml(row) {
  const part = data.fragments[ranked.fragment[row.place]];
  const plain = (value) => (typeof value === "string" ? JSON.stringify(value) : Number.isInteger(value) || typeof value !== "number" ? String(value) : floatText(value));
  const key = (name) => (/^[a-z_][\w.]*$/i.test(name) && !/^(y|n|yes|no|on|off|true|false|null)$/i.test(name) ? name : JSON.stringify(name));
  const method = { ...part.method }, settings = { ...part.settings };
  let space = part.space;
  dimensions.forEach((dimension, i) => {
    const value = row.values[i];
    if (value === null) return;
    if (dimension.place === "method") method[dimension.name] = value;
    else if (dimension.place === "space") space = value;
    else settings[dimension.name] = value;
  });
  const lines = [`# ${trials.id[row.trial]} of run ${data.run}: ${data.metric} ${row.score === null ? "none" : row.score}`];
  if (row.place >= data.exact) lines.push("# numbers are rounded; the run's tables have all digits");
  if (part.profile) lines.push(`profile: ${plain(part.profile)}`);
  if (space) lines.push(`space: ${plain(space)}`);
  lines.push(`method: {${Object.entries(method).map(([name, value]) => `${key(name)}: ${plain(value)}`).join(", ")}}`);
  if (Object.keys(settings).length) lines.push("settings:");
  for (const [name, value] of Object.entries(settings)) lines.push(`  ${key(name)}: ${plain(value)}`);
  return lines.join("\n") + "\n";
}

// YAML 1.1 takes 1e-05 for a text: a number has a point.
function floatText(value) {
  const text = String(value);
  return /e/.test(text) && !text.includes(".") ? text.replace("e", ".0e") : text;
}
