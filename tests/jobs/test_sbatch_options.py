"""Memory in a site's way and further options of sbatch: checked, and alike in the script and in the plugin's call."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.launch_line import launch_line
from hpc_accel.jobs.memory_option import with_memory_of
from hpc_accel.jobs.request import header, pack_resources, plugin_request, plugin_resources, probe_resources, switches
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.study.run import Resources
from hpc_accel.study.sbatch_options import OPTIONS, WRITTEN
from hpc_accel.study.study_file import Study, load_study

from .conftest import ROOT, make_mixed_run, make_run, script
from .test_request import submitted

VALID = {
    "reservation": "bench-e",  # the plugin searches its call for "-e " and "-J"
    "licenses": "ansys:2,matlab@srv:1",
    "wckey": "a-J1",
    "nice": -10,
    "begin": "now+1hour",
    "deadline": "2027-01-01T12:00",
    "time-min": "1-00:00:00",
    "mail-type": ["END", "FAIL"],
    "mail-user": "me.too@site.example.org",
    "nodelist": "n[1-3],gpu07",
    "exclude": "nid[000012-000013]",
    "switches": "1@1:00:00",
    "contiguous": True,
    "spread-job": False,
    "tmp": "10G",
    "hint": "nomultithread",
    "distribution": "block:cyclic",
    "threads-per-core": 1,
    "prefer": "[a|b]&c",
}
WORDS = {
    name: "" if value is True else ",".join(value) if isinstance(value, list) else str(value)
    for name, value in VALID.items()
    if value is not False
}


def both(resources: Resources, site: Site) -> tuple[dict[str, str], dict[str, str]]:
    """The options of the script's header and of the plugin's call, flags with an empty value."""
    in_script = header(resources, site, job_name="x", log=Path("/l"))
    flags = dict.fromkeys(switches(resources, site), "")
    run = make_run(resources.num_nodes, resources.ranks_per_node, **resources.model_dump(exclude=SIZE))
    return in_script | flags, submitted(plugin_resources(run, site), flags=True)


SIZE = {"num_nodes", "ranks_per_node", "node_kinds"}


@pytest.mark.parametrize("where", ["site", "study"])
def test_options_reach_script_and_plugin_alike(where: str):
    said = {where: VALID}
    site = Site(name="x", sbatch_options=said.get("site", {}))
    resources = make_run(2, 2, sbatch_options=said.get("study", {})).resources
    for options in both(resources, site):
        assert {name: options.get(name) for name in WORDS} == WORDS
        assert "spread-job" not in options


def test_a_study_wins_over_its_site():
    options = {"reservation": "a", "contiguous": True, "hint": "memory_bound"}
    site = Site(name="x", sbatch_options=options, account="ours", qos="normal", constraint="old")
    mine = {"reservation": "b", "contiguous": False, "account": "mine", "qos": "long", "constraint": "new"}
    for found in both(make_run(sbatch_options=mine).resources, site):
        assert [found[key] for key in ("reservation", "hint", "qos", "constraint")] == [
            "b",
            "memory_bound",
            "long",
            "new",
        ]
        assert "contiguous" not in found
    assert plugin_resources(make_run(sbatch_options=mine), site)["slurm_account"] == "mine"
    assert header(make_run(sbatch_options=mine).resources, site, job_name="x", log=Path("/l"))["account"] == "mine"


MEMORY = {
    ("per_node", 4001): {"mem": "4001"},
    ("per_cpu", 4001): {"mem-per-cpu": "1001"},  # of 2 ranks x 2 CPUs, rounded up
    ("whole_node", 4001): {"mem": "0"},
    ("none", 4001): {},
    ("per_node", 0): {"mem": "0"},
    ("per_node", None): {},
    ("per_cpu", None): {},
    ("whole_node", None): {"mem": "0"},
    ("none", 0): {},
}


@pytest.mark.parametrize(("memory", "asked"), MEMORY)
def test_memory_is_asked_in_the_sites_way(memory: str, asked: int | None):
    site = Site(name="x", memory=memory)
    expected = MEMORY[memory, asked]
    for options in both(make_run(2, 2, cpus_per_rank=2, memory_mb=asked).resources, site):
        assert {key: value for key, value in options.items() if key.startswith("mem")} == expected
    study = Study(name="s", workload={"name": "digits"}, resources={"ranks_per_node": 2, "memory_mb": asked})
    probe = header(probe_resources(study), site, job_name="x", log=Path("/l"))
    assert {key[:3] for key in probe if key.startswith("mem")} == {key[:3] for key in expected}
    packed = pack_resources([make_run(memory_mb=asked), make_run(memory_mb=asked)], site)
    assert packed.memory_mb == asked


def test_memory_of_node_kinds_and_their_steps():
    parts = ({"ranks_per_node": 2, "memory_mb": 900}, {"ranks_per_node": 1, "memory_mb": 700})
    run = make_mixed_run(*parts)
    for memory, words in {"per_cpu": ["--mem-per-cpu=450", "--mem-per-cpu=700"], "none": []}.items():
        site = Site(name="x", memory=memory, launcher="srun --mpi=pmix")
        lines = script(run, memory=memory, launcher="srun --mpi=pmix").splitlines()
        assert [line.split()[1] for line in lines if line.startswith("#SBATCH --mem")] == words
        line = [word for group in launch_line(run.resources, site, ["x"], bind="none", threads=None) for word in group]
        assert [word for word in line if word.startswith("--mem")] == words
        assert plugin_request(run.resources, site)["hetjob"] == 2


def test_what_is_said_once_of_a_job_is_not_said_of_each_component():
    run = make_mixed_run({"ranks_per_node": 2}, {"ranks_per_node": 1})
    options = {"mail-type": "END", "contiguous": True, "begin": "now+1hour", "exclude": "n9"}
    text = script(run, sbatch_options=options)
    assert [text.count(f"--{name}") for name in options] == [1, 2, 1, 2]


def test_all_memory_cannot_be_asked_per_cpu():
    with pytest.raises(ConfigError, match="memory_mb: 0"):
        plugin_resources(make_run(memory_mb=0), Site(name="x", memory="per_cpu"))


def test_memory_per_gpu_stands_alone():
    site = {"name": "x", "sbatch_options": {"mem-per-gpu": "40G"}}
    with pytest.raises(ConfigError, match="mem-per-gpu beside mem"):
        plugin_resources(make_run(), Site(**site))
    assert "--mem-per-gpu='40G'" in plugin_resources(make_run(), Site(**site, memory="none"))["slurm_extra"]


def test_the_plan_counts_on_what_the_site_gives():
    study = Study(name="s", workload={"name": "digits"}, resources={"node_kinds": [{"memory_mb": 5}, {}]})
    asked = [each.memory_mb for each in probe_resources(study).each_kind]
    assert asked == [5, 4000]
    for memory, given in {"whole_node": 0, "none": None}.items():
        probed = probe_resources(with_memory_of(study, Site(name="x", memory=memory)))
        assert [probed.memory_mb, *(each.memory_mb for each in probed.each_kind)] == [given] * 3


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("mem", 0, "`memory` of the site"),
        ("nodes", 2, "resources.num_nodes"),
        ("time", 3, "resources.time_limit_min"),
        ("job-name", "x", "job_prefix"),
        ("output", "x", "log.txt"),
        ("signal", "x", "warn_before_end_s"),
        ("requeue", True, "max_restarts"),
        ("account", "me", "key `account`"),
        ("mail_type", "END", "did you mean mail-type"),
        ("--reservation", "x", "did you mean reservation"),
        ("ntask", 3, "did you mean ntasks"),
        ("zzz", 3, "there are: account"),
        ("mail-type", "SOMETIMES", "one or more"),
        ("mail-user", "me@", "e-mail"),
        ("hint", "fast", "one of compute_bound"),
        ("threads-per-core", 0, "above 0"),
        ("threads-per-core", True, "above 0"),
        ("contiguous", "yes", "no value"),
        ("tmp", "10 G", "spaces"),
        ("tmp", "10X", "K, M, G or T"),
        ("time-min", "1-", "days-hours"),
        ("begin", "soon", "16:00"),
        ("exclude", "n1 n2", "spaces"),
        ("exclude", "n1;n2", "spaces, quotes"),
        ("nodelist", {"a": 1}, "spaces, quotes"),
        ("nice", None, "spaces, quotes"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, option: str, value: object, rule: str):
    with pytest.raises(ValueError, match=rule.replace("`", ".")):
        Site(name="x", sbatch_options={option: value})
    path = tmp_path / "s.yaml"
    path.write_text(
        f"about: x\nsbatch_options:\n  {option}: {value!r}\n".replace("True", "true").replace("None", "null")
    )
    with pytest.raises(ConfigError, match=r"s\.yaml:2: sbatch_options"):
        load_site(path)


@pytest.mark.parametrize(
    "text",
    [
        "a\nb",
        "a\rb",
        "a\0b",
        "a b",
        "a\tb",
        "it's",
        '"q"',
        "$(x)",
        "`x`",
        "a;b",
        "a\\b",
        "ü",
        "-x",
        "a--mem=1",
        "x" * 300,
    ],
)
@pytest.mark.parametrize("option", sorted(set(OPTIONS) - {"account", "qos", "constraint"}))
def test_no_value_can_end_its_word(option: str, text: str):
    for value in (text, [text]):
        with pytest.raises(ValueError, match=option):
            Site(name="x", sbatch_options={option: value})
        with pytest.raises(ValueError, match=option):
            Resources(sbatch_options={option: value})


def test_no_option_is_both_free_and_written_and_the_guide_names_all():
    assert not set(OPTIONS) & set(WRITTEN)
    guide = (ROOT / "docs/cluster.md").read_text()
    assert not [name for name in OPTIONS if f"`{name}`" not in guide]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("45", 45), ("'45'", 45), ("2:30:00", 150), ("1-00:00:00", 1440), ("1-12", 2160), ("1:30", 2), ("00:20:30", 21)],
)
def test_times_in_slurms_forms(tmp_path: Path, text: str, minutes: int):
    path = tmp_path / "s.yaml"
    path.write_text(f"workload: {{name: digits}}\nresources: {{time_limit_min: {text}}}\n")
    assert load_study(path).resources.time_limit_min == minutes
    assert Site(name="x", partitions={"a": {"max_time_min": text.strip("'")}}).partition_of("a").max_time_min == minutes


@pytest.mark.parametrize("text", ["2h", "1-", "0:00:00", "infinite", "-5", "1:2:3:4"])
def test_other_times_are_refused(tmp_path: Path, text: str):
    path = tmp_path / "s.yaml"
    path.write_text(f"workload: {{name: digits}}\nresources: {{time_limit_min: '{text}'}}\n")
    with pytest.raises(ConfigError, match="time_limit_min"):
        load_study(path)
