// The view of one trial, at #trial=ID: configuration beside the best one, curves, weights, events.

function showRoute() {
  const view = document.getElementById("trial"), report = document.getElementById("report");
  const id = location.hash.startsWith("#trial=") ? decodeURIComponent(location.hash.slice(7)) : null;
  const trial = id === null ? undefined : trialOf.get(id);
  tip.hidden = true;
  if (trial === undefined) {
    const wasHidden = report.hidden;
    view.hidden = true;
    report.hidden = false;
    document.title = data.title;
    if (!wasHidden) return;
    const anchor = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    if (anchor) anchor.scrollIntoView();
    else scrollTo(0, showRoute.scroll || 0);
    return;
  }
  if (!report.hidden) showRoute.scroll = scrollY;
  replaceChildren(view, makeTrialView(trial));
  report.hidden = true;
  view.hidden = false;
  document.title = `${trials.id[trial]} - ${data.title}`;
  scrollTo(0, 0);
  view.querySelector("h1").focus({ preventScroll: true });
}

function makeTrialView(trial) {
  const row = rowOfTrial.get(trial) || rows.find((each) => each.arm === arms[trials.arm[trial]] && each.number === trials.number[trial]) || null;
  const detail = data.details[trial] || {};
  const sections = [makeConfiguration(trial, row, detail), makeTrialCurves(trial), makeWeights(detail), makeSignal(detail), makeEvents(detail), makeSiblings(trial)];
  return [makeTrialHead(trial, row, detail), ...sections.filter(Boolean)];
}

function makeSection(title, ...children) {
  return make("section", {}, make("h2", {}, title), children);
}

function makeTrialHead(trial, row, detail) {
  const neighbour = (by) => (row && rows[row.place + by] ? make("a", { href: `#trial=${encodeURIComponent(trials.id[rows[row.place + by].trial])}`, rel: by < 0 ? "prev" : "next" }, by < 0 ? "\u2190 better" : "worse \u2192") : null);
  const facts = [
    ["state", makeState(states[trials.state[trial]])], [data.metric, showScore(trials.score[trial])],
    ["rank", row ? `${row.rank} of ${rows.length}` : "-"], ["arm", arms[trials.arm[trial]]], ["role", data.roles[trials.role[trial]]], ["seed", show(trials.seed[trial])],
    ["best step", show(trials.best_step[trial])], ["steps", show(trials.steps[trial])], ["time", showSeconds(trials.seconds[trial])],
  ];
  const copy = row ? make("button", { type: "button", id: "copy-yaml", click: () => copyText(toYaml(row), "configuration") }, "Copy as YAML") : null;
  return make("header", {},
    make("nav", { "aria-label": "Trials" }, make("a", { href: "#explore" }, "\u2191 report"), neighbour(-1), neighbour(1)),
    make("p", { class: "eyebrow" }, `${data.run} \u00b7 trial`),
    make("h1", { tabindex: -1 }, trials.id[trial]),
    make("dl", { class: "facts" }, facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
    detail.why ? make("pre", {}, make("code", {}, detail.why)) : null,
    copy ? make("div", { class: "tools" }, copy) : null,
    row && !data.details[trial] ? make("p", { class: "notes" }, data.left_out) : null);
}

function makeConfiguration(trial, row, detail) {
  const lines = [];
  const isBest = trial === data.best || (row && row === bestRow);
  const drawn = new Set(dimensions.map((dimension) => dimension.name));
  dimensions.forEach((dimension, i) => {
    const mine = row ? row.values[i] : null, theirs = bestRow ? bestRow.values[i] : null;
    if (mine !== null || theirs !== null) lines.push([dimension.name, mine, theirs, true]);
  });
  const base = data.base || {}, own = detail.settings;
  if (own) for (const name of new Set([...Object.keys(base), ...Object.keys(own)])) {
    if (!drawn.has(name)) lines.push([name, name in own ? own[name] : base[name], base[name] ?? null, false]);
  }
  if (!lines.length) return null;
  const differs = (mine, theirs) => JSON.stringify(mine) !== JSON.stringify(theirs);
  const body = make("tbody", {}, lines.map(([name, mine, theirs, isDrawn]) => make("tr", { class: !isBest && differs(mine, theirs) ? "differs" : "same" },
    make("th", { scope: "row" }, name), make("td", {}, isDrawn ? "drawn" : "fixed"), make("td", {}, show(mine)), isBest ? null : make("td", {}, show(theirs)), isBest ? null : make("td", {}, differs(mine, theirs) ? "differs" : "\u00a0"))));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ["name", "", "this trial", ...(isBest ? [] : ["best trial", ""])].map((head) => make("th", { scope: "col" }, head)))), body);
  const count = lines.filter(([, mine, theirs]) => differs(mine, theirs)).length;
  const section = makeSection("Configuration");
  if (isBest) section.append(make("p", { class: "question" }, "This is the search's best configuration."));
  else {
    const only = make("input", { type: "checkbox", id: "only-differences", checked: true });
    const update = () => table.classList.toggle("only", only.checked);
    only.addEventListener("change", update);
    update();
    section.append(make("p", { class: "question" }, `${count} of ${lines.length} values differ from the best trial, `, bestRow ? makeTrialLink(bestRow.trial) : "none", "."), make("div", { class: "tools" }, make("label", {}, only, " only what differs")));
  }
  section.append(make("div", { class: "scroll" }, table));
  return section;
}

function makeTrialCurves(trial) {
  const curve = data.curves[trial], best = data.curves[data.best];
  if (!curve) return null;
  const marks = trials.best_step[trial] === null ? [] : [{ step: trials.best_step[trial] }];
  const line = (name, kind, colour, dashes = "") => (curve[kind] && curve[kind].some((value) => value !== null) ? [{ name, x: curve.step, y: curve[kind], colour, dashes }] : []);
  const reference = best && trial !== data.best ? [{ name: "best trial", x: best.step, y: best.score, colour: "muted", dashes: "2 3" }] : [];
  const charts = [
    lineChart(`Score: ${data.metric}`, [...line("this trial", "score", "s1"), ...reference], data.metric, marks),
    lineChart("Loss of the end task", [...line("training", "train_loss", "s3", "6 3"), ...line("dev", "loss", "s1")], "loss", marks),
    lineChart("Auxiliary loss, weighted", line("auxiliary", "aux_loss", "s4"), "loss", marks),
  ].filter((figure) => figure.querySelector("svg"));
  const kinds = [["score", data.metric], ["loss", "dev loss"], ["train_loss", "training loss"], ["aux_loss", "auxiliary loss"]].filter(([kind]) => curve[kind]);
  const values = make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "num" }, "step"), kinds.map(([, name]) => make("th", { scope: "col", class: "num" }, name)))),
    make("tbody", {}, curve.step.map((step, i) => make("tr", {}, make("td", { class: "num" }, show(step)), kinds.map(([kind]) => make("td", { class: "num" }, show(curve[kind][i])))))));
  return makeSection("Curves", make("p", { class: "question" }, `The dashed line marks the best evaluation.${curve.thinned ? ` ${curve.step.length} of ${curve.thinned} evaluations are shown.` : ""}`), make("div", { class: "pictures" }, charts), make("details", {}, make("summary", {}, "The same as a table"), make("div", { class: "scroll" }, values)));
}

const KIND_TITLES = { objective: "Weights of objectives", task: "End task and auxiliary", branch: "Branches" };

function makeWeights(detail) {
  if (!detail.weights) return null;
  const parts = shortNames(detail.weights.flatMap((group) => (group.kind === "objective" ? group.names : [])));
  const nameOf = (name) => parts.get(name) || data.names[name];
  const charts = detail.weights.map((group) => {
    const order = group.names.map((name, i) => [name, group.values[i]]).sort(([, a], [, b]) => Math.max(...b) - Math.max(...a)).slice(0, 12);
    const title = group.kind === "primitive" ? `Stage: ${group.stage}` : group.stage ? `${KIND_TITLES[group.kind] || group.kind}: ${group.stage}` : KIND_TITLES[group.kind] || group.kind;
    const lines = order.map(([name, values], i) => ({ name: nameOf(name), x: group.step, y: values, colour: `s${(i % 6) + 1}`, dashes: i < 6 ? "" : "5 3" }));
    if (group.step.length === 1) return makeBars(title, group.names.map((name, i) => [nameOf(name), group.values[i][0]]));
    return lineChart(group.names.length > 12 ? `${title}: the 12 largest of ${group.names.length}` : title, lines, "weight");
  });
  return makeSection("Weights", make("div", { class: "pictures" }, charts));
}

// Returns the names of objectives without the primitives that all of them share.
function shortNames(numbers) {
  const parts = numbers.map((number) => data.names[number].split("/"));
  if (parts.length < 2) return new Map();
  const differing = parts[0].map((_, i) => i).filter((i) => new Set(parts.map((part) => part[i])).size > 1);
  return new Map(numbers.map((number, i) => [number, differing.map((place) => parts[i][place]).join("/").replaceAll("_", " ")]));
}

function makeBars(title, lines) {
  const widest = Math.max(...lines.map(([, value]) => Math.abs(value ?? 0)), 1e-9);
  const body = lines.sort(([, a], [, b]) => b - a).map(([name, value]) => make("tr", {}, make("td", {}, name), make("td", { class: "num" }, show(value, 3)),
    make("td", { class: "meter" }, make("span", { class: "bar", style: `width:${(90 * Math.abs(value ?? 0)) / widest}%` }))));
  return make("figure", {}, make("figcaption", {}, `${title}, at the last step`), make("table", {}, make("tbody", {}, body)));
}

function makeSignal(detail) {
  if (!detail.signal) return null;
  const { names, mean, errors } = detail.signal;
  const head = ["objective", "mean", "standard error", "signal / noise"];
  const lines = names.map((name, i) => [data.names[name], mean[i], errors[i] ? mean[i] / errors[i] : null, errors[i]]).sort((a, b) => Math.abs(b[3] ?? 0) - Math.abs(a[3] ?? 0));
  const widest = Math.max(...lines.map((line) => Math.abs(line[3] ?? 0)), 1e-9);
  const table = make("table", { id: "signal-table" }, make("thead", {}, make("tr", {}, head.map((text, i) => make("th", { scope: "col", class: i ? "num" : null }, text)), make("th", {}))),
    make("tbody", {}, lines.map(([name, center, error, ratio]) => make("tr", {}, make("td", {}, name), [center, error, ratio].map((value) => make("td", { class: "num" }, show(value, 3))),
      make("td", { class: "meter" }, make("span", { class: `bar ${ratio < 0 ? "failed" : ""}`, style: `width:${(90 * Math.abs(ratio ?? 0)) / widest}%` }))))));
  return makeSection("Signal and noise of objectives", make("p", { class: "question" }, "What the weighting had observed of each objective by the last step: a ratio below about 2 is no more than noise."), make("div", { class: "scroll" }, table));
}

function makeEvents(detail) {
  if (!detail.events || !detail.events.length) return null;
  const table = make("table", {}, make("thead", {}, make("tr", {}, ["after", "event", "attempt", "detail"].map((head, i) => make("th", { scope: "col", class: i === 0 || i === 2 ? "num" : null }, head)))),
    make("tbody", {}, detail.events.map(([after, event, attempt, text]) => make("tr", {}, make("td", { class: "num" }, showSeconds(after)), make("td", {}, event), make("td", { class: "num" }, show(attempt)), make("td", {}, text)))));
  return makeSection("Events", make("p", { class: "question" }, detail.began ? `The first was at ${detail.began}.` : ""), make("div", { class: "scroll" }, table));
}

function makeSiblings(trial) {
  const others = trials.id.map((_, other) => other).filter((other) => other !== trial && trials.arm[other] === trials.arm[trial] && trials.number[other] === trials.number[trial]);
  if (!others.length) return null;
  const table = make("table", {}, make("thead", {}, make("tr", {}, ["trial", "role", "seed", data.metric, "state"].map((head, i) => make("th", { scope: "col", class: i === 2 || i === 3 ? "num" : null }, head)))),
    make("tbody", {}, others.slice(0, 60).map((other) => make("tr", {}, make("td", { class: "keep" }, makeTrialLink(other)), make("td", {}, data.roles[trials.role[other]]), make("td", { class: "num" }, show(trials.seed[other])), make("td", { class: "num" }, showScore(trials.score[other])), make("td", {}, makeState(states[trials.state[other]]))))));
  return makeSection("Other trainings of this configuration", make("div", { class: "scroll" }, table));
}
