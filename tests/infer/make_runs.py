"""Inference runs for tests: resolved ones, and run.json files of a small study."""

from hpc_accel.study.expand_infer import inference_runs
from hpc_accel.study.infer_options import Infer
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from hpc_accel.study.study_file import Study


def served_run(batch_size=4, recipe=None, **infer):
    """A serial inference run."""
    recipe = recipe or Recipe()
    return Run(
        study="t",
        site="local",
        workload=WorkloadSpec(
            name="digits", entry="hpc_accel.workloads.builtin.digits:build", global_batch_size=batch_size
        ),
        layout=Layout(micro_batch_size=batch_size, accumulation_steps=1),
        recipe=recipe,
        resources=Resources(ranks_per_node=1),
        measure=Measure(parity_tolerance=recipe.parity_tolerance),
        infer=Infer(**{"arrival_rates_per_s": [100.0], "batch_size": batch_size, **infer}),
    )


def write_runs(directory, workload, infer, **study):
    """The paths of run.json files; small and quick."""
    content = {
        "name": "t",
        "resources": {"ranks_per_node": 2},
        "measure": {"warmup_steps": 1, "steps": 3, "idle_s": 0, "metric_samples": 64},
        "device": "cpu",
        "train": False,
        **study,
    }
    made = Study.model_validate({**content, "workload": workload, "infer": infer})
    paths = []
    for run in inference_runs(made, made.workloads[0]):
        path = directory / run.run_id / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(run.model_dump_json())
        paths.append(path)
    return paths
