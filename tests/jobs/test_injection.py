"""Whatever a name, a path or a site says reaches the script as data, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.site import Site

from .bench import COMPLETED, IN_SLURM, Bench
from .conftest import make_run, script

REFUSED = r"refused|at most"
NASTY = [
    "a b",
    "it's",
    '"q"',
    "$(touch canary)",
    "`touch canary`",
    ";touch canary;",
    "%j",
    "#x",
    "a\\b",
    "ü",
    "*",
    "&|<>",
]


@pytest.mark.parametrize("text", NASTY)
def test_values_arrive_as_data(bench: Bench, text: str):
    bench.mpirun(f'printenv NASTY > "{bench.directory}/seen"; printenv LOADED >> "{bench.directory}/seen"; {COMPLETED}')
    site = {"variables": {"NASTY": text}, "modules": (text,), "account": text, "job_prefix": text, "constraint": text}
    run = make_run()
    body = bench.text(run, **site).replace("bash\n", 'bash\nmodule() { export LOADED="$2"; }\n', 1)
    code, output = bench.run(run=run, text=body, slurm=IN_SLURM)
    assert code == 0, output
    assert (bench.directory / "seen").read_text() == f"{text}\n{text}\n"
    assert not list(bench.directory.rglob("canary"))
    directives = [line for line in body.splitlines() if line.startswith("#SBATCH")]
    assert len(directives) == len(
        [line for line in bench.text(run, account="a", constraint="b").splitlines() if line.startswith("#SBATCH")]
    )


@pytest.mark.parametrize("name", ["with space", "it's", '"q"', "$(touch canary)", "%j", "#x", ";x", "ü", "--x"])
def test_odd_directories_work(tmp_path: Path, name: str):
    directory = tmp_path / name
    directory.mkdir()
    bench = Bench(directory)
    bench.hpc_accel()
    bench.mpirun(COMPLETED)
    text = script(make_run(), run_dir=bench.run_dir, environment=directory / "env", scheduler="none")
    code, output = bench.run(text=text.replace("cd /data", "cd /", 1), scheduler="none")
    assert code == 0, output
    assert bench.args("mpirun")[-1] == str(bench.run_dir / "run.json")
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "a\0b", "-x", "--signal=KILL", "a\tb", "\x1b[31m", "x" * 300, "\u2028"]
)
@pytest.mark.parametrize(
    "key", ["account", "partition", "qos", "constraint", "job_prefix", "environment", "node_local_dir"]
)
def test_control_characters_and_options_are_refused(key: str, text: str):
    with pytest.raises(ValueError, match=REFUSED):
        Site(name="x", **{key: text})
    with pytest.raises(ValueError, match=REFUSED):
        Site(name="x", variables={"A": text})
    with pytest.raises(ValueError, match=REFUSED):
        Site(name="x", modules=(text,))


@pytest.mark.parametrize("path", ["/a\nb", "relative", "/a\rb", "/a\\b"])
def test_paths_that_cannot_be_told_are_refused(path: str):
    with pytest.raises(ConfigError):
        script(make_run(), run_dir=Path(path))


def test_colon_in_the_environment_is_refused():
    with pytest.raises(ConfigError, match="colon"):
        script(make_run(), environment=Path("/a:b"))


def test_staging_refuses_paths_that_a_first_line_cannot_hold():
    assert "--stage /opt/env:/tmp" in script(make_run(), stage_environment=True)
    for site in ({"node_local_dir": "/a b"}, {"environment": "/a|b"}):
        with pytest.raises(ConfigError, match="stage_environment"):
            script(make_run(), stage_environment=True, **site)
