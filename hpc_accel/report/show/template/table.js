// The table of runs: sorted inside each workload, filtered, and of long ones only the rows in view are in the page.
"use strict";
(() => {
  const holder = document.getElementById("table-data");
  if (!holder) return;  // nothing was trained
  const data = JSON.parse(holder.textContent);
  const FEW = 300;  // up to so many rows stand in the page at once, as high as their texts need
  const ROW_PX = 50;
  const FILES = [[1, "script", "job.sbatch"], [2, "log", "log.txt"], [4, "trace", "trace.json"]];
  const table = document.getElementById("table");
  const scroll = table.closest(".scroll");
  const body = table.tBodies[0];
  const [find, workload, status, every] = ["filter-text", "filter-workload", "filter-status", "all-columns"].map((id) => document.getElementById(id));
  const coded = ({ of, rows }) => (i) => of[rows[i]];
  const [workloadOf, statusOf] = [coded(data.workload), coded(data.status)];
  const winners = new Set(data.winners);
  const texts = data.labels.map((label, i) => `${label} ${data.ids[i]} ${workloadOf(i)} ${statusOf(i)}`.toLowerCase());
  let order = data.labels.map((_, i) => i);
  let shown = order;
  let sorted = { column: null, descending: false };
  const make = (name, fields = {}) => Object.assign(document.createElement(name), fields);
  const hidden = (text) => make("span", { className: "sr", textContent: text });
  const visible = () => data.columns.filter((column) => every.checked || column.first);

  function files(i) {
    const line = make("small");
    if (data.workload.of.length > 1) line.append(`${workloadOf(i)} `);
    if (!data.counts[i]) line.append(make("span", { className: "status bad", textContent: statusOf(i) }), " ");
    if (winners.has(i)) line.append(make("span", { className: "status good", textContent: "recommended" }), " ");
    for (const [bit, name, file] of FILES) {
      if (!(data.links[i] & bit)) continue;
      const link = make("a", { href: `runs/${encodeURIComponent(data.ids[i])}/${file}`, textContent: name });
      link.append(hidden(` of ${data.labels[i]}`));
      line.append(link, " ");
    }
    return line;
  }

  function rowOf(i, at) {
    const row = make("tr", { className: winners.has(i) ? "winner" : "" });
    row.setAttribute("aria-rowindex", at + 2);
    const head = make("th", { scope: "row", className: "first", title: data.ids[i] });
    head.append(make("span", { className: "name", textContent: data.labels[i] }), files(i));
    row.append(head);
    for (const column of visible()) {
      const cell = make("td", { className: "number" });
      const reason = column.reasons[i] || column.reason;
      if (reason) {
        const dash = make("span", { className: "none", title: data.reasons[reason - 1] });
        dash.append("\u2013", hidden("not measured, reason "), make("sup", { textContent: reason }));
        cell.append(dash);
      } else {
        cell.append(column.texts[i]);
        const note = column.notes && column.notes.of[column.notes.rows[i]];
        if (note) cell.append(make("small", { textContent: note }));
      }
      row.append(cell);
    }
    return row;
  }

  const spacer = (height) => { const row = make("tr", { className: "spacer", ariaHidden: "true" }); row.style.height = `${height}px`; return row; };

  function render() {
    const few = shown.length <= FEW;
    table.classList.toggle("fixed", !few);
    const first = few ? 0 : Math.max(0, Math.floor(scroll.scrollTop / ROW_PX) - 12);
    const last = few ? shown.length : Math.min(shown.length, first + Math.ceil(scroll.clientHeight / ROW_PX) + 24);
    const rows = shown.slice(first, last).map((i, at) => rowOf(i, first + at));
    body.replaceChildren(...(few ? rows : [spacer(first * ROW_PX), ...rows, spacer((shown.length - last) * ROW_PX)]));
    table.setAttribute("aria-rowcount", shown.length + 1);
  }

  const collator = new Intl.Collator(undefined, { numeric: true });
  const byLabel = [...order].sort((a, b) => collator.compare(data.labels[a], data.labels[b]));
  const labelPlaces = [];
  byLabel.forEach((i, at) => { labelPlaces[i] = at + 1; });

  // `places` order the rows; 0 is for what was not measured, which stands last either way, as runs do that are not ranked.
  function sortBy(places, descending) {
    const workloads = data.workload.rows;
    const sign = descending ? -1 : 1;
    order = [...order].sort((a, b) => workloads[a] - workloads[b]
      || data.counts[b] - data.counts[a] || !places[a] - !places[b] || sign * (places[a] - places[b]) || a - b);
    filter();
  }

  function heading(text, places, column) {
    const head = make("th", { scope: "col", className: column ? "number" : "first" });
    const button = head.appendChild(make("button", { type: "button", textContent: text }));
    if (sorted.column === text) head.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
    button.addEventListener("click", () => {
      sorted = { column: text, descending: sorted.column === text && !sorted.descending };
      sortBy(places, sorted.descending);
      headings();
      [...table.tHead.querySelectorAll("button")].find((each) => each.textContent === text).focus();
    });
    return head;
  }

  function headings() {
    table.tHead.rows[0].replaceChildren(heading("Run", labelPlaces, false), ...visible().map((column) => heading(column.title, column.order, true)));
  }

  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = order.filter((i) => (!workload.value || workloadOf(i) === workload.value)
      && (!status.value || statusOf(i) === status.value)
      && words.every((word) => texts[i].includes(word)));
    document.getElementById("filter-count").textContent = `${shown.length} of ${order.length} runs`;
    scroll.scrollTop = 0;
    render();
  }

  document.getElementById("runs-live").hidden = false;
  for (const control of [find, workload, status]) control.addEventListener("input", filter);
  every.addEventListener("input", () => { headings(); render(); });
  let waiting = false;
  scroll.addEventListener("scroll", () => {
    if (waiting || shown.length <= FEW) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; render(); });
  });
  const list = document.getElementById("reasons");
  data.reasons.forEach((text) => list.append(make("li", { textContent: text })));
  list.closest("details").hidden = !data.reasons.length;
  headings();
  filter();
})();
