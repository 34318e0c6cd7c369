"""What a reader does with the page, done in a real browser: sort, filter, another length of training, save a chart."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from xml.etree import ElementTree

import pytest

from hpc_accel.bench.report_study import make
from hpc_accel.report.judge import ranking, savings
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import run_table
from hpc_accel.report.write import write
from tests.report.browser import chromium, dump_dom, with_script
from tests.report.editing import edit, missing

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install the package chromium"),
]
# Tells what it saw in an attribute.
PROBE = """
addEventListener("load", () => {
  const rows = () => [...document.querySelectorAll("#table tbody tr:not(.spacer)")];
  const names = () => rows().map((row) => row.querySelector(".name").textContent);
  const press = (text) => [...document.querySelectorAll("#table thead button")]
    .find((each) => each.textContent === text).click();
  const sorted = () => document.querySelector("#table thead [aria-sort]").getAttribute("aria-sort");
  const type = (id, value) => {
    const control = document.getElementById(id);
    control.value = value;
    control.dispatchEvent(new Event("input"));
  };
  const seen = { first: names(), errors: [] };
  addEventListener("error", (event) => seen.errors.push(event.message));
  %s
  document.documentElement.dataset.seen = JSON.stringify(seen);
});
"""


def ask(study_dir, work_dir, script):
    """What a script in the page saw."""
    write(study_dir)
    dom, requests = dump_dom(with_script(study_dir / "report.html", PROBE % script).as_uri(), work_dir)
    assert requests == []
    seen = json.loads(html.unescape(re.search(r'<html[^>]* data-seen="([^"]*)"', dom).group(1)))
    assert seen["errors"] == []
    return seen


def test_sorting_stays_inside_workloads_and_filters_count(study, tmp_path):
    script = """
  press("ms per step"); seen.up = names(); seen.sorted = sorted();
  press("ms per step"); seen.down = names(); seen.turned = sorted();
  type("filter-workload", "lm"); seen.lm = names();
  type("filter-text", "DP2 pp2"); seen.found = names();
  seen.count = document.getElementById("filter-count").textContent;
  type("filter-text", ""); type("filter-workload", ""); type("filter-status", "wrong"); seen.wrong = names();
  """
    seen = ask(study, tmp_path, script)
    expected = [run.label for run in run_table.in_order(load(study))]
    assert seen["first"] == expected
    assert seen["up"][:15] == expected[:15]  # of digits, ranked; what has no time stands last either way
    assert seen["down"][:15] == expected[:15][::-1]
    assert sorted(seen["down"][15:18]) == sorted(expected[15:18])
    assert (seen["sorted"], seen["turned"]) == ("ascending", "descending")
    assert len(seen["lm"]) == 5
    assert seen["found"] == ["dp2.pp2.1f1b fp32 x4"]
    assert seen["count"] == "1 of 25 runs"
    assert seen["wrong"] == ["tp2 bf16 x4"]


def test_reasons_are_listed_and_scripts_are_linked(study, tmp_path):
    script = """
  const dash = document.querySelector("#table .none");
  seen.reason = document.querySelectorAll("#reasons li")[Number(dash.querySelector("sup").textContent) - 1].textContent;
  seen.title = dash.title;
  seen.heads = document.querySelectorAll("#table thead th").length;
  const all = document.getElementById("all-columns"); all.checked = true; all.dispatchEvent(new Event("input"));
  seen.all = document.querySelectorAll("#table thead th").length;
  seen.links = [...rows()[0].querySelectorAll("a")].map((link) => link.getAttribute("href"));
  """
    (load(study).of("digits")[0].directory / "job.sbatch").write_text("#!/bin/bash\n")
    seen = ask(study, tmp_path, script)
    assert seen["reason"] == seen["title"] != ""
    assert seen["heads"] < seen["all"] == 1 + len(run_table.COLUMNS)


def test_another_length_of_training(study, tmp_path):
    script = """
  const input = document.querySelector("[data-samples]"); input.value = 250; input.dispatchEvent(new Event("input"));
  const cells = document.querySelector(".saved").querySelectorAll("[data-kind=time]");
  seen.cells = [...cells].map((cell) => cell.textContent);
  """
    seen = ask(study, tmp_path, script)
    best = ranking.fastest(load(study).of("digits")).run
    seconds = savings.use_of(best).time_ms * 250 * 1000 / 1e3
    assert seen["cells"][0] == f"{seconds:.1f} s"
    assert len(seen["cells"]) == 3


def test_a_chart_is_saved_as_csv_and_as_svg(study, tmp_path):
    script = """
  Charts.drawAll();
  const details = document.querySelector("#figure-0-throughput").closest("figure").querySelector("details");
  details.open = true; details.dispatchEvent(new Event("toggle"));
  seen.rows = details.querySelectorAll("tbody tr").length;
  seen.csv = Charts.csv("figure-0-throughput"); seen.svg = Charts.svg("figure-0-throughput");
  seen.label = document.querySelector("#figure-0-throughput svg").getAttribute("aria-label");
  """
    seen = ask(study, tmp_path, script)
    rows = list(csv.DictReader(io.StringIO(seen["csv"])))
    assert len(rows) == seen["rows"] == 15
    run = ranking.fastest(load(study).of("digits")).run
    [row] = [row for row in rows if row["run"] == run.label]
    rate = ranking.throughput(run)
    assert float(row["samples per second"]) == pytest.approx(rate.value)
    assert float(row["95 % low"]) == pytest.approx(rate.low)
    drawing = ElementTree.fromstring(seen["svg"])
    texts = [each.text for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"digits: Throughput", run.label, "samples per second"} <= set(texts)
    assert any("data parallel" in text for text in texts)
    assert "var(" not in seen["svg"]
    assert seen["label"].startswith("digits: Throughput. Longer is better")


def test_each_of_many_reasons_is_listed(tmp_path):
    make(tmp_path / "many", 130, 10)
    for number, path in enumerate(sorted(tmp_path.glob("many/runs/*/summary.json"))[1:]):
        edit(path, lambda summary, number=number: missing(summary["memory"]["peak_memory_bytes"], f"reason {number}"))
    script = """
  const listed = [...document.querySelectorAll("#reasons li")].map((item) => item.textContent);
  const dashes = [...document.querySelectorAll("#table .none")];
  const numbers = dashes.map((dash) => Number(dash.querySelector("sup").textContent));
  seen.highest = Math.max(...numbers);
  seen.unlisted = dashes.filter((dash, at) => listed[numbers[at] - 1] !== dash.title).length;
  """
    seen = ask(tmp_path / "many", tmp_path, script)
    assert seen["highest"] > 100
    assert seen["unlisted"] == 0


def test_a_long_table_shows_a_window_that_follows_the_reader(tmp_path):
    make(tmp_path / "long", 700, 10)
    script = """
  const scroll = document.getElementById("table").closest(".scroll");
  seen.window = rows().length; seen.height = scroll.scrollHeight;
  scroll.scrollTop = scroll.scrollHeight; scroll.dispatchEvent(new Event("scroll"));
  type("filter-status", "failed"); seen.failed = names().length;
  """
    seen = ask(tmp_path / "long", tmp_path, script)
    assert seen["window"] < 100
    assert seen["height"] > 700 * 50
    assert seen["failed"] == 7
