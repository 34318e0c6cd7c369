# From a study file to its report: check, probe, plan, script, run, report. Thin on purpose: every rule calls `hpc-accel`,
# what there is to run is read from plan.json, and what a job asks of Slurm from the request.json beside its script.
#
#   snakemake --cores all --config study=studies/quickstart.yaml
#   snakemake --profile slurm --config study=studies/mine.yaml
#
# profiles/default/config.yaml is read with both: one measurement at a time on this machine, and a second try.
import hashlib
import json
import os
import signal
import subprocess
import time
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version, validate

min_version("9.10")

# This file also works alone, copied beside a study: then the schema, the captions and the environment are not there.
HERE = Path(workflow.basedir)


def mistake():
    """Value, rule and remedy of the first mistake in `--config`; None without one. The schema says what it may hold."""
    study, unknown = str(config.get("study") or ""), sorted(set(config) - {"study"})
    if unknown:
        return unknown[0], "--config knows one key, study", "correct the spelling"
    if not Path(study).is_file() or not study.endswith((".yaml", ".yml")):
        known = ", ".join(str(path) for path in sorted(Path("studies").glob("*.yaml")))
        return (
            f"study={study}",
            "the study is a .yaml file that is there",
            f"here are {known}" if known else "hpc-accel init writes one",
        )
    return None


config.setdefault("study", "studies/quickstart.yaml")
if wrong := mistake():
    raise WorkflowError("{}\n  rule:   {}\n  remedy: {}".format(*wrong))
if (HERE / "workflow/schemas/config.schema.yaml").exists():
    validate(config, "workflow/schemas/config.schema.yaml")

STUDY = config["study"]
RESULTS = f"results/{Path(STUDY).stem}"
PLAN = f"{RESULTS}/plan.json"
CHECK = f"{RESULTS}/check.json"
ENVIRONMENT = "envs/conda.yaml" if (HERE / "envs/conda.yaml").exists() else None
STARTED = time.time()


def said(*keys):
    """What the study file says under nested keys, or None. What is wrong with it, `probe_script` says."""
    try:
        value = YAML(typ="safe", pure=True).load(Path(STUDY))
        for key in keys:
            value = value[key]
        return value
    except (OSError, ValueError, LookupError, TypeError, YAMLError):
        return None


def site():
    """The site's name and a digest of its file: what it says decides what is asked for and what is measured."""
    name = str(said("site") or "local")
    path = Path(
        name if name.endswith((".yaml", ".yml")) else f"slurm/sites/{name}.yaml"
    )
    content = path.read_bytes() if path.is_file() else b""
    return f"{name} {hashlib.sha256(content).hexdigest()[:16]}"


@cache
def sources():
    """Digest of the user's modules and data: an edit of one makes another plan, whose runs are measured anew."""
    done = subprocess.run(
        ["hpc-accel", "sources", STUDY], capture_output=True, text=True
    )
    return digest(done.stdout)


# The Slurm plugin sends jobs of one component only: then rules run here, and `run-script` sends each script itself.
SENT_FROM_HERE = said("resources", "node_kinds") is not None


@cache
def read_version(path, _mtime_ns):
    return json.loads(Path(path).read_text())


def read_json(path):
    return read_version(path, Path(path).stat().st_mtime_ns)


def runs_of(plan):
    """The runs that the plan chose, by id."""
    return {
        each["run_id"]: each["run"] for each in plan["candidates"] if each["chosen"]
    }


def planned(_wildcards):
    """The ids of the chosen runs, and the name of the pack in which they take turns, if they do."""
    plan = read_json(checkpoints.plan.get().output[0])
    return list(runs_of(plan)), plan["pack"] and plan["pack"]["run_id"]


@cache
def references_of(path, _mtime_ns):
    """The reference job of each run that is compared with one, by id."""
    planned = read_json(path).get("references") or {}
    return {run_id: name for name, each in planned.items() for run_id in each["runs"]}


def references(run_ids):
    """Records of the serial runs that runs are compared with."""
    named = references_of(PLAN, Path(PLAN).stat().st_mtime_ns)
    names = {named[run_id]: None for run_id in run_ids if run_id in named}
    return [f"{RESULTS}/references/{name}/reference.json" for name in names]


def scripts(wildcards):
    return [f"{RESULTS}/runs/{run_id}/job.sbatch" for run_id in planned(wildcards)[0]]


def measured(wildcards):
    """Every run's summary; of runs that take turns, what says that all of them had theirs."""
    run_ids, pack = planned(wildcards)
    summaries = [f"{RESULTS}/runs/{run_id}/summary.json" for run_id in run_ids]
    if pack is None:
        return summaries
    done = Path(f"{RESULTS}/packs/{pack}.json")
    if not all(Path(path).exists() for path in summaries):
        # One was deleted: that all are there, as a finished pack says, is not true any more.
        done.unlink(missing_ok=True)
    return str(done)


# A script is written again when its own run has changed, not whenever the plan is newer.
def digest_of_run(wildcards):
    return digest(runs_of(read_json(PLAN))[wildcards.run_id])


def digest_of_reference(wildcards):
    plan = read_json(PLAN)
    runs, own = runs_of(plan), plan["references"][wildcards.run_id]
    return digest([own, [runs[run_id]["resources"] for run_id in own["runs"]]])


def digest_of_pack(_wildcards):
    return digest(runs_of(read_json(PLAN)))


def digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def asked(key):
    """What the job's request.json says, as a resource; nothing where it says nothing."""
    return lambda _wildcards, input: read_json(input.request).get(key)


ASKED = {
    key: asked(key)
    for key in (
        "measuring",
        "mpi",
        "nodes",
        "tasks",
        "tasks_per_gpu",
        "gres",
        "slurm_extra",
        "cpus_per_task",
        "mem_mb",
        "mem_mb_per_cpu",
        "runtime",
        "slurm_partition",
        "slurm_account",
        "qos",
        "constraint",
    )
}
ASKED["attempt"] = lambda _wildcards, attempt: attempt
ASKED["start"] = "--submit" if SENT_FROM_HERE else "--no-submit"


# A closed terminal ends the workflow as Ctrl-C does: by its default a SIGHUP would leave Snakemake's locks. A terminal
# tells the whole process group, `kill -HUP` this process alone, which would wait for the others.
def interrupt(number, _frame):
    if number == signal.SIGHUP:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for pid in below():
            os.kill(pid, signal.SIGINT)
    raise KeyboardInterrupt


def below():
    """Processes of this group that this process started, and what those started."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid=,pgid="], capture_output=True, text=True
    )
    found, ours = [], {os.getpid()}
    for pid, parent, group in sorted(
        [int(word) for word in line.split()] for line in listed.stdout.splitlines()
    ):
        if parent in ours and group == os.getpgrp():
            ours.add(pid)
            found.append(pid)
    return found


if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
    signal.signal(signal.SIGHUP, interrupt)


def beside(command, logs):
    """Start a command that has an eye on this process, out of reach of what a terminal sends."""
    if logs:
        subprocess.Popen(
            ["hpc-accel", command, str(os.getpid()), str(logs[0])],
            start_new_session=True,
        )


wildcard_constraints:
    run_id="[A-Za-z0-9_.+-]+",


localrules:
    all,
    check,
    probe_script,
    plan,
    script,
    pack_script,
    reference_script,
    report,
    production,


report: "workflow/report/workflow.rst"


# Why rules and runs failed, below what Snakemake says. A run that failed is a result, so also of a workflow without an
# error.
FAILURES = "hpc-accel failures {RESULTS:q} --logs logs/{RESULTS:q} --since {STARTED}"


# Why jobs wait is told while they do. A Slurm that does not answer must not hold who presses Ctrl-C.
onstart:
    if getattr(workflow.executor_plugin, "name", "") == "slurm":

        def leave(number, frame):
            signal.signal(signal.SIGINT, interrupt)
            beside("leave-queue", log)
            interrupt(number, frame)

        signal.signal(signal.SIGINT, leave)
        signal.signal(signal.SIGHUP, leave)
        beside("watch-queue", log)


# A job that was killed without a word leaves no record: the others are reported all the same.
onerror:
    if Path(PLAN).exists():
        shell("hpc-accel report {RESULTS:q} > logs/{RESULTS}/report.log 2>&1")
    shell(FAILURES)


onsuccess:
    shell(FAILURES)


rule all:
    input:
        # Each measurement is listed, not only the report: a deleted one must be measured again.
        measured,
        f"{RESULTS}/report.html",


# First of all, and again after an edit of the study, the site or the user's files. It makes a new plan, and forces
# nothing to be measured again: it is `ancient` to the probe. One that failed left no file: then the probe comes again.
# As a checkpoint it lets Snakemake look at the probe anew, which it takes for settled while a job before it runs.
checkpoint check:
    input:
        study=STUDY,
    output:
        CHECK,
    log:
        f"logs/{RESULTS}/check.log",
    retries: 0
    conda:
        ENVIRONMENT
    params:
        site=site(),
        sources=lambda _wildcards: sources(),
    shell:
        "hpc-accel check {input.study:q} --limit-s 900 --out {output:q} > {log:q} 2>&1"


rule probe_script:
    input:
        check=ancient(CHECK),
        study=ancient(STUDY),
    output:
        script=f"{RESULTS}/probe.sbatch",
        request=f"{RESULTS}/probe.request.json",
    log:
        f"logs/{RESULTS}/probe_script.log",
    conda:
        ENVIRONMENT
    params:
        site=site(),
    shell:
        "hpc-accel script --probe {input.study:q} --out {output.script:q} > {log:q} 2>&1"


rule probe:
    input:
        # Not `ancient`: another site or study has another probe, and a plan follows from what was probed.
        script=rules.probe_script.output.script,
        request=rules.probe_script.output.request,
    output:
        report(
            f"{RESULTS}/hardware.json",
            caption="workflow/report/hardware.rst",
            category="Plan",
        ),
    log:
        f"logs/{RESULTS}/probe.log",
    localrule: SENT_FROM_HERE
    conda:
        ENVIRONMENT
    resources:
        **ASKED,
    params:
        log=f"{RESULTS}/probe.txt",
        site=site(),
    shell:
        "hpc-accel run-script {input.script:q} --request {input.request:q} --log {params.log:q}"
        " --result {output:q} --attempt {resources.attempt} {resources.start} > {log:q} 2>&1"


checkpoint plan:
    input:
        check=CHECK,
        study=STUDY,
        hardware=rules.probe.output[0],
    output:
        report(PLAN, caption="workflow/report/plan.rst", category="Plan"),
    log:
        f"logs/{RESULTS}/plan.log",
    conda:
        ENVIRONMENT
    params:
        site=site(),
        sources=lambda _wildcards: sources(),
    shell:
        "hpc-accel plan {input.study:q} --no-runs --hardware {input.hardware:q} --out {output:q} > {log:q} 2>&1"


rule script:
    input:
        plan=ancient(PLAN),
    output:
        run=f"{RESULTS}/runs/{{run_id}}/run.json",
        script=f"{RESULTS}/runs/{{run_id}}/job.sbatch",
        request=f"{RESULTS}/runs/{{run_id}}/request.json",
    log:
        f"logs/{RESULTS}/script/{{run_id}}.log",
    # All scripts before the first measurement, so that none is written beside one.
    priority: 1
    conda:
        ENVIRONMENT
    params:
        run=digest_of_run,
        site=site(),
    shell:
        "hpc-accel script {input.plan:q} --run {wildcards.run_id:q} > {log:q} 2>&1"


# A run that failed twice, or whose configuration is wrong, has its record of the failure as its result, so that the
# others and the report go on. Snakemake empties a rule's log at every attempt; log.txt keeps them all.
rule run:
    input:
        script=ancient(rules.script.output.script),
        request=ancient(rules.script.output.request),
        # Before the run, and no reason to measure it again.
        references=lambda wildcards: [*map(ancient, references([wildcards.run_id]))],
    output:
        f"{RESULTS}/runs/{{run_id}}/summary.json",
    log:
        f"logs/{RESULTS}/run/{{run_id}}.log",
    localrule: SENT_FROM_HERE
    conda:
        ENVIRONMENT
    resources:
        **ASKED,
    params:
        log=f"{RESULTS}/runs/{{run_id}}/log.txt",
    shell:
        "hpc-accel run-script {input.script:q} --request {input.request:q} --log {params.log:q}"
        " --result {output:q} --attempt {resources.attempt} {resources.start} > {log:q} 2>&1"


use rule script as reference_script with:
    output:
        script=f"{RESULTS}/references/{{run_id}}/job.sbatch",
        request=f"{RESULTS}/references/{{run_id}}/request.json",
    params:
        run=digest_of_reference,
        site=site(),


# The serial run that all runs of one model, seed and batch are compared with, once: a job of its own with one rank. Its
# failure is a result too. Its script is not `ancient`: when runs need another variant, what is missing is computed.
use rule run as reference with:
    input:
        script=rules.reference_script.output.script,
        request=rules.reference_script.output.request,
    output:
        f"{RESULTS}/references/{{run_id}}/reference.json",
    log:
        f"logs/{RESULTS}/reference/{{run_id}}.log",
    params:
        log=f"{RESULTS}/references/{{run_id}}/log.txt",


use rule script as pack_script with:
    output:
        script=f"{RESULTS}/packs/{{run_id}}.sbatch",
        request=f"{RESULTS}/packs/{{run_id}}.request.json",
    log:
        f"logs/{RESULTS}/script/{{run_id}}.log",
    params:
        run=digest_of_pack,
        site=site(),


# All runs in turn in one allocation, each by its own script. What has a summary.json is not measured again.
use rule run as pack with:
    input:
        script=ancient(rules.pack_script.output.script),
        request=ancient(rules.pack_script.output.request),
        runs=lambda wildcards: [ancient(path) for path in scripts(wildcards)],
        references=lambda wildcards: [*map(ancient, references(planned(wildcards)[0]))],
    output:
        f"{RESULTS}/packs/{{run_id}}.json",
    log:
        f"logs/{RESULTS}/pack/{{run_id}}.log",
    wildcard_constraints:
        run_id="[^.]+",
    params:
        log=f"{RESULTS}/packs/{{run_id}}.txt",


rule report:
    input:
        measured,
        # A rewritten script measures nothing again, which would hide from Snakemake that the report is out of date.
        scripts,
        lambda wildcards: references(planned(wildcards)[0]),
        plan=PLAN,
    output:
        report(
            f"{RESULTS}/report.html",
            caption="workflow/report/page.rst",
            category="Report",
        ),
        report(
            f"{RESULTS}/summary.csv",
            caption="workflow/report/summary.rst",
            category="Tables",
        ),
        f"{RESULTS}/summary.parquet",
        f"{RESULTS}/summary.json",
        report(
            f"{RESULTS}/methods.md",
            caption="workflow/report/methods.rst",
            category="Report",
        ),
        f"{RESULTS}/ro-crate-metadata.json",
        report(
            f"{RESULTS}/answer.txt",
            caption="workflow/report/answer.rst",
            category="Report",
        ),
    log:
        f"logs/{RESULTS}/report.log",
    conda:
        ENVIRONMENT
    params:
        results=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "hpc-accel report {params.results:q} > {log:q} 2>&1"


# Only where it is asked for: `snakemake production ...` trains the best layout to its end, as the study's section
# `production` says. On a cluster it waits for the chain of jobs that it submits.
rule production:
    input:
        # A report that was written again trains nothing again.
        ancient(f"{RESULTS}/report.html"),
    output:
        touch(f"{RESULTS}/production/.done"),
    log:
        f"logs/{RESULTS}/production.log",
    conda:
        ENVIRONMENT
    resources:
        measuring=1,
    params:
        asked=said("production"),
        results=lambda wildcards, input: Path(input[0]).parent,
    shell:
        "hpc-accel produce {params.results:q} --wait > {log:q} 2>&1"
