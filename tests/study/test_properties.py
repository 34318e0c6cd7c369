"""What holds for every study and every site, tried on many: the same ones each time, others with HPC_ACCEL_FUZZ_S."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hpc_accel.errors import ConfigError, HpcAccelError
from hpc_accel.jobs.site import Site
from hpc_accel.study.expand import listed_runs
from hpc_accel.study.rules import refusals
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import ResourcesChoice, Study, load_study
from hpc_accel.study.yaml import read_yaml
from tests.jobs.conftest import make_run, script
from tests.mpirun import ROOT
from tests.study.test_expand import facts

FUZZ_S = float(os.environ.get("HPC_ACCEL_FUZZ_S", "0"))
MANY = settings(
    max_examples=5000 if FUZZ_S else 150,
    derandomize=not FUZZ_S,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
QUICKSTART, _ = read_yaml(ROOT / "studies/quickstart.yaml")


def places_in(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [at] * bool(at) + [path for key, value in items for path in places_in(value, (*at, key))]


@MANY
@given(place=st.sampled_from(places_in(QUICKSTART)), value=VALUES)
def test_any_value_anywhere_makes_a_study_or_an_error_for_people(tmp_path: Path, place: tuple[Any, ...], value: Any):
    content = json.loads(json.dumps(QUICKSTART))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / "quickstart.yaml"
    path.write_text(json.dumps(content))
    try:
        load_study(path)
    except HpcAccelError as error:
        assert error.value
        assert error.rule
        assert error.remedy


SMALL = st.integers(1, 6)
LAYOUTS = st.fixed_dictionaries(
    {"dp": SMALL, "pp": SMALL, "tp": SMALL, "accumulation_steps": SMALL},
    optional={
        "shard": st.sampled_from(["none", "optimizer", "full"]),
        "schedule": st.sampled_from(["gpipe", "1f1b", "interleaved_1f1b", "zbv_zero_bubble"]),
        "micro_batch_size": SMALL,
        "stages_per_rank": SMALL,
    },
)
RECIPES = st.fixed_dictionaries(
    {"precision": st.sampled_from(["fp32", "bf16", "fp16"])},
    optional={
        "recompute": st.sampled_from(["none", "selective", "full"]),
        "compression": st.sampled_from(["none", "bf16", "powersgd"]),
        "average_every": SMALL,
    },
)


@MANY
@given(layouts=st.lists(LAYOUTS, min_size=1, max_size=4), recipe=RECIPES, batch=st.integers(1, 96))
def test_every_run_of_a_study_means_what_it_says(layouts: list[dict[str, Any]], recipe: dict[str, Any], batch: int):
    content = {
        "name": "s",
        "resources": {"ranks_per_node": 8},
        "workload": {"name": "digits", "global_batch_size": batch},
        "layouts": layouts,
        "recipes": [recipe],
    }
    try:
        made = Study.model_validate(content)
        runs = list(listed_runs(made, made.workloads[0], facts()))
    except (ConfigError, ValidationError) as error:
        assert str(error)
        return
    seen: dict[str, Run] = {}
    for run in runs:
        layout = run.layout
        refused = [str(error) for error in refusals(run, ResourcesChoice(ranks_per_node=8), facts())]
        assert all(refused)
        if not refused:
            shares = layout.dp * layout.micro_batch_size * layout.accumulation_steps
            assert shares == run.workload.global_batch_size or run.workload.last_batch == "keep"
            assert run.resources.num_nodes * run.resources.ranks_per_node == layout.num_ranks
            assert layout.num_stages <= len(facts().layers)
        again = Run.model_validate_json(run.model_dump_json())
        assert again == run
        assert again.run_id == run.run_id
        assert seen.setdefault(run.run_id, run) == run, "two runs of one name"
        assert re.fullmatch(r"[a-zA-Z0-9._-]+", run.run_id), "a directory's name"


TEXTS = st.text(max_size=40) | st.text(alphabet="'\"$`\\;&|<>(){}[]*?!#~%@ \n\tab-=", max_size=20)


@MANY
@given(text=TEXTS, key=st.sampled_from(["account", "partition", "qos", "constraint", "job_prefix"]))
def test_any_text_of_a_site_is_data_in_the_script_or_refused(text: str, key: str):
    try:
        Site(name="here", variables={"TOLD": text}, **{key: text or None})
        body = script(make_run(), variables={"TOLD": text}, **{key: text or None})
    except (ConfigError, ValueError) as error:
        assert str(error)
        return
    plain = script(make_run(), variables={"TOLD": "a"}, **{key: "a" if text else None})
    assert len(body.splitlines()) == len(plain.splitlines())
    directives = [line for line in body.splitlines() if line.startswith("#SBATCH")]
    assert len(directives) == sum(line.startswith("#SBATCH") for line in plain.splitlines())
    [export] = [line for line in body.splitlines() if "TOLD=" in line]
    done = subprocess.run(["bash", "-c", f'{export}\nprintf %s "$TOLD"'], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout.decode()) == (0, text)


def test_a_script_of_any_site_is_one_that_bash_reads(tmp_path: Path):
    body = script(make_run(), variables={"A": "'"}, modules=("x y",), account="$(a)")
    assert subprocess.run(["bash", "-n"], input=body, text=True, timeout=20, check=False).returncode == 0


if FUZZ_S:
    pytestmark = pytest.mark.timeout(1800)
