"""The page in a real browser: charts are drawn, nothing leaves the machine, hostile records stay text, phones fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import figures
from hpc_accel.report.write import write
from tests.report.browser import chromium, dump_dom, screenshot, with_script
from tests.report.editing import change_texts, edit, edit_all, run_of
from tests.report.test_page import poison

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install the package chromium"),
]
PWNED = "data-pwned"
DRAW = "Charts.drawAll();"  # else charts are drawn when they come into view
# Every way in: a script, a handler, an address, and the figures' own JSON block.
PAYLOAD = (
    "<script>document.documentElement.setAttribute('data-pwned',1)</script>"
    "</script><script>document.documentElement.setAttribute('data-pwned',2)</script>"
    "<img src='http://example.invalid/x.png' onerror=\"document.documentElement.setAttribute('data-pwned',3)\">"
)


@pytest.fixture(scope="module")
def shown(measured, tmp_path_factory):
    """A good study's DOM and requests: one browser for the tests that only look."""
    work_dir = tmp_path_factory.mktemp("shown")
    study = Path(shutil.copytree(measured, work_dir / "demo"))
    write(study)
    return dump_dom(with_script(study / "report.html", DRAW).as_uri(), work_dir)


def test_every_chart_is_really_drawn(measured, shown):
    dom, _ = shown
    records = load(measured)
    for number, workload in enumerate(records.workloads):
        for figure in figures.of_workload(records.of(workload)):
            if figure.gap:
                continue
            place = dom.split(f'id="figure-{number}-{figure.key}"')[1].split("<figcaption")[0]
            assert '<svg class="main-svg"' in place, (workload, figure.key)
            assert 'class="point"' in place or 'class="js-line"' in place, figure.key
    # The labels of the throughput chart, as drawn.
    throughput = dom.split('id="figure-0-throughput"')[1].split("<figcaption")[0]
    assert "dp2.pp2.1f1b bf16 x4</text>" in throughput


def test_the_table_is_alive(shown):
    dom, _ = shown
    assert "25 of 25 runs</output>" in dom
    assert '<button type="button">Samples/s</button>' in dom


def test_charts_are_drawn_when_they_are_seen(study, tmp_path):
    write(study)
    dom, _ = dump_dom((study / "report.html").as_uri(), tmp_path, "--window-size=1280,2500")
    assert dom.split('id="figure-0-throughput"')[1].split("<figcaption")[0].count("<svg") == 1
    assert dom.split('id="figure-2-throughput"')[1].split("<figcaption")[0].count("<svg") == 0


def test_nothing_is_asked_of_the_network(shown):
    _, requests = shown
    assert requests == []


def hostile(study) -> None:
    """The payload wherever a record holds text, in names too."""
    poison(study)
    edit_all(study, lambda s: change_texts(s, lambda text: PAYLOAD + text))
    edit(study / "plan.json", lambda plan: [c.update(workload=PAYLOAD) for c in plan["candidates"][:9]])
    edit(study / "plan.json", lambda plan: [c["recipe"].update(precision=PAYLOAD) for c in plan["candidates"][9:]])


def test_hostile_records_stay_text(study, tmp_path):
    hostile(study)
    write(study)
    dom, requests = dump_dom(with_script(study / "report.html", DRAW).as_uri(), tmp_path)
    assert not re.search(rf"<html[^>]*{PWNED}", dom)
    assert "<img" not in dom
    assert requests == []
    assert '<svg class="main-svg"' in dom


def test_the_check_for_hostile_records_can_fail(tmp_path):
    page = tmp_path / "open.html"
    page.write_text(f"<!DOCTYPE html><html><body>{PAYLOAD}</body></html>")
    dom, requests = dump_dom(page.as_uri(), tmp_path)
    assert re.search(rf"<html[^>]*{PWNED}", dom)
    assert any("example.invalid" in address for address in requests)


# Runs inside the page (whose policy is taken out for this) and tells the frame around it what it sees.
PROBE = """
<script>
addEventListener("load", () => {
  Charts.drawAll();
  const outside = [];
  for (const card of document.querySelectorAll(".chart")) {
    const box = card.getBoundingClientRect();
    for (const text of card.querySelectorAll("svg text, h3, figcaption, .key li")) {
      const rect = text.getBoundingClientRect();
      if (rect.width && (rect.left < box.left - 1 || rect.right > box.right + 1)) outside.push(text.textContent);
    }
  }
  const root = document.documentElement;
  const plots = document.querySelectorAll(".plot svg").length;
  const seen = { width: root.clientWidth, scroll: root.scrollWidth, outside, plots };
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_label_is_clipped_and_the_page_never_scrolls_sideways(energy_study, tmp_path, width):
    write(energy_study)
    html = (energy_study / "report.html").read_text()
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html).replace("</body>", PROBE + "</body>")
    (energy_study / "probed.html").write_text(html)
    (energy_study / "frame.html").write_text(
        "<!DOCTYPE html><body><pre id=seen></pre><script>addEventListener('message', (event) => {"
        "document.getElementById('seen').textContent = event.data; });</script>"
        f"<iframe src=probed.html style='width:{width}px;height:4000px;border:0'></iframe></body>"
    )
    dom, _ = dump_dom((energy_study / "frame.html").as_uri(), tmp_path, f"--window-size={width + 60},4200")
    seen = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', dom).group(1).replace("&amp;", "&").replace("&gt;", ">"))
    assert seen["width"] == width
    assert seen["scroll"] == width
    assert seen["outside"] == []
    assert seen["plots"] > 20


def test_a_screenshot_is_taken(study, tmp_path):
    write(study)
    assert run_of(study, "mlp", "dp2 fp32 x1").counts
    picture = screenshot((study / "report.html").as_uri(), tmp_path, 1280, 1600)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 50_000  # an empty page has a few kilobytes
