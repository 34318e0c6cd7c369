"""Write a study and a module of one's own to start from; the files beside this one are the originals."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from pathlib import Path

from hpc_accel.errors import CannotCreateError, UsageError
from hpc_accel.study.starter.project import missing_files

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Starter:
    """What a study says of the model in the file of the same name."""

    args: str
    batch: int
    optimizer: str


STARTERS = {
    "plain": Starter("{hidden: 64}", 64, "{name: adamw, learning_rate: 0.001}"),
    "huggingface": Starter(
        '{directory: ""}',
        16,
        "{name: adamw, learning_rate: 2e-5, weight_decay: 0.01, no_decay: [norm, bias], clip_grad_norm: 1.0,\n"
        "              schedule: {name: linear, warmup_steps: 5}}",
    ),
    "vision": Starter("{width: 16}", 64, "{name: sgd, learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0001}"),
    "script": Starter(
        "{hidden: 64}",
        64,
        '{name: "@NAME@_model:make_optimizer", learning_rate: 0.001, clip_grad_norm: 1.0,\n'
        '              schedule: {name: "@NAME@_model:make_schedule", args: {warmup_steps: 5, total_steps: 40}}}',
    ),
}


def write_starter(directory: Path, name: str, kind: str = "plain") -> list[Path]:
    """studies/<name>.yaml and <name>_model.py under `directory`, and what the workflow wants beside them (project.py).

    Existing files are never overwritten.

    Raises UsageError for a name that cannot be a module or a kind that is not there, CannotCreateError when a file is
    in the way.
    """
    if kind not in STARTERS:
        raise UsageError(f"--from {kind}", "there are starters of some kinds", f"choose one of {', '.join(STARTERS)}")
    starter = STARTERS[kind]
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise UsageError(
            f"name {name!r}",
            "it becomes a Python module and a file name: letters, digits and _, not beginning with a digit",
            "for example --name mine",
        )
    files = {
        directory / "studies" / f"{name}.yaml": _study(starter).replace("@NAME@", name),
        directory / f"{name}_model.py": (HERE / f"{kind}.py.txt").read_text(),
    }
    for path in files:
        if path.exists():
            raise CannotCreateError(f"{path} exists", "a file of yours is never overwritten", "choose another --name")
    files |= missing_files(directory, name)
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise CannotCreateError(
                f"{path}: {error.strerror}", "the directory must be writable", "choose another directory"
            ) from None
    return list(files)


def _study(starter: Starter) -> str:
    text = (HERE / "study.yaml").read_text()
    said = {"@ARGS@": starter.args, "@BATCH@": str(starter.batch), "@OPTIMIZER@": starter.optimizer}
    for mark, value in said.items():
        text = text.replace(mark, value)
    return text
