"""What makes a directory of one's own one in which `hpc-accel run`, `snakemake --profile slurm` and `sbatch` work.

The workflow itself stays in the package: its Snakefile is included, so that an update of the package updates it. What
people edit, profiles and sites, is copied.
"""

from __future__ import annotations

from pathlib import Path

WORKFLOW = Path(__file__).parents[2] / "workflow"
"""The Snakefile and what belongs to it, as they came with the package."""
SNAKEFILE = WORKFLOW / "Snakefile"
INCLUDING = """\
# The workflow that came with hpc_accel. `hpc-accel run STUDY` starts it; so does
#   snakemake --cores all --config study=studies/@NAME@.yaml
from hpc_accel.study.starter.project import SNAKEFILE


include: str(SNAKEFILE)


workflow.default_target = "all"
"""
IGNORED = "results/\nlogs/\n.snakemake/\n__pycache__/\n"
COPIED = ("profiles/default/config.yaml", "slurm/config.yaml", "slurm/sites/generic-slurm.yaml")


def missing_files(directory: Path, name: str) -> dict[Path, str]:
    """Text of each file that a project wants and `directory` does not have; nothing is ever overwritten.

    Nothing at all beside a Snakefile: a checkout of hpc_accel, or another workflow of the user's.
    """
    if (directory / "Snakefile").exists():
        return {}
    texts = {"Snakefile": INCLUDING.replace("@NAME@", name), ".gitignore": IGNORED}
    texts |= {path: (WORKFLOW / path).read_text() for path in COPIED}
    return {directory / path: text for path, text in texts.items() if not (directory / path).exists()}
