"""One published table against the planner: read, predict (calibrated or not), judge, beside both baselines."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hpc_accel.plan.evaluate.baselines import constant_scores, rule_scores
from hpc_accel.plan.evaluate.calibrate import chosen_rows, ratio_for, scales_of
from hpc_accel.plan.evaluate.case import Case
from hpc_accel.plan.evaluate.cases import cases_of
from hpc_accel.plan.evaluate.mapping import mapping_of, read_rows
from hpc_accel.plan.evaluate.predict import Predictor
from hpc_accel.plan.evaluate.score import Judged, memory_scores, time_scores
from hpc_accel.plan.memory import CONTEXT_BYTES, USABLE_SHARE
from hpc_accel.plan.shipped import hardware_of

FOLDS = 5


def evaluate(
    path: Path, hardware: str, *, mapping: Path | None = None, calibrate: int = 0, seed: int = 0
) -> dict[str, Any]:
    """All figures, as `--json` prints them. Raises ConfigError for a file that is no such table.

    With `calibrate` rows of each kind of block, groups are dealt into five parts; those of one are predicted with
    blocks measured in the other four, so that a row is never judged by what was learnt from its own group.
    """
    rows = read_rows(path)
    known = mapping_of(rows, path, mapping)
    cases = cases_of(rows, known)
    machine = hardware_of(hardware)
    predictor = Predictor(known, machine)
    start = time.perf_counter()
    judged = _calibrated(predictor, cases, calibrate, seed) if calibrate else _plain(predictor, cases)
    seconds = time.perf_counter() - start
    limit = machine.slowest.device_memory_bytes
    reasons = Counter(each.answer.reason for each in judged if each.answer.reason is not None)
    return {
        "file": path.name,
        "set": known.name,
        "hardware": machine.site,
        "calibrate": calibrate,
        "seed": seed if calibrate else None,
        "num_rows": len(rows),
        "predict_time_s": seconds,
        "planner": time_scores(judged),
        "constant": constant_scores(judged),
        "rule": rule_scores(judged),
        "memory": memory_scores(judged, int(USABLE_SHARE * limit) - CONTEXT_BYTES if limit else None),
        "refused": [{"reason": reason, "num_rows": count} for reason, count in reasons.most_common()],
    }


def _plain(predictor: Predictor, cases: list[Case]) -> list[Judged]:
    return [Judged(case=case, answer=predictor.answer(case)) for case in cases]


def _calibrated(predictor: Predictor, cases: list[Case], num: int, seed: int) -> list[Judged]:
    folds = sorted({case.fold for case in cases}, key=repr)
    random.Random(seed).shuffle(folds)
    judged = []
    for fold in range(FOLDS):
        held = set(folds[fold::FOLDS])
        scales = scales_of(predictor, chosen_rows((case for case in cases if case.fold not in held), num, seed))
        for case in cases:
            if case.fold in held:
                answer = predictor.answer(case, ratio_for(case.block, scales))
                judged.append(Judged(case=case, answer=answer))
    return sorted(judged, key=lambda each: each.case.number)
