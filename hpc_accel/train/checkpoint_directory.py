"""The directory of a run's checkpoints, as one rank sees it: whole ones, the newest one's name, what was left behind.

    checkpoints/step-000040/model-pp0-tp0.safetensors       weights and buffers of one model-parallel coordinate
                            optimizer-pp0-tp0.safetensors   its optimizer's state
                            ...-dp1.safetensors             what one replica alone holds of them, if it does
                            rank-0.json                     what differs between data-parallel ranks too
                            manifest.json                   run, step, and size and sha256 of every file; written last
    checkpoints/latest                                      the name of the newest one
    checkpoints/measured-rank-0.jsonl                       steps and energy windows so far (attempt_log.py)

A flipped bit passes every tensor format unnoticed, and a missing file leaves old values in place; hence the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from hpc_accel.train import faults

NAME = re.compile(r"step-(\d{6,})")
MANIFEST = "manifest.json"
LATEST = "latest"
FORMAT = 2
Files = dict[str, dict[str, Any]]
"""Size and sha256 of files, by name."""


class CheckpointDirectory:
    """`path` holds the checkpoints of one run. Methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def partial(self, step: int) -> Path:
        """Where the checkpoint of `step` is until it is whole."""
        return self.path / f"step-{step:06d}.partial"

    def make_partial(self, step: int) -> None:
        """An empty one."""
        shutil.rmtree(self.partial(step), ignore_errors=True)
        self.partial(step).mkdir(parents=True)

    def drop_partial(self, step: int) -> None:
        """It is not to be."""
        shutil.rmtree(self.partial(step), ignore_errors=True)

    def publish(self, step: int, files: Files, facts: dict[str, Any], *, keep: int) -> None:
        """The partial one of `step` is whole: give it its name, and keep it and the newest others, `keep` in all."""
        partial = self.partial(step)
        final = partial.with_suffix("")
        content = {"format": FORMAT, **facts, "step": step, "files": files}
        (partial / MANIFEST).write_text(json.dumps({**content, "sha256": _digest_of(content)}, indent=1))
        _sync(partial / MANIFEST)
        _sync(partial)
        faults.reach("save:rename", 0, step)
        shutil.rmtree(final, ignore_errors=True)  # one that was refused, or it would have been resumed from
        partial.rename(final)
        _sync(self.path)
        faults.reach("save:latest", 0, step)
        part = self.path / f"{LATEST}.part"
        part.write_text(final.name + "\n")
        part.replace(self.path / LATEST)
        older = [name for name in self.present() if name != final.name]
        for name in older[: len(older) - keep + 1]:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for stale in self.path.glob("*.partial"):
            shutil.rmtree(stale, ignore_errors=True)

    def present(self) -> list[str]:
        """Names of complete checkpoints, the newest last."""
        if not self.path.is_dir():
            return []
        names = [path.name for path in self.path.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(names, key=lambda name: int(name.removeprefix("step-")))

    def candidates(self) -> tuple[list[str], list[str]]:
        """Names to try in order, and what is odd about the directory."""
        names, notes = self.present()[::-1], []
        latest = self.path / LATEST
        said = latest.read_text(errors="replace").strip() if latest.is_file() and not latest.is_symlink() else ""
        if names and said not in names:
            notes.append(f"checkpoints/{LATEST} names {said[:40]!r}, which is not there: the newest one is used")
        notes += [f"{path.name} was never completed" for path in sorted(self.path.glob("*.partial"))]
        return names, notes

    def manifest(self, name: str) -> dict[str, Any]:
        """That of a checkpoint. Raises ValueError, KeyError or TypeError where it is broken."""
        content: dict[str, Any] = json.loads((self.path / name / MANIFEST).read_text())
        said = content.pop("sha256")
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, and {FORMAT} is read")
        if said != _digest_of(content):
            raise ValueError(f"{MANIFEST} is not what was written")
        return content

    def problem(self, name: str, files: Files, share: slice) -> str:
        """What is wrong with a checkpoint: with the list of its files, and with those of `share`; "" if nothing is."""
        directory = self.path / name
        if share.start == 0 and (odd := {path.name for path in directory.iterdir()} - {MANIFEST} ^ set(files)):
            return f"files differ from its manifest: {', '.join(sorted(odd))}"
        for each in sorted(files)[share]:
            if file_facts(directory / each) != files[each]:
                return f"{each} is not what was written (size or sha256 differs)"
        return ""


def file_facts(path: Path) -> dict[str, Any]:
    """Size and sha256."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
