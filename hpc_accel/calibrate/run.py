"""Calibrate a study's workloads under the probe's mpirun, and write calibration.json beside hardware.json.

One node measures; ranks that take no part sleep. What an earlier file has of the same machine and the same model is
kept. A workload that fails costs itself alone: the file says why, also where it took its process with it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpc_accel.calibrate.fit import Measured, fit, model_of
from hpc_accel.calibrate.measure import Steps, measure
from hpc_accel.calibrate.power import NodePower, readable
from hpc_accel.calibrate.shorten import facts_of_kept, layers_to_keep
from hpc_accel.calibrate.wanted import PASSES, Wanted, missing, wanted
from hpc_accel.errors import ConfigError, HpcAccelError
from hpc_accel.files import write_atomically
from hpc_accel.plan.calibration import (
    Calibration,
    CalibrationFile,
    Subject,
    Unfinished,
    digest_of,
    read_calibrations,
    subject_of,
)
from hpc_accel.plan.memory_fit import room_of
from hpc_accel.plan.planner import make_plan
from hpc_accel.probe.hardware import Hardware, load_hardware
from hpc_accel.probe.network import rest
from hpc_accel.study.expand import resolve_workloads
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.study_file import Study

LIMIT_S = 300.0
"""For all workloads together; what is not measured by then is predicted as without."""
SHARE_OF_JOB = 0.4
"""Of the time that the probe's job has, at most."""
ONE_LIMIT_S = 180.0
"""For one measurement: whoever takes longer hangs."""
LONG_STEP_S = 5.0
"""Predicted steps from which a deep model is measured with fewer layers."""
MOST_TIMES = 2
"""A calibration that began so often and never ended is left out: a kill may come from elsewhere, two rarely do."""
NAME = "calibration.json"
Progress = Callable[[int, int], None]


def calibrate(study: Study, hardware: Path, progress: Progress = lambda done, total: None) -> None:
    """Measure what the candidates of `study` use and is not known. Collective over COMM_WORLD.

    `hardware` is what the probe has just written. Raises nothing that a workload does.
    """
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    own = Owner(study, hardware, node.size) if world.rank == 0 else None
    todo = _told(world, own.todo() if own is not None else None)
    takes_part = bool(node.allreduce(int(world.rank == 0)))
    has_sensor = bool(todo) and takes_part and readable(node)
    done, total = 0, sum(map(len, todo.values()))
    began, limit_s = time.monotonic(), min(LIMIT_S, SHARE_OF_JOB * 60 * study.resources.time_limit_min)
    for number, (name, each) in enumerate(todo.items()):
        share_s = (limit_s - (time.monotonic() - began)) / (len(todo) - number)
        if own is not None:
            own.begin(name)
        place = node if takes_part else None
        measured, problem = _workload(study, each, place, world, share_s, progress, done, total, has_sensor=has_sensor)
        if own is not None:
            own.finish(name, measured, problem)
        done += len(each)
    node.Free()
    if total and world.rank == 0:
        progress(total, total)


def _workload(
    study: Study,
    todo: list[tuple[Wanted, tuple[int, ...] | None]],
    node: Any,
    world: Any,
    share_s: float,
    progress: Progress,
    done: int,
    total: int,
    *,
    has_sensor: bool,
) -> tuple[Measured, str]:
    """All measurements of one workload, on rank 0; and what went wrong, "" if nothing did."""
    measured: list[tuple[Wanted, Steps]] = []
    problem, end = "", time.monotonic() + share_s
    for number, (each, kept) in enumerate(todo):
        late = _told(world, time.monotonic() > end if world.rank == 0 else None)
        if late:
            problem = f"{len(todo) - number} of {len(todo)} measurements did not fit into {share_s:.0f} s"
            break
        if world.rank == 0:
            progress(done + number, total)
        steps, problem = _one(study, each, node, kept, has_sensor) if node is not None else (None, "")
        problem = _told(world, problem if world.rank == 0 else None)
        if steps is not None:
            measured.append((each, steps))
        if problem:
            break
    return measured, problem


def _one(
    study: Study, wanted: Wanted, node: Any, kept: tuple[int, ...] | None, has_sensor: bool
) -> tuple[Steps | None, str]:
    """One measurement on this node: the mean of its copies, and what went wrong. Collective over the node."""
    from mpi4py import MPI

    from hpc_accel.runtime.device import take_device

    size = wanted.run.layout.num_ranks
    copies = wanted.at_once // size
    copy = node.rank // size
    comm = node.Split(copy if copy < copies else MPI.UNDEFINED, key=node.rank)
    steps, problem, device = None, "", None
    if copy < copies:
        device = take_device(study.device, wanted.run.resources.gpus_per_node, node.rank)
    power = NodePower(node, device) if has_sensor and wanted.what == PASSES and kept is None else None
    if device is not None:
        watch = threading.Timer(ONE_LIMIT_S, _hung)
        watch.daemon = True
        watch.start()
        try:
            steps = measure(wanted, comm, device, kept, power)
        except (Exception, SystemExit) as error:
            problem = told(error)
    if power is not None:
        power.stand_by(failed=bool(problem))
    if device is not None:
        watch.cancel()
        comm.Free()
    rest(node)
    found = node.gather((steps if node.rank % size == 0 else None, problem), root=0)
    if found is None:
        return None, ""
    whole = [one for one, _ in found if one is not None]
    problem = next((text for _, text in found if text), "")
    return (_mean(whole) if whole and not problem else None), problem


def told(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = error.value if isinstance(error, HpcAccelError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0] if text else type(error).__name__


def _hung() -> None:
    """Ends all ranks: nobody else can. That the workload began is noted already, for another attempt."""
    import hpc_accel.mpi

    sys.stderr.write(f"a measurement of the calibration took longer than {ONE_LIMIT_S:.0f} s: it hangs\n")
    hpc_accel.mpi.abort(75)


def _mean(copies: list[Steps]) -> Steps:
    """Of copies that ran at once; the layers' shares are those of the first."""
    count = len(copies)
    return Steps(
        step_s=sum(each.step_s for each in copies) / count,
        phases_s={name: sum(each.phases_s[name] for each in copies) / count for name in copies[0].phases_s},
        spread=max(each.spread for each in copies),
        layers=copies[0].layers,
        kept_layers=copies[0].kept_layers,
        power_w=copies[0].power_w,
    )


def _told(world: Any, value: Any) -> Any:
    """What rank 0 says, to ranks that sleep until it does."""
    rest(world)
    return world.bcast(value, root=0)


class Owner:
    """What rank 0 knows and writes: the plan without a calibration, and calibration.json."""

    def __init__(self, study: Study, hardware: Path, num_ranks: int) -> None:
        self.study = study
        self.path = hardware.parent / NAME
        self.hardware: Hardware = load_hardware(hardware)
        self.num_ranks = num_ranks
        content = hardware.read_bytes()
        machine = machine_digest(json.loads(content))
        before = self._before()
        kept = before is not None and before.machine == machine
        self.file = CalibrationFile(
            hardware_sha256=hashlib.sha256(content).hexdigest(),
            machine=machine,
            created_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            workloads=before.workloads if before is not None and kept else {},
            unmeasured=before.unmeasured if before is not None and kept else {},
            unfinished=before.unfinished if before is not None and kept else {},
        )
        self.facts: dict[str, ModelFacts] = {}

    def _before(self) -> CalibrationFile | None:
        try:
            return read_calibrations(self.path)
        except ConfigError:  # of an earlier version, or spoilt: it is written anew
            return None

    def todo(self) -> dict[str, list[tuple[Wanted, tuple[int, ...] | None]]]:
        """By workload what is to be measured, each with the layers that are kept; nothing where nothing can be.

        A workload whose calibration did not end comes last: what it may take with it then is itself alone.
        """
        from hpc_accel.workloads.facts_without_weights import facts_of

        found: dict[str, list[tuple[Wanted, tuple[int, ...] | None]]] = {}
        try:
            workloads = resolve_workloads(self.study)
            self.facts = {each.name: facts_of(each, self.study.seed) for each in workloads}
            plan = make_plan(self.study, self.hardware, self.facts)
        except (Exception, SystemExit) as error:  # the plan itself tells it
            self._change(unmeasured={each.name or "": told(error) for each in self.study.workloads})
            self._write()
            return {}
        for name, each in wanted(plan, self.hardware, self.num_ranks).items():
            spec = next(one for one in workloads if one.name == name)
            known = self._known(name, subject_of(spec, self.facts[name], self.study, self.hardware))
            if self._times(name) >= MOST_TIMES:
                continue
            wants = [(one, self._kept(one, name)) for one in missing(each, known)]
            if fitting := [(one, kept) for one, kept in wants if self._fits(one, name, kept)]:
                found[name] = fitting
        self._write()
        return dict(sorted(found.items(), key=lambda each: self._times(each[0])))

    def _known(self, name: str, subject: Subject) -> Calibration:
        """What the file has of this very subject. What it has of another goes, why that was not measured too."""
        known = self.file.workloads.get(name)
        if known is None or known.of != subject:
            known = Calibration(of=subject)
            self._change(workloads={name: known}, unmeasured={name: None}, unfinished={name: None})
        return known

    def _times(self, name: str) -> int:
        """How often the calibration of a workload began without an end."""
        began = self.file.unfinished.get(name)
        return began.times if began is not None else 0

    def _kept(self, one: Wanted, name: str) -> tuple[int, ...] | None:
        """Layers of a model that is too large or too slow to be measured whole."""
        kept = layers_to_keep(self.facts[name])
        if kept is None:
            return None
        model = model_of(one, self.facts[name], self.hardware, None)
        slow = sum(model.parts_s(one.run.layout, one.run.resources).values()) > LONG_STEP_S
        return kept if slow or not self._fits(one, name, None) else None

    def _fits(self, one: Wanted, name: str, kept: tuple[int, ...] | None) -> bool:
        model = model_of(one, facts_of_kept(self.facts[name], kept), self.hardware, None)
        room = room_of(one.run.layout, one.run.resources, model)
        return room.fit != "too large"

    def begin(self, name: str) -> None:
        """Note that a workload is being measured, for an attempt after one that ended in it."""
        subject, times = self.file.workloads[name].of, self._times(name) + 1
        began = Unfinished.model_validate({"of": subject, "times": times})
        self._change(unmeasured={name: _unended(times)}, unfinished={name: began})
        self._write()

    def finish(self, name: str, measured: Measured, problem: str) -> None:
        """Write what was measured of a workload."""
        if measured:
            fitted = fit(measured, self.facts[name], self.hardware, self.file.workloads[name])
            self._change(workloads={name: fitted})
        self._change(unmeasured={name: problem or None}, unfinished={name: None})
        self._write()

    def _change(self, **parts: Mapping[str, Any]) -> None:
        """Put values into these parts of the file; None takes one out."""
        for part, values in parts.items():
            whole = {**getattr(self.file, part), **values}
            kept = {name: value for name, value in whole.items() if value is not None}
            self.file = self.file.model_copy(update={part: kept})

    def _write(self) -> None:
        write_atomically(self.path, self.file.model_dump_json(indent=1) + "\n")


def _unended(times: int) -> str:
    if times < MOST_TIMES:
        return "it began and did not end: delete hardware.json to try again"
    again = "it is tried again when the model changes, or after calibration.json and hardware.json are deleted"
    return f"it began {times} times and never ended: {again}"


def machine_digest(hardware: dict[str, Any]) -> str:
    """Of what decides how fast a machine is, and does not change from probe to probe."""
    kinds = [
        {key: kind.get(key) for key in ("device", "device_name", "num_cpus", "devices_per_node")}
        for kind in hardware["node_kinds"]
    ]
    whence = hardware.get("provenance", {})
    made = {key: whence.get(key) for key in ("hpc_accel", "torch", "mpi_library", "cpu", "host")}
    return digest_of([kinds, made])
