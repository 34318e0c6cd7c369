"""`hpc-accel bench report`: from made-up records to a page that can be used, timed where users would wait.

The report is written by a process of its own, whose time and peak memory are taken; headless Chromium then opens the
page and does what a reader does: waits, sorts, filters, scrolls, looks at a chart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hpc_accel.bench.report_study import make
from hpc_accel.errors import ConfigError, DataError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-extensions", "--disable-dev-shm-usage",
         "--enable-precise-memory-info", "--window-size=1440,900", "--dump-dom")  # fmt: skip
TIMEOUT_S = 300
LIMITS = {"report_s": 40.0, "report_peak_mb": 1000.0, "page_mb": 8.0, "interactive_s": 2.0, "sort_s": 0.3,
          "filter_s": 0.3}  # fmt: skip
"""Of 10,000 runs of 1,000 steps."""
PROBE = """<script>
addEventListener("load", () => {
  document.body.offsetHeight;  // all of the layout
  const seen = { interactive_s: performance.now() / 1e3 };
  const timed = (act) => {
    const start = performance.now();
    act();
    document.body.offsetHeight;
    return (performance.now() - start) / 1e3;
  };
  const most = (acts) => Math.max(...acts.map(timed));
  const buttons = () => [...document.querySelectorAll("#table thead button")];
  const heads = buttons().map((button) => button.textContent);
  const press = (text) => buttons().find((button) => button.textContent === text).click();
  const find = document.getElementById("filter-text");
  const type = (text) => { find.value = text; find.dispatchEvent(new Event("input")); };
  seen.sort_s = most(heads.map((text) => () => press(text)));
  seen.filter_s = most(["dp2", "dp2 bf16", "nothing of this name", ""].map((text) => () => type(text)));
  seen.charts_s = timed(() => Charts.drawAll());
  seen.num_charts = document.querySelectorAll(".plot svg").length;
  seen.num_elements = document.querySelectorAll("*").length;
  seen.heap_mb = performance.memory.usedJSHeapSize / 1e6;
  document.documentElement.dataset.seen = JSON.stringify(seen);
});
</script>"""


def bench_report(num_runs: int, num_steps: int, keep: Path | None) -> dict[str, Any]:
    """The figures of one study of made-up records. ConfigError: no browser; DataError: a broken page."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise ConfigError("no Chromium on PATH", "the page is timed in a real browser", "install the package chromium")
    with tempfile.TemporaryDirectory() as scratch:
        study_dir = (keep or Path(scratch)) / "made-up"
        start = time.perf_counter()
        make(study_dir, num_runs, num_steps)
        found: dict[str, Any] = {"num_runs": num_runs, "num_steps": num_steps, "records_s": time.perf_counter() - start}
        found |= _written(study_dir)
        found |= _opened(browser, study_dir / "report.html", Path(scratch))
    found["load_average_1min"] = os.getloadavg()[0]
    found["over_limit"] = [name for name, most in LIMITS.items() if found[name] > most]
    return found


def _written(study_dir: Path) -> dict[str, Any]:
    """Wall time and peak memory of `hpc-accel report`, a process of its own."""
    code = "import resource, sys, pathlib; from hpc_accel.report.write import write; write(pathlib.Path(sys.argv[1]));"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(study_dir)], capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    return {
        "report_s": time.perf_counter() - start,
        "report_peak_mb": int(done.stdout) * 1024 / 1e6,
        "page_mb": (study_dir / "report.html").stat().st_size / 1e6,
    }


def _opened(browser: str, page: Path, scratch: Path) -> dict[str, Any]:
    """What the page says of itself, opened with the probe in it, which the page's policy would not let run."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    probed = scratch / "probed.html"
    probed.write_text(html.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [browser, *FLAGS, f"--user-data-dir={scratch / 'profile'}", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    seen = re.search(r'<html[^>]* data-seen="([^"]*)"', done.stdout)
    if seen is None:
        raise DataError(
            "the page did not come to its end", "its scripts run in every browser", "open report.html and its console"
        )
    return dict(json.loads(seen.group(1).replace("&quot;", '"')))
