// Draws the figures in the colours of the page's theme, and makes the table of runs sortable and filterable.
// Every text goes through textContent or plotly's own escaping; nothing here builds markup from data.
"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("figures").textContent);

  // Figures name colours as var(--c-...): replace them by the theme's values, all the way down.
  function themed(value, style) {
    if (typeof value === "string") {
      return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, style)]));
    }
    return value;
  }

  function draw(id) {
    const place = document.getElementById(id);
    // Drawn on a layer without height of its own, a chart fills its card, and the taller of two neighbours decides.
    const canvas = place.firstElementChild ?? place.appendChild(Object.assign(document.createElement("div"), { className: "canvas" }));
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue("--c-" + name).trim();
    const narrow = place.clientWidth < 420;
    const spec = themed(specs[id], style);
    const layout = {
      ...spec.layout,
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: color("text") },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("grid"), font: { color: color("text") }, align: "left" },
    };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: color("muted"), activecolor: color("text") };
    for (const name of ["xaxis", "yaxis"]) {
      layout[name] = { gridcolor: color("grid"), linecolor: color("grid"), tickcolor: color("grid"), ...layout[name] };
    }
    const config = { responsive: true, displaylogo: false, displayModeBar: matchMedia("(hover: hover)").matches && !narrow ? "hover" : false, modeBarButtons: [["toImage"]] };
    Plotly.react(canvas, spec.data, layout, config);
  }

  // All heights first: a chart's room depends on its neighbour's.
  for (const id of Object.keys(specs)) document.getElementById(id).style.minHeight = specs[id].height + "px";
  const drawAll = () => Object.keys(specs).forEach(draw);
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  // Paper is white, whatever the screen is.
  addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; drawAll(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.theme; drawAll(); });

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        button.textContent = "Copied";
      } catch {
        // No clipboard here: select the command, so that the next key press copies it.
        getSelection().selectAllChildren(button.previousElementSibling);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  const table = document.getElementById("table");
  if (!table) return;  // nothing was trained
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const sortKey = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();

  function sortBy(column, descending) {
    const numeric = heads[column].classList.contains("number");
    const sorted = rows
      .map((row) => [row, sortKey(row, column)])
      .sort(([, a], [, b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");  // not measured: last, either way
        const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
        return descending ? -order : order;
      });
    body.append(...sorted.map(([row]) => row));
    heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  heads.forEach((head, column) => {
    if (head.classList.contains("plain")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => sortBy(column, head.getAttribute("aria-sort") === "ascending"));
  });

  const find = document.getElementById("filter-text");
  const workload = document.getElementById("filter-workload");
  const status = document.getElementById("filter-status");
  const texts = new Map(rows.map((row) => [row, (row.cells[0].title + " " + row.textContent).toLowerCase()]));
  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = (!workload.value || row.dataset.workload === workload.value)
        && (!status.value || row.dataset.status === status.value)
        && words.every((word) => texts.get(row).includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    document.getElementById("filter-count").textContent = `${shown} of ${rows.length} runs`;
  }
  document.querySelector(".filters").hidden = false;
  for (const control of [find, workload, status]) control.addEventListener("input", filter);
  filter();
})();
