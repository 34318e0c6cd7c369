// Where the page's figures are drawn (when they come into view), what a pointer reads off them, and each one's data
// as a table, a CSV file and an SVG file with its title and legend.
"use strict";
const Charts = (() => {
  const specs = JSON.parse(document.getElementById("figures").textContent);
  const marks = new Map();
  const widths = new Map();
  const TABLE_ROWS = 200;
  const make = (name, fields = {}) => Object.assign(document.createElement(name), fields);
  const frame = (id) => document.getElementById(id).closest("figure");
  // A title says of which workload it is, as the heading of its section does.
  const title = (id) => `${frame(id).closest("section").querySelector("h2").textContent}: ${document.getElementById(id + "-title").textContent}`;

  function draw(id) {
    const holder = document.getElementById(id);
    if (!holder.clientWidth || widths.get(id) === holder.clientWidth) return;
    widths.set(id, holder.clientWidth);
    marks.set(id, Chart.draw(holder, specs[id], `${title(id)}. ${frame(id).querySelector("figcaption").textContent} Its data stand below as a table.`));
  }

  // Columns and rows of what a figure shows.
  function data(id) {
    const { data: traces, layout } = specs[id];
    const drawn = traces.filter((trace) => trace.mode !== "text");
    const [bars, spread] = [layout.yaxis.type === "category" || drawn.some((trace) => trace.type === "bar"), drawn.some((trace) => trace.error_x || trace.error_y)];
    const axes = bars ? ["run", layout.xaxis.title.text] : ["run", layout.xaxis.title.text, layout.yaxis.title.text || "value"];
    const rows = drawn.flatMap((trace) => trace.x.map((x, i) => {
      const error = trace.error_x ?? trace.error_y;
      const value = error === trace.error_x ? x : trace.y[i];
      const name = trace.label ?? (bars ? trace.y[i] : trace.hovertext?.[i].split("\n")[0] ?? "");
      const low = error ? [value - error.arrayminus[i], value + error.array[i]] : ["", ""];
      return [trace.name, name, x, ...(bars ? [] : [trace.y[i]]), ...(spread ? low : [])];
    }));
    return { heads: ["series", ...axes, ...(spread ? ["95 % low", "95 % high"] : [])], rows };
  }

  function save(name, type, text) {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // A text that a spreadsheet would take for a formula gets an apostrophe.
  const cell = (value) => (typeof value === "number" ? String(value) : `"${value.replace(/^[=+\-@\t]/, "'$&").replaceAll('"', '""')}"`);
  const csv = (id) => { const { heads, rows } = data(id); return [heads, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n"; };

  // On its own the drawing has no style sheet, no title and no legend: all three are written into it.
  function svg(id) {
    const style = getComputedStyle(document.documentElement);
    const drawing = document.getElementById(id).querySelector("svg").cloneNode(true);
    const [width, height] = [drawing.getAttribute("width"), Number(drawing.getAttribute("height"))];
    const key = [...frame(id).querySelectorAll(".key li")];
    const lines = [title(id), ...key.map((item) => item.textContent)];
    const top = 18 * lines.length + 8;
    drawing.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    drawing.setAttribute("font-family", "sans-serif");
    drawing.setAttribute("viewBox", `0 ${-top} ${width} ${height + top}`);
    drawing.setAttribute("height", height + top);
    const add = (name, attributes, text = "") => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
      made.textContent = text;
      return made;
    };
    lines.forEach((text, i) => drawing.prepend(add("text", { x: 4, y: 18 * (i + 1) - top, fill: i ? key[i - 1].firstElementChild.style.color : "var(--text)", "font-weight": i ? 400 : 700 }, text)));
    drawing.prepend(add("rect", { x: 0, y: -top, width, height: height + top, fill: "var(--panel)" }));
    return new XMLSerializer().serializeToString(drawing).replace(/var\((--[a-z-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
  }

  function table(id) {
    const { heads, rows } = data(id);
    const made = make("table");
    const head = made.createTHead().insertRow();
    heads.forEach((text) => head.append(make("th", { scope: "col", textContent: text })));
    const body = made.createTBody();
    for (const row of rows.slice(0, TABLE_ROWS)) {
      const line = body.insertRow();
      row.forEach((value) => { line.insertCell().textContent = typeof value === "number" ? +value.toPrecision(5) : value; });
    }
    const scroll = make("div", { className: "scroll", tabIndex: 0 });
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `Data of ${title(id)}`);
    scroll.append(made);
    return rows.length > TABLE_ROWS ? [scroll, make("p", { className: "legend", textContent: `The first ${TABLE_ROWS} of ${rows.length} rows; the CSV file has all.` })] : [scroll];
  }

  function addData(id) {
    const details = make("details", { className: "data" });
    details.append(make("summary", { textContent: "Data" }));
    details.firstChild.setAttribute("aria-label", `Data of ${title(id)}: table, CSV, SVG`);
    details.addEventListener("toggle", () => {
      if (details.children.length > 1) return;
      const name = title(id).toLowerCase().replace(/[^a-z0-9]+/g, "-");
      const [asCsv, asSvg] = [make("button", { type: "button", textContent: "Save as CSV" }), make("button", { type: "button", textContent: "Save as SVG" })];
      asCsv.addEventListener("click", () => save(`${name}.csv`, "text/csv", csv(id)));
      asSvg.addEventListener("click", () => { draw(id); save(`${name}.svg`, "image/svg+xml", svg(id)); });
      const line = make("p", { className: "save" });
      line.append(asCsv, " ", asSvg);
      details.append(line, ...table(id));
    });
    frame(id).append(details);
  }

  // What the pointer is on, in words: the mark it touches, else the nearest within reach.
  const tip = document.body.appendChild(make("div", { className: "tip", hidden: true }));
  function point(event) {
    const holder = event.target.closest?.(".plot");
    const box = holder?.getBoundingClientRect();
    let [found, least] = [null, 15];
    for (const mark of (holder && marks.get(holder.id)) || []) {
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const away = Math.hypot(Math.max(mark.left - x, 0, x - mark.right), Math.max(mark.top - y, 0, y - mark.bottom));
      if (mark.tip && away < least) [found, least] = [mark, away];
    }
    tip.hidden = !found;
    if (!found) return;
    tip.textContent = found.tip;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
  }
  addEventListener("pointermove", point);
  addEventListener("pointerdown", point);

  const ids = Object.keys(specs);
  const seen = new IntersectionObserver((entries) => entries.forEach((entry) => entry.isIntersecting && draw(entry.target.id)), { rootMargin: "300px" });
  const sized = new ResizeObserver((entries) => entries.forEach((entry) => widths.has(entry.target.id) && draw(entry.target.id)));
  for (const id of ids) {
    const holder = document.getElementById(id);
    holder.style.height = specs[id].height + "px";
    seen.observe(holder);
    sized.observe(holder);
    addData(id);
  }
  // The first ones at once: an observer waits for a frame.
  ids.filter((id) => document.getElementById(id).getBoundingClientRect().top < innerHeight).forEach(draw);
  return { drawAll: () => ids.forEach(draw), csv, svg };
})();
