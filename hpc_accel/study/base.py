"""What every part of a study or a run is: frozen, and strict about keys it does not know."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hpc_accel.study.slurm_time import FORMS, seconds_of

PositiveInt = Annotated[int, Field(gt=0, strict=True)]


def _whole_minutes(value: Any) -> Any:
    """Slurm's forms of a time in minutes, rounded up; other values stay for the field to judge."""
    if not isinstance(value, str):
        return value
    seconds = seconds_of(value)
    if seconds is None:
        raise ValueError(f"a time is {FORMS}")
    return -(-seconds // 60)


Minutes = Annotated[int, BeforeValidator(_whole_minutes), Field(gt=0, strict=True)]
MemoryMb = Annotated[int, Field(ge=0, strict=True)] | None
"""Memory of a node in megabytes; 0: all that it has; None: not asked for, what the cluster gives."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


class StrictModel(BaseModel):
    """Frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, *, but: tuple[str, ...] = ()) -> list[str]:
        """What differs from the defaults, one `key=value` each (`key` alone for true), for labels and tables."""
        found = []
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key in but or field.is_required() or value == field.default:
                continue
            found.append(key if value is True else f"{key}={_shown(value)}")
        return found


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "off"
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def checked_name(value: str) -> str:
    """A name that may become part of a path, a job name and a table cell."""
    if not NAME.fullmatch(value):
        raise ValueError("a name has 1 to 64 of letters, digits and _ . + - and begins with a letter or digit")
    return value
