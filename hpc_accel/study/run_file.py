"""run.json read back: the run that a plan resolved and `hpc-accel script` wrote out, or why the file is not one."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from hpc_accel.errors import ConfigError
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
