"""Site files: read with their lines, refused with value, rule and remedy; every example is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.failure_rate import with_failure_rate_of
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.study.run import Checkpoint
from hpc_accel.study.study_file import Study

from .conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "slurm/sites").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_site_file_is_valid(path: Path):
    site = load_site(path)
    assert site.name == path.stem and site.about


def test_a_name_is_a_file_in_slurm_sites(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert load_site("local").scheduler == "none", "this machine needs no file"
    (tmp_path / "slurm/sites").mkdir(parents=True)
    (tmp_path / "slurm/sites/mine.yaml").write_text("partition: gpu\n")
    assert load_site("mine").partition == "gpu"
    with pytest.raises(ConfigError, match=r"there are: .*mine"):
        load_site("other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acount: me\n", r"s\.yaml:1: unknown key 'acount'"),
        ("account: me\nname: x\n", r"s\.yaml:2: unknown key 'name'"),
        ("launcher: mpiexec\n", r"s\.yaml:1: launcher"),
        ("account: 'a\\n'\naccount: b\n", r"s\.yaml:2"),
        ('account: "a\\nb"\n', "control characters"),
        ("account: -A\n", "leading -"),
        ("variables: {'A B': x}\n", "variable's name"),
        ("partitions: {gpu: {price_per_node_hour: 0}}\n", "greater than 0"),
        ("warn_before_end_s: 1\n", "greater than or equal to 10"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_site(path)


def test_facts_of_a_partition_fall_back_to_the_sites_own(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text("partition: a\npartitions: {a: {price_per_node_hour: 2.5}, b: {}}\n")
    site = load_site(path)
    assert site.partition_of("").price_per_node_hour == 2.5
    assert site.partition_of("b").price_per_node_hour is None
    assert site.partition_of("unknown").gpus_per_node is None


def test_runs_are_told_how_often_nodes_of_their_site_fail():
    study = Study.model_validate({"name": "t", "workload": {"name": "mlp"}})
    site = Site(name="x", node_mtbf_h=2500.0)
    assert with_failure_rate_of(study, site).checkpoint.node_mtbf_h == 2500.0
    assert with_failure_rate_of(study, Site(name="x")).checkpoint.node_mtbf_h is None
    own = study.model_copy(update={"checkpoint": Checkpoint(node_mtbf_h=10.0)})
    assert with_failure_rate_of(own, site).checkpoint.node_mtbf_h == 10.0
