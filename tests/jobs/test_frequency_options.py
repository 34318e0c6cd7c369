"""Frequencies and power limits: asked of Slurm in both forms alike, refused where the site does not list them."""

from __future__ import annotations

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.jobs import frequency_options
from hpc_accel.jobs.request import header, plugin_resources
from hpc_accel.jobs.site import Site
from hpc_accel.study.recipe import Recipe

from .conftest import Path, make_run, script
from .test_request import submitted

ALLOWED = Site(name="here", frequencies=("cpu_freq_khz", "gpu_freq_mhz", "power_limit_w"))


def at(**recipe: int):
    run = make_run(1, 2, gpus_per_node=2)
    return run.model_copy(update={"recipe": Recipe(**recipe)})


def test_slurm_is_asked_the_same_by_script_and_plugin():
    run = at(cpu_freq_khz=2_000_000, gpu_freq_mhz=900, power_limit_w=250)
    by_script = header(run.resources, ALLOWED, job_name="x", log=Path("/log"), recipe=run.recipe)
    by_plugin = submitted(plugin_resources(run, ALLOWED))
    for options in (by_script, by_plugin):
        assert (options["cpu-freq"], options["gpu-freq"]) == ("2000000", "900")
    assert "power" not in str(by_script)  # NVML's, set by the run


def test_the_script_holds_the_options():
    text = script(at(gpu_freq_mhz=900), frequencies=["gpu_freq_mhz"])
    assert "\n#SBATCH --gpu-freq=900\n" in text
    assert "freq" not in script(make_run())


@pytest.mark.parametrize("recipe", [{"gpu_freq_mhz": 900}, {"cpu_freq_khz": 2_000_000}, {"power_limit_w": 250}])
def test_what_the_site_does_not_list_is_refused_while_planning(recipe):
    [(key, value)] = recipe.items()
    for ask in (plugin_resources, lambda run, site: frequency_options.check(run.recipe, site)):
        with pytest.raises(ConfigError, match=f"{key} {value} at site here") as refused:
            ask(at(**recipe), Site(name="here"))
        assert key in refused.value.remedy


def test_cpus_need_slurm():
    site = ALLOWED.model_copy(update={"scheduler": "none"})
    with pytest.raises(ConfigError, match="has no Slurm"):
        frequency_options.check(Recipe(cpu_freq_khz=2_000_000), site)
    frequency_options.check(Recipe(gpu_freq_mhz=900), site)
    assert frequency_options.slurm_options(Recipe(gpu_freq_mhz=900), site) == {}


def test_one_allocation_has_one_frequency():
    with pytest.raises(ConfigError, match="different frequencies in one allocation"):
        frequency_options.common([at(gpu_freq_mhz=900), at(gpu_freq_mhz=1200)])
    assert frequency_options.common([at(gpu_freq_mhz=900, power_limit_w=200), at(gpu_freq_mhz=900)]).gpu_freq_mhz == 900
