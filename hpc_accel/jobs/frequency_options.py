"""Frequencies and power limits: who may set them here, and how Slurm is asked.

    key             set by                                            undone by
    cpu_freq_khz    Slurm, --cpu-freq                                 Slurm, when the job ends
    gpu_freq_mhz    Slurm, --gpu-freq; without Slurm the run, NVML    Slurm; the run
    power_limit_w   the run, NVML                                     the run

A site file lists in `frequencies` what its users may set. Anything else is refused while planning.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.site import Site
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run

OPTIONS = {"cpu_freq_khz": "cpu-freq", "gpu_freq_mhz": "gpu-freq"}


def check(recipe: Recipe, site: Site) -> None:
    """Raises ConfigError for what may not be set at this site."""
    for key, value in recipe.frequencies.items():
        if key not in site.frequencies:
            raise ConfigError(
                f"recipe {key} {value} at site {site.name}",
                f"a site lists in `frequencies` what users may set; here: {', '.join(site.frequencies) or 'nothing'}",
                f"leave it out, or, where an administrator allows it, add {key} to `frequencies` in the site file",
            )
        if key == "cpu_freq_khz" and site.scheduler != "slurm":
            raise ConfigError(
                f"recipe {key} {value} at site {site.name}, which has no Slurm",
                "the frequency of CPUs is set by Slurm (--cpu-freq)",
                "leave it out, or set the frequency yourself before the study",
            )


def slurm_options(recipe: Recipe | None, site: Site) -> dict[str, str]:
    """Long options without their dashes. Raises ConfigError for what may not be set at this site."""
    if recipe is None:
        return {}
    check(recipe, site)
    if site.scheduler != "slurm":
        return {}
    return {option: str(recipe.frequencies[key]) for key, option in OPTIONS.items() if key in recipe.frequencies}


def common(runs: Sequence[Run]) -> Recipe:
    """A recipe with the frequencies all of `runs` share. Raises ConfigError where they differ in what Slurm sets."""
    asked = {tuple(run.recipe.frequencies.get(key) for key in OPTIONS) for run in runs}
    if len(asked) > 1:
        told = ", ".join(
            sorted({f"{key} {run.recipe.frequencies.get(key, 'unset')}" for run in runs for key in OPTIONS})
        )
        raise ConfigError(
            f"runs of different frequencies in one allocation ({told})",
            "Slurm sets frequencies for a whole job, and one allocation is one job",
            "leave same_allocation out, or compare power_limit_w, which the runs set themselves",
        )
    return runs[0].recipe
