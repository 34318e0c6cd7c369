"""What a recipe says of a rank's cores and threads reaches the launcher, in its own words."""

from __future__ import annotations

import pytest

from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run

from .bench import COMPLETED, IN_SLURM, MPICH, Bench
from .conftest import make_mixed_run, make_run

OPEN_MPI_WORDS = {
    "none": ["--map-by", "ppr:2:node", "--bind-to", "none"],
    "core": ["--map-by", "ppr:2:node:PE=3", "--bind-to", "core"],
    "numa": ["--map-by", "ppr:2:node", "--bind-to", "numa"],
}


def with_recipe(run: Run, **recipe) -> Run:
    content = run.model_dump(exclude={"run_id"}) | {"recipe": Recipe(**recipe).model_dump()}
    return Run.model_validate(content)


def bound(**recipe) -> Run:
    return with_recipe(make_run(1, 2, cpus_per_rank=3), **recipe)


@pytest.mark.parametrize("bind", OPEN_MPI_WORDS)
def test_open_mpi(bench: Bench, bind: str):
    assert bench.run(run=bound(cpu_bind=bind), slurm=IN_SLURM, cpu_bind="socket")[0] == 0
    assert bench.args("mpirun")[2:6] == OPEN_MPI_WORDS[bind]


def test_sockets_of_a_site_without_a_number_of_cores(bench: Bench):
    """Open MPI refuses PE= beside --bind-to socket."""
    assert bench.run(run=bound(), slurm=IN_SLURM, cpu_bind="socket")[0] == 0
    assert bench.args("mpirun")[2:6] == ["--map-by", "ppr:2:node", "--bind-to", "socket"]


@pytest.mark.parametrize(("bind", "words"), [("none", "none"), ("core", "core:3"), ("numa", "numa")])
def test_mpich(bench: Bench, bind: str, words: str):
    bench.mpirun(COMPLETED, MPICH)
    assert bench.run(run=bound(cpu_bind=bind), slurm=IN_SLURM, cpu_bind="socket")[0] == 0
    assert bench.args("mpirun")[2:6] == ["-ppn", "2", "-bind-to", words]


@pytest.mark.parametrize(("bind", "words"), [("none", "none"), ("core", "cores"), ("numa", "ldoms")])
def test_srun(bench: Bench, bind: str, words: str):
    bench.program("srun", COMPLETED)
    assert bench.run(run=bound(cpu_bind=bind), slurm=IN_SLURM, launcher="srun --mpi=pmi2", cpu_bind="socket")[0] == 0
    assert f"--cpu-bind={words}" in bench.args("srun")


def test_on_one_machine_ranks_float_unless_the_recipe_or_its_site_binds_them(bench: Bench):
    def place(run: Run, version: str | None = None, **site) -> list[str]:
        if version:
            bench.mpirun(COMPLETED, version)
        assert bench.run(run=run, **site)[0] == 0
        words = bench.args("mpirun")[2:]
        return words[: words.index("hpc-accel")]

    assert place(bound(), cpu_bind="core")[-1] == "none", "a rehearsal of a cluster's job"
    assert place(bound(cpu_bind="numa"), cpu_bind="core")[-1] == "numa:overload-allowed"
    assert place(bound(), scheduler="none", cpu_bind="core")[-1] == "core:overload-allowed"
    assert place(bound(cpu_bind="none"), scheduler="none", cpu_bind="core")[-1] == "none"
    assert place(bound(cpu_bind="core"), MPICH, scheduler="none") == ["-bind-to", "core"]
    assert place(bound(), scheduler="none") == []


@pytest.mark.parametrize(("recipe", "threads"), [({}, "3"), ({"threads_per_rank": 2}, "2")])
def test_threads_are_the_recipes_else_as_many_as_cpus(bench: Bench, recipe, threads: str):
    bench.mpirun(f'printenv OMP_NUM_THREADS > "{bench.directory}/seen"; {COMPLETED}')
    assert bench.run(run=bound(**recipe), slurm=IN_SLURM)[0] == 0
    assert (bench.directory / "seen").read_text() == f"{threads}\n"


def test_threads_of_a_recipe_are_those_of_every_component(bench: Bench):
    run = with_recipe(make_mixed_run({"cpus_per_rank": 4}, {"cpus_per_rank": 2}), threads_per_rank=2)
    assert bench.run(run=run, scheduler="none")[0] == 0
    assert bench.args("mpirun").count("OMP_NUM_THREADS=2") == 2
