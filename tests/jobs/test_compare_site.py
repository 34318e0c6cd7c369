"""A site file against what sinfo shows; sinfo here is a list of lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_accel.errors import CannotCreateError, ConfigError, UsageError
from hpc_accel.jobs import compare_site
from hpc_accel.jobs.site import Site, load_site

SINFO = """\
gpu*|2|8|9000|gpu:h100:2|2:00:00|big,new
gpu*|1|4|9000+|gpu:h100:4(S:0-1)|2:00:00|big
cpu|10|96|384000|(null)|infinite|(null)
"""


@pytest.fixture(autouse=True)
def sinfo(monkeypatch):
    answers = {"sinfo": SINFO, "sacctmgr": "me\nyou\n"}
    monkeypatch.setattr(compare_site, "ask", lambda command: answers[command[0]])


def test_partitions_with_several_kinds_of_nodes_are_as_small_as_the_smallest():
    gpu = compare_site.partitions_here()["gpu"]
    assert (gpu.num_nodes, gpu.cpus_per_node, gpu.gpus_per_node, gpu.gpu_type) == (3, 4, 2, "h100")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30:00", 30), ("2:00:00", 120), ("1-00:00:00", 1440), ("3-12", 5040), ("45", 45), ("infinite", None)],
)
def test_time_limits(text: str, expected: int | None):
    assert compare_site.minutes(text) == expected


@pytest.mark.parametrize(
    ("site", "value", "fatal"),
    [
        ({"partition": "gpux"}, "partition 'gpux'", True),
        ({"partitions": {"gpu": {"gpus_per_node": 4}}}, "gpus_per_node is 4", True),
        ({"partitions": {"gpu": {"max_time_min": 60}}}, "max_time_min is 60", False),
        ({"partitions": {"gpu": {"gpu_type": "a100"}}}, "gpu_type is a100", True),
        ({"constraint": "big&old"}, "constraint 'big&old'", True),
        ({"account": "them"}, "account 'them'", True),
    ],
)
def test_misfits_are_named(site: dict, value: str, fatal: bool):
    (misfit,) = compare_site.compare_site(Site(name="x", **site))
    assert value in misfit.value and misfit.fatal is fatal and misfit.remedy


def test_fitting_sites_have_none():
    assert compare_site.compare_site(Site(name="x", partition="cpu", account="me", constraint="big|new")) == []
    assert compare_site.compare_site(Site(name="x", scheduler="none", partition="anything")) == []


def test_draft_fits_the_slurm_it_was_drafted_from(tmp_path: Path):
    site = load_site(compare_site.write_site(tmp_path, "mine"))
    assert site.partition == "gpu" and site.partitions["gpu"].gpus_per_node == 2
    assert compare_site.compare_site(site) == []


def test_a_site_file_is_never_overwritten(tmp_path: Path):
    path = compare_site.write_site(tmp_path, "mine")
    path.write_text("account: me\n")
    with pytest.raises(CannotCreateError):
        compare_site.write_site(tmp_path, "mine")
    with pytest.raises(UsageError):
        compare_site.write_site(tmp_path, "../mine")


def test_no_slurm_is_said(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no sinfo here"):
        compare_site.partitions_here()


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:2080ti:8(S:0-1)", (8, "2080ti")),
        ("gpu:3090:4", (4, "3090")),
        ("gpu:1g.5gb:14", (14, "1g.5gb")),
        ("gpu:4", (4, None)),
        ("gpu", (1, None)),
        ("gpu:a100:2(S:0),gpu:a100_3g.20gb:4(S:1)", (2, "a100")),
        ("craynetwork:4,gpu:mi250x:8", (8, "mi250x")),
        ("license:10,nic:2", (0, None)),
        ("(null)", (0, None)),
    ],
)
def test_gpus_of_a_node_whatever_their_type_is_called(gres, gpus):
    assert compare_site.gpus_of(gres) == gpus


def test_nodes_that_take_no_jobs_are_named(monkeypatch):
    down = "node|gpu*|n1|drained|bad fan\nnode|gpu*|n2|down*|Not responding\nnode|cpu|c1|down|dead\n"
    answers = {False: SINFO, True: down}
    monkeypatch.setattr(compare_site, "ask", lambda command: answers["--Node" in command])
    (misfit,) = compare_site.compare_site(Site(name="x", partition="gpu"))
    assert misfit.value == "partition gpu: n1 is drained (bad fan), n2 is down (Not responding)"
    assert misfit.rule == "2 of its 3 nodes take no jobs now" and not misfit.fatal
    (other,) = compare_site.compare_site(Site(name="x", partition="cpu"))
    assert "c1 is down (dead)" in other.value
