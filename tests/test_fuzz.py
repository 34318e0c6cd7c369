"""Files from outside, spoilt at random: each reader gives what it could read, or an error for people, never another.

The same few files each time; `HPC_ACCEL_FUZZ_S=600 pytest tests/test_fuzz.py` spoils others for so many seconds each. A
failure names its seed.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc_accel import record
from hpc_accel.compare import words
from hpc_accel.compare.baseline import read_side, write_baseline
from hpc_accel.compare.judge import compare
from hpc_accel.errors import HpcAccelError
from hpc_accel.jobs import accounting, compare_site
from hpc_accel.jobs.site import load_site
from hpc_accel.plan.calibration import load_calibrations
from hpc_accel.probe.hardware import load_hardware
from hpc_accel.report.load import study_records
from hpc_accel.study.references import read_reference_runs
from hpc_accel.study.run_file import read_run
from hpc_accel.study.study_file import load_study
from tests.jobs.test_accounting import TABLE
from tests.jobs.test_compare_site import SINFO
from tests.mpirun import ROOT
from tests.record.make_golden import GOLDEN, RUNS
from tests.report.make_plan import HARDWARE
from tests.report.make_study import make_study

SECONDS = float(os.environ.get("HPC_ACCEL_FUZZ_S", "0"))
FEW = 40
ODD = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"{}",
    b"[]",
    b"'",
    b'"',
    b"*a",
    b"&a ",
    b"<<: ",
    b"9" * 400,
]
Reader = Callable[[Path], Any]


def of_sinfo(path: Path) -> None:
    text = path.read_text(errors="replace")
    old, compare_site.ask = compare_site.ask, lambda command: text
    try:
        compare_site.draft_site("x")
    finally:
        compare_site.ask = old


def of_sacct(path: Path) -> None:
    for rows in accounting.parse(path.read_text(errors="replace")).values():
        accounting.facts_of(rows, "unknown", {})


def a_baseline(directory: Path) -> bytes:
    write_baseline(read_side(make_study(directory / "made", energy=True)), directory / "whole.json")
    return (directory / "whole.json").read_bytes()


def of_baseline(path: Path) -> None:
    whole = read_side(path.parent.parent / "whole.json")
    words.lines(compare(whole, read_side(path)), 0.05)


def of_plan(path: Path) -> None:
    study_records.load(path.parent)


READERS: dict[str, tuple[Reader, Callable[[Path], bytes]]] = {
    "study.yaml": (load_study, lambda at: (ROOT / "studies/quickstart.yaml").read_bytes()),
    "site.yaml": (load_site, lambda at: (ROOT / "slurm/sites/example-nvidia.yaml").read_bytes()),
    "run.json": (read_run, lambda at: RUNS["train"].model_dump_json().encode()),
    "runs.json": (
        read_reference_runs,
        lambda at: json.dumps({"runs": [RUNS["train"].model_dump(mode="json")]}).encode(),
    ),
    "summary.json": (record.read, lambda at: (GOLDEN / "train.json").read_bytes()),
    "hardware.json": (load_hardware, lambda at: json.dumps(HARDWARE).encode()),
    "calibration.json": (lambda path: load_calibrations(path, b"{}"), lambda at: b'{"format": 1, "calibrations": {}}'),
    "plan.json": (of_plan, lambda at: (make_study(at / "made") / "plan.json").read_bytes()),
    "baseline.json": (of_baseline, a_baseline),
    "sinfo": (of_sinfo, lambda at: SINFO.encode()),
    "sacct": (of_sacct, lambda at: TABLE.encode()),
}


def spoilt(whole: bytes, chance: random.Random) -> bytes:
    """`whole` with a few places cut, doubled, replaced, or swapped with others."""
    content = whole
    for _ in range(chance.randint(1, 4)):
        begin = chance.randrange(len(content) + 1)
        end = min(len(content), begin + chance.choice([1, 1, 4, 40, 400]))
        put = chance.choice([b"", content[begin:end] * 2, bytes([chance.randrange(256)]), chance.choice(ODD)])
        content = content[:begin] + put + content[end:]
    return content


@pytest.mark.parametrize("name", READERS)
def test_a_spoilt_file_is_read_or_refused(name, tmp_path):
    read, make = READERS[name]
    whole, path = make(tmp_path), tmp_path / "spoilt" / name
    path.parent.mkdir()
    end, seed = time.monotonic() + SECONDS, random.SystemRandom().randrange(2**32) if SECONDS else 0
    number = 0
    while time.monotonic() < end or number < FEW:
        content = spoilt(whole, random.Random(seed + number))
        path.write_bytes(content)
        try:
            read(path)
        except HpcAccelError as error:
            assert error.value and error.rule and error.remedy
        except Exception as error:
            kept = Path(os.environ.get("HPC_ACCEL_FUZZ_OUT", tmp_path)) / f"{name}.{seed + number}"
            kept.write_bytes(content)
            raise AssertionError(f"{name}, seed {seed + number} ({kept}): {type(error).__name__}: {error}") from error
        number += 1
