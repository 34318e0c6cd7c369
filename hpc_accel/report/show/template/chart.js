// Draws a figure as SVG: horizontal bars (beside or stacked, on a category axis), marks, lines and texts with
// intervals, on linear or logarithmic axes. Room for labels is measured, so that nothing is cut on a phone.
// Colours stay names of CSS variables: light, dark and print need no second drawing. All text goes through textContent.
"use strict";
const Chart = (() => {
  const pen = document.createElement("canvas").getContext("2d");
  const DASHES = { dot: "2 3", dash: "6 4", dashdot: "6 3 2 3" };
  const SHAPES = {
    circle: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
    square: (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
    diamond: (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0Z`,
    "triangle-up": (r) => `M0,${-1.2 * r}L${1.2 * r},${r}H${-1.2 * r}Z`,
    star: (r) => "M" + [...Array(10)].map((_, i) => {
      const [length, angle] = [i % 2 ? 0.55 * r : 1.4 * r, (i * Math.PI) / 5];
      return `${(length * Math.sin(angle)).toFixed(2)},${(-length * Math.cos(angle)).toFixed(2)}`;
    }).join("L") + "Z",
    x: (r) => `M${-r},${-r}L${r},${r}M${r},${-r}L${-r},${r}`,
    "line-ns": (r) => `M0,${-r}V${r}`,
  };
  let patterns = 0;

  function add(parent, name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return parent.appendChild(made);
  }

  function fit(text, most) {
    if (pen.measureText(text).width <= most) return text;
    let length = text.length;
    while (length > 1 && pen.measureText(text.slice(0, length) + "\u2026").width > most) length -= 1;
    return text.slice(0, length) + "\u2026";
  }

  const compact = (value) => {
    for (const [factor, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= 1e4 && Math.abs(value) >= factor) return `${+(value / factor).toPrecision(4)}${unit}`;
    }
    return `${+value.toPrecision(6)}`;
  };

  // The values of one direction: those drawn, with the ends of their intervals; bars start at 0 and may be stacked.
  function extent(traces, key, stacked) {
    const found = [];
    const sums = new Map();
    for (const trace of traces) {
      const error = trace["error_" + key];
      (trace[key] ?? []).forEach((value, i) => {
        if (typeof value !== "number") return;
        if (trace.type === "bar" && stacked) {
          sums.set(trace.y[i], (sums.get(trace.y[i]) ?? 0) + value);
          return;
        }
        const base = trace.base?.[i] ?? 0;
        found.push(base + value + (error ? error.array[i] : 0), base + value - (error ? error.arrayminus[i] : 0));
      });
      if (trace.type === "bar" && key === "x") found.push(0);
    }
    found.push(...sums.values());
    return found.length ? [found.reduce((a, b) => Math.min(a, b)), found.reduce((a, b) => Math.max(a, b))] : [0, 1];
  }

  function axisOf(axis, traces, key, stacked) {
    if (axis.type === "log") {
      const ends = axis.range ?? extent(traces, key, stacked).map((end) => Math.log10(end));
      const ticks = axis.tickvals.map((value, i) => [Math.log10(value), axis.ticktext[i]]);
      return { ends, ticks: ticks.filter(([at]) => at >= ends[0] && at <= ends[1]), to: Math.log10 };
    }
    let [low, high] = axis.range ?? extent(traces, key, stacked);
    if (!axis.range) {
      const bars = key === "x" && traces.some((trace) => trace.type === "bar");
      const room = (high - low || Math.abs(high) || 1) * 0.05;
      const atZero = low >= 0 && (axis.rangemode === "tozero" || bars);
      [low, high] = [atZero ? 0 : low - room, bars ? high || 1 : high + room];
    }
    const rough = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough);
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) ticks.push([at * step, compact(at * step)]);
    return { ends: [low, high], ticks, to: (value) => value };
  }

  const place = (axis, from, to) => (value) => from + ((axis.to(value) - axis.ends[0]) / (axis.ends[1] - axis.ends[0] || 1)) * (to - from);

  function hatch(defs, shape, color) {
    const id = `hatch-${patterns += 1}`;
    const made = add(defs, "pattern", { id, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${shape === "/" ? 45 : shape === "\\" ? -45 : 0})` });
    add(made, "rect", { width: 7, height: 7, fill: color });
    if (shape === ".") add(made, "circle", { cx: 3, cy: 3, r: 1.3, fill: "var(--c-hatch)" });
    else add(made, "rect", { width: 1.8, height: 7, fill: "var(--c-hatch)" });
    return `url(#${id})`;
  }

  function drawBars(group, defs, trace, view) {
    const fills = new Map();
    trace.x.forEach((value, i) => {
      const row = view.rows.get(trace.y[i]);
      if (row === undefined) return;
      const start = trace.base ? trace.base[i] : view.stacked ? view.sums.get(trace.y[i]) ?? 0 : 0;
      if (view.stacked) view.sums.set(trace.y[i], start + value);
      const [from, to] = [view.x(start), view.x(start + value)];
      const shape = trace.marker.pattern?.shape[i];
      if (shape && !fills.has(shape)) fills.set(shape, hatch(defs, shape, trace.marker.color));
      // Which part of its row a bar fills: from the n-th of m parts on, k of them.
      const [nth, parts, many] = trace.slots?.[i] ?? [0, 1, 1];
      const [top, height] = [row - view.bar / 2 + view.bar * nth / parts, view.bar * many / parts];
      const color = trace.marker.color;
      add(group, "rect", { class: "point", x: from, y: top, width: Math.max(to - from, 0.5), height, fill: shape ? fills.get(shape) : color });
      if (trace.error_x) whisker(group, view.x(value - trace.error_x.arrayminus[i]), view.x(value + trace.error_x.array[i]), row, false);
      view.marks.push({ left: from, right: Math.max(to, from + 6), top, bottom: top + height, tip: trace.hovertext?.[i] });
    });
  }

  function whisker(group, from, to, across, upright, color = "var(--c-text)") {
    const path = upright
      ? `M${across},${from}V${to}M${across - 3},${from}h6M${across - 3},${to}h6`
      : `M${from},${across}H${to}M${from},${across - 4}v8M${to},${across - 4}v8`;
    add(group, "path", { d: path, stroke: color, "stroke-width": 1.5, fill: "none" });
  }

  function drawScatter(group, trace, view) {
    const y = trace.yaxis === "y2" ? view.y2 : view.y;
    const points = trace.x.map((value, i) => [view.x(value), y(trace.y[i])]);
    if (trace.mode.includes("lines") && points.length) {
      const line = { d: "M" + points.map((point) => point.map((at) => at.toFixed(1)).join(",")).join("L"), class: "js-line", fill: "none" };
      add(group, "path", { ...line, stroke: trace.line.color, "stroke-width": trace.line.width ?? 1.5, "stroke-dasharray": DASHES[trace.line.dash] ?? "none", "stroke-linejoin": "round" });
    }
    points.forEach(([left, top], i) => {
      if (trace.mode.includes("markers")) {
        if (trace.error_y) whisker(group, y(trace.y[i] - trace.error_y.arrayminus[i]), y(trace.y[i] + trace.error_y.array[i]), left, true, trace.marker.color);
        if (trace.error_x) whisker(group, view.x(trace.x[i] - trace.error_x.arrayminus[i]), view.x(trace.x[i] + trace.error_x.array[i]), top, false, trace.marker.color);
        const symbol = Array.isArray(trace.marker.symbol) ? trace.marker.symbol[i] : trace.marker.symbol;
        const name = symbol.replace("-open", "");
        const filled = name === symbol && name !== "x" && name !== "line-ns";
        const d = SHAPES[name]((trace.marker.size ?? 7) / 2);
        add(group, "path", { class: "point", d, transform: `translate(${left.toFixed(1)},${top.toFixed(1)})`, fill: filled ? trace.marker.color : "var(--panel)", stroke: trace.marker.color, "stroke-width": trace.marker.line?.width ?? 1.5 });
      }
      if (trace.mode === "text") {
        add(group, "text", { x: left + 5, y: top, "dominant-baseline": "central", fill: "var(--text)" }, trace.text[i].trim());
      } else if (trace.hoverinfo !== "skip") {
        const tip = trace.hovertext?.[i] ?? `${trace.label ?? trace.name}\n${view.titles[0]} ${compact(trace.x[i])}: ${compact(trace.y[i])}`;
        view.marks.push({ left: left - 5, right: left + 5, top: top - 5, bottom: top + 5, tip });
      }
    });
  }

  function drawAxes(back, view, axes, size, box, rowHeight) {
    const grid = { stroke: "var(--c-grid)", "stroke-width": 1 };
    const muted = { fill: "var(--text)", "text-anchor": "middle" };
    let last = -Infinity;
    for (const [value, text] of axes.x.ticks) {
      const at = box.left + ((value - axes.x.ends[0]) / (axes.x.ends[1] - axes.x.ends[0] || 1)) * (box.right - box.left);
      add(back, "path", { ...grid, d: `M${at.toFixed(1)},${box.top}V${box.bottom}` });
      const half = pen.measureText(text).width / 2;
      const middle = Math.min(Math.max(at, half), view.width - half);
      if (middle - half < last + 6) continue;  // a label that would touch its neighbour
      last = middle + half;
      add(back, "text", { ...muted, x: middle, y: box.bottom + size + 3 }, text);
    }
    if (view.titles[0]) add(back, "text", { ...muted, x: (box.left + box.right) / 2, y: box.bottom + 2 * size + 11 }, fit(view.titles[0], view.width - 8));
    for (const [side, axis] of [["y", axes.y], ["y2", axes.y2]]) {
      if (!axis) continue;
      for (const [value, text] of axis.ticks) {
        const at = box.bottom + ((value - axis.ends[0]) / (axis.ends[1] - axis.ends[0] || 1)) * (box.top - box.bottom);
        if (side === "y") add(back, "path", { ...grid, d: `M${box.left},${at.toFixed(1)}H${box.right}` });
        add(back, "text", { x: side === "y" ? box.left - 6 : box.right + 6, y: at, "dominant-baseline": "central", "text-anchor": side === "y" ? "end" : "start", fill: "var(--text)" }, text);
      }
      const title = side === "y" ? view.titles[1] : view.titles[2];
      const across = side === "y" ? size : view.width - 4;
      if (title) add(back, "text", { ...muted, transform: `translate(${across},${(box.top + box.bottom) / 2})rotate(-90)` }, fit(title, box.bottom - box.top));
    }
    for (const [name, at] of view.rows) {
      if (view.gridRows) add(back, "path", { ...grid, d: `M${box.left},${at}H${box.right}` });
      const text = view.above ? { x: box.left, y: at - rowHeight / 2 + size, "text-anchor": "start" } : { x: box.left - 7, y: at, "dominant-baseline": "central", "text-anchor": "end" };
      add(back, "text", { ...text, fill: "var(--text)" }, view.above ? fit(name, view.width - 4) : name);
    }
  }

  // Draws into `holder` and returns the places of marks with their words.
  function draw(holder, spec, label) {
    const width = Math.max(holder.clientWidth, 220);
    const size = width < 420 ? 11 : 12.5;
    pen.font = `${size}px ${getComputedStyle(holder).fontFamily}`;
    const { data, layout } = spec;
    const stacked = layout.barmode === "stack";
    const names = layout.yaxis.categoryarray ?? (data[0]?.type === "bar" ? [...new Set(data.flatMap((trace) => trace.y))] : []);
    const longest = names.reduce((most, name) => Math.max(most, pen.measureText(name).width), 0);
    const above = longest > 0.36 * width;
    const rowHeight = above ? 42 : 24;
    const on = (axis) => data.filter((trace) => (trace.yaxis ?? "y") === axis);
    const axes = { x: axisOf(layout.xaxis, data, "x", stacked) };
    if (!names.length) axes.y = axisOf(layout.yaxis, on("y"), "y", false);
    if (layout.yaxis2) axes.y2 = axisOf(layout.yaxis2, on("y2"), "y", false);
    const widest = (axis) => (axis ? axis.ticks.reduce((most, [, text]) => Math.max(most, pen.measureText(text).width), 0) : 0);
    const beside = data.filter((trace) => trace.mode === "text").flatMap((trace) => trace.text.map((text) => pen.measureText(text.trim()).width + 9));
    const titles = [layout.xaxis.title.text, layout.yaxis.title.text, layout.yaxis2?.title.text];
    const height = names.length ? Math.max(spec.height, 70 + rowHeight * names.length) : spec.height;
    const box = {
      left: names.length ? (above ? 3 : longest + 11) : widest(axes.y) + 10 + (titles[1] ? size + 8 : 0),
      right: width - Math.max(14, ...beside, axes.y2 ? widest(axes.y2) + 16 + size : 0),
      top: 10,
      bottom: height - (titles[0] ? 2 * size + 20 : size + 10),
    };
    holder.style.height = `${height}px`;
    holder.replaceChildren();
    const svg = add(holder, "svg", { class: "main-svg", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, "font-size": size });
    const defs = add(svg, "defs", {});
    const step = (box.bottom - box.top) / (names.length || 1);
    const rows = new Map(names.map((name, i) => [name, box.bottom - (i + 0.5) * step + (above ? size / 2 + 2 : 0)]));
    const view = {
      width, titles, rows, stacked, above, gridRows: layout.yaxis.showgrid, sums: new Map(), marks: [],
      bar: (above ? step - size - 6 : step) * (1 - (layout.bargap ?? 0.25)),
      x: place(axes.x, box.left, box.right),
      y: names.length ? (name) => rows.get(name) : place(axes.y, box.bottom, box.top),
      y2: axes.y2 && place(axes.y2, box.bottom, box.top),
    };
    drawAxes(add(svg, "g", {}), view, axes, size, box, above ? step + size + 4 : step);
    const front = add(svg, "g", {});
    for (const trace of data) trace.type === "bar" ? drawBars(front, defs, trace, view) : drawScatter(front, trace, view);
    return view.marks;
  }

  return { draw };
})();
