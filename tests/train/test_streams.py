"""A stream is read alike in every layout and by any number of workers, begins again at its end, and is gone on with."""

import json
from itertools import islice

import pytest
import torch
from torch.utils.data import IterableDataset

from hpc_accel.errors import ConfigError, DataError
from hpc_accel.runtime.batches import Collate, ShareOfStream, sampler_for, stream_loader
from hpc_accel.study.rules import refusals
from hpc_accel.study.run_file import read_run
from hpc_accel.study.study_file import ResourcesChoice
from hpc_accel.workloads import entry
from hpc_accel.workloads.batch import BatchRules
from hpc_accel.workloads.count_facts import describe
from hpc_accel.workloads.stream import Stream
from tests.mpirun import check, mpirun
from tests.train.parity.many import compute_references
from tests.train.parity.test_planted import MEASURE
from tests.train.stream_models import Endless, Short, build
from tests.train.test_layouts import SCRIPT, write_runs

COLLATE = Collate(BatchRules(collate=None, target=(), has_loss=True), 4)
LAYOUTS = [{"dp": 2}, {"dp": 2, "accumulation_steps": 2}, {"pp": 2, "accumulation_steps": 2}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("streams")
    measure = {**MEASURE, "warmup_steps": 1, "steps": 4, "parity_steps": 4}
    paths = []
    for kind, layouts in (("endless", LAYOUTS), ("short", LAYOUTS[:2])):
        workload = {"entry": "tests.train.stream_models:build", "args": {"kind": kind}, "global_batch_size": 16}
        for workers in (0, 2):
            workload["name"] = f"{kind}{workers}"
            paths += write_runs(directory, workload, layouts, recipe={"data_workers": workers}, measure=measure)
    compute_references(paths)
    check(mpirun(2, [SCRIPT, *paths], 280))
    return [json.loads((path.parent / "summary.json").read_text()) for path in paths]


@pytest.mark.mpi
def test_every_layout_trains_on_the_samples_of_the_serial_run(trained):
    assert len(trained) == 10
    for summary in trained:
        parity = summary["parity"]
        assert (summary["status"], parity["passed"]) == ("completed", True), (summary["run_id"], parity)
        assert (parity["steps"], parity["max_rel_err"] <= 1e-4) == (4, True)


@pytest.mark.mpi
def test_what_is_known_of_an_epoch_is_told(trained):
    for summary in trained:
        samples, dropped = (summary["steps"][f"samples{key}_per_epoch"] for key in ("", "_dropped"))
        if "short" in summary["run_id"]:
            assert (samples["value"], dropped["value"]) == (32, 8)
        else:
            assert (samples["value"], dropped["value"]) == (None, None)
            assert "does not tell" in samples["reason"]


def shares(dataset, dp=1, first_step=0, position=None, num_workers=0):
    found = []
    for rank in range(dp):
        stream = Stream(dataset(), 3, 16)  # of its own, as each rank has one
        share = stream.batch_size // dp
        sampler = sampler_for(stream, stream.batch_size, start=rank * share, share=share, seed=3, first_step=first_step)
        part = ShareOfStream(stream, sampler)
        part.from_position = position
        found.append((part, stream_loader(part, COLLATE, num_workers=num_workers)))
    return found


def inputs_of(share):
    return torch.cat([(batch.args or tuple(batch.kwargs.values()))[0] for batch in share.micro_batches])


@pytest.mark.parametrize("kind", [Endless, Short])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_shares_make_up_the_serial_batches_also_from_a_later_step_on(kind, num_workers):
    serial = [inputs_of(share) for share in islice(shares(kind)[0][1], 5)]
    parts = [loader for _, loader in shares(kind, dp=1 if num_workers else 2, num_workers=num_workers)]
    for whole in serial:
        assert torch.equal(torch.cat([inputs_of(next(part)) for part in parts]), whole)
    ((_, later),) = shares(kind, first_step=3)
    assert torch.equal(inputs_of(next(later)), serial[3])
    assert not torch.equal(serial[0], serial[2])  # the second epoch of the short one has another order


def test_a_stream_that_knows_its_place_goes_on_without_reading_what_was_before():
    ((part, loader),) = shares(Short)
    for _ in range(3):
        next(loader)
    position = json.loads(json.dumps(part.position()))
    wanted = [inputs_of(next(loader)) for _ in range(3)]
    fresh = Short()
    ((_, again),) = shares(lambda: fresh, first_step=3, position=position)
    found = [inputs_of(next(again))]
    assert fresh.begin == 32  # of the second epoch, of which one batch had been read
    found += [inputs_of(next(again)) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    ((part, loader),) = shares(Endless)
    next(loader)
    assert part.position() is None


def test_the_generators_of_the_process_are_left_alone():
    torch.manual_seed(5)
    wanted = torch.randn(4)
    torch.manual_seed(5)
    ((_, loader),) = shares(Endless)
    next(loader)
    assert torch.equal(torch.randn(4), wanted)


class Once(IterableDataset):
    """Its samples come once, as those of a generator do."""

    def __init__(self):
        self.samples = iter([(torch.ones(8), 0)] * 20)

    def __iter__(self):
        return self.samples


def test_a_stream_that_does_not_begin_again_is_named():
    ((_, loader),) = shares(Once)
    next(loader)
    with pytest.raises(DataError, match="ends after 0 samples of epoch 1"):
        next(loader)


def test_what_a_stream_cannot_do_is_refused_at_planning(tmp_path):
    facts = describe(entry.checked("e", build("endless"), seed=3, batch_size=16))
    assert (facts.is_stream, facts.num_samples) == (True, None)
    choice = {"entry": "tests.train.stream_models:build", "args": {"kind": "endless"}, "global_batch_size": 16}
    with pytest.raises(ConfigError, match="epochs with a stream"):
        write_runs(tmp_path, {**choice, "name": "a"}, [{}], measure={"epochs": 2})
    [path] = write_runs(tmp_path, {**choice, "name": "b"}, [{}], measure=MEASURE)
    run = read_run(path)
    kept = run.model_copy(update={"workload": run.workload.model_copy(update={"last_batch": "keep"})})
    told = [each.value for each in refusals(kept, ResourcesChoice(), facts)]
    assert any("last_batch keep with a stream" in each for each in told), told
