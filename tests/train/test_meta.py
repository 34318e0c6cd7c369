"""Models built without values: parameters have the same ones in every layout, and a rank holds its part alone."""

import json

import pytest

from tests.mpirun import ROOT, check, mpirun
from tests.train.test_layouts import FP32, LM, assert_parity, train_all, write_runs

SCRIPT = ROOT / "tests/train/meta_ranks.py"
LAYOUTS = [{"dp": 2}, {"dp": 2, "shard": "full"}, {"pp": 2, "accumulation_steps": 2}, {"tp": 2}]
MEDIUM = {"layers": 16, "hidden": 512, "heads": 8, "sequence": 16}  # 50.7 million parameters
ALLOWANCE_BYTES = 40 << 20
"""Embeddings and heads of 512 x 256, one parameter at a time whole, and what torch's allocator keeps."""
SHARE = 1.3


def deferred_runs(directory, workload, layouts):
    directory.mkdir()
    return write_runs(directory, {**workload, "meta": True}, layouts)


def told(output):
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.mark.mpi
def test_values_are_those_of_the_serial_run_bit_for_bit(tmp_path):
    paths = deferred_runs(tmp_path / "lm", LM, LAYOUTS)
    found = told(check(mpirun(2, [SCRIPT, "values", *paths], 240)))
    assert len(found) == len(LAYOUTS)
    assert all(each["compared"] > 10 for each in found)


@pytest.mark.mpi
def test_values_where_a_model_is_divided_in_two_ways(tmp_path):
    layouts = [
        {"dp": 2, "tp": 2, "shard": "full"},
        {"pp": 2, "dp": 2, "shard": "full", "accumulation_steps": 2},
        {"pp": 2, "tp": 2, "sequence_parallel": True, "accumulation_steps": 2},
        {"pp": 2, "tp": 2, "schedule": "interleaved_1f1b", "accumulation_steps": 2},
        {"dp": 4, "shard": "full"},
        {"dp": 4, "shard": "full", "shard_ranks": 2},
    ]
    paths = deferred_runs(tmp_path / "lm", {**LM, "args": {**LM["args"], "layers": 3, "hidden": 30}}, layouts)
    assert len(told(check(mpirun(4, [SCRIPT, "values", *paths], 240)))) == len(layouts)


@pytest.mark.mpi
def test_stages_of_blocks_and_tied_weights(tmp_path):
    pytest.importorskip("transformers")
    small = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 256}
    workload = {"name": "hf", "args": {"sequence": 16, "overrides": small}, "global_batch_size": 8}
    paths = deferred_runs(tmp_path / "hf", workload, LAYOUTS)
    assert len(told(check(mpirun(2, [SCRIPT, "values", *paths], 240)))) == len(LAYOUTS)


@pytest.mark.mpi
def test_layouts_of_a_model_without_values_train_as_the_serial_run_does(tmp_path):
    assert_parity(train_all(2, deferred_runs(tmp_path / "lm", LM, LAYOUTS)), FP32)
    (tmp_path / "16").mkdir()
    halved = write_runs(tmp_path / "16", {**LM, "meta": True}, [LAYOUTS[1]], ("bf16",), {"recompute": "full"})
    assert_parity(train_all(2, halved))


@pytest.mark.mpi
def test_a_rank_holds_its_part_alone(tmp_path):
    divided = [layout for layout in LAYOUTS if layout != {"dp": 2}]
    small = deferred_runs(tmp_path / "small", LM, divided)  # what torch imports and keeps once is not counted
    large = deferred_runs(tmp_path / "large", {**LM, "args": MEDIUM}, divided)
    found = told(check(mpirun(2, [SCRIPT, "memory", *small, *large], 300)))[len(small) :]
    assert len(found) == len(large)
    for each in found:
        shares = [share for share, _ in each["ranks"]]
        assert 195e6 < sum(shares) < 215e6, each
        for share, peak in each["ranks"]:
            assert share < 0.55 * sum(shares), each
            assert peak <= SHARE * share + ALLOWANCE_BYTES, each
