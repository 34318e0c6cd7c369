"""The options of sbatch that a site or a study may set, how each one's value looks, and which the tool writes itself.

A value reaches the script's #SBATCH lines and the sbatch call of Snakemake's plugin, so it is one word: no spaces, no
quotes, no control characters, and of the option's own form. What the tool writes itself (`WRITTEN`) is refused with
the key that says it. Names and forms are those of sbatch's manual.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator

from hpc_accel.study.slurm_time import FORMS, seconds_of

MAX_TEXT = 256
WORD = r"[A-Za-z0-9_.:@%+,=/&|*!()\[\]-]+"
"""The characters of a value: none of them ends a line, a word or a quotation."""
NAMES = r"[\w.+-]+(,[\w.+-]+)*"
MAIL_TYPES = (
    "NONE BEGIN END FAIL REQUEUE ALL INVALID_DEPEND STAGE_OUT TIME_LIMIT TIME_LIMIT_90 TIME_LIMIT_80 TIME_LIMIT_50"
    " ARRAY_TASKS"
)


@dataclass(frozen=True)
class Form:
    """How a value looks: a pattern of the whole of it, and the same in words."""

    pattern: str
    words: str


def _one_of(names: str, *, several: bool = False) -> Form:
    choice = "|".join(map(re.escape, names.split()))
    how = "one or more, separated by commas, of" if several else "one of"
    return Form(f"({choice})(,({choice}))*" if several else choice, f"{how} {', '.join(names.split())}")


FLAG = Form("", "true or false: this option has no value")
COUNT = Form(r"[1-9]\d{0,8}", "a whole number above 0")
NUMBER = Form(r"-?\d{1,10}", "a whole number")
MEMORY = Form(r"[1-9]\d*[KMGT]?", "a number with K, M, G or T behind it, as in 40G; without one it is megabytes")
TIME = Form(r"[\d:-]+", FORMS)
WHEN = Form(
    r"\d{1,2}:\d{2}(:\d{2})?([AaPp][Mm])?|\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?)?"
    r"|now(\+\d+((second|minute|hour|day|week)s?)?)?|midnight|noon|fika|teatime|today|tomorrow",
    "a time such as 16:00, 2026-12-24T16:00 or now+1hour",
)
HOSTS = Form(r"[A-Za-z0-9][A-Za-z0-9_.\[\],-]*", "names of nodes as Slurm lists them: n1,n[3-7]")
NAMED = Form(NAMES, "names of letters, digits and _ . + -, separated by commas")
TEXT = Form(WORD, "one word of letters, digits and _ . : @ % + , = / & | * ! ( ) [ ] -")
MAIL = Form(r"[\w.+%-]+(@[\w-]+(\.[\w-]+)*)?", "an e-mail address or a user's name")
LICENSES = Form(r"[\w.@-]+([:=]\d+)?([,|][\w.@-]+([:=]\d+)?)*", "licenses such as ansys:2,matlab")


@dataclass(frozen=True)
class Option:
    """What a value looks like, and what depends on the option."""

    form: Form
    decides: bool = False
    """Whether it decides on which hardware, or how placed on it, ranks compute: then it is part of what a run is."""
    whole_job: bool = False
    """Of a heterogeneous job it is said once, for all components."""
    key: str = ""
    """The key of a site file that says the same; a study may say otherwise in its options."""


_queue, _placed = partial(Option, whole_job=True), partial(Option, decides=True)
OPTIONS: Mapping[str, Option] = {
    # Who pays and in which queue.
    "account": Option(NAMED, key="account"),
    "qos": Option(NAMED, key="qos"),
    "wckey": _queue(NAMED),
    "mcs-label": _queue(NAMED),
    "reservation": Option(NAMED),
    "licenses": Option(LICENSES),
    "priority": _queue(COUNT),
    "nice": _queue(NUMBER),
    # When.
    "begin": _queue(WHEN),
    "deadline": _queue(WHEN),
    "delay-boot": _queue(TIME),
    "time-min": Option(TIME),
    "dependency": _queue(Form(r"[\w:+,?-]+", "such as afterok:1234,afterany:1235 or singleton")),
    "kill-on-invalid-dep": _queue(_one_of("yes no")),
    # Who is told.
    "mail-type": _queue(_one_of(MAIL_TYPES, several=True)),
    "mail-user": _queue(MAIL),
    # Which nodes.
    "constraint": _placed(TEXT, key="constraint"),
    "prefer": _placed(TEXT),
    "nodelist": _placed(HOSTS),
    "exclude": _placed(HOSTS),
    "switches": _placed(
        Form(r"[1-9]\d*(@[\d:-]+)?", "a number of switches and, behind @, how long to wait: 1@1:00:00")
    ),
    "contiguous": _placed(FLAG),
    "spread-job": _placed(FLAG),
    "use-min-nodes": _placed(FLAG),
    "reboot": _queue(FLAG),
    "segment": _placed(COUNT),
    # What of a node.
    "mincpus": _placed(COUNT),
    "tmp": Option(MEMORY),
    "mem-per-gpu": Option(MEMORY),
    "extra-node-info": _placed(Form(r"(\d+|\*)(:(\d+|\*)){0,2}", "sockets:cores:threads, as in 2:8:1")),
    "sockets-per-node": _placed(COUNT),
    "cores-per-socket": _placed(COUNT),
    "threads-per-core": _placed(COUNT),
    "core-spec": _placed(Form(r"\d{1,9}", "a number of cores")),
    "thread-spec": _placed(Form(r"\d{1,9}", "a number of threads")),
    "hint": _placed(_one_of("compute_bound memory_bound multithread nomultithread")),
    # Where ranks and memory go.
    "distribution": _placed(Form(r"[a-z*=\d]+(:[a-z*]+){0,2}(,(Pack|NoPack))?", "such as block:cyclic")),
    "mem-bind": _placed(Form(r"[a-z_]+(:[\w,x]+)?(,[a-z_]+(:[\w,x]+)?)*", "such as local or quiet,local")),
    "ntasks-per-core": _placed(COUNT),
    "ntasks-per-socket": _placed(COUNT),
    "gpu-bind": _placed(Form(r"(verbose,)?[a-z_]+(:[\w,*x]+)?", "such as closest or single:1")),
    "gres-flags": _placed(
        _one_of("disable-binding enforce-binding one-task-per-sharing multiple-tasks-per-sharing", several=True)
    ),
    "tres-bind": _placed(TEXT),
    "network": _placed(TEXT),
    # What Slurm does beside.
    "bb": Option(TEXT),
    "bbf": Option(Form(r"/[\w./+-]+", "the path of a file, from / on")),
    "propagate": _queue(NAMED),
    "profile": _queue(_one_of("all none energy task filesystem network", several=True)),
    "acctg-freq": _queue(Form(r"(\w+=)?\d+(,\w+=\d+)*", "seconds, or such as task=30,energy=10")),
}

_GEOMETRY = "resources.num_nodes, ranks_per_node and cpus_per_rank of the study say it"
_GPUS = "resources.gpus_per_node of the study says it, and gpu_type and gpu_request of the site"
_MEMORY = "resources.memory_mb of the study says how much, `memory` of the site how it is asked"
_LOG = "a run's output goes to log.txt beside its script"
_ONE_JOB = "a script is one job of its own, sent by sbatch or by the workflow; say it on sbatch's command line"
WRITTEN: Mapping[str, str] = {
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node", "cpus-per-task"), _GEOMETRY),
    **dict.fromkeys(("ntasks-per-gpu", "overcommit", "nodefile", "no-kill"), _GEOMETRY),
    **dict.fromkeys(("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "cpus-per-gpu"), _GPUS),
    **dict.fromkeys(("mem", "mem-per-cpu"), _MEMORY),
    **dict.fromkeys(("output", "error", "input", "open-mode"), _LOG),
    **dict.fromkeys(("array", "wrap", "wait", "parsable", "test-only", "hold", "quiet", "verbose"), _ONE_JOB),
    **dict.fromkeys(("clusters", "cluster-constraint", "uid", "gid", "get-user-env", "ignore-pbs"), _ONE_JOB),
    "tres-per-task": _GPUS,
    "container": "ranks compute in the environment that `environment` and `modules` of the site name",
    "partition": "resources.partition of the study says it, or `partition` of the site",
    "time": "resources.time_limit_min of the study says it",
    "job-name": "it is the run's; `job_prefix` of the site is put before it",
    "comment": "Snakemake's plugin writes it: it finds its jobs by it",
    "chdir": "the script goes to the directory in which the study was started",
    "signal": "`warn_before_end_s` of the site says when a run is warned",
    "requeue": "`max_restarts` of the site says how often a job may come back",
    "no-requeue": "`max_restarts: 0` of the site says it",
    "export": "`variables` of the site says what a job's environment holds",
    "export-file": "`variables` of the site says what a job's environment holds",
    "exclusive": "`exclusive` of the site says it",
    "oversubscribe": "`exclusive` of the site says whether others share its nodes",
    "cpu-freq": "cpu_freq_khz of a recipe says it",
    "gpu-freq": "gpu_freq_mhz of a recipe says it",
}


def checked_options(value: Any, *, of_site: bool) -> dict[str, str | bool]:
    """What a file says under `sbatch_options`, each value one word. Raises ValueError with the rule."""
    if not isinstance(value, dict):
        raise ValueError("sbatch_options are `name: value` lines, names as sbatch has them, without dashes before")
    return {name: _value(str(name), content, of_site) for name, content in value.items()}


SiteOptions = Annotated[dict[str, str | bool], BeforeValidator(partial(checked_options, of_site=True))]
StudyOptions = Annotated[dict[str, str | bool], BeforeValidator(partial(checked_options, of_site=False))]


def deciding(options: Mapping[str, str | bool]) -> dict[str, str | bool]:
    """Those of `options` that are part of what a run is; the others only say how its job is queued."""
    return {name: value for name, value in options.items() if OPTIONS[name].decides}


def _value(name: str, content: Any, of_site: bool) -> str | bool:
    option = OPTIONS.get(name)
    if name in WRITTEN:
        raise ValueError(f"{name}: the tool writes this option itself; {WRITTEN[name]}")
    if option is None:
        near = difflib.get_close_matches(name.lstrip("-").replace("_", "-"), [*OPTIONS, *WRITTEN], n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(OPTIONS)}"
        raise ValueError(f"{name}: no option of sbatch that can be set here; {meant}")
    if of_site and option.key:
        raise ValueError(f"{name}: a site says it by its key `{option.key}`")
    if isinstance(content, bool) or option.form is FLAG:
        if not isinstance(content, bool) or option.form is not FLAG:
            raise ValueError(f"{name}: {option.form.words}")
        return content
    return _word(name, content, option.form)


def _word(name: str, content: Any, form: Form) -> str:
    text = ",".join(map(str, content)) if isinstance(content, list) else str(content)
    if isinstance(content, dict) or content is None or not text.isascii() or not re.fullmatch(WORD, text):
        raise ValueError(f"{name}: {TEXT.words}; spaces, quotes and control characters are refused")
    if len(text) > MAX_TEXT or "--" in text or (text.startswith("-") and form is not NUMBER):
        raise ValueError(f"{name}: at most {MAX_TEXT} characters, without - at the beginning and without --")
    if not re.fullmatch(form.pattern, text) or (form is TIME and not seconds_of(text)):
        raise ValueError(f"{name}: {form.words}")
    return text
