"""The script's header and what Snakemake's Slurm plugin submits must be the same request, for every geometry."""

from __future__ import annotations

import re
import shlex
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.request import (
    header,
    pack_resources,
    plugin_request,
    plugin_resources,
    probe_resources,
    reference_resources,
    switches,
)
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.study.study_file import Study

from .conftest import ROOT, Path, make_mixed_run, make_run

COMPARED = {"nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "mem", "time", "gres", "qos", "constraint"}
NEVER = {"gpus", "ntasks-per-gpu", "cpus-per-gpu", "gpus-per-task"}
GEOMETRIES = [(1, 1, 0), (1, 1, 1), (1, 2, 2), (2, 1, 0), (2, 1, 1), (2, 2, 2), (4, 4, 4), (1, 8, 0), (16, 8, 8)]
SITES = {
    "plain": Site(name="plain"),
    "full": Site(
        name="full",
        partition="gpu",
        partitions={"gpu": {"gpu_type": "a100"}},
        account="me",
        qos="high",
        constraint="a|b",
        exclusive=True,
    ),
}


class Resources(dict):
    __getattr__ = dict.__getitem__


def submitted(resources: dict, *, flags: bool = False) -> dict[str, str]:
    """The options of the plugin's sbatch call; with `flags` also those without a value."""
    job = SimpleNamespace(resources=Resources(resources), threads=1)
    validate_slurm_extra(job)
    params = {"run_uuid": "u", "slurm_logfile": "l", "comment_str": "c", "account": "", "partition": "", "workdir": "/"}
    call = get_submit_command(job, params) + set_gres_string(job)
    call = re.sub(r" -t ", " --time=", re.sub(r" -C ", " --constraint=", re.sub(r" (--mem\S*) ", r" \1=", call)))
    words = [word[2:].partition("=") for word in shlex.split(call) if word.startswith("--")]
    return {name: value for name, equals, value in words if flags or equals}


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
@pytest.mark.parametrize(("nodes", "ranks", "gpus"), GEOMETRIES)
def test_header_equals_submission(nodes: int, ranks: int, gpus: int, site: Site):
    run = make_run(nodes, ranks, gpus_per_node=gpus, cpus_per_rank=3, memory_mb=777, time_limit_min=9)
    by_plugin = submitted(plugin_resources(run, site))
    by_script = header(run.resources, site, job_name="x", log=Path("/log"))
    if ranks * nodes == 1:
        by_plugin.setdefault("ntasks", "1")  # sbatch's own default
    assert {key: value for key, value in by_plugin.items() if key in COMPARED} == {
        key: value for key, value in by_script.items() if key in COMPARED
    }
    assert not NEVER & set(by_plugin)


def test_partition_account_and_exclusive_reach_both():
    run = make_run()
    request, options = (
        plugin_resources(run, SITES["full"]),
        header(make_run().resources, SITES["full"], job_name="x", log=Path("/l")),
    )
    assert (request["slurm_partition"], request["slurm_account"]) == (options["partition"], options["account"])
    assert "--exclusive" in request["slurm_extra"] and "exclusive" in switches(run.resources, SITES["full"])
    assert {"slurm_partition", "slurm_account", "qos", "constraint"}.isdisjoint(plugin_resources(run, SITES["plain"]))


def test_one_rank_takes_the_mpi_path_without_its_check():
    request = plugin_resources(make_run(1, 1), SITES["plain"])
    assert "mpi" in request and not request["mpi"]


def test_partition_of_the_run_wins_and_brings_its_gpu_type():
    site = Site(name="x", partition="a", partitions={"a": {"gpu_type": "v100"}, "b": {"gpu_type": "h100"}})
    request = plugin_resources(make_run(1, 2, gpus_per_node=2, partition="b"), site)
    assert (request["slurm_partition"], request["gres"]) == ("b", "gpu:h100:2")


def test_probe_takes_all_that_the_study_may_use():
    limits = {"num_nodes": 3, "ranks_per_node": 2, "gpus_per_node": 2}
    study = Study(name="s", workload={"name": "digits"}, resources=limits)
    assert probe_resources(study).model_dump(include=set(limits)) == limits
    assert probe_resources(study.model_copy(update={"device": "cpu"})).gpus_per_node == 0


def test_partition_with_a_space_is_refused():
    with pytest.raises(ConfigError, match="no spaces"):
        plugin_resources(make_run(partition="a b"), SITES["plain"])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"num_nodes": 5}, "num_nodes: 5"),
        ({"ranks_per_node": 9}, "ranks_per_node x cpus_per_rank: 9"),
        ({"memory_mb": 9001}, "memory_mb: 9001"),
        ({"gpus_per_node": 3}, "gpus_per_node: 3"),
        ({"time_limit_min": 121}, "time_limit_min: 121"),
    ],
)
def test_what_the_partition_cannot_give_is_refused(asked, words):
    """Slurm takes such a job and lets it wait for ever."""
    site = load_site(ROOT / "slurm/sites/throwaway.yaml")
    with pytest.raises(ConfigError, match=words) as refused:
        plugin_resources(make_run(**asked), site)
    assert "partition 'main' of site throwaway has" in refused.value.rule


def test_a_pack_takes_no_more_time_than_the_partition_gives():
    site = load_site(ROOT / "slurm/sites/throwaway.yaml")
    runs = [make_run(time_limit_min=50)] * 3
    assert pack_resources(runs[:2], site).time_limit_min == 100
    assert pack_resources(runs, site).time_limit_min == 120


def test_a_reference_asks_for_one_rank_on_a_node_of_the_first_rank():
    first = {"num_nodes": 2, "ranks_per_node": 4, "gpus_per_node": 4, "cpus_per_rank": 8, "constraint": "new"}
    asked = reference_resources([make_mixed_run(first, {"ranks_per_node": 2}), make_run(1, 1, time_limit_min=50)])
    request = plugin_request(asked, Site(name="here", scheduler="slurm"))
    expected = {"nodes": 1, "tasks": 1, "cpus_per_task": 32, "gres": "gpu:1", "constraint": "new", "runtime": 50}
    assert {key: request.get(key) for key in expected} == expected
    assert request["mpi"] == "", "one rank"
