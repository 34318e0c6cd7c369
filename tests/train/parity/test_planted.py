"""Faults planted in the code that ships are found, and their cause is named."""

import json

import pytest

from tests.mpirun import ROOT, check, mpirun
from tests.train.parity.many import compute_references
from tests.train.test_layouts import write_runs

SCRIPT = ROOT / "tests/train/parity/many.py"
MEASURE = {"warmup_steps": 1, "steps": 1, "parity_steps": 2, "metric_samples": 0, "idle_s": 0}
LM = {"name": "lm", "args": {"layers": 2, "hidden": 32, "heads": 2, "sequence": 16}, "global_batch_size": 8}
SGD, ADAMW = {"name": "sgd", "learning_rate": 0.1}, {"name": "adamw", "learning_rate": 0.001}
DP, ACCUMULATED = {"dp": 2}, {"dp": 2, "accumulation_steps": 2}
PP, TP = {"pp": 2, "split": [2, 2], "accumulation_steps": 2}, {"tp": 2}
FULL, OPTIMIZER = {"dp": 2, "shard": "full"}, {"dp": 2, "shard": "optimizer"}
TWICE = "every gradient is 2.00 times the serial one"
EMBEDDING = "only 0.byte.weight, all other parameters agree"
CLIPPED_SGD, CLIPPED = {**SGD, "clip_grad_norm": 0.1}, "gradients are clipped by a norm of "
OTHER_WEIGHTS = "replicas hold different weights"
CASES = [
    # fault, workload, layout, precision, optimizer, cause
    ("gradient_doubled", "lm", DP, "fp32", ADAMW, f"{TWICE}: a sum over the 2 replicas where a mean belongs"),
    ("gradient_doubled", "lm", PP, "bf16", ADAMW, f"{TWICE}: a sum over the 2 micro-batches"),
    ("gradient_doubled", "lm", TP, "fp32", SGD, f"{TWICE}: a sum over the 2 tensor-parallel ranks"),
    ("gradient_doubled", "lm", FULL, "bf16", SGD, TWICE),
    ("mean_per_rank", "tokens", DP, "fp32", SGD, "the mean is taken per rank, and not over the 2 replicas together"),
    ("mean_per_rank", "tokens", FULL, "bf16", ADAMW, "the mean is taken per rank"),
    ("loss_divided_twice", "lm", ACCUMULATED, "fp32", ADAMW, "0.25 times the serial one: a mean taken twice"),
    ("loss_divided_twice", "lm", PP, "fp32", SGD, "0.50 times the serial one: a mean taken twice"),
    ("micro_batch_dropped", "lm", ACCUMULATED, "bf16", SGD, "as if 1 of 2 micro-batches was left out"),
    ("micro_batch_dropped", "lm", PP, "fp32", ADAMW, "as if 1 of 2 micro-batches was left out"),
    ("replica_not_averaged", "lm", DP, "fp32", ADAMW, "gradients are not averaged over the replicas"),
    ("replica_not_averaged", "lm", ACCUMULATED, "bf16", SGD, "gradients are not averaged over the replicas"),
    ("one_parameter_lost", "lm", DP, "fp32", ADAMW, EMBEDDING),
    ("one_parameter_lost", "lm", TP, "bf16", SGD, EMBEDDING),
    ("stale_stage@1", "lm", PP, "fp32", ADAMW, "the weights of stage 1 are not updated: forward runs on stale weights"),
    ("stale_stage@0", "lm", PP, "bf16", SGD, "the weights of stage 0 are not updated"),
    ("stale_stage@1", "lm", DP, "fp32", SGD, OTHER_WEIGHTS),
    ("stale_stage", "lm", FULL, "fp32", SGD, "no weight is updated"),
    ("update_scaled", "lm", OPTIMIZER, "fp32", ADAMW, "the optimizer's update differs by 0.5 from plain torch's"),
    ("update_scaled", "lm", TP, "bf16", SGD, "the optimizer's update differs by 0.5 from plain torch's"),
    ("norm_per_rank", "lm", PP, "fp32", CLIPPED_SGD, CLIPPED),
    ("norm_per_rank", "lm", TP, "bf16", {**ADAMW, "clip_grad_norm": 0.1}, CLIPPED),
    ("norm_per_rank", "lm", FULL, "fp32", CLIPPED_SGD, CLIPPED),
    ("sampler_repeats", "lm", DP, "fp32", ADAMW, "were trained on by no rank: the sampler"),
    ("sampler_repeats", "lm", FULL, "bf16", SGD, "were trained on by no rank: the sampler"),
    ("other_data@1", "lm", DP, "fp32", SGD, "inputs differ between ranks: sample"),
    ("other_data@1", "lm", TP, "bf16", ADAMW, "has other values on rank 1 than in the serial run"),
    ("statistics_twice", "batch norm", DP, "fp32", SGD, "running statistics were updated 2.00 times as often"),
    ("statistics_twice", "batch norm", ACCUMULATED, "fp32", ADAMW, "running statistics were updated 2.00 times"),
    ("one_mask", "dropout", DP, "fp32", ADAMW, "one dropout mask serves all replicas"),
    ("one_mask", "dropout", FULL, "bf16", SGD, "one dropout mask serves all replicas"),
    ("", "deaf", DP, "fp32", SGD, "one dropout mask serves all replicas"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The summary of each case, all in one launch."""
    directory = tmp_path_factory.mktemp("planted")
    paths, arguments = [], []
    for number, (fault, kind, layout, precision, optimizer, _) in enumerate(CASES):
        workload = LM if kind == "lm" else {"entry": "tests.train.parity.models:build", "args": {"kind": kind}}
        workload = {"global_batch_size": 8, "name": kind.replace(" ", "-"), **workload, "optimizer": optimizer}
        root = directory / str(number)
        [path] = write_runs(root, workload, [layout], (precision,), measure=MEASURE)
        (root / "references").symlink_to(directory / "references")
        paths.append(path)
        arguments.append(f"{fault}={path}")
    (directory / "references").mkdir()
    compute_references(paths)
    check(mpirun(2, [SCRIPT, *arguments], 280, HPC_ACCEL_TESTING="1"))
    return [json.loads((path.parent / "summary.json").read_text()) for path in paths]


@pytest.mark.mpi
@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_cause_is_named(found, number):
    fault, *_, cause = CASES[number]
    summary = found[number]
    told = summary["parity"]["reason"]
    assert (summary["status"], summary["parity"]["passed"]) == ("wrong", False), (fault, summary["parity"])
    assert cause in told, told


@pytest.mark.mpi
def test_other_weights_on_one_rank_end_the_run_before_its_first_step(tmp_path):
    [path] = write_runs(tmp_path, LM, [DP], measure=MEASURE)
    result = mpirun(2, [SCRIPT, f"other_weights@1={path}"], 100, HPC_ACCEL_TESTING="1")
    assert result.returncode == 78, result.stdout
    assert "before step 0: ranks 0 and 1 built other weights from one seed, first 0.byte.weight" in result.stdout
