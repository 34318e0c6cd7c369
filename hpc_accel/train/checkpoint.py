"""Checkpoints that are whole or not there: written aside, hashed, renamed, and read back only if every byte is right.

    checkpoints/step-000040/part-pp0-tp0.safetensors   weights and optimizer of one model-parallel coordinate
                            part-pp0-tp0-dp1.safetensors   what one replica alone holds of them, if it does
                            rank-0.json                what differs between data-parallel ranks too
                            manifest.json              run, step, and size and sha256 of every file; written last
    checkpoints/latest                                 the name of the newest one

A flipped bit passes every tensor format unnoticed, and a missing file leaves old values in place; hence the manifest.
All ranks agree before a checkpoint counts and before one is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hpc_accel.errors import DataError
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.run import Run
from hpc_accel.train import faults
from hpc_accel.train.checkpoint_files import CheckpointFile, checkpoint_files
from hpc_accel.train.state import Tensors

NAME = re.compile(r"step-(\d{6,})")
MANIFEST = "manifest.json"
LATEST = "latest"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one rank reads back. `notes` tell which newer checkpoints were refused, and why."""

    step: int
    tensors: Tensors
    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run. Every method is collective over `comm`."""

    def __init__(self, run: Run, directory: Path, comm: Any, place: RankCoordinates) -> None:
        self.run = run
        self.directory = directory / "checkpoints"
        self.comm = comm
        self.rank: int = comm.Get_rank()
        self._parts = checkpoint_files(place, run.recipe)
        self._values = f"rank-{self.rank}.json"

    def save(self, step: int, tensors: Callable[[CheckpointFile], Tensors], values: dict[str, Any]) -> str:
        """Write the state after `step` steps. Returns why that failed, on all ranks alike; "" when it is saved.

        What was there before stays valid until the new one is complete. `tensors` is asked for the parts that this
        rank writes only: what replicas hold alike, the first of them copies and writes.
        """
        name = f"step-{step:06d}"
        partial, final = self.directory / f"{name}.partial", self.directory / name
        files: dict[str, dict[str, Any]] = {}
        reason = self._on_root(lambda: _make_empty(partial))
        if not reason:
            reason, files = self._write(partial, step, tensors, values)
        if not reason:
            reason = self._on_root(lambda: self._publish(partial, final, step, files))
        if reason:
            self._on_root(lambda: shutil.rmtree(partial, ignore_errors=True))
        return reason

    def _write(
        self, partial: Path, step: int, tensors: Callable[[CheckpointFile], Tensors], values: dict[str, Any]
    ) -> tuple[str, dict[str, dict[str, Any]]]:
        """Every rank its own files. Why any rank could not, and the facts of all files for the manifest."""
        written: dict[str, dict[str, Any]] = {}
        problem = ""
        try:
            faults.reach("save:write", self.rank, step)
            for part in self._parts:
                if part.is_writer:
                    save_file(tensors(part), partial / part.name)
                    written[part.name] = _seal(partial / part.name)
            (partial / self._values).write_text(json.dumps({"step": step, **values}))
            faults.reach("save:fsync", self.rank, step)
            written[self._values] = _seal(partial / self._values)
        except (OSError, SafetensorError) as error:
            problem = f"rank {self.rank}: {error}"
        gathered: list[tuple[str, dict[str, Any]]] = self.comm.allgather((problem, written))
        everything = {name: facts for _, files in gathered for name, facts in files.items()}
        return next((problem for problem, _ in gathered if problem), ""), everything

    def _publish(self, partial: Path, final: Path, step: int, files: dict[str, dict[str, Any]]) -> None:
        manifest = {"format": 1, "run_id": self.run.run_id, "step": step, "files": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _seal(partial / MANIFEST)
        faults.reach("save:rename", self.rank, step)
        shutil.rmtree(final, ignore_errors=True)  # one that was refused, or it would have been resumed from
        partial.rename(final)
        _sync(self.directory)
        faults.reach("save:latest", self.rank, step)
        part = self.directory / f"{LATEST}.part"
        part.write_text(final.name + "\n")
        part.replace(self.directory / LATEST)
        for name in self._present()[: -self.run.checkpoint.keep]:
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for stale in self.directory.glob("*.partial"):
            shutil.rmtree(stale, ignore_errors=True)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that is whole on all ranks; None when there is none at all.

        Raises DataError on all ranks when there are some and every one is broken.
        """
        names, notes = self.comm.bcast(self._candidates() if self.rank == 0 else None)
        for name in names:
            reason, loaded = self._read(name)
            reason = next((each for each in self.comm.allgather(reason) if each), "")
            if not reason and loaded is not None:
                step, tensors, values = loaded
                return Checkpoint(step=step, tensors=tensors, values=values, notes=notes)
            notes.append(f"checkpoint {name} refused: {reason}")
        if names:
            remedy = f"delete {self.directory} to start the run from its beginning"
            raise DataError("; ".join(notes), "a run continues only from a whole checkpoint", remedy)
        return None

    def _candidates(self) -> tuple[list[str], list[str]]:
        """Rank 0: names to try in order, and what is odd about the directory."""
        names, notes = self._present()[::-1], []
        latest = self.directory / LATEST
        said = latest.read_text(errors="replace").strip() if latest.is_file() and not latest.is_symlink() else ""
        if names and said not in names:
            notes.append(f"checkpoints/{LATEST} names {said[:40]!r}, which is not there: the newest one is used")
        notes += [f"{path.name} was never completed" for path in sorted(self.directory.glob("*.partial"))]
        return names, notes

    def _present(self) -> list[str]:
        """Names of complete checkpoints, the newest last."""
        if not self.directory.is_dir():
            return []
        names = [path.name for path in self.directory.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(names, key=lambda name: int(name.removeprefix("step-")))

    def _read(self, name: str) -> tuple[str, tuple[int, Tensors, dict[str, Any]] | None]:
        directory = self.directory / name
        try:
            manifest = json.loads((directory / MANIFEST).read_text())
            files = manifest["files"]
            if manifest["run_id"] != self.run.run_id:
                return f"it belongs to run {manifest['run_id']}", None
            if self.rank == 0:
                present = {path.name for path in directory.iterdir()} - {MANIFEST}
                if present != set(files):
                    return f"files differ from its manifest: {', '.join(sorted(present ^ set(files)))}", None
            for own in (*(part.name for part in self._parts), self._values):
                if _digest(directory / own) != files[own]:
                    return f"{own} is not what was written (size or sha256 differs)", None
            values = json.loads((directory / self._values).read_text())
            tensors = {name: value for part in self._parts for name, value in load_file(directory / part.name).items()}
            return "", (int(manifest["step"]), tensors, values)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            return f"{type(error).__name__}: {error}", None

    def discard(self) -> None:
        """The run is done: nothing is to be continued."""
        self._on_root(lambda: shutil.rmtree(self.directory, ignore_errors=True))

    def _on_root(self, action: Any) -> str:
        """Rank 0 acts; all ranks learn why it failed, or ""."""
        reason = ""
        if self.rank == 0:
            try:
                action()
            except OSError as error:
                reason = f"rank 0: {error}"
        return str(self.comm.bcast(reason))


def _make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _seal(path: Path) -> dict[str, Any]:
    """Force the file to disk; its size and digest."""
    _sync(path)
    return _digest(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
