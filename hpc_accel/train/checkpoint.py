"""Checkpoints that are whole or not there: written aside, hashed, renamed, and read back only if every byte is right.

All ranks agree before a checkpoint counts (saving.py) and before one is used. Each rank verifies its share of the
files. In the layout a checkpoint was saved in, a rank reads its own files; in another, what it needs of all of them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from hpc_accel.errors import DataError
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.run import Run
from hpc_accel.train import faults
from hpc_accel.train.another_run import checkpoint_of, refuse_other_training
from hpc_accel.train.attempt_log import AttemptLog, Measured
from hpc_accel.train.checkpoint_directory import CheckpointDirectory, Files
from hpc_accel.train.checkpoint_files import CheckpointFile, checkpoint_files
from hpc_accel.train.host_copies import HostCopies
from hpc_accel.train.saving import Outcome, Saving
from hpc_accel.train.slices import Slices
from hpc_accel.train.tensor_file import HashedFile, Slice, write_slices

BROKEN = (OSError, ValueError, KeyError, TypeError, SafetensorError)
"""What reading a damaged file raises."""


class HasSlices(Protocol):
    """What is saved: see `state.State`."""

    def slices(self, file: CheckpointFile) -> tuple[dict[str, Slice], dict[str, Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one rank reads back. `notes` tell which newer checkpoints were refused, and why.

    `of` is the run that saved it; another layout than `of.layout` gets rank 0's `values`, and nothing `measured`.
    """

    step: int
    of: Run
    is_same_layout: bool
    slices: Slices
    values: dict[str, Any]
    measured: Measured = field(default_factory=Measured)
    notes: list[str] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run. Every method is collective over `comm`."""

    def __init__(self, run: Run, directory: Path, comm: Any, place: RankCoordinates) -> None:
        self.run = run
        self.directory = directory / "checkpoints"
        self.comm = comm
        self.rank: int = comm.Get_rank()
        self._files = checkpoint_files(place, run.recipe)
        self._values = f"rank-{self.rank}.json"
        self._log = AttemptLog(self.directory, self.rank)
        self._copies = HostCopies()
        facts = {"run_id": run.run_id, "run": run.model_dump(mode="json")}
        self._saving = Saving(CheckpointDirectory(self.directory), comm, facts, run.checkpoint.keep)

    def begin(self, step: int, state: HasSlices, values: dict[str, Any], measured: Measured) -> list[Outcome]:
        """Save the state after `step` steps; without `checkpoint.asynchronous` it is saved on return.

        What was there before stays valid until the new one is complete. An earlier save is ended first. The outcomes
        that are known now: of that one, and of this one if it has ended.
        """
        known = [self._saving.finish()]
        asynchronous = self.run.checkpoint.asynchronous
        parts: list[tuple[CheckpointFile, dict[str, Slice], dict[str, Any]]] = []
        for file in self._files:
            if file.is_writer:
                slices, told = state.slices(file)
                parts.append((file, self._copies.take(file.name, slices) if asynchronous else slices, told))
        lines = self._log.new(measured.rows, measured.windows)
        num_rows, num_windows = len(measured.rows), len(measured.windows)
        # As text now: what the values consist of changes while training goes on.
        text = json.dumps(values)

        def write() -> Files:
            self._log.append(lines, num_rows, num_windows)
            return self._write(step, parts, {"step": step, "measured": self._log.extent, **json.loads(text)})

        known.append(self._saving.begin(step, write))
        if not asynchronous:
            known.append(self._saving.finish())
        return [each for each in known if each is not None]

    def _write(
        self,
        step: int,
        parts: list[tuple[CheckpointFile, dict[str, Slice], dict[str, Any]]],
        values: dict[str, Any],
    ) -> Files:
        """This rank's files, in a thread. Raises OSError."""
        partial, written = self._saving.directory.partial(step), {}
        faults.reach("save:write", self.rank, step)
        for file, slices, told in parts:
            written[file.name] = write_slices(
                partial / file.name, slices, told, before_sync=lambda: faults.reach("save:fsync", self.rank, step)
            )
        with HashedFile(partial / self._values) as own:
            own.write(json.dumps(values).encode())
            written[self._values] = own.seal()
        faults.reach("save:agree", self.rank, step)
        return written

    def look(self) -> Outcome | None:
        """After each step: whether a save has ended. Waits for nobody."""
        return self._saving.look()

    def finish(self) -> Outcome | None:
        """Wait for the save that is under way, if there is one, and say what came of it."""
        return self._saving.finish()

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is whole on all ranks, else that of the run to start from; None without any.

        Raises DataError on all ranks when there are some and every one is broken, ConfigError when the run to start
        from is none of the same training.
        """
        directory = CheckpointDirectory(self.directory)
        names, notes = self.comm.bcast(directory.candidates() if self.rank == 0 else None)
        if not names and self.run.checkpoint.start_from is not None:
            directory, names, notes = checkpoint_of(self.run.checkpoint.start_from, self.comm)
        for name in names:
            reason, found = self._read(directory, name)
            reason = next((each for each in self.comm.allgather(reason) if each), "")
            if not reason and found is not None:
                found.notes.extend(notes)
                return found
            notes.append(f"checkpoint {name} refused: {reason}")
        if names:
            own = directory.path == self.directory
            remedy = f"delete {directory.path} to start the run from its beginning"
            rule = "a run continues only from a whole checkpoint"
            raise DataError("; ".join(notes), rule, remedy if own else "start from another run")
        return None

    def _read(self, directory: CheckpointDirectory, name: str) -> tuple[str, Checkpoint | None]:
        """A checkpoint as this rank needs it, or why it cannot be used: damage that one rank sees is known to all."""
        is_own = directory.path == self.directory
        reason, manifest, of = "", {}, None
        try:
            manifest = directory.manifest(name)
            of = Run.model_validate(manifest["run"])
            if is_own and manifest["run_id"] != self.run.run_id:
                reason = f"it belongs to run {manifest['run_id']}"
            else:
                share = slice(self.rank, None, self.comm.Get_size())
                reason = directory.problem(name, manifest["files"], share)
        except BROKEN as error:
            reason = f"{type(error).__name__}: {error}"
        reason = next((each for each in self.comm.allgather(reason) if each), "")
        if reason or of is None:
            return reason, None
        if not is_own:
            refuse_other_training(self.run, of, directory.path)
        is_same = of.layout == self.run.layout and of.recipe.average_every == self.run.recipe.average_every
        try:
            return "", self._checkpoint(directory.path / name, manifest, of, is_same=is_same, is_own=is_own)
        except BROKEN as error:
            return f"{type(error).__name__}: {error}", None

    def _checkpoint(
        self, directory: Path, manifest: dict[str, Any], of: Run, *, is_same: bool, is_own: bool
    ) -> Checkpoint:
        values = json.loads((directory / (self._values if is_same else "rank-0.json")).read_text())
        every = sorted(name for name in manifest["files"] if name.endswith(".safetensors"))
        # Another run, with whole gradients, may have saved no feedback.
        own = [each.name for each in self._files if each.holds != "feedback" or each.name in manifest["files"]]
        slices = Slices(directory, own if is_same else every)
        measured, problem = self._log.read(values["measured"]) if is_own else (Measured(), "")
        return Checkpoint(
            step=int(manifest["step"]),
            of=of,
            is_same_layout=is_same,
            slices=slices,
            values=values,
            measured=measured,
            notes=[f"steps before the checkpoint are not in the record: {problem}"] if problem else [],
        )

    def discard(self) -> None:
        """The run is done: nothing is to be continued."""
        if self.rank == 0:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.comm.bcast(None)
