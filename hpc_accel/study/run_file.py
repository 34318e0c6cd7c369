"""run.json: the run that a plan resolved, written, and read back or told why the file is not one."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from hpc_accel.errors import ConfigError
from hpc_accel.files import write_atomically
from hpc_accel.study.run import Run


def read_run(path: Path) -> Run:
    """The run in a run.json. Raises ConfigError when it is missing, broken or was edited by hand."""
    try:
        return Run.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}",
            "a run is described by its run.json",
            "make it: hpc-accel plan, then hpc-accel script on its plan.json",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"{path}: {where}: {first['msg']}",
            "run.json is what `hpc-accel plan` resolved; its run_id is a digest of its content",
            "change the study and plan again",
        ) from None


def write_run_file(run: Run, run_dir: Path) -> None:
    """run.json in `run_dir`. Raises what `write_atomically` raises."""
    write_atomically(run_dir / "run.json", run.model_dump_json(indent=1) + "\n")
