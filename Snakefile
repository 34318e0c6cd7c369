# From a study file to its report: probe, plan, script, run, report. Thin on purpose: every rule calls `hpc-accel`,
# and what there is to run is read from plan.json.
#
#   snakemake --cores all --config study=studies/quickstart.yaml
#   snakemake --profile slurm --config study=studies/mine.yaml
import json
from functools import cache
from pathlib import Path

import yaml
from snakemake.utils import min_version

min_version("9.10")

STUDY = config.get("study", "studies/quickstart.yaml")
RESULTS = f"results/{Path(STUDY).stem}"
PLAN = Path(RESULTS) / "plan.json"
# Tried again once by the workflow itself, never inside a job, where a second Snakemake counts for itself.
RETRIES = 1 if workflow.is_main_process else 0
# More than any machine has, so Snakemake scales it down to all: measurements never run side by side on one machine.
ALL_CORES = 4096


def nodes_differ():
    """Whether the study names node kinds, whose jobs are heterogeneous. What is wrong with it, `probe_script` says."""
    try:
        return "node_kinds" in yaml.safe_load(Path(STUDY).read_text())["resources"]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return False


# The Slurm plugin sends jobs of one component only: then rules run here, and each sends its script itself and waits.
LOCAL = nodes_differ()


# A resource, because a result does not depend on it and is not to be made again for it.
def start(_wildcards):
    """How a script is started: in the job Snakemake has sent for it, on this machine, or by sending it."""
    return "hpc-accel submit" if LOCAL and workflow.non_local_exec else "bash"


def cores(_wildcards):
    return 1 if LOCAL and workflow.non_local_exec else ALL_CORES


@cache
def read_plan(_mtime_ns):
    plan = json.loads(PLAN.read_text())
    runs = {
        each["run_id"]: each["request"] for each in plan["candidates"] if each["chosen"]
    }
    pack = plan.get("pack")
    return runs, {pack["run_id"]: pack["request"]} if pack else {}


def requests():
    """What each chosen run asks of Slurm, by run id; and what a pack of all of them asks, by the pack's name."""
    return read_plan(PLAN.stat().st_mtime_ns)


def chosen():
    checkpoints.plan.get()  # not before the plan is up to date
    return requests()


def scripts(_wildcards):
    return [f"{RESULTS}/runs/{run_id}/job.sbatch" for run_id in chosen()[0]]


def measured(_wildcards):
    """Every run's summary; with `same_allocation: true` the pack that stands for them all."""
    runs, packs = chosen()
    summaries = [f"{RESULTS}/runs/{run}/summary.json" for run in runs]
    if packs and not all(Path(path).exists() for path in summaries):
        # One was deleted: that all are there, as a finished pack says, is not true any more.
        for name in packs:
            Path(f"{RESULTS}/packs/{name}.json").unlink(missing_ok=True)
    return [f"{RESULTS}/packs/{name}.json" for name in packs] or summaries


def asked(key):
    """A resource of rule run: what the plan asks for this run."""

    # Inside a job of its own a run sees no checkpoint, so the file itself is read.
    def value(wildcards):
        runs, packs = requests() if PLAN.exists() else ({}, {})
        return (runs | packs).get(wildcards.run_id, {}).get(key)

    return value


def asked_by_script(key):
    """A resource of rule probe: what the script's line `# request {...}` asks."""

    def value(_wildcards, input):
        lines = Path(input.script).read_text().splitlines()
        request = next(line for line in lines if line.startswith("# request "))
        return json.loads(request.removeprefix("# request ")).get(key)

    return value


wildcard_constraints:
    run_id="[A-Za-z0-9_.+-]+",


localrules:
    all,
    probe_script,
    plan,
    run_json,
    script,
    report,


# A job that was killed without a word leaves no record: the others are reported all the same.
onerror:
    if workflow.is_main_process and PLAN.exists():
        shell(
            f"mkdir -p logs/{RESULTS} && hpc-accel report {RESULTS} > logs/{RESULTS}/report.log 2>&1 || true"
        )


rule all:
    input:
        # Each measurement is listed, not only the report: a deleted one must be measured again.
        measured,
        f"{RESULTS}/report.html",


rule probe_script:
    input:
        study=ancient(STUDY),
    output:
        f"{RESULTS}/probe.sbatch",
    log:
        f"logs/{RESULTS}/probe_script.log",
    conda:
        "envs/conda.yaml"
    shell:
        "hpc-accel script --probe {input.study:q} --out {output:q} > {log:q} 2>&1"


rule probe:
    input:
        script=ancient(rules.probe_script.output[0]),
    output:
        f"{RESULTS}/hardware.json",
    log:
        f"{RESULTS}/probe.txt",
    retries: RETRIES
    localrule: LOCAL
    conda:
        "envs/conda.yaml"
    threads: cores
    resources:
        start=start,
        mpi=asked_by_script("mpi"),
        nodes=asked_by_script("nodes"),
        tasks=asked_by_script("tasks"),
        tasks_per_gpu=0,
        gres=asked_by_script("gres"),
        slurm_extra=asked_by_script("slurm_extra"),
        cpus_per_task=asked_by_script("cpus_per_task"),
        mem_mb=asked_by_script("mem_mb"),
        runtime=asked_by_script("runtime"),
        slurm_partition=asked_by_script("slurm_partition"),
        slurm_account=asked_by_script("slurm_account"),
        qos=asked_by_script("qos"),
        constraint=asked_by_script("constraint"),
    shell:
        "{resources.start} {input.script:q} >> {log:q} 2>&1"


# Also writes runs/<run id>/run.json, each only when its content changed.
checkpoint plan:
    input:
        study=STUDY,
        hardware=ancient(rules.probe.output[0]),
    output:
        str(PLAN),
    log:
        f"logs/{RESULTS}/plan.log",
    conda:
        "envs/conda.yaml"
    shell:
        "hpc-accel plan {input.study:q} --hardware {input.hardware:q} --out {output:q} > {log:q} 2>&1"


# The checkpoint has written run.json already; this is for one that was deleted since.
rule run_json:
    input:
        study=ancient(STUDY),
        hardware=ancient(rules.probe.output[0]),
    output:
        f"{RESULTS}/runs/{{run_id}}/run.json",
    log:
        f"logs/{RESULTS}/run_json/{{run_id}}.log",
    conda:
        "envs/conda.yaml"
    params:
        plan=rules.plan.output[0],
    shell:
        "hpc-accel plan {input.study:q} --hardware {input.hardware:q} --out {params.plan:q} > {log:q} 2>&1"


rule script:
    input:
        run=rules.run_json.output[0],
    output:
        f"{RESULTS}/runs/{{run_id}}/job.sbatch",
    log:
        f"logs/{RESULTS}/script/{{run_id}}.log",
    conda:
        "envs/conda.yaml"
    shell:
        "hpc-accel script {input.run:q} --out {output:q} > {log:q} 2>&1"


# A run that fails is tried once more; then, or at once when its configuration is wrong (78), its record of the
# failure is the result, so that the others and the report go on. One that was stopped (143) has no result.
# Snakemake empties a rule's log at every attempt; log.txt keeps them all.
rule run:
    input:
        script=ancient(rules.script.output[0]),
    output:
        f"{RESULTS}/runs/{{run_id}}/summary.json",
    log:
        f"logs/{RESULTS}/run/{{run_id}}.log",
    retries: RETRIES
    localrule: LOCAL
    conda:
        "envs/conda.yaml"
    threads: cores
    resources:
        attempt=lambda wildcards, attempt: attempt,
        start=start,
        mpi=asked("mpi"),
        nodes=asked("nodes"),
        tasks=asked("tasks"),
        tasks_per_gpu=asked("tasks_per_gpu"),
        gres=asked("gres"),
        slurm_extra=asked("slurm_extra"),
        cpus_per_task=asked("cpus_per_task"),
        mem_mb=asked("mem_mb"),
        runtime=asked("runtime"),
        slurm_partition=asked("slurm_partition"),
        slurm_account=asked("slurm_account"),
        qos=asked("qos"),
        constraint=asked("constraint"),
    params:
        log=f"{RESULTS}/runs/{{run_id}}/log.txt",
    shell:
        "echo attempt {resources.attempt}: see {params.log:q} > {log:q};"
        " {resources.start} {input.script:q} >> {params.log:q} 2>&1 || {{ code=$?;"
        " [[ $code -eq 78 || ($code -ne 143 && {resources.attempt} -gt 1) ]] || rm -f {output:q};"
        " [[ -s {output:q} ]]; }}"


# All runs in turn in one allocation, each by its own script. What has a summary.json is not measured again.
use rule run as pack with:
    input:
        script=f"{RESULTS}/packs/{{run_id}}.sbatch",
        runs=lambda _wildcards: [
            ancient(f"{RESULTS}/runs/{run_id}/job.sbatch") for run_id in requests()[0]
        ],
    output:
        f"{RESULTS}/packs/{{run_id}}.json",
    log:
        f"logs/{RESULTS}/pack/{{run_id}}.log",
    params:
        log=f"{RESULTS}/packs/{{run_id}}.txt",


rule report:
    input:
        measured,
        # A rewritten script measures nothing again, which would hide from Snakemake that the report is out of date.
        scripts,
        plan=rules.plan.output[0],
    output:
        f"{RESULTS}/report.html",
        f"{RESULTS}/summary.csv",
        f"{RESULTS}/answer.txt",
    log:
        f"logs/{RESULTS}/report.log",
    conda:
        "envs/conda.yaml"
    params:
        results=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "hpc-accel report {params.results:q} > {log:q} 2>&1"
