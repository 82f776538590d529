// Tables: sorted by a click on a head, filtered by a text, written as CSV.

function sortValue(cell) {
  const text = cell.textContent.trim().replaceAll(MINUS, "-").replace(/^\[/, "");
  const value = parseFloat(text);
  return /^[-+]?[\d.]/.test(text) && Number.isFinite(value) ? value : text.toLowerCase();
}

// Missing values come last whatever the direction; numbers before texts.
function compare(a, b, sign) {
  const isMissing = (value) => value === null || value === undefined || value === "" || value === "-" || Number.isNaN(value);
  if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
}

// Makes a head's text a button that sorts; `sort(sign)` does the work.
function makeSortable(head, sort, firstSign = 1) {
  const button = make("button", { type: "button", class: "sort" }, ...head.childNodes);
  head.append(button);
  head.setAttribute("aria-sort", "none");
  button.addEventListener("click", () => {
    const sign = { none: firstSign, ascending: -1, descending: 1 }[head.getAttribute("aria-sort")];
    for (const other of head.parentNode.children) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    sort(sign);
  });
}

function enhanceTable(table, name) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  if (body.rows.length < 2) return;
  heads.forEach((head, place) => {
    if (!head.textContent.trim()) return;
    makeSortable(head, (sign) => {
      const sorted = [...body.rows].map((row) => [sortValue(row.cells[place]), row]);
      sorted.sort(([a], [b]) => compare(a, b, sign));
      body.append(...sorted.map(([, row]) => row));
    });
  });
  if (body.rows.length < 4) return;
  const filter = make("input", { type: "search", placeholder: "Filter rows", "aria-label": `Filter the rows of ${name}` });
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
  const save = make("button", { type: "button", click: () => {
    const shown = [...body.rows].filter((row) => !row.hidden);
    saveText(toCsv(heads.map((head) => head.textContent.trim()), shown.map((row) => [...row.cells].map((cell) => cell.textContent.trim().replaceAll(MINUS, "-")))), `${data.run}-${name}.csv`, "text/csv");
  } }, "CSV");
  table.closest(".scroll").before(make("div", { class: "tools" }, body.rows.length > 8 ? filter : null, save));
}

function enhanceTables() {
  for (const table of document.querySelectorAll("#report .scroll > table")) {
    const section = table.closest("section");
    if (section && !section.classList.contains("static-only") && section.id !== "explore") enhanceTable(table, section.id);
  }
}

// Names the trial under the pointer in plots that are part of the page, and opens it on a click.
function enhancePlots() {
  for (const svg of document.querySelectorAll("#report svg.chart")) {
    const paths = svg.querySelectorAll("[data-trials]");
    if (!paths.length) continue;
    let points = null;
    const nearest = (event) => {
      points = points || [...paths].flatMap(readPoints);
      const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let best = null, far = 14 * 14;
      for (const point of points) {
        const square = (point.x - x) ** 2 + (point.y - y) ** 2;
        if (square < far) [best, far] = [point, square];
      }
      return best;
    };
    svg.addEventListener("pointermove", (event) => {
      const point = nearest(event);
      svg.style.cursor = point ? "pointer" : "";
      showTip(event, point ? point.trial : null);
    });
    svg.addEventListener("pointerleave", () => showTip(null, null));
    svg.addEventListener("click", (event) => {
      const point = nearest(event);
      if (point) location.hash = `trial=${encodeURIComponent(trials.id[point.trial])}`;
    });
  }
}

// A path has a piece M... for each trial, or one line L...L... for a single one.
function readPoints(path) {
  const numbers = path.dataset.trials.split(" ");
  const isLine = path.getAttribute("d").includes("L");
  const places = [...path.getAttribute("d").matchAll(isLine ? /[ML]([-\d.]+) ([-\d.]+)/g : /M([-\d.]+) ([-\d.]+)/g)];
  return places.flatMap(([, x, y], i) => {
    const trial = numbers[isLine ? 0 : i];
    return trial ? [{ x: Number(x), y: Number(y), trial: Number(trial) }] : [];
  });
}
