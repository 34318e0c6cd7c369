"""The page: self-contained, nothing in a record can become markup, whole or not there, in bounded time."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest

from hpc_accel.errors import InputOutputError
from hpc_accel.files import write_atomically
from hpc_accel.report.judge import ranking
from hpc_accel.report.load.study_records import load
from hpc_accel.report.show import page
from hpc_accel.report.write import write
from tests.report.editing import change_texts, edit, edit_all, edit_summary, is_fixed, run_of, set_time
from tests.report.make_study import candidate, make_run, summary, true_step_ms, write_json, write_run

EVIL = [
    "<script>pwned()</script>",
    "</script><script>pwned()</script>",
    '"onmouseover="pwned()" x="',
    "'><img src=x onerror=pwned()>",
    "=cmd|'/c calc'!A1",
    "\x1b[31mred",
    "file:///etc/passwd",
    "javascript:pwned()",
    "<!--<script>",
    "]]>\u2028\u2029",
    "{{ 7*7 }}",
]


class Elements(HTMLParser):
    """Collects every element with its attributes, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def parsed(html: str) -> Elements:
    elements = Elements()
    elements.feed(html)
    return elements


def poison(study_dir) -> None:
    """Hostile text wherever a record holds text."""

    def everywhere(value, depth=0):
        if isinstance(value, str) and depth:
            return value + " " + " ".join(EVIL)
        if isinstance(value, dict):
            keep = ("layout", "format", "chosen")
            return {
                key: item if key in keep or is_fixed(key, item) else everywhere(item, depth + 1)
                for key, item in value.items()
            }
        return [everywhere(item, depth + 1) for item in value] if isinstance(value, list) else value

    edit_all(study_dir, lambda s: change_texts(s, lambda text: text + " " + " ".join(EVIL)))
    for name in ("plan.json", "hardware.json"):
        edit(study_dir / name, lambda content: content.update(everywhere(content)))
    runs = load(study_dir).runs
    assert sum(run.has_record for run in runs) == len(runs) - 1, "the records are read, payload and all"


def test_one_file_with_everything_in_it(study):
    write(study)
    elements = parsed((study / "report.html").read_text())
    for tag, attributes in elements.found:
        assert "src" not in attributes, (tag, attributes)
        if address := attributes.get("href"):
            assert re.match(r"#[\w-]+$|runs/|summary\.(csv|parquet)$|data:,$", address), address
    assert len(elements.scripts) == 3
    assert len([1 for tag, _ in elements.found if tag == "article"]) == 3 + 3  # cards, and runs that do not count


def test_the_policy_allows_exactly_the_pages_own_scripts(study):
    write(study)
    elements = parsed((study / "report.html").read_text())
    metas = [attributes for tag, attributes in elements.found if tag == "meta"]
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    executable = [text for text in elements.scripts if not text.lstrip().startswith("{")]
    assert allowed == {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in executable}
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_hostile_records_add_no_element_and_no_handler(study):
    write(study)
    before = [tag for tag, _ in parsed((study / "report.html").read_text()).found]
    poison(study)
    write(study)
    html = (study / "report.html").read_text()
    elements = parsed(html)
    # The same kinds of elements (counts differ: notices, workload names), none of them from a record.
    assert {tag for tag, _ in elements.found} <= set(before)
    assert not [attributes for _, attributes in elements.found if any(key.startswith("on") for key in attributes)]
    assert len(elements.scripts) == 3
    assert "\x1b" not in html
    assert "pwned()" in html  # it did arrive, as text
    assert not re.search(r'href="(javascript|file):', html)


def test_hostile_records_leave_the_answer_printable(study):
    poison(study)
    answer = write(study)
    assert len((study / "answer.txt").read_text().splitlines()) == 5
    assert all(line.isprintable() for line in answer.lines)


def test_a_json_block_cannot_be_left():
    block = page.json_block({"a": "</script><!--", "b": "&lt;"})
    assert not set("<>&") & set(block)
    assert json.loads(block) == {"a": "</script><!--", "b": "&lt;"}


def test_every_number_is_in_the_table_without_javascript(study):
    write(study)
    html = (study / "report.html").read_text()
    run = run_of(study, "digits", "dp2 fp32 x1")
    row = html.split(f'title="{run.run_id}"')[1].split("</tr>")[0]
    assert f"{run.summary.step_time_ms.value:.1f}" in row
    assert "no readable sensor" in row  # the reason behind the dash


def test_reasons_and_remedies_are_on_the_page(study):
    write(study)
    html = (study / "report.html").read_text()
    for words in (
        "3 of 25 runs are not ranked",
        "lower the learning rate",
        "losses differ by 0.31",
        "summary.json is missing",
        "2 candidates refused",
        "tp divides the heads",
        "predicted rank 9 of 12 for time",
        "no powercap in this machine",
        "What to do:",
    ):
        assert words in html, words


def test_runs_of_the_same_fate_share_an_entry(study):
    for path in study.glob("runs/lm-*/summary.json"):
        path.unlink()
    write(study)
    html = (study / "report.html").read_text()
    section = html.split('<section id="not-counting">')[1].split("</section>")[0]
    assert section.count("<article") == 3
    assert "6 runs</h3>" in section  # five of lm and the one that was missing before
    assert section.count("<li") == 8


def test_a_tie_names_the_run_of_the_fewest_ranks(study):
    edit_summary(study, "digits", "dp2.pp2.1f1b fp32 x4", set_time(20, 19, 60))
    write(study)
    html = (study / "report.html").read_text()
    # Serial runs of one rank lie within the interval, and the fastest of them is named.
    assert "serial bf16 x1 needs the fewest ranks." in html


def test_the_card_of_a_disturbed_winner_says_so(study):
    best = ranking.fastest(load(study).of("digits")).run
    told = "disturbed: other processes took 40% of the CPUs that this run uses on n1: measure again"
    write(study)
    assert ">Doubtful<" not in (study / "report.html").read_text()
    edit_summary(study, "digits", best.label, lambda s: s["warnings"].append(told))
    write(study)
    html = (study / "report.html").read_text()
    assert html.count(">Doubtful<") == 1
    assert "Other processes disturbed 1 of 15 runs, this one too." in html
    assert f"<p>{told}</p>" in html


def test_nothing_is_left_behind_and_nothing_half_written(study, monkeypatch):
    write(study)
    assert not list(study.glob("*.part*"))
    old = (study / "report.html").read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputOutputError, match="No space left"):
        write_atomically(study / "report.html", "new")
    assert (study / "report.html").read_text() == old
    assert not list(study.glob("*.part*"))


def test_importing_the_room_is_cheap():
    code = "import sys, hpc_accel.report; print({'torch', 'polars', 'jinja2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_writing_a_report_needs_no_torch(study):
    code = (
        "import sys, pathlib, hpc_accel.report.write as r; r.write(pathlib.Path(sys.argv[1])); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(study)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False"]


def test_a_thousand_runs_in_bounded_time_and_size(tmp_path):
    import random

    rng = random.Random(1)
    study_dir = tmp_path / "big"
    candidates = []
    shapes = [{"dp": dp, "accumulation_steps": steps} for dp in (1, 2, 4) for steps in (1, 2, 4)]
    for number in range(1000):
        run = make_run("digits", shapes[number % len(shapes)], study="big", seed=number)
        step_ms = true_step_ms(run.model_copy(update={"layout": run.layout.model_copy(update={"dp": 1})}), rng)
        candidates.append(candidate(run, step_ms * 1.1))
        write_run(study_dir, run, summary(run, step_ms, rng), step_ms)
    write_json(study_dir / "plan.json", {"study": "big", "site": "local", "candidates": candidates})
    start = time.perf_counter()
    answer = write(study_dir)
    assert time.perf_counter() - start < 20
    assert answer.num_ranked == 1000
    assert (study_dir / "report.html").stat().st_size < 12e6
