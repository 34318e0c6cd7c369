"""Parameters that a layout does not treat like the rest are named in the record, and the runs equal the serial one."""

import json

import pytest

from tests.mpirun import check, mpirun
from tests.train.parity.many import compute_references
from tests.train.parity.test_planted import MEASURE
from tests.train.test_layouts import SCRIPT, write_runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("odd")
    paths = []
    for name, branches in (("plain", False), ("branches", True)):
        workload = {"entry": "tests.train.odd_models:build", "args": {"branches": branches}, "global_batch_size": 16}
        layouts = [{"dp": 2}, {"dp": 2, "shard": "full"}]
        paths += write_runs(directory, {**workload, "name": name}, layouts, measure=MEASURE)
    compute_references(paths)
    check(mpirun(2, [SCRIPT, *paths], 200))
    summaries = [json.loads((path.parent / "summary.json").read_text()) for path in paths]
    return {summary["run_id"].rsplit("-", 3)[0]: summary for summary in summaries}


def told(summary):
    return [text for text in summary["warnings"] if text.startswith("parameters: ")]


@pytest.mark.mpi
def test_what_is_whole_idle_or_may_idle_is_named(trained):
    assert all(summary["parity"]["passed"] for summary in trained.values())
    [unused] = told(trained["plain-dp2"])
    assert unused.startswith("parameters: spare.weight, spare.bias are never trained")
    whole, unused = told(trained["plain-dp2.fsdp"])
    assert whole.startswith("parameters: scale stay")
    assert "spare.weight" in unused
    assert any("follows from values" in text for text in told(trained["branches-dp2"]))
