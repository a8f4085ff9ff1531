"use strict";
// The page is complete without this: it adds sorting, filters, values on drawings and the colour scheme.
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg"; // the name of a vocabulary, not an address
  root.dataset.js = "";

  // Colour scheme: the system's until the button says otherwise.
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const tell = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Use ${dark() ? "light" : "dark"} colours`); };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; tell(); });
  system.addEventListener("change", tell);
  tell();

  // A link to a closed model or verdict opens it; one that is followed twice does not change the address.
  const open = (hash) => { const around = document.getElementById(hash.slice(1))?.closest("details"); if (around) around.open = true; };
  addEventListener("hashchange", () => open(location.hash));
  addEventListener("click", (event) => open(event.target.closest("a")?.hash ?? ""));
  open(location.hash);

  // Sorting: columns of numbers by the first number of a cell, others as text. What has no value comes last, either way.
  const number = (cell) => parseFloat((cell.dataset.v ?? cell.textContent.trim()).replace("\u2212", "-"));
  const text = (cell) => cell.textContent.trim();
  const inOrder = { numeric: true, sensitivity: "base" }; // 8 marks before 16
  const sort = (table, column, head, direction) => {
    const numeric = head.classList.contains("n"); // or the fingerprint 5547e5 would be a large number
    const value = numeric ? number : text;
    const missing = numeric ? Number.isNaN : (found) => found === "";
    const compare = numeric ? (a, b) => (a > b) - (a < b) : (a, b) => a.localeCompare(b, undefined, inOrder);
    const rows = [...table.tBodies[0].rows].map((row, i) => ({ row, i, v: value(row.cells[column]) }));
    rows.sort((a, b) => {
      if (missing(a.v) || missing(b.v)) return missing(a.v) - missing(b.v) || a.i - b.i;
      return direction * compare(a.v, b.v) || a.i - b.i;
    });
    table.tBodies[0].append(...rows.map(({ row }) => row));
  };
  for (const table of all("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        sort(table, column, head, up ? 1 : -1);
      });
    });
  }

  // Filters
  const form = document.getElementById("filters");
  if (form) {
    const rows = all("#all tbody tr");
    const count = document.getElementById("count");
    const field = (name) => document.getElementById(`f-${name}`);
    const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const filter = () => {
      const wanted = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const fits = ["dataset", "watermark", "attack"].every((name) => !field(name).value || row.dataset[name] === field(name).value);
        row.hidden = !(fits && wanted.every((word) => words.get(row).includes(word)));
        shown += !row.hidden;
      }
      const results = rows.length === 1 ? "result" : "results";
      count.textContent = shown === rows.length ? `${shown} ${results}` : `${shown} of ${rows.length} ${results}`;
    };
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", filter);
    form.addEventListener("change", filter); // some tools that fill in forms send this alone
    form.addEventListener("reset", () => setTimeout(filter));
    filter(); // a browser that goes back keeps what was typed
  }

  // Legends: chosen lines stay, the others fade.
  for (const figure of all("figure.chart")) {
    const chosen = new Set();
    const fade = (numbers) => {
      for (const line of all("svg [data-line]", figure)) line.classList.toggle("dim", numbers.size > 0 && !numbers.has(line.dataset.line));
    };
    for (const item of all(".legend li[data-line]", figure)) {
      const button = document.createElement("button");
      const number = item.dataset.line;
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.append(...item.childNodes);
      item.append(button);
      button.addEventListener("click", () => {
        if (!chosen.delete(number)) chosen.add(number);
        button.setAttribute("aria-pressed", String(chosen.has(number)));
        fade(chosen);
      });
      button.addEventListener("pointerenter", () => fade(new Set([...chosen, number])));
      button.addEventListener("pointerleave", () => fade(chosen));
    }
  }

  // Values on drawings. A stop is a place with what to say there: a strength of a curve, or a point of a scatter plot.
  const tip = document.getElementById("tip");
  const element = (name, text, more = {}) => Object.assign(document.createElement(name), { textContent: text }, more);

  const curveStops = (figure) => {
    const stops = new Map();
    const heads = all("thead th", figure).map((head) => head.textContent.trim());
    for (const row of all("tbody tr", figure)) {
      const cells = [...row.cells].map((cell) => cell.textContent.trim());
      const name = cells[0] === "untouched" ? cells[0] : `${heads[0]} ${cells[0]}`;
      if (!stops.has(row.dataset.x)) stops.set(row.dataset.x, { x: Number(row.dataset.x), title: name, rows: [], keyed: true });
      const short = (cell) => cell.split(" ")[0]; // the mean; the spread stands in the table
      stops.get(row.dataset.x).rows.push({ line: row.dataset.line, label: cells[1], values: cells.slice(2).map(short) });
    }
    return [...stops.values()].sort((a, b) => a.x - b.x);
  };
  const pointStops = (figure) =>
    all("svg [data-line] > title", figure).map((title) => {
      const mark = title.parentNode;
      const at = (name) => Number(mark.dataset[name] ?? mark.getAttribute(name));
      const stop = { x: at("x"), y: at("y"), title: title.textContent, rows: [], keyed: "front" in mark.dataset, line: mark.dataset.line };
      title.remove(); // or the browser would show it beside ours
      return stop;
    }).sort((a, b) => a.x - b.x || b.y - a.y);

  const MEASURES = ["new triggers", "clean", "decoys"]; // the last columns of a chart's table
  const spoken = (stop) => {
    const told = (row) => MEASURES.map((name, i) => row.values[i] && `${name} ${row.values[i]} %`).filter(Boolean).join(", ");
    return [stop.title, ...stop.rows.map((row) => `${row.label}: ${told(row)}`)].join("; ");
  };

  const fill = (figure, stop) => {
    tip.replaceChildren(element("strong", stop.title));
    if (!stop.rows.length) return;
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const text of ["", ...MEASURES]) head.append(element("th", text, { className: "n" }));
    const body = table.createTBody();
    for (const row of stop.rows) {
      const line = body.insertRow();
      const name = element("th", ` ${row.label}`);
      const swatch = figure.querySelector(`.legend [data-line="${row.line}"] .swatch`);
      if (swatch) name.prepend(swatch.cloneNode(true));
      line.append(name, ...row.values.map((value) => element("td", value, { className: "n" })));
    }
    tip.append(table);
  };

  // One stop is shown at a time: in a drawing, marked in all drawings of its chart, by its slider or by a pointer.
  let shown = null;
  const hide = () => {
    shown?.marks.forEach((mark) => mark.setAttribute("visibility", "hidden"));
    shown = null;
    tip.hidden = true;
  };
  const follow = () => {
    if (!shown) return;
    const { drawing, stop } = shown;
    const frame = drawing.getBoundingClientRect();
    tip.hidden = frame.bottom < 0 || frame.top > innerHeight;
    const box = drawing.viewBox.baseVal;
    const x = frame.left + (stop.x / box.width) * frame.width;
    const y = frame.top + ((stop.y ?? 40) / box.height) * frame.height;
    const { width, height } = tip.getBoundingClientRect();
    const beside = x + 14 + width <= root.clientWidth ? x + 14 : x - 14 - width;
    tip.style.left = `${Math.max(4, Math.min(beside, root.clientWidth - width - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(y, innerHeight - height - 4))}px`;
  };
  const show = (stop, drawing, marks, slider = null) => {
    hide();
    shown = { stop, drawing, slider, marks };
    for (const mark of marks) {
      if (stop.y === undefined) mark.setAttribute("d", `M${stop.x} 8V196`);
      else { mark.setAttribute("cx", stop.x); mark.setAttribute("cy", stop.y); mark.setAttribute("r", 7); }
      mark.setAttribute("visibility", "visible");
    }
    fill(drawing.closest("figure"), stop);
    follow();
  };
  // The page may still be moving when a slider gets the focus.
  for (const kind of ["scroll", "resize"]) addEventListener(kind, follow, { passive: true });
  addEventListener("pointerup", (event) => { if (!shown?.drawing.contains(event.target)) hide(); });

  for (const figure of all("figure.chart")) {
    const stops = figure.dataset.kind === "curves" ? curveStops(figure) : pointStops(figure);
    const keyed = stops.filter((stop) => stop.keyed);
    const drawings = all(".panel svg", figure);
    if (!stops.length || !drawings.length) continue;
    const marks = drawings.map((drawing) => {
      const ruler = document.createElementNS(SVG, stops[0].y === undefined ? "path" : "circle");
      ruler.setAttribute("class", stops[0].y === undefined ? "ruler" : "halo");
      ruler.setAttribute("visibility", "hidden");
      drawing.append(ruler);
      return ruler;
    });
    const nearest = (drawing, event) => {
      const box = drawing.viewBox.baseVal;
      const frame = drawing.getBoundingClientRect();
      const x = ((event.clientX - frame.left) / frame.width) * box.width;
      const y = ((event.clientY - frame.top) / frame.height) * box.height;
      const distance = (stop) => (stop.y === undefined ? Math.abs(stop.x - x) : Math.hypot(stop.x - x, stop.y - y));
      return stops.reduce((best, stop) => (distance(stop) < distance(best) ? stop : best));
    };
    for (const drawing of drawings) {
      for (const kind of ["pointermove", "pointerdown"]) drawing.addEventListener(kind, (event) => show(nearest(drawing, event), drawing, marks));
      drawing.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); }); // a finger leaves as it is lifted
      drawing.addEventListener("pointercancel", hide); // it was no tap: the finger moves the page
    }

    // The same by keyboard, and for screen readers: a slider along the strengths, or along the thief's best points.
    let place = 0;
    const cursor = Object.assign(document.createElement("div"), { className: "cursor", tabIndex: 0 });
    cursor.setAttribute("role", "slider");
    cursor.setAttribute("aria-label", `Values of ${figure.querySelector("figcaption").textContent.trim()}`);
    cursor.setAttribute("aria-valuemin", "1");
    cursor.setAttribute("aria-valuemax", String(keyed.length));
    const go = (to) => {
      place = Math.max(0, Math.min(keyed.length - 1, to));
      cursor.setAttribute("aria-valuenow", String(place + 1));
      cursor.setAttribute("aria-valuetext", spoken(keyed[place]));
    };
    if (!keyed.length) continue;
    go(0);
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5, Home: -Infinity, End: Infinity };
    const showPlace = () => show(keyed[place], drawings[0], marks, cursor);
    cursor.addEventListener("focus", showPlace);
    cursor.addEventListener("blur", () => { if (shown?.slider === cursor) hide(); });
    cursor.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      go(place + steps[event.key]);
      showPlace();
    });
    figure.querySelector(".panels").append(cursor);
  }
})();
