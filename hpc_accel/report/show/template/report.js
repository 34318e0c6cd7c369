// The page's own controls: copying, savings for another length of training, and paper, which is white.
"use strict";
(() => {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      const name = button.textContent;
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        // No clipboard here: select the text, so that the next key press copies it.
        getSelection().selectAllChildren(source);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = name; }, 1500);
    });
  }

  const short = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-3) return value.toExponential(1);
    const digits = Math.max(0, 2 - Math.floor(Math.log10(size)));
    return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  const duration = (ms) => {
    for (const [unit, length, most] of [["s", 1e3, 100], ["min", 6e4, 100], ["h", 3.6e6, 100]]) {
      if (Math.abs(ms) < most * length) return `${short(ms / length)} ${unit}`;
    }
    return `${short(ms / 8.64e7)} days`;
  };
  for (const input of document.querySelectorAll("[data-samples]")) {
    input.addEventListener("input", () => {
      const samples = input.valueAsNumber * Number(input.dataset.samples);
      for (const cell of input.closest(".card").querySelectorAll("[data-per-sample]")) {
        const amount = Number(cell.dataset.perSample) * samples;
        const say = cell.dataset.kind === "time" ? duration : short;
        const compared = () => (amount === 0 ? "as much" : `${say(Math.abs(amount))} ${amount < 0 ? "more" : "less"}`);
        const told = "difference" in cell.dataset ? compared() : say(amount);
        cell.textContent = samples > 0 ? told : "";
      }
    });
  }

  addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; Charts.drawAll(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.theme; });
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
